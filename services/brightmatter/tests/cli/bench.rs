//! What the tests of commands work with.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use bm_contracts::GameId;
use bm_storage::{Storage, StorageConfig};
use bm_testkit::{TestDatabase, TestEnv, TestTopics};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

/// How long a thing of the outside world may take.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Servers, a folder to work in, and the variables that lead to them.
pub(crate) struct Bench {
    pub(crate) database: TestDatabase,
    pub(crate) topics: TestTopics,
    pub(crate) folder: TempDir,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let (database, topics) = tokio::join!(TestDatabase::with_schema(), TestTopics::registry());
        Self {
            database,
            topics,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A command with nothing in its environment but what is needed.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brightmatter"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("REDPANDA_BROKERS", self.topics.brokers())
            .env("BM_TOPIC_PREFIX", self.topics.prefix())
            .env("RDS_CONNECTION_STRING", self.database.url())
            .env("REDIS_URL", &TestEnv::get().redis)
            .env("BM_STUDIOS_FILE", self.path("studios.json"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments)).await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, value: &Value) {
        std::fs::write(self.path(name), value.to_string()).unwrap();
    }

    pub(crate) fn storage(&self) -> Storage {
        Storage::connect_lazily(&StorageConfig::for_url("test", &self.database.url(), 2).unwrap())
    }

    /// The config counter, and whether the game is there.
    pub(crate) async fn saved(&self, game: &str) -> (i64, bool) {
        let storage = self.storage();
        let seq = storage.current_config_seq().await.unwrap();
        let studio = storage
            .studio_of(&GameId::new(game).unwrap())
            .await
            .unwrap();
        storage.close().await;
        (seq, studio.is_some())
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) ok: bool,
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) async fn of(command: &mut Command) -> Self {
        let ended = tokio::time::timeout(SOON * 2, command.output()).await;
        let Output {
            status,
            stdout,
            stderr,
        } = ended.expect("the command ends").unwrap();
        Self {
            ok: status.success(),
            code: status.code(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }
}

/// A quest that counts enemies killed in the forest.
pub(crate) fn quest(game: &str, quest: &str, target: u32) -> Value {
    json!({
        "gameId": game,
        "questId": quest,
        "name": quest,
        "conditions": {
            "eventType": "enemy_killed",
            "filters": {"map": "forest"},
            "progressType": "count",
            "target": target,
        },
        "rewards": [{"type": "coins", "amount": 5}],
    })
}

/// A game of a studio.
pub(crate) fn game(game: &str, studio: &str) -> Value {
    json!({"gameId": game, "studioId": studio, "name": game})
}
