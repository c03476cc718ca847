//! Servers of a test's own, to stop, kill and pause: run by the scripts of `scripts/`.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::child::LeashedChild;
use crate::process::{tail, workspace};
use crate::wait::free_ports;
use crate::{TcpProxy, free_port};

/// The first start may have to fetch the server.
const START_LIMIT: Duration = Duration::from_mins(3);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// User of the secured broker.
const KAFKA_USER: &str = "brightmatter";
/// Its password, known to tests only.
const KAFKA_PASSWORD: &str = "a-password-for-tests";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Postgres,
    Redis,
    Kafka { secure: bool, proxy: Option<String> },
    Firestore,
}

/// A server with data in a temporary folder; both go with this value.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    port: u16,
    // Before `dir`: the process ends before its folder is removed.
    child: Option<LeashedChild>,
    dir: TempDir,
}

impl Server {
    /// A PostgreSQL that syncs what it commits.
    pub async fn postgres() -> Self {
        Self::launch(Kind::Postgres, free_port()).await
    }

    /// A Redis that keeps nothing.
    pub async fn redis() -> Self {
        Self::launch(Kind::Redis, free_port()).await
    }

    /// A plaintext Kafka broker.
    pub async fn kafka() -> Self {
        let kind = Kind::Kafka {
            secure: false,
            proxy: None,
        };
        Self::launch(kind, free_ports(3)).await
    }

    /// A Kafka broker that wants SCRAM over TLS; see [`Server::kafka_login`].
    pub async fn kafka_secure() -> Self {
        let kind = Kind::Kafka {
            secure: true,
            proxy: None,
        };
        Self::launch(kind, free_ports(3)).await
    }

    /// A plaintext broker with a proxy before it: a client that begins at the proxy's address
    /// goes through the proxy always; [`Server::address`] goes past it.
    pub async fn kafka_behind_proxy() -> (Self, TcpProxy) {
        let port = free_ports(3);
        let proxy = TcpProxy::to(format!("127.0.0.1:{}", port + 2)).await;
        let kind = Kind::Kafka {
            secure: false,
            proxy: Some(proxy.address()),
        };
        (Self::launch(kind, port).await, proxy)
    }

    /// A Firestore emulator.
    pub async fn firestore() -> Self {
        Self::launch(Kind::Firestore, free_port()).await
    }

    async fn launch(kind: Kind, port: u16) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("bm-server-")
            // PostgreSQL runs as another user when the tests run as root.
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("a temporary folder can be made");
        let mut server = Self {
            kind,
            port,
            child: None,
            dir,
        };
        server.start_again().await;
        server
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port, the same after every start.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a client connects to: a URL for PostgreSQL (a superuser in the database `postgres`)
    /// and Redis, else `host:port`.
    pub fn url(&self) -> String {
        match self.kind {
            Kind::Postgres => format!("postgres://brightmatter@{}/postgres", self.address()),
            Kind::Redis => format!("redis://{}", self.address()),
            Kind::Kafka { .. } | Kind::Firestore => self.address(),
        }
    }

    /// User, password and the file of the authority to trust, of the secured broker.
    pub fn kafka_login(&self) -> (&'static str, &'static str, PathBuf) {
        let authority = self.data_dir().join("tls/ca.pem");
        (KAFKA_USER, KAFKA_PASSWORD, authority)
    }

    /// The settings of a client that reaches this broker.
    pub fn kafka_client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address());
        if matches!(self.kind, Kind::Kafka { secure: true, .. }) {
            let (user, password, authority) = self.kafka_login();
            config
                .set("security.protocol", "SASL_SSL")
                .set("sasl.mechanism", "SCRAM-SHA-256")
                .set("sasl.username", user)
                .set("sasl.password", password)
                .set("ssl.ca.location", authority.to_string_lossy());
        }
        config
    }

    /// What it has printed since its first start.
    pub fn log(&self) -> String {
        let mut said = String::new();
        for file in [self.output(), self.data_dir().join("server.log")] {
            said += &fs::read_to_string(file).unwrap_or_default();
        }
        said
    }

    /// Ends it in an orderly way, without waiting for its clients; insists after 30 s.
    pub async fn stop(&mut self) {
        // PostgreSQL would wait for its clients on TERM.
        let signal = if self.kind == Kind::Postgres {
            "INT"
        } else {
            "TERM"
        };
        if let Some(mut child) = self.child.take() {
            child.signal_tree("CONT");
            child.signal(signal);
            if child.wait(STOP_LIMIT).await.is_none() {
                child.kill();
            }
        }
    }

    /// Ends a PostgreSQL by immediate shutdown: it lets its clients go without a word, and recovers
    /// from its log when it starts again; insists after 30 s.
    pub async fn stop_at_once(&mut self) {
        assert_eq!(self.kind, Kind::Postgres, "only PostgreSQL knows this");
        if let Some(mut child) = self.child.take() {
            child.signal("QUIT");
            if child.wait(STOP_LIMIT).await.is_none() {
                child.kill();
            }
        }
    }

    /// Whether it was started, and has neither ended nor been ended.
    pub fn runs(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().is_none())
    }

    /// Kills it with all its processes, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill();
        }
    }

    /// Stops all its processes where they stand: connections stay, nothing answers.
    pub fn pause(&mut self) {
        if let Some(child) = &mut self.child {
            child.signal_tree("STOP");
        }
    }

    /// Lets a paused server go on.
    pub fn resume(&mut self) {
        if let Some(child) = &mut self.child {
            child.signal_tree("CONT");
        }
    }

    /// Starts it, on the same port with the same data, and waits until it does its work.
    pub async fn start_again(&mut self) {
        self.kill();
        let started = Instant::now();
        loop {
            let running = match &mut self.child {
                Some(child) => child.try_wait().is_none(),
                None => false,
            };
            if !running {
                // The first time, or a PostgreSQL whose killed predecessor still lets go of its memory.
                self.child = Some(self.spawn());
            }
            if let Ok(true) = tokio::time::timeout(Duration::from_secs(5), self.answers()).await {
                return;
            }
            let ended = self.child.as_mut().and_then(LeashedChild::try_wait);
            let may_retry = self.kind == Kind::Postgres && started.elapsed() < STOP_LIMIT;
            assert!(
                (ended.is_none() || may_retry) && started.elapsed() < START_LIMIT,
                "{:?} did not start ({ended:?}); it said:\n{}",
                self.kind,
                tail(&self.log()),
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("output.log")
    }

    fn spawn(&self) -> LeashedChild {
        let scripts = workspace().join("scripts");
        let port = self.port.to_string();
        let mut command = match &self.kind {
            Kind::Postgres => Command::new(scripts.join("run-postgres")),
            Kind::Redis => Command::new(scripts.join("run-redis")),
            Kind::Kafka { .. } => Command::new(scripts.join("run-kafka")),
            Kind::Firestore => Command::new(scripts.join("run-firestore")),
        };
        if self.kind != Kind::Firestore {
            command.arg(self.data_dir());
        }
        command.arg(port);
        if let Kind::Kafka { secure, proxy } = &self.kind {
            // A killed broker may register again only when its last session has run out.
            command.env(
                "BM_KAFKA_FLAGS",
                "broker.session.timeout.ms=2000 broker.heartbeat.interval.ms=500",
            );
            if *secure {
                command
                    .arg("--secure")
                    .env("BM_KAFKA_USER", KAFKA_USER)
                    .env("BM_KAFKA_PASSWORD", KAFKA_PASSWORD);
            }
            if let Some(proxy) = proxy {
                command.env("BM_KAFKA_ADVERTISE_PROXY", proxy);
            }
        }
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.output())
            .expect("a log file can be made");
        let errors = output.try_clone().expect("a file handle can be copied");
        command
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(errors));
        LeashedChild::spawn(&mut command)
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
    }

    async fn answers(&self) -> bool {
        match self.kind {
            Kind::Postgres => match PgConnection::connect(&self.url()).await {
                Ok(connection) => connection.close().await.is_ok(),
                Err(_) => false,
            },
            Kind::Redis => redis_answers(&self.address()).await,
            Kind::Kafka { .. } => {
                let config = self.kafka_client();
                tokio::task::spawn_blocking(move || kafka_answers(&config))
                    .await
                    .unwrap_or(false)
            }
            Kind::Firestore => firestore_answers(&self.address()).await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        // Where the user that PostgreSQL runs as cannot reach our folder, its data is elsewhere.
        if let Ok(elsewhere) = fs::read_to_string(self.data_dir().join("location")) {
            let _left_at_worst = fs::remove_dir_all(Path::new(elsewhere.trim()));
        }
    }
}

async fn redis_answers(address: &str) -> bool {
    let mut reply = [0; 5];
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_exact(&mut reply).await
    };
    exchange.await.is_ok() && &reply == b"+PONG"
}

/// gRPC speaks HTTP/2: its greeting and an empty SETTINGS frame are answered with a frame of
/// type 4, SETTINGS. Not every emulator understands HTTP/1.
async fn firestore_answers(address: &str) -> bool {
    const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let mut frame = [0; 9];
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(GREETING).await?;
        stream.read_exact(&mut frame).await
    };
    exchange.await.is_ok() && frame[3] == 4
}

fn kafka_answers(config: &ClientConfig) -> bool {
    let consumer: Result<BaseConsumer, _> = config.create();
    consumer.is_ok_and(|consumer| {
        consumer
            .fetch_metadata(None, Duration::from_secs(2))
            .is_ok_and(|metadata| !metadata.brokers().is_empty())
    })
}
