//! One signal that the process is to end: SIGTERM, SIGINT, or a part of it that gave up.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tells every part of the process when to stop; clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Not tripped, and tied to no signal.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown tripped by SIGTERM or SIGINT. A second signal ends the process at once.
    ///
    /// Must be called within a tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let tripped = shutdown.clone();
        tokio::spawn(async move {
            for again in [false, true] {
                let (name, code) = tokio::select! {
                    _ = terminate.recv() => ("SIGTERM", 143),
                    _ = interrupt.recv() => ("SIGINT", 130),
                };
                if again {
                    tracing::warn!(signal = name, "second signal: ending at once");
                    std::process::exit(code);
                }
                tracing::info!(signal = name, "shutting down");
                tripped.trip();
            }
        });
        Ok(shutdown)
    }

    /// Asks everything to stop; more than once does no harm.
    pub fn trip(&self) {
        self.0.cancel();
    }

    /// Whether everything was asked to stop.
    pub fn is_tripped(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until everything is asked to stop.
    pub async fn tripped(&self) {
        self.0.cancelled().await;
    }

    /// The token behind it, for what takes one.
    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }

    /// A shutdown of its own that this one trips too.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_stops_with_its_parent_and_not_the_other_way_round() {
        let parent = Shutdown::new();
        let (first, second) = (parent.child(), parent.child());
        first.trip();
        assert!(first.is_tripped() && !parent.is_tripped() && !second.is_tripped());
        parent.trip();
        second.tripped().await;
    }
}
