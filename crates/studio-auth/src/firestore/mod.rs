//! The `studios` collection of Firestore: a listener that mirrors it, and questions about single keys.

mod assembly;
mod connect;
mod session;
mod value;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::firestore::{FirestoreDb, FirestoreDocument, FirestoreQueryFilter};
use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;

use crate::backoff::Backoff;
use crate::config::FirestoreConfig;
use crate::document::{KeyHash, StudioDocument};
use crate::questions::Oracle;
use crate::shared::Shared;

/// The collection; a document's id is the studio's.
const COLLECTION: &str = "studios";
/// So many documents are looked at for one key.
const MAX_FOUND: u32 = 8;
/// After a session of this length the next connection is tried at once.
const LASTING_SESSION: Duration = Duration::from_secs(20);

/// Keeps the mirror, and answers questions while it is connected.
pub(crate) struct FirestoreSource {
    config: FirestoreConfig,
    shared: Arc<Shared>,
    /// The client of the running session.
    client: ArcSwapOption<FirestoreDb>,
}

impl FirestoreSource {
    pub(crate) fn new(config: FirestoreConfig, shared: Arc<Shared>) -> Self {
        Self {
            config,
            shared,
            client: ArcSwapOption::empty(),
        }
    }

    /// One session after the other, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        self.shared.report("connecting to Firestore");
        loop {
            let begun = Instant::now();
            let error = session::run(&self.config, &self.shared, &self.client).await;
            metrics::counter!("bm_auth_mirror_failures_total").increment(1);
            tracing::warn!(
                error,
                "the mirror of the studios lost Firestore; connecting again"
            );
            self.shared.report(format!("Firestore: {error}"));
            // A server that hangs up soon after each beginning is not to be pressed.
            if begun.elapsed() > LASTING_SESSION {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

impl Oracle for FirestoreSource {
    fn connected(&self) -> bool {
        self.client.load().is_some()
    }

    fn ask(
        &self,
        key: String,
        hash: KeyHash,
    ) -> BoxFuture<'static, Result<Vec<StudioDocument>, String>> {
        let client = self.client.load_full();
        Box::pin(async move {
            let client = client.ok_or("not connected")?;
            documents_with(&client, key, hash).await
        })
    }
}

/// The documents that list `key`, in one query. Two that hold it are enough to know that it is no
/// one's; a few more may be found by a plain key whose hash field counts instead.
async fn documents_with(
    client: &FirestoreDb,
    key: String,
    hash: KeyHash,
) -> Result<Vec<StudioDocument>, String> {
    let hash = hash.to_hex();
    let found: Vec<FirestoreDocument> = client
        .fluent()
        .select()
        .from(COLLECTION)
        .filter(|q| -> Option<FirestoreQueryFilter> {
            q.for_any([
                q.field("apiKeyHash").eq(&hash),
                q.field("secretKeyHash").eq(&hash),
                q.field("apiKey").eq(&key),
                q.field("secretKey").eq(&key),
            ])
        })
        .limit(MAX_FOUND)
        .query()
        .await
        .map_err(|error| connect::sentence(&error))?;
    let documents = found.iter().filter_map(|document| {
        StudioDocument::read_or_report(
            value::document_id(&document.name),
            &value::document_json(document),
        )
    });
    Ok(documents.collect())
}
