//! The checks of `brightmatter doctor`, each against the real thing.

use std::time::Duration;

use bm_bootstrap::{Clock, Vars};
use bm_kafka::{ConfigError, KafkaConfig, KafkaError, TopicAdmin, TopicReport, TopicState};
use bm_storage::config::StorageConfigError;
use bm_storage::{Storage, StorageConfig, StoreError};
use bm_studio_auth::{StudioAuthConfig, StudioDirectory, StudioSource, parse_studios_file};
use tokio::net::TcpStream;

use super::{Advice, Found, LIMIT, Line, within};
use crate::hints;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);

const BROKER_ACT: &str =
    "is the broker running there? `make dev` starts one; REDPANDA_BROKERS names another";
const TOPICS_ACT: &str = "run `brightmatter topics`";
const DATABASE_ACT: &str =
    "is PostgreSQL running there? `make dev` starts one; RDS_CONNECTION_STRING names another";
const EXPLAINED: &str = ".env.example explains the variable";
const MIGRATE_ACT: &str = "run `brightmatter migrate`";
const REDIS_ACT: &str = "is Redis running there? Without it each gateway limits alone, and duplicates are found by the router only";

/// The broker, and its topics where it answers.
pub(super) async fn bus(vars: &Vars) -> Vec<Line> {
    let config = match KafkaConfig::from_vars(|name| vars.get(name)) {
        Ok(config) => config,
        Err(e) => {
            let act = match e {
                ConfigError::Missing {
                    variable: "REDPANDA_BROKERS",
                    ..
                } => hints::addresses(vars),
                _ => EXPLAINED.to_owned(),
            };
            let found = Found::Broken(Advice::new(e, act));
            return vec![Line {
                name: "broker",
                found,
            }];
        }
    };
    let admin = match TopicAdmin::connect(&config) {
        Ok(admin) => admin,
        Err(e) => {
            let found = Found::Broken(Advice::new(e, "check the REDPANDA_ variables"));
            return vec![Line {
                name: "broker",
                found,
            }];
        }
    };
    let broker = within("broker", broker(&config, &admin), BROKER_ACT).await;
    if !matches!(broker.found, Found::Fine(_)) {
        return vec![broker];
    }
    let topics = async {
        match admin.inspect(None).await {
            Ok(report) => topics(&report),
            Err(e) => Found::Broken(Advice::new(e, TOPICS_ACT)),
        }
    };
    vec![broker, within("topics", topics, TOPICS_ACT).await]
}

async fn broker(config: &KafkaConfig, admin: &TopicAdmin) -> Found {
    match admin.ping(LIMIT.mul_f32(0.8)).await {
        Ok(()) => Found::Fine(format!("{} answers", config.brokers)),
        Err(e) => {
            let act = match &e {
                KafkaError::Authentication(_) => {
                    "check REDPANDA_USERNAME, REDPANDA_PASSWORD and REDPANDA_SASL_MECHANISM"
                }
                KafkaError::Tls(_) => {
                    "check REDPANDA_CA_FILE, and that the broker's listener speaks TLS"
                }
                _ => BROKER_ACT,
            };
            Found::Broken(Advice::new(e, act))
        }
    }
}

fn topics(report: &TopicReport) -> Found {
    let mut missing = Vec::new();
    let mut differing = Vec::new();
    for (name, state) in &report.topics {
        match state {
            TopicState::Created | TopicState::AsWanted => {}
            TopicState::Missing | TopicState::Failed(_) => missing.push(name.as_str()),
            TopicState::Differs(differences) => differing.extend(
                differences
                    .iter()
                    .map(|d| format!("{name}: {} is {}, wanted {}", d.setting, d.actual, d.wanted)),
            ),
        }
    }
    if !missing.is_empty() {
        let wrong = format!("missing: {}", missing.join(", "));
        return Found::Broken(Advice::new(wrong, TOPICS_ACT));
    }
    if !differing.is_empty() {
        let act = "nothing changes a topic by itself; change it with the broker's own tools if this was not meant";
        return Found::Odd(Advice::new(differing.join("; "), act));
    }
    Found::Fine(format!("{} as wanted", report.topics.len()))
}

/// PostgreSQL, and its schema where it answers.
pub(super) async fn database(vars: &Vars) -> Vec<Line> {
    let config = match StorageConfig::from_vars("brightmatter-doctor", 2, |name| vars.get(name)) {
        Ok(config) => config,
        Err(e) => {
            let act = match e {
                StorageConfigError::Missing => hints::addresses(vars),
                _ => EXPLAINED.to_owned(),
            };
            let found = Found::Broken(Advice::new(e, act));
            return vec![Line {
                name: "postgres",
                found,
            }];
        }
    };
    let storage = Storage::connect_lazily(&config);
    let postgres = within("postgres", postgres(&config, &storage), DATABASE_ACT).await;
    if !matches!(postgres.found, Found::Fine(_)) {
        return vec![postgres];
    }
    let schema = async {
        match storage.check_schema().await {
            Ok(()) => Found::Fine("as new as this software needs".to_owned()),
            Err(e @ StoreError::OldSchema { .. }) => Found::Broken(Advice::new(e, MIGRATE_ACT)),
            Err(e) => Found::Broken(Advice::new(e, DATABASE_ACT)),
        }
    };
    vec![postgres, within("schema", schema, MIGRATE_ACT).await]
}

async fn postgres(config: &StorageConfig, storage: &Storage) -> Found {
    let address = config.address();
    // The pool tries again and again; whether anything listens there is seen at once.
    if let Some((server, _database)) = address.split_once('/')
        && !server.starts_with('/')
    {
        match tokio::time::timeout(CONNECT, TcpStream::connect(server)).await {
            Ok(Ok(_connection)) => {}
            Ok(Err(e)) => {
                return Found::Broken(Advice::new(format_args!("{server}: {e}"), DATABASE_ACT));
            }
            Err(_elapsed) => {
                let wrong = format!("{server}: no connection within {CONNECT:?}");
                return Found::Broken(Advice::new(wrong, DATABASE_ACT));
            }
        }
    }
    match storage.ping().await {
        Ok(()) => Found::Fine(format!("{address} answers")),
        Err(e) => {
            let act = "check user, password, database and sslmode of RDS_CONNECTION_STRING";
            Found::Broken(Advice::new(format_args!("{address}: {e}"), act))
        }
    }
}

/// Redis, which the gateway can do without.
pub(super) async fn redis(vars: &Vars) -> Line {
    let name = "redis";
    let Some(url) = vars.get("REDIS_URL") else {
        let act = "set it to redis://host:6379 or rediss://user:password@host:6379";
        let found = Found::Broken(Advice::new("REDIS_URL is not set", act));
        return Line { name, found };
    };
    let mut line = within(name, ping_redis(&url), REDIS_ACT).await;
    if let Found::Broken(advice) = line.found {
        line.found = Found::Lacking(advice);
    }
    line
}

async fn ping_redis(url: &str) -> Found {
    // The library's error may quote the URL, which may hold a password.
    let Ok(client) = redis::Client::open(url) else {
        let act = "it must look like redis://host:6379 or rediss://user:password@host:6379";
        return Found::Broken(Advice::new("REDIS_URL is no Redis URL", act));
    };
    let address = client.get_connection_info().addr().to_string();
    let settings = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(CONNECT));
    let pinged = async {
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&settings)
            .await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await
    };
    match pinged.await {
        Ok(()) => Found::Fine(format!("{address} answers")),
        Err(e) => Found::Broken(Advice::new(format_args!("{address}: {e}"), REDIS_ACT)),
    }
}

/// Where studios come from: a file, or Firestore.
pub(super) async fn studios(vars: &Vars, clock: &Clock) -> Line {
    let config = match StudioAuthConfig::from_vars(|name| vars.get(name)) {
        Ok(config) => config,
        Err(e) => {
            let found = Found::Broken(Advice::new(e, ".env.example explains both"));
            return Line {
                name: "studios",
                found,
            };
        }
    };
    match &config.source {
        StudioSource::File(path) => {
            let shown = path.display();
            let act = "`brightmatter init NAME` makes one";
            let read = tokio::fs::read(path).await.map_err(|e| e.to_string());
            let parsed =
                read.and_then(|bytes| parse_studios_file(&bytes).map_err(|e| e.to_string()));
            let found = match parsed {
                Ok(studios) if studios.is_empty() => Found::Broken(Advice::new(
                    format_args!("{shown} holds no usable studio"),
                    act,
                )),
                Ok(studios) => Found::Fine(format!("{} in {shown}", studios.len())),
                Err(e) => Found::Broken(Advice::new(format_args!("{shown}: {e}"), act)),
            };
            Line {
                name: "studios",
                found,
            }
        }
        StudioSource::Firestore(firestore) => {
            let act = "check FIRESTORE_PROJECT_ID and Google's credentials (GOOGLE_APPLICATION_CREDENTIALS), \
                       or FIRESTORE_EMULATOR_HOST; gateways go on with what they last knew";
            let clock = clock.clone();
            let project = firestore.project_id.clone();
            let directory =
                StudioDirectory::start(&config, None, std::sync::Arc::new(move || clock.now()))
                    .await;
            let loaded = tokio::time::timeout(LIMIT, directory.loaded()).await;
            let health = directory.health();
            let found = match loaded {
                Ok(()) if health.ready => {
                    Found::Fine(format!("Firestore project {project}: {}", health.detail))
                }
                _ => Found::Lacking(Advice::new(
                    format_args!("Firestore project {project}: {}", health.detail),
                    act,
                )),
            };
            Line {
                name: "firestore",
                found,
            }
        }
    }
}
