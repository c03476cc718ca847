//! The admission rule as all gateways share it: what the Redis script `lease.lua` does, in Rust.
//!
//! Redis runs the script; this is its definition, which the property tests check against brute
//! force and the Redis tests check the script against, answer by answer.
//!
//! Why no 60 seconds ever see more than the limit: every unit is booked, before it can be used, at
//! a time not before its use (its lease's latest usable time, later moved to the lease's last use).
//! Take any 60 seconds and the unit used in them whose lease was granted last. When that lease was
//! granted, every other unit used in them was granted already, and its booked time was less than
//! 60 seconds back; so all of them were counted, and the grant kept the count within the limit.

use super::pair::Pair;
use super::tiers::Limit;
use super::window::{Tokens, WINDOW_MS, Window};

/// Of the room above what is needed now, one lease takes at most this part, so that leases get
/// small near the limit and one gateway does not hold what another could use.
const GREED: u32 = 8;

/// What a gateway asks of the shared state, in one round trip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The studio's limits.
    pub limits: Pair<Limit>,
    /// Units somebody waits for.
    pub need: Pair<u32>,
    /// Units worth having, the needed ones among them.
    pub want: Pair<u32>,
    /// Token parts to begin with where there is no state.
    pub fresh: Pair<u64>,
    /// Leases that are over.
    pub closings: Vec<Closing>,
    /// Units admitted that the shared state has not heard of.
    pub seeds: Vec<Seed>,
}

/// The end of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// [`Grant::birth`] of the state that granted it; another state ignores this closing.
    pub birth: u64,
    /// [`Grant::bucket`], where the whole lease is booked.
    pub bucket: u64,
    /// Units used: they are booked anew at the time of the last use.
    pub used: Pair<u32>,
    /// Units not used: they are given back.
    pub unused: Pair<u32>,
    /// How long before this call the last use was at most, ms.
    pub age_ms: u64,
}

/// Units that were admitted without a lease, or that the shared state has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    /// How long before this call the last of them was admitted, ms.
    pub age_ms: u64,
    /// The units.
    pub units: Pair<u32>,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grant {
    /// Names the state; a new one after a loss.
    pub birth: u64,
    /// The sub-bucket in which the lease is booked.
    pub bucket: u64,
    /// Units granted.
    pub units: Pair<u32>,
    /// Units that could still be granted after this.
    pub room: Pair<u32>,
    /// Where there is no room: milliseconds until there may be, else 0.
    pub wait_ms: Pair<u64>,
}

/// A studio's counters.
#[derive(Debug, Clone)]
pub struct SharedState {
    birth: u64,
    last: u64,
    windows: Pair<Window>,
    tokens: Pair<Tokens>,
}

impl SharedState {
    /// A state that begins at `now`; `birth` names it.
    pub fn new(birth: u64, now: u64, fresh: Pair<u64>) -> Self {
        Self {
            birth,
            last: now,
            windows: Pair::default(),
            tokens: fresh.map(|parts| Tokens::holding(parts, now)),
        }
    }

    /// Grants a lease that may be used until `now + ttl` ms.
    pub fn lease(&mut self, now: u64, ttl: u64, ask: &LeaseRequest) -> Grant {
        // The clock of a server that took over may be a little behind.
        let now = if self.last > now + WINDOW_MS {
            *self = Self::new(self.birth + 1, now, ask.fresh);
            now
        } else {
            now.max(self.last)
        };
        self.last = now;
        let limits = ask.limits;
        self.windows
            .each_mut()
            .map(|window: &mut Window| window.expire(now));
        self.tokens
            .each_mut()
            .zip(limits, |tokens, limit| tokens.refill(limit, now));
        for closing in &ask.closings {
            self.close(now, limits, closing);
        }
        for seed in &ask.seeds {
            self.book(
                now,
                Window::bucket_of(now.saturating_sub(seed.age_ms)),
                seed.units,
            );
        }
        let room = self.room(limits);
        let mut units = ask.need.min(room);
        let starved = |need: u32, got: u32| need > 0 && got == 0;
        if starved(ask.need.requests, units.requests) || starved(ask.need.events, units.events) {
            // A request without an event, or events without their request, help nobody.
            units = Pair::ZERO;
        } else {
            let spare = room.less(units).map(|spare| spare / GREED);
            units += ask.want.less(ask.need).min(spare);
        }
        let bucket = Window::bucket_of(now + ttl);
        self.book(now, bucket, units);
        self.tokens
            .each_mut()
            .zip(units, |tokens, units| tokens.take(units.into()));
        Grant {
            birth: self.birth,
            bucket,
            units,
            room: self.room(limits),
            wait_ms: self.waits(now, limits),
        }
    }

    fn close(&mut self, now: u64, limits: Pair<Limit>, closing: &Closing) {
        if closing.birth != self.birth {
            return;
        }
        self.tokens.each_mut().zip(
            limits.zip(closing.unused, |limit, unused| (limit, unused)),
            |tokens, (limit, unused)| {
                tokens.put(unused.into(), limit);
            },
        );
        if Window::has_expired(closing.bucket, now) {
            return;
        }
        self.windows
            .each_mut()
            .zip(closing.used.plus(closing.unused), |window, units| {
                window.remove(closing.bucket, units.into());
            });
        let last_use = Window::bucket_of(now.saturating_sub(closing.age_ms));
        self.book(now, last_use.min(closing.bucket), closing.used);
    }

    fn book(&mut self, now: u64, bucket: u64, units: Pair<u32>) {
        if !Window::has_expired(bucket, now) {
            self.windows
                .each_mut()
                .zip(units, |window, units| window.add(bucket, units.into()));
        }
    }

    fn room(&self, limits: Pair<Limit>) -> Pair<u32> {
        let windows = self.windows.each().zip(limits, |window, limit| {
            u64::from(limit.per_minute).saturating_sub(window.total())
        });
        windows.zip(self.tokens, |window, tokens| {
            u32::try_from(window.min(tokens.whole())).unwrap_or(u32::MAX)
        })
    }

    fn waits(&self, now: u64, limits: Pair<Limit>) -> Pair<u64> {
        let windows = self.windows.each().zip(limits, |window, limit| {
            if window.total() < u64::from(limit.per_minute) {
                0
            } else {
                window.wait_ms(now)
            }
        });
        let tokens = self
            .tokens
            .zip(limits, |tokens, limit| tokens.wait_ms(limit));
        windows.zip(tokens, u64::max)
    }

    /// The state's name.
    pub fn birth(&self) -> u64 {
        self.birth
    }

    /// Units counted against the limit.
    pub fn booked(&self) -> Pair<u64> {
        self.windows.each().map(Window::total)
    }
}
