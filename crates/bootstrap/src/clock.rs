//! The only place that asks the machine what time it is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bm_contracts::Timestamp;

/// Where a service takes the time from; clones are cheap and show the same time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    /// Shows `millis`, and is `step` further at each look.
    Stepping {
        millis: Arc<AtomicI64>,
        step: i64,
    },
    Reading(Arc<dyn Fn() -> i64 + Send + Sync>),
}

impl Clock {
    /// The machine's clock.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// Stands still at `at`.
    pub fn fixed(at: Timestamp) -> Self {
        Self::stepping(at, 0)
    }

    /// Shows `first` at the first look and `step_millis` more at each further one, over all clones.
    pub fn stepping(first: Timestamp, step_millis: i64) -> Self {
        Self(Source::Stepping {
            millis: Arc::new(AtomicI64::new(first.as_millis())),
            step: step_millis,
        })
    }

    /// Shows what `millis` returns: milliseconds since the epoch.
    pub fn reading(millis: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Source::Reading(Arc::new(millis)))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => system_now(),
            Source::Stepping { millis, step } => {
                Timestamp::clamped(millis.fetch_add(*step, Ordering::Relaxed))
            }
            Source::Reading(read) => Timestamp::clamped(read()),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Source::System => "Clock::system",
            Source::Stepping { .. } => "Clock::stepping",
            Source::Reading(_) => "Clock::reading",
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock everything else takes its time from"
)]
fn system_now() -> Timestamp {
    jiff::Timestamp::now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_stands_still_and_a_stepping_one_moves_with_every_look() {
        let at = Timestamp::clamped(1_000);
        let fixed = Clock::fixed(at);
        assert_eq!((fixed.now(), fixed.now()), (at, at));
        let stepping = Clock::stepping(at, 5);
        let clone = stepping.clone();
        assert_eq!(stepping.now().as_millis(), 1_000);
        assert_eq!(clone.now().as_millis(), 1_005);
        assert_eq!(stepping.now().as_millis(), 1_010);
        assert_eq!(Clock::reading(|| 7).now().as_millis(), 7);
    }

    #[test]
    fn the_system_clock_shows_this_century() {
        assert!(Clock::system().now() > Timestamp::parse_rfc3339("2025-01-01T00:00:00Z").unwrap());
    }
}
