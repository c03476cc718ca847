//! The gateway itself: who asks, and which of their events may come in.

use std::sync::Arc;
use std::time::Duration;

use bm_admission::{Admission, Limiter, Pair, Players, Quota, StudioLimits};
use bm_admission::{RateLimitOverride, Tier};
use bm_bootstrap::Clock;
use bm_contracts::hash::{body_hash, event_key};
use bm_contracts::{EventId, GameId, Timestamp};
use bm_studio_auth::{AuthError, Studio, StudioDirectory};
use bm_web::{ApiError, Code, CorrelationId, TraceParent};
use http::HeaderMap;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::body::Checked;
use crate::games::{GameCache, KnownGames};
use crate::memory::Memory;
use crate::ports::{EventIds, EventLog};
use crate::record::{BusRecord, Origin};
use crate::request;
use crate::stats::EventStats;

/// How far back an event's own time may lie, ms.
pub const MAX_AGE_MS: i64 = 7 * 24 * 60 * 60 * 1_000;
/// How far ahead of our clock it may be, ms.
pub const MAX_AHEAD_MS: i64 = 5 * 60 * 1_000;

/// When to try again after something we need was away.
const UNAVAILABLE_WAIT: Duration = Duration::from_secs(2);

/// What a gateway is made of.
pub struct Gateway {
    /// Whose key is this?
    pub directory: StudioDirectory,
    /// Limits per studio.
    pub limiter: Limiter,
    /// Limits per player.
    pub players: Players,
    /// Whose game is this?
    pub games: GameCache,
    /// The memory of event ids.
    pub ids: Arc<dyn EventIds>,
    /// Where accepted events go.
    pub log: Arc<dyn EventLog>,
    /// What time is it?
    pub clock: Clock,
    /// Counters.
    pub stats: EventStats,
    /// Events being put into the log: they go on when their client goes away.
    pub work: TaskTracker,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// What bodies and events under way may take up.
    pub memory: Memory,
}

/// One authenticated request.
pub struct Visit {
    studio: Arc<Studio>,
    limits: StudioLimits,
    pub(crate) origin: Arc<Origin>,
    charged: Option<Pair<Quota>>,
}

/// An event that may go into the log.
#[derive(Debug)]
pub struct Ready {
    /// Its id.
    pub id: EventId,
    pub(crate) record: BusRecord,
    /// `(event_key, body_hash)` where the client named it, so that it may have come before.
    pub(crate) named: Option<([u8; 16], [u8; 16])>,
}

impl Gateway {
    /// Whose request this is (401; 503 when that cannot be known).
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        correlation: CorrelationId,
    ) -> Result<Visit, ApiError> {
        let key = request::api_key(headers)?;
        let found = self.directory.authenticate(key, self.clock.now()).await;
        let studio = found
            .map_err(|error| match error {
                AuthError::Unknown => ApiError::new(Code::InvalidApiKey),
                AuthError::Inactive => ApiError::new(Code::SubscriptionInactive),
                AuthError::Unavailable => unavailable().because("keys cannot be checked"),
            })?
            .studio;
        let origin = Origin {
            studio: studio.id.clone(),
            correlation,
            trace: TraceParent::of(headers),
        };
        Ok(Visit {
            limits: limits_of(&studio),
            studio,
            origin: Arc::new(origin),
            charged: None,
        })
    }

    /// Charges a request of so many events; says how many of them, from the front, may come in and
    /// what to say to the others (429 when none may).
    pub async fn admit(
        &self,
        visit: &mut Visit,
        events: usize,
    ) -> Result<(usize, ApiError), ApiError> {
        let asked = u32::try_from(events).unwrap_or(u32::MAX);
        let Admission {
            request_admitted,
            admitted_events,
            retry_after_secs,
            quotas,
        } = self
            .limiter
            .admit(&visit.studio.id, &visit.limits, 1, asked)
            .await;
        visit.charged = Some(quotas);
        let refusal =
            ApiError::new(Code::RateLimited).retry_after(Duration::from_secs(retry_after_secs));
        let admitted = admitted_events as usize;
        if request_admitted && (admitted > 0 || events == 0) {
            Ok((admitted.min(events), refusal))
        } else {
            Err(refusal)
        }
    }

    /// What is left to the studio: as charged, or as it stands when nothing was charged.
    pub fn quotas(&self, visit: &Visit) -> Pair<Quota> {
        visit
            .charged
            .unwrap_or_else(|| self.limiter.quotas(&visit.studio.id, &visit.limits))
    }

    /// The id the client gave the event, or a new one: `evt_` and a UUID that begins with the time.
    pub fn event_id_of(&self, checked: &Checked<'_>) -> Result<EventId, ApiError> {
        if let Some(named) = &checked.event_id {
            return Ok(named.clone());
        }
        let millis = u64::try_from(self.clock.now().as_millis()).unwrap_or(0);
        let nanos = (millis % 1_000) as u32 * 1_000_000;
        let time = uuid::Timestamp::from_unix(uuid::NoContext, millis / 1_000, nanos);
        let mut text = *b"evt_------------------------------------";
        Uuid::new_v7(time).hyphenated().encode_lower(&mut text[4..]);
        let text = std::str::from_utf8(&text).unwrap_or_default();
        EventId::new(text).map_err(|_| ApiError::new(Code::Internal))
    }

    /// The studio's games, well enough known for events of these.
    pub async fn games(&self, visit: &Visit, wanted: &[&GameId]) -> KnownGames {
        self.games.of(&visit.studio.id, wanted).await
    }

    /// Holds one event against its studio's games (404; 503 when they are not known), the clock
    /// (422) and its player's limit (429). Errors name the event.
    pub fn prepare(
        &self,
        visit: &Visit,
        games: &KnownGames,
        checked: Checked<'_>,
    ) -> Result<Ready, ApiError> {
        let named = checked.event_id.is_some();
        let id = self.event_id_of(&checked)?;
        let allowed = self.allow(visit, games, &checked, self.clock.now());
        allowed.map_err(|error| error.about(id.as_str()))?;
        let studio = &visit.studio;
        let event = checked.into_event(studio.id.clone(), studio.tier.as_str(), id.clone());
        let key = |id| event_key(&studio.id, &event.game_id, &event.user_id, id);
        Ok(Ready {
            named: named.then(|| (key(&id), body_hash(&event))),
            id,
            record: BusRecord::of(event, &visit.origin),
        })
    }

    fn allow(
        &self,
        visit: &Visit,
        games: &KnownGames,
        checked: &Checked<'_>,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let studio = &visit.studio.id;
        let registered = games.has(&checked.game_id);
        // Another studio's game is as unknown as one that does not exist.
        if !registered.map_err(|error| unavailable().because(error))? {
            return Err(ApiError::new(Code::UnknownGame));
        }
        let earliest = now.saturating_add_millis(-MAX_AGE_MS);
        let latest = now.saturating_add_millis(MAX_AHEAD_MS);
        if !(earliest..=latest).contains(&checked.timestamp) {
            return Err(ApiError::with(
                Code::TimestampOutOfRange,
                "Timestamp must lie between 7 days ago and 5 minutes ahead",
            ));
        }
        let (game, user) = (&checked.game_id, &checked.user_id);
        let per_minute = visit.limits.player_events_per_minute;
        self.players
            .admit(studio, game, user, per_minute)
            .map_err(|refused| {
                ApiError::new(Code::PlayerRateLimited)
                    .retry_after(Duration::from_secs(refused.retry_after_secs))
            })
    }
}

pub(crate) fn unavailable() -> ApiError {
    ApiError::new(Code::Unavailable).retry_after(UNAVAILABLE_WAIT)
}

fn limits_of(studio: &Studio) -> StudioLimits {
    let over = studio
        .rate_limit
        .map_or_else(RateLimitOverride::default, |own| RateLimitOverride {
            requests_per_minute: own.requests_per_minute,
            burst: own.burst,
            events_per_minute: own.events_per_minute,
            events_burst: own.events_burst,
            player_events_per_minute: own.player_events_per_minute,
        });
    StudioLimits::of(Tier::named(studio.tier.as_str()), &over)
}
