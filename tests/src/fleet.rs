//! The separate binaries with surroundings of their own, to kill, stop and start again.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use bm_contracts::Topic;
use bm_domain::definition::parse_file;
use bm_storage::{Storage, StorageConfig};
use bm_testkit::process::ProcessPlan;
use bm_testkit::{
    Process, Server, TcpProxy, TestDatabase, TestTopics, TopicPlan, free_port, unique, until,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};

use crate::{Book, Door, Quest, Sender, Service, lanes};

/// Several processes in a debug build on few cores: one fleet at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// Starting takes a rebalance of the group, which after a kill takes its session's timeout.
pub(crate) const READY: Duration = Duration::from_mins(1);
/// In the fleet's folder.
const STUDIOS_FILE: &str = "studios.json";
/// The shortest that brokers allow.
const SESSION_TIMEOUT_MS: &str = "6000";

/// A database, topics, a Redis and studios of its own, and the processes that use them.
pub struct Fleet {
    pub(crate) processes: BTreeMap<Service, Vec<Process>>,
    variables: BTreeMap<String, String>,
    client_key: String,
    studio: String,
    game: String,
    group: String,
    /// Documents of the studios file.
    studios: Vec<Value>,
    /// What was saved and sent.
    pub book: Arc<Book>,
    /// The database, for looking into.
    pub pool: PgPool,
    storage: Storage,
    /// Of this fleet alone.
    pub redis: Server,
    /// Of this fleet alone.
    pub topics: Arc<TestTopics>,
    /// Of this fleet alone.
    pub database: TestDatabase,
    /// Holds the studios file.
    folder: TempDir,
    /// Of this fleet alone, if it has one.
    pub broker: Option<Server>,
    /// Of this fleet alone, if it has one.
    pub postgres: Option<Server>,
    _turn: MutexGuard<'static, ()>,
}

impl Fleet {
    /// On the shared broker, without any process yet.
    pub async fn new() -> Self {
        let fleet = Self::without_game().await;
        fleet.register_game().await;
        fleet
    }

    /// The same, and nothing is known of the game either.
    pub async fn without_game() -> Self {
        let topics = TestTopics::registry().await;
        let reach = [("REDPANDA_BROKERS", topics.brokers().to_owned())];
        Self::build(None, None, topics, reach).await
    }

    /// With a broker of its own, and a proxy through which its processes reach it.
    pub async fn behind_proxy() -> (Self, TcpProxy) {
        let (broker, proxy) = Server::kafka_behind_proxy().await;
        let topics = TestTopics::create_on(&broker.address(), Topic::ALL.map(TopicPlan::of)).await;
        let reach = [("REDPANDA_BROKERS", proxy.address())];
        let fleet = Self::build(Some(broker), None, topics, reach).await;
        fleet.register_game().await;
        (fleet, proxy)
    }

    /// With a broker and a PostgreSQL of its own, to kill.
    pub async fn with_servers() -> Self {
        let (broker, postgres) = tokio::join!(Server::kafka(), Server::postgres());
        let topics = TestTopics::create_on(&broker.address(), Topic::ALL.map(TopicPlan::of)).await;
        let reach = [("REDPANDA_BROKERS", broker.address())];
        let fleet = Self::build(Some(broker), Some(postgres), topics, reach).await;
        fleet.register_game().await;
        fleet
    }

    /// On a broker of its own that wants SCRAM over TLS.
    pub async fn secure() -> Self {
        let broker = Server::kafka_secure().await;
        let (user, password, authority) = broker.kafka_login();
        let topics =
            TestTopics::create_with(broker.kafka_client(), Topic::ALL.map(TopicPlan::of)).await;
        let reach = [
            ("REDPANDA_BROKERS", broker.address()),
            ("REDPANDA_USERNAME", user.to_owned()),
            ("REDPANDA_PASSWORD", password.to_owned()),
            ("REDPANDA_CA_FILE", authority.display().to_string()),
        ];
        let fleet = Self::build(Some(broker), None, topics, reach).await;
        fleet.register_game().await;
        fleet
    }

    /// All but the processes is made before it is this fleet's turn.
    pub(crate) async fn build(
        broker: Option<Server>,
        postgres: Option<Server>,
        topics: TestTopics,
        reach: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let database = match &postgres {
            Some(server) => TestDatabase::with_schema_on(&server.url()).await,
            None => TestDatabase::with_schema().await,
        };
        let pool = database.pool(4).await;
        let config = StorageConfig::for_url("e2e", &database.url(), 2);
        let storage = Storage::connect_lazily(&config.expect("a test's database URL is one"));
        let redis = Server::redis().await;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let client_key = unique("client-key");
        let (studio, game) = (unique("studio"), unique("game"));
        let studios = folder.path().join(STUDIOS_FILE);

        let mut variables: BTreeMap<String, String> = reach
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        for (name, value) in [
            ("BM_TOPIC_PREFIX", topics.prefix().to_owned()),
            ("BM_SESSION_TIMEOUT_MS", SESSION_TIMEOUT_MS.to_owned()),
            ("RDS_CONNECTION_STRING", database.url()),
            ("REDIS_URL", redis.url()),
            // A busy machine must not make Redis look away: tests say when it is.
            ("BM_REDIS_TIMEOUT_MS", "1000".to_owned()),
            ("BM_STUDIOS_FILE", studios.display().to_string()),
        ] {
            variables.insert(name.to_owned(), value);
        }
        let document = json!({
            "id": studio, "name": "A studio", "tier": "pro", "subscriptionStatus": "active",
            "apiKey": client_key,
            "rateLimit": {
                "requestsPerMinute": 1_000_000, "burst": 100_000,
                "eventsPerMinute": 10_000_000, "eventsBurst": 1_000_000,
                "playerEventsPerMinute": 1_000_000,
            },
        });
        let mut fleet = Self {
            processes: BTreeMap::new(),
            variables,
            client_key,
            studio,
            game,
            group: unique("group"),
            studios: Vec::new(),
            book: Arc::new(Book::default()),
            pool,
            storage,
            redis,
            topics: Arc::new(topics),
            database,
            folder,
            broker,
            postgres,
            _turn: TURN.lock().await,
        };
        fleet.add_studio(document);
        fleet
    }

    /// One more studio in the file that gateways read.
    pub fn add_studio(&mut self, document: Value) {
        self.studios.push(document);
        let studios = json!({"studios": self.studios});
        std::fs::write(self.folder.path().join(STUDIOS_FILE), studios.to_string())
            .expect("the studios file can be written");
    }

    pub(crate) async fn register_game(&self) {
        self.apply(&json!({"games": [self.game_definition()]}))
            .await;
    }

    /// The game as a file of definitions names it.
    pub fn game_definition(&self) -> Value {
        json!({"gameId": self.game, "studioId": self.studio, "name": "A game"})
    }

    /// The key that the studio's clients show.
    pub fn client_key(&self) -> &str {
        &self.client_key
    }

    /// The game that events are of.
    pub fn game(&self) -> &str {
        &self.game
    }

    /// Whose game it is.
    pub fn studio(&self) -> &str {
        &self.studio
    }

    /// Runs `brightmatter apply` on a file of these definitions; gives whether it ended well, and
    /// what it said.
    pub async fn apply_file(&self, definitions: &Value) -> (bool, String) {
        let file = self.folder.path().join("definitions.json");
        std::fs::write(&file, definitions.to_string()).expect("a file can be written");
        let mut process = ProcessPlan::new("brightmatter", free_port())
            .envs(&self.variables)
            .arg("apply")
            .arg(file)
            .spawn();
        let status = process.wait(READY).await;
        (status.success(), process.log())
    }

    /// Saves definitions; gives the config sequence.
    pub async fn apply(&self, definitions: &Value) -> i64 {
        let file = parse_file(definitions.to_string().as_bytes())
            .unwrap_or_else(|faults| panic!("{definitions} is at fault: {faults:?}"));
        let applied = self.storage.apply(&file).await;
        applied.expect("definitions can be saved").config_seq
    }

    /// Saves a quest, or a new version of it; gives the config sequence from which it counts.
    pub async fn save(&self, quest: Quest) -> i64 {
        let definitions = json!({"quests": [quest.definition(&self.game)]});
        let config_seq = self.apply(&definitions).await;
        self.book.saved(config_seq, quest);
        config_seq
    }

    /// Saves several.
    pub async fn save_all(&self, quests: impl IntoIterator<Item = Quest>) {
        for quest in quests {
            self.save(quest).await;
        }
    }

    /// Starts one more process of a service, with variables besides those all are given; does not
    /// wait for it. Gives its place among those of its service.
    pub fn start_with(&mut self, service: Service, more: &[(&str, &str)]) -> usize {
        let port = free_port();
        let listen = if service == Service::Gateway {
            "BM_LISTEN_ADDR"
        } else {
            "BM_OPS_ADDR"
        };
        let process = ProcessPlan::new(service.name(), port)
            .envs(&self.variables)
            .env(listen, format!("127.0.0.1:{port}"))
            .env(
                "CONSUMER_GROUP",
                format!("{}-{}", self.group, service.name()),
            )
            .envs(more.iter().copied())
            .spawn();
        let of_service = self.processes.entry(service).or_default();
        of_service.push(process);
        of_service.len() - 1
    }

    /// Starts one more process of each of these services, and waits until all are ready.
    pub async fn start(&mut self, services: impl IntoIterator<Item = Service>) {
        let mut started = Vec::new();
        for service in services {
            started.push((service, self.start_with(service, &[])));
        }
        for (service, place) in started {
            self.process(service, place).wait_ready(READY).await;
        }
    }

    /// A process by its place among those of its service.
    pub fn process(&mut self, service: Service, place: usize) -> &mut Process {
        let of_service = self.processes.get_mut(&service);
        of_service
            .and_then(|processes| processes.get_mut(place))
            .unwrap_or_else(|| panic!("{} {place} was not started", service.name()))
    }

    /// The value of one series in a process's `/metrics`, named as it stands there with its labels;
    /// `None` when it is not there, or nobody answers.
    pub async fn metric(&mut self, service: Service, place: usize, series: &str) -> Option<f64> {
        let answer = self.process(service, place).get("/metrics").await?;
        let mut lines = answer.body.lines();
        lines.find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Waits until a series has at least this value.
    pub async fn wait_metric(&mut self, service: Service, place: usize, series: &str, least: f64) {
        self.wait_metric_range(service, place, series, least..)
            .await;
    }

    /// Waits until a series has a value of this range.
    pub async fn wait_metric_range(
        &mut self,
        service: Service,
        place: usize,
        series: &str,
        range: impl RangeBounds<f64> + Debug,
    ) {
        let what = format!("{series} of {} {place} in {range:?}", service.name());
        until(READY, &what, async || {
            match self.metric(service, place, series).await {
                Some(value) if range.contains(&value) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits until every process is ready.
    pub async fn wait_ready(&mut self) {
        for process in self.processes.values_mut().flatten() {
            process.wait_ready(READY).await;
        }
    }

    /// How many lanes a process runs, by its own word; `None` when it does not answer.
    pub async fn running_lanes(&mut self, service: Service, place: usize) -> Option<usize> {
        let answer = self.process(service, place).get("/readyz").await?;
        let body: Value = serde_json::from_str(&answer.body).ok()?;
        let detail = body["checks"]["lanes"].to_string();
        let before = detail.split(" running").next()?;
        let digits = before.rsplit(' ').next()?;
        digits.parse().ok()
    }

    /// Waits until these processes run so many lanes each; any number where it is `None`, but one.
    pub async fn wait_lanes(&mut self, service: Service, wanted: &[Option<usize>]) {
        let what = format!("the lanes of {} as {wanted:?}", service.name());
        until(READY, &what, async || {
            let mut running = Vec::new();
            for place in 0..wanted.len() {
                running.push(self.running_lanes(service, place).await.unwrap_or(0));
            }
            let as_wanted = |(running, wanted): (&usize, &Option<usize>)| {
                wanted.map_or(*running > 0, |wanted| *running == wanted)
            };
            if running.iter().zip(wanted).all(as_wanted) {
                Ok(())
            } else {
                Err(format!("{running:?}"))
            }
        })
        .await;
    }

    /// Waits until one process runs so many lanes, whatever others of its service believe.
    pub async fn wait_lanes_of(&mut self, service: Service, place: usize, wanted: usize) {
        let what = format!("{wanted} lanes of {} {place}", service.name());
        until(READY, &what, async || {
            match self.running_lanes(service, place).await {
                Some(running) if running == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits until a processor has put `records` more behind it than the `before` it had.
    pub async fn wait_applied(&self, service: Service, before: i64, records: i64) {
        let what = format!("{} applies {records} more records", service.name());
        bm_testkit::eventually(READY, &what, || async {
            (lanes::applied(&self.pool, service).await >= before + records).then_some(())
        })
        .await;
    }

    /// A client of the gateways that run.
    pub fn sender(&self) -> Sender {
        self.sender_at(self.gateways())
    }

    /// A client of one gateway alone.
    pub fn sender_to(&self, place: usize) -> Sender {
        self.sender_at(vec![self.gateways()[place]])
    }

    fn sender_at(&self, addresses: Vec<SocketAddr>) -> Sender {
        let door = Door::Gateways(addresses, self.client_key.clone());
        Sender::new(door, Arc::clone(&self.book))
    }

    /// The addresses of the gateways that were started.
    pub fn gateways(&self) -> Vec<SocketAddr> {
        let gateways = self.processes.get(&Service::Gateway);
        let addresses: Vec<SocketAddr> = gateways
            .into_iter()
            .flatten()
            .map(|process| process.address().parse().expect("an address is one"))
            .collect();
        assert!(!addresses.is_empty(), "no gateway was started");
        addresses
    }

    /// A client that goes past the gateways.
    pub fn log_sender(&self) -> Sender {
        let door = Door::Log(Arc::clone(&self.topics), self.studio.clone());
        Sender::new(door, Arc::clone(&self.book))
    }

    /// Makes Redis forget everything.
    pub async fn flush_redis(&self) {
        let mut stream = TcpStream::connect(self.redis.address())
            .await
            .expect("Redis can be reached");
        stream
            .write_all(b"FLUSHALL\r\n")
            .await
            .expect("Redis can be written to");
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).await.expect("Redis answers");
        assert_eq!(&reply, b"+OK\r\n");
    }

    /// Asks every process to end, gateways first, and waits until all have ended well.
    pub async fn end(&mut self) {
        for process in self.processes.values_mut().flatten() {
            process.terminate();
        }
        for (service, processes) in &mut self.processes {
            for process in processes.iter_mut().filter(|process| process.id() != 0) {
                let status = process.wait(Duration::from_secs(30)).await;
                assert!(
                    status.success(),
                    "{} ended with {status}; it said:\n{}",
                    service.name(),
                    tail(process)
                );
            }
        }
        self.processes.clear();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (service, processes) in &self.processes {
                for process in processes {
                    eprintln!("--- {} said last:\n{}", service.name(), tail(process));
                }
            }
        }
        // Before what they stand on.
        self.processes.clear();
    }
}

/// The last lines of what a process said, cut to a readable length.
fn tail(process: &Process) -> String {
    let log = process.log();
    let lines: Vec<&str> = log.lines().collect();
    let mut text = String::new();
    for line in &lines[lines.len().saturating_sub(25)..] {
        text.extend(line.chars().take(400));
        text.push('\n');
    }
    text
}
