//! Joins what the gateway needs to what there is: broker, database, Redis, studios.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bm_admission::{Attempt, Begin, Idempotency, RedisHandle};
use bm_bootstrap::{Context, Need, Outcome};
use bm_contracts::{GameId, StudioId, Timestamp, Topic};
use bm_kafka::{AppendError, Appended, EventProducer};
use bm_storage::{Storage, StoreError};
use bm_studio_auth::{LastKnown, LastKnownError, StoredStudio, StoredStudios, StudioDirectory};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ports::{EventIds, EventLog, Games, GamesAway};
use crate::record::BusRecord;

/// How long a check may take.
const CHECK: Duration = Duration::from_secs(3);

impl EventLog for EventProducer {
    fn append(
        &self,
        records: &[&BusRecord],
    ) -> BoxFuture<'static, Vec<Result<Appended, AppendError>>> {
        let mut appending = self.append_many(records.len());
        for record in records {
            let (key, headers, value) = (&record.key, record.headers(), &record.value);
            // What is refused at once is among the outcomes.
            let _told = appending.push(Topic::GameEvents, None, key, &headers, value);
        }
        appending.outcomes().boxed()
    }
}

impl Games for Storage {
    fn of(
        &self,
        studio: StudioId,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<GameId>, GamesAway>> {
        let storage = self.clone();
        async move {
            let found = storage.games_of(&studio, limit).await;
            found.map_err(|error| GamesAway(error.to_string().into()))
        }
        .boxed()
    }
}

impl EventIds for Idempotency {
    fn begin_many<'a>(&'a self, events: &'a [([u8; 16], [u8; 16])]) -> BoxFuture<'a, Vec<Begin>> {
        Self::begin_many(self, events).boxed()
    }

    fn done(&self, attempt: Attempt, answer: Timestamp) {
        Self::done(self, attempt, answer);
    }

    fn clear(&self, attempt: Attempt) {
        Self::clear(self, attempt);
    }
}

/// Keeps the last-known studios in the database.
#[derive(Debug, Clone)]
pub struct StudiosInDatabase(pub Storage);

/// The form in which they are kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    studios: Vec<KeptStudio>,
}

#[derive(Serialize, Deserialize)]
struct KeptStudio {
    id: String,
    document: Value,
}

impl LastKnown for StudiosInDatabase {
    fn save<'a>(&'a self, studios: &'a StoredStudios) -> BoxFuture<'a, Result<(), LastKnownError>> {
        async move {
            let kept = studios.studios.iter().map(|studio| KeptStudio {
                id: studio.id.clone(),
                document: studio.document.clone(),
            });
            let kept = Kept {
                studios: kept.collect(),
            };
            let snapshot = serde_json::to_value(kept)?;
            self.0
                .save_last_known_studios(&snapshot, studios.confirmed_at)
                .await?;
            Ok(())
        }
        .boxed()
    }

    fn load(&self) -> BoxFuture<'_, Result<Option<StoredStudios>, LastKnownError>> {
        async move {
            let Some((confirmed_at, snapshot)) = self.0.load_last_known_studios().await? else {
                return Ok(None);
            };
            let kept: Kept = serde_json::from_value(snapshot)?;
            let studios = kept.studios.into_iter().map(|studio| StoredStudio {
                id: studio.id,
                document: studio.document,
            });
            Ok(Some(StoredStudios {
                confirmed_at,
                studios: studios.collect(),
            }))
        }
        .boxed()
    }
}

/// Whether the schema is one this software knows, which is asked until it is so.
#[derive(Debug, Clone)]
pub struct Database {
    storage: Storage,
    fits: Arc<AtomicBool>,
}

impl Database {
    /// Over a pool that has not been asked anything yet.
    pub fn new(storage: Storage) -> Self {
        Self {
            storage,
            fits: Arc::default(),
        }
    }

    /// Whether the database answers, can be written, and has a schema this software knows.
    pub async fn check(&self) -> Result<(), StoreError> {
        if !self.fits.load(Ordering::Acquire) {
            self.storage.check_schema().await?;
            self.fits.store(true, Ordering::Release);
        }
        self.storage.ping().await
    }
}

/// Registers what `/readyz` tells: broker and database must be there, the rest is told.
pub fn register_health(
    ctx: &Context,
    producer: &EventProducer,
    database: &Database,
    redis: &RedisHandle,
    studios: &StudioDirectory,
) {
    let producer = producer.clone();
    ctx.health
        .register("broker", Need::Required, CHECK, move || {
            let producer = producer.clone();
            async move { producer.ready().await }
        });
    let database = database.clone();
    ctx.health
        .register("postgres", Need::Required, CHECK, move || {
            let database = database.clone();
            async move { database.check().await }
        });
    let redis = redis.clone();
    ctx.health
        .register("redis", Need::Reported, CHECK, move || {
            let trouble = redis.trouble();
            async move {
                trouble.map_or_else(Outcome::ok, |why| {
                    Outcome::failed(format!("{why}; limits hold per gateway until it is back"))
                })
            }
        });
    let name = if studios.health().source == "firestore" {
        "firestore"
    } else {
        "studios"
    };
    let studios = studios.clone();
    ctx.health.register(name, Need::Reported, CHECK, move || {
        let health = studios.health();
        async move {
            let detail = format!("{} studios; {}", health.studios, health.detail);
            // What was last known may do for a day; that nothing follows the source must show at once.
            if health.ready && health.connected {
                Outcome::ok_with(detail)
            } else {
                Outcome::failed(detail)
            }
        }
    });
}
