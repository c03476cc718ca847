//! A clock that stands still until a test moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// A clock shared by all its clones.
#[derive(Debug, Clone)]
pub struct TestClock {
    millis: Arc<AtomicI64>,
}

impl TestClock {
    /// A clock that shows `millis` milliseconds since 1970.
    pub fn at_millis(millis: i64) -> Self {
        Self {
            millis: Arc::new(AtomicI64::new(millis)),
        }
    }

    /// A clock that shows `time`, cut to whole milliseconds.
    pub fn at(time: Timestamp) -> Self {
        Self::at_millis(time.as_millisecond())
    }

    /// A clock that shows the real time of this moment.
    #[expect(
        clippy::disallowed_methods,
        reason = "the starting point of tests whose records must look recent to a real broker"
    )]
    pub fn starting_now() -> Self {
        Self::at(Timestamp::now())
    }

    /// Milliseconds since 1970.
    pub fn now_millis(&self) -> i64 {
        self.millis.load(Ordering::SeqCst)
    }

    /// The time it shows.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.now_millis())
            .expect("a test's time lies within jiff's years")
    }

    /// Moves it forward, and says the new time in milliseconds.
    pub fn advance(&self, by: Duration) -> i64 {
        let by = i64::try_from(by.as_millis()).expect("a test's step fits i64 milliseconds");
        self.millis.fetch_add(by, Ordering::SeqCst) + by
    }

    /// Sets it, backwards too.
    pub fn set_millis(&self, millis: i64) {
        self.millis.store(millis, Ordering::SeqCst);
    }

    /// A function that reads this clock in milliseconds.
    pub fn reader(&self) -> impl Fn() -> i64 + Clone + Send + Sync + 'static {
        let clock = self.clone();
        move || clock.now_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_clones_show_the_same_time() {
        let clock = TestClock::at_millis(1_000);
        let read = clock.reader();
        let other = clock.clone();
        assert_eq!(clock.advance(Duration::from_secs(2)), 3_000);
        assert_eq!((other.now_millis(), read()), (3_000, 3_000));
        other.set_millis(-5);
        assert_eq!(clock.now(), Timestamp::from_millisecond(-5).unwrap());
    }

    #[test]
    fn a_clock_set_to_a_time_shows_it_in_whole_milliseconds() {
        let time: Timestamp = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        assert_eq!(
            TestClock::at(time).now().to_string(),
            "2026-01-02T03:04:05.678Z"
        );
    }
}
