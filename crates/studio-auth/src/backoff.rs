//! Growing, jittered pauses between attempts.

use std::time::Duration;

use rand::Rng;

/// Doubles from the first pause to the longest.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The pause before the next attempt: between half of it and all of it, so that a fleet that
    /// lost the same server does not come back in step.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Begins again with the first pause.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_begin_again() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, longest);
        for expected in [100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.next();
            let expected = Duration::from_millis(expected);
            assert!(pause <= expected && pause >= expected / 2, "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
