//! A studios collection of a test's own, and a last-known store in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bm_contracts::Timestamp;
use bm_studio_auth::{
    AuthError, Authenticated, Clock, FirestoreConfig, LastKnown, LastKnownError, StoredStudios,
    StudioAuthConfig, StudioDirectory, StudioSource,
};
use bm_testkit::{TestClock, TestEnv, eventually, unique};
use firestore::gcloud_sdk::google::firestore::v1::value::ValueType;
use firestore::gcloud_sdk::google::firestore::v1::{
    ArrayValue, DeleteDocumentRequest, Document, MapValue, UpdateDocumentRequest, Value,
};
use firestore::gcloud_sdk::google_cloud_auth::credentials::anonymous;
use firestore::{FirestoreDb, FirestoreDbOptions};
use futures::future::BoxFuture;
use serde_json::{Value as Json, json};

/// A change must act within this time.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// Generous, for what has no promised time.
pub(crate) const LATER: Duration = Duration::from_secs(30);

/// The `studios` collection of a project nobody else uses.
pub(crate) struct Studios {
    project: String,
    db: FirestoreDb,
}

impl Studios {
    pub(crate) async fn new() -> Self {
        let project = unique("auth");
        let options = FirestoreDbOptions::new(project.clone())
            .with_firebase_api_url(format!("http://{}", TestEnv::get().firestore));
        let db = FirestoreDb::with_options_auth(options, anonymous::Builder::new().build());
        let db = db.await.unwrap();
        Self { project, db }
    }

    /// Writes the document of studio `id`.
    pub(crate) async fn put(&self, id: &str, document: Json) {
        let Some(ValueType::MapValue(map)) = value(&document).value_type else {
            panic!("a document is an object");
        };
        let document = Document {
            name: self.name(id),
            fields: map.fields,
            ..Document::default()
        };
        let request = UpdateDocumentRequest {
            document: Some(document),
            ..UpdateDocumentRequest::default()
        };
        self.db
            .client()
            .get()
            .update_document(request)
            .await
            .unwrap();
    }

    pub(crate) async fn delete(&self, id: &str) {
        let request = DeleteDocumentRequest {
            name: self.name(id),
            ..DeleteDocumentRequest::default()
        };
        self.db
            .client()
            .get()
            .delete_document(request)
            .await
            .unwrap();
    }

    fn name(&self, id: &str) -> String {
        format!("{}/studios/{id}", self.db.get_documents_path())
    }

    /// Settings that reach this collection at `host`.
    pub(crate) fn config_at(&self, host: &str) -> StudioAuthConfig {
        StudioAuthConfig {
            source: StudioSource::Firestore(FirestoreConfig {
                project_id: self.project.clone(),
                emulator_host: Some(host.to_owned()),
                max_stale: Duration::from_hours(24),
            }),
        }
    }

    pub(crate) fn config(&self) -> StudioAuthConfig {
        self.config_at(&TestEnv::get().firestore)
    }
}

/// `{"$time": millis}` stands for Firestore's own timestamp.
fn value(json: &Json) -> Value {
    let value_type = match json {
        Json::Null => ValueType::NullValue(0),
        Json::Bool(value) => ValueType::BooleanValue(*value),
        Json::Number(number) => ValueType::IntegerValue(number.as_i64().unwrap()),
        Json::String(text) => ValueType::StringValue(text.clone()),
        Json::Array(items) => ValueType::ArrayValue(ArrayValue {
            values: items.iter().map(value).collect(),
        }),
        Json::Object(fields) => match fields.get("$time").and_then(Json::as_i64) {
            Some(millis) => {
                ValueType::TimestampValue(firestore::gcloud_sdk::prost_types::Timestamp {
                    seconds: millis.div_euclid(1000),
                    nanos: i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap(),
                })
            }
            None => ValueType::MapValue(MapValue {
                fields: fields
                    .iter()
                    .map(|(name, item)| (name.clone(), value(item)))
                    .collect(),
            }),
        },
    };
    Value {
        value_type: Some(value_type),
    }
}

/// An active studio with one plain client key.
pub(crate) fn studio(key: &str) -> Json {
    json!({
        "name": "Forest Games", "tier": "pro", "subscriptionStatus": "active", "apiKey": key,
    })
}

/// A clock at the real time, and as the directory wants it.
pub(crate) fn clock() -> (TestClock, Clock) {
    let clock = TestClock::starting_now();
    let read = clock.reader();
    (clock, Arc::new(move || Timestamp::clamped(read())))
}

pub(crate) async fn start(
    config: &StudioAuthConfig,
    last_known: Option<Arc<dyn LastKnown>>,
) -> Subject {
    let (clock, reader) = clock();
    let directory = StudioDirectory::start(config, last_known, reader).await;
    Subject { directory, clock }
}

/// A directory and the clock it goes by.
pub(crate) struct Subject {
    pub(crate) directory: StudioDirectory,
    pub(crate) clock: TestClock,
}

impl Subject {
    pub(crate) async fn mirrored(self) -> Self {
        eventually(LATER, "the mirror", || async {
            let health = self.directory.health();
            (health.ready && health.detail == "Firestore is mirrored").then_some(())
        })
        .await;
        self
    }

    pub(crate) async fn ask(&self, key: &str) -> Result<Authenticated, AuthError> {
        let now = Timestamp::clamped(self.clock.now_millis());
        self.directory.authenticate(key, now).await
    }

    /// Waits until the key is answered so.
    pub(crate) async fn becomes(
        &self,
        within: Duration,
        key: &str,
        outcome: Result<(), AuthError>,
    ) {
        let what = format!("{key} is {outcome:?}");
        eventually(within, &what, || async {
            (self.ask(key).await.map(|_| ()) == outcome).then_some(())
        })
        .await;
    }
}

/// Keeps the last-known studios in memory, with the rule that later ones win.
#[derive(Default)]
pub(crate) struct MemoryStore(Mutex<Option<StoredStudios>>);

impl MemoryStore {
    pub(crate) fn kept(&self) -> Option<StoredStudios> {
        self.0.lock().unwrap().clone()
    }

    /// The ids of what is kept.
    pub(crate) fn ids(&self) -> Vec<String> {
        let kept = self.kept().map(|kept| kept.studios).unwrap_or_default();
        kept.into_iter().map(|studio| studio.id).collect()
    }
}

impl LastKnown for MemoryStore {
    fn save<'a>(&'a self, studios: &'a StoredStudios) -> BoxFuture<'a, Result<(), LastKnownError>> {
        Box::pin(async move {
            let mut kept = self.0.lock().unwrap();
            if kept
                .as_ref()
                .is_none_or(|kept| kept.confirmed_at <= studios.confirmed_at)
            {
                *kept = Some(studios.clone());
            }
            Ok(())
        })
    }

    fn load(&self) -> BoxFuture<'_, Result<Option<StoredStudios>, LastKnownError>> {
        Box::pin(async { Ok(self.kept()) })
    }
}

/// `document` with one field more.
pub(crate) fn with(mut document: Json, field: &str, value: Json) -> Json {
    document[field] = value;
    document
}
