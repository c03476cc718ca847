//! The gateway itself: who asks, which of their events may come in, and what became of them.

use std::sync::Arc;
use std::time::Duration;

use bm_admission::{Admission, Begin, Limiter, Pair, Players, Quota, StudioLimits};
use bm_admission::{RateLimitOverride, Tier};
use bm_bootstrap::Clock;
use bm_contracts::hash::{body_hash, event_key};
use bm_contracts::{EventId, GameEvent, Timestamp};
use bm_kafka::AppendError;
use bm_studio_auth::{AuthError, Studio, StudioDirectory};
use bm_web::{ApiError, Code, CorrelationId, TraceParent};
use futures::future::join_all;
use http::HeaderMap;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::answer::InLog;
use crate::body::Checked;
use crate::games::GameCache;
use crate::ports::{EventIds, EventLog};
use crate::record::BusRecord;
use crate::request;
use crate::stats::EventStats;

/// How far back an event's own time may lie, ms.
pub const MAX_AGE_MS: i64 = 7 * 24 * 60 * 60 * 1_000;
/// How far ahead of our clock it may be, ms.
pub const MAX_AHEAD_MS: i64 = 5 * 60 * 1_000;

/// When to try again after something we need was away.
const UNAVAILABLE_WAIT: Duration = Duration::from_secs(2);
/// When to try again while an event of the same id is under way.
const IN_FLIGHT_WAIT: Duration = Duration::from_secs(1);

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
}

/// One authenticated request.
pub struct Visit {
    studio: Arc<Studio>,
    limits: StudioLimits,
    correlation: CorrelationId,
    trace: TraceParent,
    charged: Option<Pair<Quota>>,
}

/// An event that may go into the log.
#[derive(Debug)]
pub struct Ready {
    event: GameEvent,
    record: BusRecord,
    /// The client named it, so it may have come before.
    named: bool,
}

impl Ready {
    /// The event's id.
    pub fn event_id(&self) -> &EventId {
        &self.event.event_id
    }
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
                AuthError::Unavailable => unavailable(),
            })?
            .studio;
        Ok(Visit {
            limits: limits_of(&studio),
            studio,
            correlation,
            trace: TraceParent::of(headers),
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

    /// A new event id: `evt_` and a UUID that begins with the time.
    pub fn make_event_id(&self, now: Timestamp) -> Result<EventId, ApiError> {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        let nanos = (millis % 1_000) as u32 * 1_000_000;
        let time = uuid::Timestamp::from_unix(uuid::NoContext, millis / 1_000, nanos);
        EventId::new(format!("evt_{}", Uuid::new_v7(time)))
            .map_err(|_| ApiError::new(Code::Internal))
    }

    /// Holds one event against the registered games (404), the clock (422) and its player's limit
    /// (429). Errors name the event.
    pub async fn prepare(&self, visit: &Visit, checked: Checked<'_>) -> Result<Ready, ApiError> {
        let now = self.clock.now();
        let named = checked.event_id.is_some();
        let id = match &checked.event_id {
            Some(id) => id.clone(),
            None => self.make_event_id(now)?,
        };
        match self.allow(visit, &checked, now).await {
            Ok(()) => {}
            Err(error) => return Err(error.about(id.as_str())),
        }
        let studio = &visit.studio;
        let event = checked.into_event(studio.id.clone(), studio.tier.as_str(), id);
        Ok(Ready {
            record: BusRecord::of(&event, &visit.correlation, &visit.trace),
            event,
            named,
        })
    }

    async fn allow(
        &self,
        visit: &Visit,
        checked: &Checked<'_>,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let studio = &visit.studio.id;
        let owner = self.games.studio_of(&checked.game_id).await;
        let owner = owner.map_err(|error| {
            tracing::warn!(
                correlation.id = visit.correlation.as_str(),
                game.id = checked.game_id.as_str(),
                %error,
                "cannot accept an event"
            );
            unavailable()
        })?;
        // Another studio's game is as unknown as one that does not exist.
        if owner.as_ref() != Some(studio) {
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

    /// Puts events into the log, those that are not there already, and says of each what became of
    /// it, in their order. Goes on to its end even when nobody waits for it any more.
    pub async fn settle(
        self: &Arc<Self>,
        visit: &Visit,
        events: Vec<Ready>,
    ) -> Vec<Result<InLog, ApiError>> {
        let count = events.len();
        let gateway = Arc::clone(self);
        let correlation = visit.correlation.clone();
        let settling = async move { gateway.append_all(&correlation, events).await };
        // An error is a panic in there, which the panic hook has logged.
        let settled = self.work.spawn(settling).await;
        settled.unwrap_or_else(|_| vec![Err(ApiError::new(Code::Internal)); count])
    }

    async fn append_all(
        &self,
        correlation: &CorrelationId,
        events: Vec<Ready>,
    ) -> Vec<Result<InLog, ApiError>> {
        let named: Vec<usize> = (0..events.len()).filter(|&at| events[at].named).collect();
        let asked: Vec<_> = named
            .iter()
            .map(|&at| {
                let event = &events[at].event;
                let (studio, game, user) = (&event.studio_id, &event.game_id, &event.user_id);
                let key = event_key(studio, game, user, &event.event_id);
                (key, body_hash(event))
            })
            .collect();
        let begun = if asked.is_empty() {
            Vec::new()
        } else {
            self.ids.begin_many(&asked).await
        };
        let mut known: Vec<Option<Begin>> = events.iter().map(|_| None).collect();
        for (&at, begin) in named.iter().zip(begun) {
            known[at] = Some(match begin {
                // Places among those asked about are not places in the batch.
                Begin::SameBatch { first } => Begin::SameBatch {
                    first: named[first],
                },
                begin => begin,
            });
        }
        let appended = events.iter().zip(known).map(|(event, known)| {
            // Handed over here, in order; waited for below, all together.
            let (attempt, fate) = match known {
                None => (None, None),
                Some(Begin::Fresh(attempt) | Begin::Unknown(attempt)) => (Some(attempt), None),
                Some(other) => (None, Some(other)),
            };
            let since = Instant::now();
            let appending = fate.is_none().then(|| self.log.append(&event.record));
            async move {
                let outcome = match appending {
                    None => return Err(fate),
                    Some(Ok(acked)) => acked.await,
                    Some(Err(error)) => Err(error),
                };
                self.stats.appended(since.elapsed());
                Ok((attempt, outcome))
            }
        });
        let appended = join_all(appended).await;
        let mut settled: Vec<Result<InLog, ApiError>> = Vec::with_capacity(events.len());
        let mut failed = None;
        for (event, appended) in events.iter().zip(appended) {
            let outcome = match appended {
                Ok((attempt, Ok(appended))) => {
                    let at = appended.timestamp;
                    if let Some(attempt) = attempt {
                        self.ids.done(attempt, at);
                    }
                    Ok(InLog {
                        duplicate: false,
                        at,
                    })
                }
                Ok((attempt, Err(error))) => {
                    if let Some(attempt) = attempt {
                        self.ids.clear(attempt);
                    }
                    let refusal = refusal(&error);
                    failed = Some(error);
                    Err(refusal)
                }
                Err(known) => decided(known, &settled),
            };
            let id = event.event_id();
            settled.push(outcome.map_err(|error| error.about(id.as_str())));
        }
        if let Some(error) = failed {
            tracing::warn!(correlation.id = correlation.as_str(), %error, "cannot append events");
        }
        settled
    }
}

/// What an event that was not appended gets to hear; `before` is what the earlier ones of its batch did.
fn decided(known: Option<Begin>, before: &[Result<InLog, ApiError>]) -> Result<InLog, ApiError> {
    match known {
        Some(Begin::Done { answer }) => Ok(InLog {
            duplicate: true,
            at: answer,
        }),
        Some(Begin::InFlight) => Err(ApiError::new(Code::InFlight).retry_after(IN_FLIGHT_WAIT)),
        Some(Begin::OtherBody) => Err(ApiError::new(Code::EventIdReused)),
        Some(Begin::SameBatch { first }) => match before.get(first) {
            Some(Ok(in_log)) => Ok(InLog {
                duplicate: true,
                at: in_log.at,
            }),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ApiError::new(Code::Internal)),
        },
        Some(Begin::Fresh(_) | Begin::Unknown(_)) | None => Err(ApiError::new(Code::Internal)),
    }
}

fn unavailable() -> ApiError {
    ApiError::new(Code::Unavailable).retry_after(UNAVAILABLE_WAIT)
}

fn refusal(error: &AppendError) -> ApiError {
    match error {
        AppendError::TooLarge => ApiError::with(Code::TooLarge, "Event too large"),
        AppendError::QueueFull | AppendError::TimedOut | AppendError::Unavailable(_) => {
            unavailable()
        }
    }
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
