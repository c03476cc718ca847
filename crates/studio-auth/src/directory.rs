//! The handle every request authenticates through.

use std::sync::Arc;
use std::time::Duration;

use bm_bootstrap::supervise;
use bm_contracts::Timestamp;
use metrics::Counter;
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{StudioAuthConfig, StudioSource};
use crate::document::{KeyHash, MAX_KEY_BYTES, StudioDocument};
use crate::file;
use crate::firestore::FirestoreSource;
use crate::last_known::{self, LastKnown};
use crate::questions::{QuestionCounts, Questions, Reply};
use crate::shared::{AuthHealth, Clock, Lookup, Origin, Shared};
use crate::studio::{AuthError, Authenticated};

/// How often the gauge of the mirror's age is set while nothing happens.
const AGE_EVERY: Duration = Duration::from_secs(5);

/// Knows all studios by the hashes of their keys. Clones share one memory; the tasks that keep it
/// right end with the last clone.
#[derive(Clone)]
pub struct StudioDirectory {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    questions: Option<Questions>,
    lookups: Lookups,
    _tasks: DropGuard,
}

/// Counters of what keys were, with every handle made once.
struct Lookups {
    known: Counter,
    unknown: Counter,
    inactive: Counter,
    unavailable: Counter,
}

impl Lookups {
    fn new() -> Self {
        let of =
            |result: &'static str| metrics::counter!("bm_auth_lookups_total", "result" => result);
        Self {
            known: of("known"),
            unknown: of("unknown"),
            inactive: of("inactive"),
            unavailable: of("unavailable"),
        }
    }
}

impl StudioDirectory {
    /// Starts mirroring the configured source.
    ///
    /// Never fails and never waits for a server: what is wrong with the source is logged, shows in
    /// [`StudioDirectory::health`], and is tried again. `last_known` is used with Firestore only.
    /// Google is reached by TLS, for which the process must have installed rustls's provider.
    pub async fn start(
        config: &StudioAuthConfig,
        last_known: Option<Arc<dyn LastKnown>>,
        clock: Clock,
    ) -> Self {
        describe_metrics();
        let stop = CancellationToken::new();
        match &config.source {
            StudioSource::File(path) => {
                let shared = Arc::new(Shared::new("file", None, clock));
                let watch = file::FileWatch::new(path.clone(), Arc::clone(&shared));
                let watch = Arc::new(Mutex::new(watch));
                watch.lock().await.look().await;
                spawn(&stop, "studios-file", move || {
                    file::watch(Arc::clone(&watch))
                });
                Self::with(shared, None, stop)
            }
            StudioSource::Firestore(config) => {
                let shared = Arc::new(Shared::new("firestore", Some(config.max_stale), clock));
                let source = Arc::new(FirestoreSource::new(config.clone(), Arc::clone(&shared)));
                if let Some(store) = last_known {
                    let known = (Arc::clone(&shared), store);
                    let with = known.clone();
                    spawn(&stop, "last-known-load", move || {
                        last_known::load(Arc::clone(&with.0), Arc::clone(&with.1))
                    });
                    spawn(&stop, "last-known-keep", move || {
                        last_known::keep(Arc::clone(&known.0), Arc::clone(&known.1))
                    });
                }
                let mirror = Arc::clone(&source);
                spawn(&stop, "studios-mirror", move || Arc::clone(&mirror).run());
                let shown = Arc::clone(&shared);
                spawn(&stop, "studios-age", move || show_age(Arc::clone(&shown)));
                Self::with(shared, Some(Questions::new(source)), stop)
            }
        }
    }

    /// A directory of these studios and no others, for tests and tools.
    pub fn fixed(documents: Vec<StudioDocument>, clock: Clock) -> Self {
        let shared = Arc::new(Shared::new("fixed", None, clock));
        let documents = documents.into_iter().map(Arc::new).collect();
        shared.publish(documents, Origin::Source, shared.now());
        shared.set_connected(true);
        shared.report("a fixed set");
        Self::with(shared, None, CancellationToken::new())
    }

    fn with(shared: Arc<Shared>, questions: Option<Questions>, stop: CancellationToken) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                questions,
                lookups: Lookups::new(),
                _tasks: stop.drop_guard(),
            }),
        }
    }

    /// Whose key this is, at `now`.
    ///
    /// A known key is one look-up in memory and no waiting. An unknown one may be asked for, which
    /// takes at most 2 s. When nothing is loaded, or only what is too old to be believed, a key that
    /// Firestore does not vouch for is [`AuthError::Unavailable`]: it may be one of `keys`, which
    /// Firestore cannot be asked for. Otherwise it is [`AuthError::Unknown`], even while Firestore
    /// is away: wrong keys are common, and a fleet of them must not read as an outage.
    pub async fn authenticate(
        &self,
        key: &str,
        now: Timestamp,
    ) -> Result<Authenticated, AuthError> {
        let outcome = self.decide(key, now).await;
        let lookups = &self.inner.lookups;
        let counter = match &outcome {
            Ok(_) => &lookups.known,
            Err(AuthError::Unknown) => &lookups.unknown,
            Err(AuthError::Inactive) => &lookups.inactive,
            Err(AuthError::Unavailable) => &lookups.unavailable,
        };
        counter.increment(1);
        outcome
    }

    async fn decide(&self, key: &str, now: Timestamp) -> Result<Authenticated, AuthError> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(AuthError::Unknown);
        }
        let hash = KeyHash::of(key);
        let (generation, believed) = match self.inner.shared.lookup(&hash, now) {
            Lookup::Decided(outcome) => return outcome,
            Lookup::Missing {
                generation,
                believed,
            } => (generation, believed),
        };
        let refused = if believed {
            AuthError::Unknown
        } else {
            AuthError::Unavailable
        };
        let Some(questions) = &self.inner.questions else {
            return Err(refused);
        };
        match questions.ask(key, hash, generation).await {
            Reply::Owned(owner) => owner.admit(now),
            Reply::Unknown | Reply::NoAnswer => Err(refused),
        }
    }

    /// How the directory does.
    pub fn health(&self) -> AuthHealth {
        let shared = &self.inner.shared;
        shared.health(shared.now())
    }

    /// How many questions were asked of the source about keys the mirror did not know.
    pub fn questions(&self) -> QuestionCounts {
        let questions = self.inner.questions.as_ref();
        questions.map(Questions::counts).unwrap_or_default()
    }

    /// Waits until something is loaded, from the source or the last-known copy. For tools and
    /// tests; a service begins without it.
    pub async fn loaded(&self) {
        let mut changes = self.inner.shared.changes();
        // The sender lives as long as `self`.
        let _never_closed = changes.wait_for(|generation| *generation > 0).await;
    }
}

impl std::fmt::Debug for StudioDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("StudioDirectory");
        shown.field("health", &self.health()).finish()
    }
}

/// One that panics is begun again: a mirror that is gone would leave revoked keys alive until what
/// is known is a day old.
fn spawn<F>(stop: &CancellationToken, name: &'static str, make: impl FnMut() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = stop.clone();
    let task = supervise::supervised(name, make);
    tokio::spawn(async move { stop.run_until_cancelled(task).await });
}

fn describe_metrics() {
    use metrics::{describe_counter, describe_gauge};
    describe_gauge!("bm_auth_studios", "Studios that are loaded.");
    describe_gauge!("bm_auth_keys", "Keys that are loaded, expired ones too.");
    describe_gauge!(
        "bm_auth_mirror_age_seconds",
        "How long ago the source last confirmed what is loaded."
    );
    describe_gauge!(
        "bm_auth_mirror_connected",
        "1 while the source is followed, so that its changes act."
    );
    describe_counter!(
        "bm_auth_mirror_failures_total",
        "How often the mirror lost its source."
    );
    describe_counter!(
        "bm_auth_lookups_total",
        "Keys looked up, by result (known, unknown, inactive, unavailable)."
    );
    describe_counter!(
        "bm_auth_questions_total",
        "Questions to the source about keys the mirror does not know, by result."
    );
    describe_counter!(
        "bm_auth_questions_suppressed_total",
        "Keys not asked for, because there were too many questions already."
    );
    describe_counter!(
        "bm_auth_last_known_failures_total",
        "How often the last-known studios could not be saved."
    );
}

async fn show_age(shared: Arc<Shared>) {
    loop {
        shared.show_age();
        tokio::time::sleep(AGE_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::studio::KeyKind;

    const NOW: Timestamp = Timestamp::clamped(1_000);

    fn directory() -> StudioDirectory {
        let value = json!({
            "tier": "enterprise", "subscriptionStatus": "active", "apiKey": "c", "secretKey": "s",
        });
        let document = StudioDocument::from_json("a", &value).unwrap();
        StudioDirectory::fixed(vec![document], Arc::new(|| NOW))
    }

    #[tokio::test]
    async fn a_key_names_its_studio_and_its_kind() {
        let directory = directory();
        for (key, kind) in [("c", KeyKind::Client), ("s", KeyKind::Server)] {
            let found = directory.authenticate(key, NOW).await.unwrap();
            assert_eq!((found.studio.id.as_str(), found.kind), ("a", kind));
        }
        assert!(directory.health().ready);
    }

    #[tokio::test]
    async fn what_cannot_be_a_key_is_unknown() {
        let directory = directory();
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        for key in ["", "C", "c ", long.as_str()] {
            assert_eq!(
                directory.authenticate(key, NOW).await,
                Err(AuthError::Unknown)
            );
        }
    }

    #[test]
    fn a_waiting_request_can_move_between_threads() {
        fn check<T: Send>(_: &T) {}
        let directory = directory();
        check(&directory.authenticate("c", NOW));
    }
}
