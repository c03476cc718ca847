//! The copy of what was last known, kept outside the process so that it can start while the source is away.

use std::sync::Arc;
use std::time::Duration;

use bm_contracts::Timestamp;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::backoff::Backoff;
use crate::document::StudioDocument;
use crate::shared::{Origin, Shared};

/// How long one load or save may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An unchanged copy is saved again so often, with the time at which it was last confirmed.
const CONFIRM_EVERY: Duration = Duration::from_mins(5);

/// A studio as it is kept: its document with key hashes only, never a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredStudio {
    /// The studio's id.
    pub id: String,
    /// The document as [`StudioDocument::from_json`] reads it.
    pub document: Value,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredStudios {
    /// When the source last confirmed that this is how things are.
    pub confirmed_at: Timestamp,
    /// All studios.
    pub studios: Vec<StoredStudio>,
}

/// What can go wrong there; shown in logs only.
pub type LastKnownError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps the last-known studios.
///
/// Every gateway saves its own view, so `save` must leave a copy with a later `confirmed_at` alone,
/// and replace an earlier one as a whole. A `confirmed_at` that lies ahead of the store's own clock
/// is brought back to it, and a copy that lies ahead of it is replaced: one gateway with a wrong clock
/// must not keep the others' revocations out.
pub trait LastKnown: Send + Sync {
    /// Keeps `studios` unless a copy confirmed later is there.
    fn save<'a>(&'a self, studios: &'a StoredStudios) -> BoxFuture<'a, Result<(), LastKnownError>>;

    /// What is kept; `None` before the first save.
    fn load(&self) -> BoxFuture<'_, Result<Option<StoredStudios>, LastKnownError>>;
}

/// Loads the copy, unless the source itself has answered before.
pub(crate) async fn load(shared: Arc<Shared>, store: Arc<dyn LastKnown>) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    while shared.origin() == Origin::Nothing {
        let loaded = tokio::time::timeout(TIMEOUT, store.load()).await;
        match loaded.unwrap_or_else(|_| Err("no answer in time".into())) {
            Ok(None) => return,
            Ok(Some(kept)) => {
                let documents = kept.studios.iter().filter_map(|stored| {
                    StudioDocument::read_or_report(&stored.id, &stored.document)
                });
                let documents: Vec<Arc<StudioDocument>> = documents.map(Arc::new).collect();
                let count = documents.len();
                if !shared.publish(documents, Origin::LastKnown, kept.confirmed_at) {
                    return;
                }
                let confirmed_at = kept.confirmed_at;
                if shared.health(shared.now()).ready {
                    tracing::info!(
                        studios = count,
                        %confirmed_at,
                        "using the last-known studios until Firestore answers"
                    );
                } else {
                    tracing::error!(
                        studios = count,
                        %confirmed_at,
                        "the last-known studios are too old, or of a time to come: no key is taken \
                         before Firestore answers"
                    );
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "could not load the last-known studios; trying again");
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

/// Saves the mirror whenever it has changed, and now and then when it was only confirmed.
pub(crate) async fn keep(shared: Arc<Shared>, store: Arc<dyn LastKnown>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let mut changes = shared.changes();
    let mut kept = None;
    loop {
        if let Some((generation, view)) = shared.mirrored()
            && kept != Some((generation, view.confirmed_at))
        {
            let result = tokio::time::timeout(TIMEOUT, store.save(&view)).await;
            match result.unwrap_or_else(|_| Err("no answer in time".into())) {
                Ok(()) => {
                    kept = Some((generation, view.confirmed_at));
                    backoff.reset();
                }
                Err(error) => {
                    tracing::warn!(%error, "could not keep the last-known studios; trying again");
                    metrics::counter!("bm_auth_last_known_failures_total").increment(1);
                    tokio::time::sleep(backoff.next()).await;
                    continue;
                }
            }
            // Many edits in a row need not be many saves.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::select! {
            next = changes.changed() => if next.is_err() { return },
            () = tokio::time::sleep(CONFIRM_EVERY) => {}
        }
    }
}
