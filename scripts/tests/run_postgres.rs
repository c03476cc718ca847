//! `run-postgres` where its server's user cannot reach the folder: the data lives and dies with it.

#![expect(
    clippy::unwrap_used,
    reason = "a test says by a panic that something is not as it should be"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bm_testkit::{eventually, free_port};

const SOON: Duration = Duration::from_mins(1);

struct Server(Child);

impl Server {
    /// Starts it and waits until it takes connections.
    async fn start(dir: &Path) -> Self {
        let port = free_port();
        let child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("run-postgres"))
            .arg(dir)
            .arg(port.to_string())
            .env("BM_POSTGRES_FLAGS", "-c fsync=off")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually(SOON, "a PostgreSQL server", || async move {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        Self(child)
    }

    fn stop(&mut self) {
        let pid = self.0.id().to_string();
        let sent = Command::new("bash")
            .args(["-c", "kill -INT $0", &pid])
            .status();
        assert!(sent.unwrap().success());
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn location(dir: &Path) -> PathBuf {
    PathBuf::from(
        std::fs::read_to_string(dir.join("location"))
            .unwrap()
            .trim_end(),
    )
}

#[tokio::test]
async fn data_outside_is_used_again_only_while_its_folder_names_it() {
    // A folder that is its owner's alone.
    let hidden = tempfile::tempdir().unwrap();
    let dir = hidden.path().join("postgres");
    let server = Server::start(&dir).await;
    if !dir.join("location").exists() {
        // Not root: the data is in the folder itself.
        return;
    }
    let first = location(&dir);
    drop(server);

    drop(Server::start(&dir).await);
    assert_eq!(location(&dir), first);

    std::fs::remove_dir_all(&dir).unwrap();
    drop(Server::start(&dir).await);
    let second = location(&dir);
    assert_ne!(second, first);
    assert!(!first.exists(), "{}", first.display());

    // What nobody of ours made is left alone, and not used.
    std::fs::remove_dir_all(&second).unwrap();
    std::fs::create_dir(&second).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    drop(Server::start(&dir).await);
    let third = location(&dir);
    assert_ne!(third, second);
    assert!(second.exists());
    std::fs::remove_dir_all(second).unwrap();
    std::fs::remove_dir_all(third).unwrap();
}
