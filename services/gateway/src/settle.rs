//! Puts events into the log, each that is not there already, and says what became of them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bm_admission::{Attempt, Begin};
use bm_kafka::{AppendError, Appended};
use bm_web::{ApiError, Code};
use futures::FutureExt;
use tokio::time::Instant;

use crate::answer::InLog;
use crate::gateway::{Gateway, Ready, unavailable};
use crate::memory::Held;
use crate::record::BusRecord;
use crate::to_its_end::ToItsEnd;

/// When to try again while an event of the same id is under way.
const IN_FLIGHT_WAIT: Duration = Duration::from_secs(1);

/// What became of an event.
pub type Fate = Result<InLog, ApiError>;

/// What is to be done with an event, by what the memory of event ids says.
#[derive(Debug)]
enum Plan {
    /// Append it, and tell the memory how that went if it was asked.
    Append(Option<Attempt>),
    /// Its fate is known.
    Known(Fate),
    /// It has the fate of this earlier event of the batch.
    AsEarlier(usize),
}

impl Gateway {
    /// Puts events into the log, those that are not there already, and says of each what became of
    /// it, in their order. Goes on to its end even when nobody waits for it any more, and until then
    /// holds the memory they take up.
    pub async fn settle(self: &Arc<Self>, events: Vec<Ready>, held: Held) -> Vec<Fate> {
        let count = events.len();
        let gateway = Arc::clone(self);
        let settling = async move {
            let fates = gateway.append_all(events).await;
            drop(held);
            fates
        };
        let settling = AssertUnwindSafe(settling).catch_unwind();
        // An error is a panic in there, which the panic hook has logged.
        let fates = ToItsEnd::new(settling.boxed(), &self.work).await;
        fates.unwrap_or_else(|_| vec![Err(ApiError::new(Code::Internal)); count])
    }

    async fn append_all(&self, events: Vec<Ready>) -> Vec<Fate> {
        let plans = self.plan(&events).await;
        // All are handed over first, in their order, and then waited for together. The log has a
        // copy of its own from then on.
        let records: Vec<&BusRecord> = events
            .iter()
            .zip(&plans)
            .filter(|(_, plan)| matches!(plan, Plan::Append(_)))
            .map(|(event, _)| &event.record)
            .collect();
        let mut outcomes = if records.is_empty() {
            Vec::new()
        } else {
            let since = Instant::now();
            let appending = self.log.append(&records);
            drop(records);
            drop(events);
            let outcomes = appending.await;
            // What was refused at once says nothing about how long the log takes.
            let tells = |outcome: &_| matches!(outcome, Ok(_) | Err(AppendError::TimedOut));
            if outcomes.iter().any(tells) {
                self.stats.appended(since.elapsed());
            }
            outcomes
        }
        .into_iter();
        let mut fates: Vec<Fate> = Vec::with_capacity(plans.len());
        for plan in plans {
            let fate = match plan {
                Plan::Append(attempt) => match outcomes.next() {
                    Some(outcome) => self.appended(attempt, outcome),
                    None => Err(ApiError::new(Code::Internal)),
                },
                Plan::Known(fate) => fate,
                Plan::AsEarlier(first) => as_earlier(fates.get(first)),
            };
            fates.push(fate);
        }
        fates
    }

    /// Asks the memory about the events that clients have named; others cannot have come before.
    async fn plan(&self, events: &[Ready]) -> Vec<Plan> {
        let named = events.iter().enumerate();
        let named = named.filter_map(|(at, event)| Some((at, event.named?)));
        let (named, keys): (Vec<usize>, Vec<_>) = named.unzip();
        let mut plans: Vec<Plan> = events.iter().map(|_| Plan::Append(None)).collect();
        if named.is_empty() {
            return plans;
        }
        let answers = self.ids.begin_many(&keys).await;
        for (&at, answer) in named.iter().zip(answers) {
            plans[at] = match answer {
                Begin::Fresh(attempt) | Begin::Unknown(attempt) => Plan::Append(Some(attempt)),
                Begin::Done { answer } => Plan::Known(Ok(InLog {
                    duplicate: true,
                    at: answer,
                })),
                Begin::InFlight => {
                    let error = ApiError::new(Code::InFlight);
                    Plan::Known(Err(error.retry_after(IN_FLIGHT_WAIT)))
                }
                Begin::OtherBody => Plan::Known(Err(ApiError::new(Code::EventIdReused))),
                // A place among those asked about is not a place in the batch.
                Begin::SameBatch { first } => named
                    .get(first)
                    .map_or(Plan::Append(None), |&first| Plan::AsEarlier(first)),
            };
        }
        plans
    }

    /// Tells the memory of event ids, if it was asked, what became of an event.
    fn appended(&self, attempt: Option<Attempt>, outcome: Result<Appended, AppendError>) -> Fate {
        match outcome {
            Ok(appended) => {
                let at = appended.timestamp;
                if let Some(attempt) = attempt {
                    self.ids.done(attempt, at);
                }
                let duplicate = false;
                Ok(InLog { duplicate, at })
            }
            Err(error) => {
                // It may be in the log or not; the router knows when it comes again.
                if let Some(attempt) = attempt {
                    self.ids.clear(attempt);
                }
                Err(refusal(&error))
            }
        }
    }
}

fn as_earlier(earlier: Option<&Fate>) -> Fate {
    match earlier {
        Some(Ok(in_log)) => Ok(InLog {
            duplicate: true,
            at: in_log.at,
        }),
        Some(Err(error)) => Err(error.clone()),
        None => Err(ApiError::new(Code::Internal)),
    }
}

fn refusal(error: &AppendError) -> ApiError {
    match error {
        AppendError::TooLarge => ApiError::with(Code::TooLarge, "Event too large"),
        AppendError::QueueFull | AppendError::TimedOut | AppendError::Unavailable(_) => {
            unavailable().because(error)
        }
    }
}
