//! What the directory knows at this moment, how fresh it is, and who must hear of changes.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bm_contracts::Timestamp;
use tokio::sync::watch;

use crate::document::{KeyHash, StudioDocument};
use crate::index::KeyIndex;
use crate::last_known::{StoredStudio, StoredStudios};
use crate::studio::{AuthError, Authenticated};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How the key directory does, for `/readyz` and the doctor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthHealth {
    /// `firestore`, `file` or `fixed`.
    pub source: &'static str,
    /// Keys can be told apart: something is loaded, and it is fresh enough.
    pub ready: bool,
    /// The source is followed at the moment, so that its changes act. Without it a gateway goes on
    /// with what it knows.
    pub connected: bool,
    /// When the source last confirmed what is loaded.
    pub last_fresh: Option<Timestamp>,
    /// How many studios are loaded.
    pub studios: usize,
    /// How it stands with the source, a sentence for people.
    pub detail: String,
}

/// Where the loaded studios come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nothing is loaded yet.
    Nothing,
    /// The copy kept outside the process.
    LastKnown,
    /// The source itself.
    Source,
}

/// What became of a look-up in memory.
pub(crate) enum Lookup {
    /// Decided.
    Decided(Result<Authenticated, AuthError>),
    /// Not a key of any loaded studio.
    Missing {
        /// Which state of the mirror does not know it.
        generation: u64,
        /// The loaded studios may be believed.
        believed: bool,
    },
}

struct Snapshot {
    index: KeyIndex,
    documents: Vec<Arc<StudioDocument>>,
    origin: Origin,
    generation: u64,
}

/// Clocks may differ by so much.
const MAX_SKEW_MS: i64 = 5 * 60_000;

/// `confirmed` before anything was.
const NEVER: i64 = i64::MIN;

pub(crate) struct Shared {
    snapshot: ArcSwap<Snapshot>,
    confirmed: AtomicI64,
    connected: AtomicBool,
    max_stale: Option<Duration>,
    source: &'static str,
    detail: Mutex<String>,
    changes: watch::Sender<u64>,
    /// Held while a snapshot is replaced.
    publishing: Mutex<()>,
    clock: Clock,
}

impl Shared {
    pub(crate) fn new(source: &'static str, max_stale: Option<Duration>, clock: Clock) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot {
                index: KeyIndex::default(),
                documents: Vec::new(),
                origin: Origin::Nothing,
                generation: 0,
            }),
            confirmed: AtomicI64::new(NEVER),
            connected: AtomicBool::new(false),
            max_stale,
            source,
            detail: Mutex::new("nothing loaded yet".to_owned()),
            changes: watch::Sender::new(0),
            publishing: Mutex::new(()),
            clock,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    pub(crate) fn origin(&self) -> Origin {
        self.snapshot.load().origin
    }

    /// Tells of every replaced snapshot, by its generation.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Decides from memory alone.
    pub(crate) fn lookup(&self, hash: &KeyHash, now: Timestamp) -> Lookup {
        let snapshot = self.snapshot.load();
        let believed = self.believed(snapshot.origin, now);
        match snapshot.index.find(hash) {
            Some(slot) if believed => Lookup::Decided(slot.admit(now)),
            _ => Lookup::Missing {
                generation: snapshot.generation,
                believed,
            },
        }
    }

    /// Replaces what is loaded by `documents`, as they were at `confirmed_at`. The last-known copy
    /// never replaces what the source said; false when it would have.
    pub(crate) fn publish(
        &self,
        documents: Vec<Arc<StudioDocument>>,
        origin: Origin,
        confirmed_at: Timestamp,
    ) -> bool {
        let _one_at_a_time = self
            .publishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot.load_full();
        if origin == Origin::LastKnown && before.origin != Origin::Nothing {
            return false;
        }
        if origin == before.origin && documents == before.documents {
            self.confirm(confirmed_at);
            return true;
        }
        let (index, disputes) = KeyIndex::build(documents.iter().map(AsRef::as_ref));
        for dispute in disputes {
            tracing::error!(
                studio.id = %dispute.first,
                other.studio.id = %dispute.second,
                "two studios list the same key; it is refused for both"
            );
        }
        metrics::gauge!("bm_auth_studios").set(index.studios() as f64);
        metrics::gauge!("bm_auth_keys").set(index.keys() as f64);
        let generation = before.generation + 1;
        self.snapshot.store(Arc::new(Snapshot {
            index,
            documents,
            origin,
            generation,
        }));
        self.confirm(confirmed_at);
        self.changes.send_replace(generation);
        true
    }

    /// What is loaded was still right at `at`.
    pub(crate) fn confirm(&self, at: Timestamp) {
        let now = self.now();
        // Nobody can know how old a copy is that was written under a clock far ahead: it must not
        // become a day younger with every start.
        if at > now.saturating_add_millis(MAX_SKEW_MS) {
            return;
        }
        let at = at.min(now);
        self.confirmed.fetch_max(at.as_millis(), Ordering::SeqCst);
        self.show_age();
    }

    /// Says whether the source is followed.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::SeqCst);
        metrics::gauge!("bm_auth_mirror_connected").set(if connected { 1.0 } else { 0.0 });
    }

    /// Says how it stands with the source.
    pub(crate) fn report(&self, detail: impl Into<String>) {
        *self.detail.lock().unwrap_or_else(PoisonError::into_inner) = detail.into();
    }

    /// Sets the gauge of the mirror's age.
    pub(crate) fn show_age(&self) {
        if let Some(confirmed) = self.last_fresh() {
            let millis = self.now().as_millis() - confirmed.as_millis();
            metrics::gauge!("bm_auth_mirror_age_seconds").set(millis.max(0) as f64 / 1000.0);
        }
    }

    /// What the source said, to be kept; `None` when it said nothing yet.
    pub(crate) fn mirrored(&self) -> Option<(u64, StoredStudios)> {
        // Read before the studios, so that the copy never looks fresher than it is.
        let confirmed_at = self.last_fresh()?;
        let snapshot = self.snapshot.load_full();
        if snapshot.origin != Origin::Source {
            return None;
        }
        let studios = snapshot.documents.iter().map(|document| StoredStudio {
            id: document.studio.id.as_str().to_owned(),
            document: document.to_json(),
        });
        let view = StoredStudios {
            confirmed_at,
            studios: studios.collect(),
        };
        Some((snapshot.generation, view))
    }

    pub(crate) fn health(&self, now: Timestamp) -> AuthHealth {
        let snapshot = self.snapshot.load();
        let mut detail = self
            .detail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let ready = self.believed(snapshot.origin, now);
        if snapshot.origin != Origin::Nothing && !ready {
            detail.push_str("; what was last known is too old to be believed");
        } else if snapshot.origin == Origin::LastKnown {
            detail.push_str("; using the last-known studios");
        }
        AuthHealth {
            source: self.source,
            ready,
            connected: self.connected.load(Ordering::SeqCst),
            last_fresh: self.last_fresh(),
            studios: snapshot.index.studios(),
            detail,
        }
    }

    fn last_fresh(&self) -> Option<Timestamp> {
        let millis = self.confirmed.load(Ordering::SeqCst);
        (millis != NEVER).then(|| Timestamp::clamped(millis))
    }

    fn believed(&self, origin: Origin, now: Timestamp) -> bool {
        if origin == Origin::Nothing {
            return false;
        }
        let Some(max_stale) = self.max_stale else {
            return true;
        };
        let confirmed = self.confirmed.load(Ordering::SeqCst);
        let age = now.as_millis().saturating_sub(confirmed);
        age <= i64::try_from(max_stale.as_millis()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::clamped(millis)
    }

    fn documents(key: &str) -> Vec<Arc<StudioDocument>> {
        let value = json!({ "tier": "pro", "subscriptionStatus": "active", "apiKey": key });
        vec![Arc::new(StudioDocument::from_json("a", &value).unwrap())]
    }

    fn shared(max_stale: Option<Duration>) -> Shared {
        Shared::new("fixed", max_stale, Arc::new(|| at(1_000)))
    }

    fn knows(shared: &Shared, key: &str, now: Timestamp) -> bool {
        matches!(
            shared.lookup(&KeyHash::of(key), now),
            Lookup::Decided(Ok(_))
        )
    }

    #[test]
    fn the_last_known_copy_never_replaces_what_the_source_said() {
        let shared = shared(None);
        assert!(shared.publish(documents("old"), Origin::LastKnown, at(1)));
        assert!(knows(&shared, "old", at(0)));
        assert!(shared.publish(documents("new"), Origin::Source, at(2)));
        assert!(!shared.publish(documents("old"), Origin::LastKnown, at(3)));
        assert!(knows(&shared, "new", at(0)) && !knows(&shared, "old", at(0)));
        assert_eq!(shared.health(at(0)).last_fresh, Some(at(2)));
    }

    #[test]
    fn what_is_too_old_is_not_believed_and_confirming_makes_it_young() {
        let shared = shared(Some(Duration::from_millis(100)));
        assert!(!shared.health(at(0)).ready);
        shared.publish(documents("k"), Origin::LastKnown, at(0));
        assert!(knows(&shared, "k", at(100)));
        assert!(!knows(&shared, "k", at(101)));
        let health = shared.health(at(101));
        assert!(!health.ready && health.detail.contains("too old"));
        shared.confirm(at(50));
        assert!(knows(&shared, "k", at(101)));
        // The clock shows 1,000: nothing can have been confirmed after that.
        shared.confirm(at(60_000));
        assert_eq!(shared.health(at(0)).last_fresh, Some(at(1_000)));
    }

    #[test]
    fn a_copy_from_the_future_is_of_unknown_age_and_not_believed() {
        let shared = shared(Some(Duration::from_millis(100)));
        shared.publish(documents("k"), Origin::LastKnown, at(1_000 + 3_600_000));
        assert!(!knows(&shared, "k", at(1_000)));
        let health = shared.health(at(1_000));
        assert!(!health.ready && health.last_fresh.is_none(), "{health:?}");
        shared.publish(documents("k"), Origin::Source, at(1_000));
        assert!(knows(&shared, "k", at(1_000)));
    }

    #[test]
    fn an_unchanged_set_is_a_confirmation_and_no_change() {
        let shared = shared(None);
        let mut changes = shared.changes();
        shared.publish(documents("k"), Origin::Source, at(1));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        shared.publish(documents("k"), Origin::Source, at(2));
        assert!(!changes.has_changed().unwrap());
        assert_eq!(shared.health(at(0)).last_fresh, Some(at(2)));
    }

    #[test]
    fn only_what_the_source_said_is_kept_and_without_keys() {
        let shared = shared(None);
        shared.publish(documents("the-key"), Origin::LastKnown, at(1));
        assert_eq!(shared.mirrored(), None);
        shared.publish(documents("the-key"), Origin::Source, at(2));
        let (_, kept) = shared.mirrored().unwrap();
        assert_eq!(kept.confirmed_at, at(2));
        assert_eq!(kept.studios[0].id, "a");
        assert!(!format!("{kept:?}").contains("the-key"));
    }
}
