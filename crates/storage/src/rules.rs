//! Rules in force: the config counter, the versions saved since, and the compiled rules of both.

use std::sync::Arc;

use bm_contracts::{GameId, IdError, QuestId, StudioId};
use bm_domain::quest::{QuestRules, QuestStatus, RulesError, StoredQuest};
use bm_domain::routing::RouteRules;
use bm_engine::domain::ConfigDemand;
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use crate::error::StoreError;
use crate::pool::Storage;
use crate::session::run;

/// The statement that reads definitions.
const QUEST_CHANGES: &str = "quest_changes";

/// Compiled definitions that can be brought up to date.
pub trait Rules: Send + Sync + Sized + 'static {
    /// They hold every version saved up to this value of the config counter.
    fn config_seq(&self) -> i64;

    /// `held` (or nothing) and the versions saved since, which reach up to `config_seq`.
    fn extended(
        held: Option<&Self>,
        config_seq: i64,
        versions: Vec<StoredQuest>,
    ) -> Result<Self, RulesError>;

    /// The quests among them.
    fn quests(&self) -> &QuestRules;
}

impl Rules for QuestRules {
    fn config_seq(&self) -> i64 {
        self.seq()
    }

    fn extended(
        held: Option<&Self>,
        config_seq: i64,
        versions: Vec<StoredQuest>,
    ) -> Result<Self, RulesError> {
        match held {
            Some(held) => held.with_changes(config_seq, versions),
            None => Self::build(config_seq, versions),
        }
    }

    fn quests(&self) -> &QuestRules {
        self
    }
}

impl Rules for RouteRules {
    fn config_seq(&self) -> i64 {
        self.seq
    }

    fn extended(
        held: Option<&Self>,
        config_seq: i64,
        versions: Vec<StoredQuest>,
    ) -> Result<Self, RulesError> {
        let quests = held.map(|held| held.quests.as_ref());
        Ok(Self {
            seq: config_seq,
            quests: Arc::new(QuestRules::extended(quests, config_seq, versions)?),
        })
    }

    fn quests(&self) -> &QuestRules {
        &self.quests
    }
}

/// Reads rules for all batches of a process: what one has loaded, the others share.
#[derive(Debug)]
pub struct RulesReader<R> {
    storage: Storage,
    newest: Arc<Mutex<Option<Arc<R>>>>,
}

impl<R> Clone for RulesReader<R> {
    fn clone(&self) -> Self {
        Self {
            storage: self.storage.clone(),
            newest: Arc::clone(&self.newest),
        }
    }
}

impl<R: Rules> RulesReader<R> {
    /// Of that database; nothing is read yet.
    pub fn new(storage: Storage) -> Self {
        Self {
            storage,
            newest: Arc::default(),
        }
    }

    /// `held` if it meets the demand, or else newer ones.
    pub async fn at_least(
        &self,
        held: Option<Arc<R>>,
        demand: ConfigDemand,
    ) -> Result<Arc<R>, StoreError> {
        let wanted = match demand {
            ConfigDemand::Any => i64::MIN,
            ConfigDemand::AtLeast(seq) => seq,
            // Read after the batch was closed: what was answered as saved before is in it.
            ConfigDemand::Latest => self.storage.current_config_seq().await?,
        };
        if let Some(held) = held.filter(|held| held.config_seq() >= wanted) {
            return Ok(held);
        }
        // One loads, the others wait for what it gets.
        let mut newest = self.newest.lock().await;
        if let Some(newest) = newest.as_ref().filter(|n| n.config_seq() >= wanted) {
            return Ok(Arc::clone(newest));
        }
        let base = newest.clone();
        let since = base.as_ref().map_or(0, |rules| rules.config_seq());
        let (config_seq, versions) = self.storage.quest_changes_since(since).await?;
        if config_seq < wanted {
            return Err(StoreError::RulesBehind {
                demanded: wanted,
                held: config_seq,
            });
        }
        let corrupt = |why: String| StoreError::Corrupt {
            statement: QUEST_CHANGES,
            why,
        };
        let count = versions.len();
        // Compiling many definitions takes long enough to stop other tasks of this thread.
        let compiled =
            tokio::task::spawn_blocking(move || R::extended(base.as_deref(), config_seq, versions))
                .await
                .map_err(|e| corrupt(e.to_string()))?
                .map_err(|e| match e {
                    RulesError::NoCompiler(e) => StoreError::Unavailable {
                        statement: QUEST_CHANGES,
                        message: e.to_string(),
                    },
                    e @ RulesError::Backwards { .. } => corrupt(e.to_string()),
                })?;
        for broken in compiled.quests().broken_since(since) {
            tracing::error!(
                game.id = %broken.game_id(),
                quest.id = %broken.quest_id(),
                quest.version = broken.version(),
                why = broken.broken().unwrap_or_default(),
                "a quest's definition cannot be used: events for it become dead letters, all else counts"
            );
        }
        let compiled = Arc::new(compiled);
        *newest = Some(Arc::clone(&compiled));
        tracing::debug!(config.seq = config_seq, versions = count, "rules loaded");
        Ok(compiled)
    }
}

impl Storage {
    /// The config counter: every definition saved up to this value is committed, and none above.
    pub async fn current_config_seq(&self) -> Result<i64, StoreError> {
        const NAME: &str = "config_seq";
        run!(self, NAME, |connection| sqlx::query_scalar!(
            "SELECT value FROM config_counter"
        )
        .fetch_one(connection))
        .map_err(|failure| failure.into_store_error(NAME))
    }

    /// The quest versions with a `config_seq` above `since`, oldest first, and the config counter as
    /// of the same moment.
    pub async fn quest_changes_since(
        &self,
        since: i64,
    ) -> Result<(i64, Vec<StoredQuest>), StoreError> {
        const NAME: &str = QUEST_CHANGES;
        // One statement sees one moment.
        let rows = run!(self, NAME, |connection| sqlx::query!(
            r#"
            SELECT c.value AS "counter!", v.quest_id AS "id?", v.studio_id AS "studio_id?",
                   q.game_id AS "game_id?", q.quest_id AS "quest_id?", v.version AS "version?",
                   v.config_seq AS "config_seq?", v.status AS "status?",
                   v.definition::text AS "definition?"
            FROM config_counter AS c
            LEFT JOIN (quest_versions AS v JOIN quests AS q ON q.id = v.quest_id)
                ON v.config_seq > $1
            ORDER BY v.config_seq
            "#,
            since,
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        let counter = rows.first().map_or(0, |row| row.counter);
        let corrupt = |why: String| StoreError::Corrupt {
            statement: NAME,
            why,
        };
        let mut versions = Vec::with_capacity(rows.len());
        for row in rows {
            let (
                Some(id),
                Some(studio_id),
                Some(game_id),
                Some(quest_id),
                Some(version),
                Some(config_seq),
                Some(status),
                Some(definition),
            ) = (
                row.id,
                row.studio_id,
                row.game_id,
                row.quest_id,
                row.version,
                row.config_seq,
                row.status,
                row.definition,
            )
            else {
                // Nothing newer: the counter stands alone.
                continue;
            };
            let name = format!("version {version} of quest {quest_id} of game {game_id}");
            let bad_id = |e: IdError| corrupt(format!("{name}: an id {e}"));
            versions.push(StoredQuest {
                id,
                studio_id: StudioId::new(studio_id).map_err(bad_id)?,
                game_id: GameId::new(game_id).map_err(bad_id)?,
                quest_id: QuestId::new(quest_id).map_err(bad_id)?,
                version,
                config_seq,
                status: QuestStatus::parse(&status)
                    .ok_or_else(|| corrupt(format!("{name}: unknown status {status}")))?,
                definition: RawValue::from_string(definition)
                    .map_err(|e| corrupt(format!("{name}: {e}")))?,
            });
        }
        Ok((counter, versions))
    }
}
