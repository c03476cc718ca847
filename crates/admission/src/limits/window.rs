//! The two clocks of a limit: what came in during the last 60 seconds, and what has been refilled since.

use std::collections::VecDeque;

use super::tiers::Limit;

/// Length of the window, ms.
pub const WINDOW_MS: u64 = 60_000;
/// Length of one sub-bucket of the window, ms.
pub const BUCKET_MS: u64 = 200;
/// Parts of one token. A limit of L a minute gains exactly L parts every millisecond, so that
/// refilling needs no fractions.
pub const TOKEN: u64 = 60_000;

/// How many units were booked in each 200 ms that may still lie within the last 60 seconds.
///
/// A sub-bucket counts until its last millisecond is 60 seconds old: never too little, and too
/// much by at most one sub-bucket's units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    // (sub-bucket number, units), ascending, no zeros.
    buckets: VecDeque<(u64, u64)>,
    total: u64,
}

impl Window {
    /// The number of the sub-bucket of a time.
    pub const fn bucket_of(at: u64) -> u64 {
        at / BUCKET_MS
    }

    /// Whether a sub-bucket lies 60 seconds back at `now`, the whole of it.
    pub const fn has_expired(bucket: u64, now: u64) -> bool {
        (bucket + 1) * BUCKET_MS + WINDOW_MS <= now
    }

    /// Books `units` in a sub-bucket.
    pub fn add(&mut self, bucket: u64, units: u64) {
        if units == 0 {
            return;
        }
        self.total += units;
        // Almost always the last one or a new last one.
        let mut place = self.buckets.len();
        while place > 0 && self.buckets[place - 1].0 > bucket {
            place -= 1;
        }
        if place > 0 && self.buckets[place - 1].0 == bucket {
            self.buckets[place - 1].1 += units;
        } else {
            self.buckets.insert(place, (bucket, units));
        }
    }

    /// Takes up to `units` out of a sub-bucket.
    pub fn remove(&mut self, bucket: u64, units: u64) {
        let Ok(place) = self.buckets.binary_search_by_key(&bucket, |entry| entry.0) else {
            return;
        };
        let taken = self.buckets[place].1.min(units);
        self.total -= taken;
        self.buckets[place].1 -= taken;
        if self.buckets[place].1 == 0 {
            self.buckets.remove(place);
        }
    }

    /// Forgets what no longer lies within the last 60 seconds.
    pub fn expire(&mut self, now: u64) {
        while let Some(&(bucket, units)) = self.buckets.front() {
            if !Self::has_expired(bucket, now) {
                break;
            }
            self.total -= units;
            self.buckets.pop_front();
        }
    }

    /// Units booked, as of the last `expire`.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Nothing is booked.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Milliseconds from `now` until the oldest units leave; 0 when there are none.
    pub fn wait_ms(&self, now: u64) -> u64 {
        self.buckets.front().map_or(0, |&(bucket, _)| {
            ((bucket + 1) * BUCKET_MS + WINDOW_MS).saturating_sub(now)
        })
    }

    /// Units booked during the last `span` ms (and the rest of the sub-bucket they begin in).
    pub fn recent(&self, now: u64, span: u64) -> u64 {
        let first = Self::bucket_of(now.saturating_sub(span));
        self.buckets
            .iter()
            .rev()
            .take_while(|entry| entry.0 >= first)
            .map(|entry| entry.1)
            .sum()
    }

    /// Books everything of `other` here too.
    pub fn merge(&mut self, other: Self) {
        for (bucket, units) in other.buckets {
            self.add(bucket, units);
        }
    }

    /// For each sub-bucket, how long before `now` its last millisecond was, and its units.
    pub fn ages(&self, now: u64) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().map(move |&(bucket, units)| {
            let last = (bucket + 1) * BUCKET_MS - 1;
            (now.saturating_sub(last), units)
        })
    }
}

/// A bucket of tokens that gains a limit's units a minute and holds its burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    /// In parts: a token is [`TOKEN`] of them.
    parts: u64,
    at: u64,
}

impl Tokens {
    /// A bucket holding `parts` at `now`.
    pub fn holding(parts: u64, now: u64) -> Self {
        Self { parts, at: now }
    }

    /// A full bucket.
    pub fn full(limit: Limit, now: u64) -> Self {
        Self::holding(Self::capacity(limit), now)
    }

    /// What a full bucket of that limit holds, in parts.
    pub fn capacity(limit: Limit) -> u64 {
        u64::from(limit.burst) * TOKEN
    }

    /// Adds what the time since the last call brings. A clock that steps back brings nothing.
    pub fn refill(&mut self, limit: Limit, now: u64) {
        let gained = u64::from(limit.per_minute).saturating_mul(now.saturating_sub(self.at));
        self.parts = self.parts.saturating_add(gained).min(Self::capacity(limit));
        self.at = self.at.max(now);
    }

    /// Whole tokens.
    pub fn whole(&self) -> u64 {
        self.parts / TOKEN
    }

    /// All parts.
    pub fn parts(&self) -> u64 {
        self.parts
    }

    /// Takes `units`, or all there is.
    pub fn take(&mut self, units: u64) {
        self.parts = self.parts.saturating_sub(units.saturating_mul(TOKEN));
    }

    /// Takes what is above `parts`.
    pub fn keep_at_most(&mut self, parts: u64) {
        self.parts = self.parts.min(parts);
    }

    /// Puts back `units`; never above the limit's burst.
    pub fn put(&mut self, units: u64, limit: Limit) {
        self.parts = self
            .parts
            .saturating_add(units.saturating_mul(TOKEN))
            .min(Self::capacity(limit));
    }

    /// Milliseconds until there is one whole token; 0 when there is.
    pub fn wait_ms(&self, limit: Limit) -> u64 {
        TOKEN
            .saturating_sub(self.parts)
            .div_ceil(u64::from(limit.per_minute))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_bucket_counts_until_all_of_it_is_sixty_seconds_old() {
        let mut window = Window::default();
        window.add(Window::bucket_of(1_000), 3);
        window.expire(61_199);
        assert_eq!((window.total(), window.wait_ms(61_199)), (3, 1));
        window.expire(61_200);
        assert_eq!((window.total(), window.wait_ms(61_200)), (0, 0));
    }

    #[test]
    fn units_can_be_booked_out_of_order_moved_and_merged() {
        let mut window = Window::default();
        for (bucket, units) in [(7, 1), (5, 2), (7, 3), (6, 4), (5, 5), (9, 0)] {
            window.add(bucket, units);
        }
        assert_eq!(Vec::from(window.buckets.clone()), [(5, 7), (6, 4), (7, 4)]);
        window.remove(6, 9);
        window.remove(8, 1);
        assert_eq!((window.total(), window.buckets.len()), (11, 2));
        assert_eq!(window.recent(1_500, 100), 4);
        let ages: Vec<_> = window.ages(1_500).collect();
        assert_eq!(ages, [(301, 7), (0, 4)]);
        window.merge(window.clone());
        assert_eq!(window.total(), 22);
    }

    #[test]
    fn tokens_come_back_at_the_limits_rate_up_to_the_burst() {
        let limit = Limit::new(1_000, 100);
        let mut tokens = Tokens::full(limit, 0);
        tokens.take(100);
        assert_eq!((tokens.whole(), tokens.wait_ms(limit)), (0, 60));
        tokens.refill(limit, 59);
        assert_eq!((tokens.whole(), tokens.wait_ms(limit)), (0, 1));
        tokens.refill(limit, 60);
        assert_eq!(tokens.whole(), 1);
        tokens.refill(limit, 30);
        assert_eq!(tokens.whole(), 1);
        tokens.refill(limit, 600_000);
        assert_eq!(tokens.whole(), 100);
        tokens.put(5, limit);
        assert_eq!(tokens.parts(), Tokens::capacity(limit));
    }
}
