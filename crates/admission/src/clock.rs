//! The steady clock of a gateway, which tests replace.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// Milliseconds since some moment; never steps back. Not the time of day.
#[derive(Clone)]
pub struct SteadyClock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl SteadyClock {
    /// A clock that reads `now`.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Now, in ms.
    pub fn now(&self) -> u64 {
        (self.0)()
    }
}

impl Default for SteadyClock {
    fn default() -> Self {
        let began = Instant::now();
        Self::new(move || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Debug for SteadyClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SteadyClock({})", self.now())
    }
}
