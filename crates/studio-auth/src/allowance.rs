//! At most so many questions in any second: a sliding window that is exact, not on average.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Lets `limit` through in any window of one length.
#[derive(Debug)]
pub(crate) struct Allowance {
    limit: usize,
    window: Duration,
    taken: VecDeque<Instant>,
}

impl Allowance {
    pub(crate) fn new(limit: usize, window: Duration) -> Self {
        Self {
            limit,
            window,
            taken: VecDeque::with_capacity(limit),
        }
    }

    /// Takes one at `at`, if fewer than the limit were taken in the window that ends then.
    pub(crate) fn take(&mut self, at: Instant) -> bool {
        while let Some(oldest) = self.taken.front() {
            if at.saturating_duration_since(*oldest) < self.window {
                break;
            }
            self.taken.pop_front();
        }
        if self.taken.len() >= self.limit {
            return false;
        }
        self.taken.push_back(at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_window_anywhere_holds_more_than_the_limit() {
        let start = Instant::now();
        let window = Duration::from_secs(1);
        let mut allowance = Allowance::new(20, window);
        let mut taken = Vec::new();
        // Uneven steps, far more questions than allowed.
        let mut at = start;
        for i in 0..10_000_u64 {
            at += Duration::from_micros(i * 7919 % 1_300);
            if allowance.take(at) {
                taken.push(at);
            }
        }
        for (i, first) in taken.iter().enumerate() {
            let within = taken[i..].iter().take_while(|t| **t - *first < window);
            assert!(within.count() <= 20);
        }
        let seconds = (at - start).as_secs_f64();
        assert!(
            taken.len() as f64 >= 20.0 * seconds.floor(),
            "{} in {seconds} s",
            taken.len()
        );
    }
}
