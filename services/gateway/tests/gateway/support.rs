//! A running gateway, with topics, a database and keys of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bm_bootstrap::{Clock, Context, Vars, metrics};
use bm_contracts::Topic;
use bm_domain::definition::parse_file;
use bm_gateway::GatewayError;
use bm_storage::{Storage, StorageConfig};
use bm_testkit::process::ProcessPlan;
use bm_testkit::{
    TcpProxy, TestDatabase, TestEnv, TestRecord, TestTopics, TopicPlan, eventually, free_port,
    unique,
};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Long enough for anything that is going to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Where the gateway's servers are; unset: the shared ones.
#[derive(Default)]
pub(crate) struct Through<'a> {
    pub(crate) brokers: Option<&'a str>,
    /// What the topic is made through, where that is not the brokers' address.
    pub(crate) topics_at: Option<&'a str>,
    pub(crate) postgres: Option<&'a TcpProxy>,
    pub(crate) redis: Option<&'a TcpProxy>,
    pub(crate) vars: &'a [(&'a str, &'a str)],
    /// As a process of its own, which ends as processes do: what it has not waited for is lost.
    /// Nothing but its shutdown is in [`Running::ctx`] then.
    pub(crate) alone: bool,
}

/// A gateway. Studio `acme` has the key `key` and the game `g`; `other` the key `other-key` and the
/// game `o`; `late` has not paid, with the key `unpaid`; `small` may send 3 events a minute of which
/// 2 of one player, with the key `small` and the game `s`.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) topics: TestTopics,
    pub(crate) ctx: Context,
    ended: JoinHandle<Result<(), GatewayError>>,
    client: reqwest::Client,
    _database: TestDatabase,
    _studios: tempfile::NamedTempFile,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.json["code"], code, "{self:?}");
        assert!(self.json["error"].is_string(), "{self:?}");
        let correlation = self.headers["x-correlation-id"].to_str().unwrap();
        assert_eq!(self.json["correlationId"], correlation);
    }

    #[track_caller]
    pub(crate) fn assert_status(&self, status: &str) {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.json["status"], status, "{self:?}");
    }
}

/// Counters and the like, as text.
pub(crate) struct Metrics(String);

impl Metrics {
    /// The count of a series by its name and labels; 0 before it is counted the first time.
    pub(crate) fn value(&self, series: &str) -> usize {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::start_with(Through::default()).await
    }

    pub(crate) async fn start_with(through: Through<'_>) -> Self {
        bm_bootstrap::telemetry::init_for_tests();
        let env = TestEnv::get();
        let brokers = through.brokers.unwrap_or(&env.brokers);
        let topics_at = through.topics_at.unwrap_or(brokers);
        let events = TopicPlan::of(Topic::GameEvents);
        let (topics, database) = tokio::join!(
            TestTopics::create_on(topics_at, [events]),
            TestDatabase::with_schema()
        );
        register_games(&database).await;
        let studios = studios_file();
        let redis = match through.redis {
            Some(proxy) => format!("redis://{}", proxy.address()),
            None => env.redis.clone(),
        };
        let postgres = match through.postgres {
            Some(proxy) => database.url_through(&proxy.address()),
            None => database.url(),
        };
        let path = studios.path().to_str().unwrap();
        let prefix = unique("gateway");
        let listen = if through.alone {
            format!("127.0.0.1:{}", free_port())
        } else {
            "127.0.0.1:0".to_owned()
        };
        let vars = [
            ("BM_LISTEN_ADDR", listen.as_str()),
            ("REDPANDA_BROKERS", brokers),
            ("BM_TOPIC_PREFIX", topics.prefix()),
            ("RDS_CONNECTION_STRING", &postgres),
            ("REDIS_URL", &redis),
            ("BM_REDIS_PREFIX", &prefix),
            // A busy machine must not make Redis look away: tests say when it is.
            ("BM_REDIS_TIMEOUT_MS", "2000"),
            ("BM_STUDIOS_FILE", path),
        ];
        let vars = vars.into_iter().chain(through.vars.iter().copied());
        let vars: BTreeMap<&str, &str> = vars.collect();
        let clock = Clock::system();
        let recorded = metrics::install("gateway", &clock).unwrap();
        let ctx = Context::new("gateway", Vars::from_map(vars.clone()), clock, recorded);
        let ended = if through.alone {
            let address: SocketAddr = listen.parse().unwrap();
            let mut process = ProcessPlan::new("gateway", address.port())
                .envs(vars)
                .spawn();
            process.wait_ready(DEADLINE).await;
            ctx.announce(address);
            let shutdown = ctx.shutdown.clone();
            tokio::spawn(async move {
                shutdown.tripped().await;
                process.terminate();
                let status = process.wait(Duration::from_mins(1)).await;
                assert!(status.success(), "{status}: {}", process.log());
                Ok(())
            })
        } else {
            tokio::spawn(bm_gateway::run(ctx.clone()))
        };
        let address = eventually(DEADLINE, "the gateway's address", || async {
            ctx.address()
        })
        .await;
        Self {
            address,
            topics,
            ctx,
            ended,
            client: reqwest::Client::new(),
            _database: database,
            _studios: studios,
        }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        self.client
            .request(method, format!("http://{}{path}", self.address))
            .timeout(DEADLINE)
    }

    pub(crate) async fn ask(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.expect("the gateway answers");
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            json: serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null),
        }
    }

    /// Posts a body with the key of `acme`.
    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request("POST", path).header("x-api-key", "key");
        self.ask(request.body(body)).await
    }

    /// Posts one event with the key of `acme`.
    pub(crate) async fn event(&self, event: &Value) -> Answer {
        self.post("/v1/events", event.to_string()).await
    }

    /// What the process has counted so far.
    pub(crate) async fn metrics(&self) -> Metrics {
        let answer = self.request("GET", "/metrics").send().await.unwrap();
        Metrics(answer.text().await.unwrap())
    }

    /// What stands in `game.events`.
    pub(crate) async fn records(&self) -> Vec<TestRecord> {
        self.topics.read_all(Topic::GameEvents.name()).await
    }

    /// The ids of the events in the log.
    pub(crate) async fn logged_ids(&self) -> Vec<String> {
        let records = self.records().await;
        let ids = records
            .iter()
            .map(|record| record.json()["eventId"].clone());
        let mut ids: Vec<String> = ids.map(|id| id.as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }

    /// Sends bytes as they are and reads all the answer until the gateway closes the connection.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
            .await
            .expect("the gateway closes the connection")
            .unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// Tells the gateway to stop, and waits until it has; the topics stay.
    pub(crate) async fn stop(self) -> TestTopics {
        self.ctx.shutdown.trip();
        let ended = tokio::time::timeout(Duration::from_mins(1), self.ended).await;
        ended.expect("the gateway ends").unwrap().unwrap();
        self.topics
    }
}

async fn register_games(database: &TestDatabase) {
    let config = StorageConfig::for_url("test", &database.url(), 1).unwrap();
    let storage = Storage::connect_lazily(&config);
    let games = json!({"games": [
        {"gameId": "g", "studioId": "acme", "name": "G"},
        {"gameId": "o", "studioId": "other", "name": "O"},
        {"gameId": "s", "studioId": "small", "name": "S"},
    ]});
    let file = parse_file(games.to_string().as_bytes()).unwrap();
    storage.apply(&file).await.unwrap();
    storage.close().await;
}

fn studios_file() -> tempfile::NamedTempFile {
    let studios = json!({"studios": [
        {"id": "acme", "name": "Acme", "tier": "enterprise", "subscriptionStatus": "active", "apiKey": "key"},
        {"id": "other", "tier": "pro", "subscriptionStatus": "trialing", "apiKey": "other-key"},
        {"id": "late", "tier": "pro", "subscriptionStatus": "canceled", "apiKey": "unpaid"},
        {"id": "small", "tier": "ecosystem", "subscriptionStatus": "active", "apiKey": "small",
         "rateLimit": {"eventsPerMinute": 3, "playerEventsPerMinute": 2}},
    ]});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), studios.to_string()).unwrap();
    file
}

/// An event of `acme` that is good now.
pub(crate) fn good() -> Value {
    let now = Clock::system().now();
    json!({"eventType": "enemy_killed", "userId": "u", "gameId": "g", "timestamp": now.to_string()})
}

/// The same with a field set.
pub(crate) fn good_with(field: &str, value: impl Into<Value>) -> Value {
    let mut event = good();
    event[field] = value.into();
    event
}

/// The statuses of a batch's items.
pub(crate) fn statuses(answer: &Answer) -> Vec<&str> {
    let results = answer.json["results"].as_array().expect("results");
    results
        .iter()
        .map(|item| item["status"].as_str().unwrap())
        .collect()
}
