//! How much one player may send through this gateway.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bm_contracts::ids::{GameId, StudioId, UserId};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

/// Players are forgotten, where that changes nothing, after at least so many events.
const SWEEP_EVERY: u64 = 8_192;

type Keyed<C> =
    RateLimiter<u64, DefaultKeyedStateStore<u64>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The player has sent too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many events of one player; again in {retry_after_secs} s")]
pub struct PlayerRefused {
    /// For `Retry-After`: at least 1.
    pub retry_after_secs: u64,
}

/// Counts events per player of a game: as many at once as a minute allows, refilled evenly.
///
/// Memory holds the players of about the last minute: whose allowance is full again is forgotten.
/// Players are told apart by 64 bits of a keyed hash, different in every process.
#[derive(Debug)]
pub struct Players<C: Clock + Clone = DefaultClock> {
    default_per_minute: u32,
    clock: C,
    hasher: RandomState,
    /// By events a minute.
    limiters: RwLock<HashMap<u32, Arc<Keyed<C>>>>,
    since_sweep: AtomicU64,
}

impl Players {
    /// With so many events a minute where a studio says nothing else.
    pub fn new(default_per_minute: u32) -> Self {
        Self::with_clock(default_per_minute, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Players<C> {
    /// The same by another clock.
    pub fn with_clock(default_per_minute: u32, clock: C) -> Self {
        Self {
            default_per_minute,
            clock,
            hasher: RandomState::new(),
            limiters: RwLock::default(),
            since_sweep: AtomicU64::new(0),
        }
    }

    /// Charges one event to a player, or refuses it and charges nothing.
    ///
    /// `per_minute`: the studio's own limit ([`StudioLimits::player_events_per_minute`]), if it has one.
    ///
    /// [`StudioLimits::player_events_per_minute`]: crate::StudioLimits::player_events_per_minute
    pub fn admit(
        &self,
        studio: &StudioId,
        game: &GameId,
        user: &UserId,
        per_minute: Option<u32>,
    ) -> Result<(), PlayerRefused> {
        self.sweep_now_and_then();
        let key = self
            .hasher
            .hash_one((studio.as_str(), game.as_str(), user.as_str()));
        let limiter = self.limiter(per_minute.unwrap_or(self.default_per_minute));
        limiter.check_key(&key).map_err(|not_until| {
            metrics::counter!("bm_admission_player_refused_total").increment(1);
            let wait = not_until.wait_time_from(self.clock.now());
            let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            PlayerRefused {
                retry_after_secs: whole.max(1),
            }
        })
    }

    /// Players remembered.
    pub fn len(&self) -> usize {
        let limiters = self.limiters.read().unwrap_or_else(PoisonError::into_inner);
        limiters.values().map(|limiter| limiter.len()).sum()
    }

    /// No player is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn limiter(&self, per_minute: u32) -> Arc<Keyed<C>> {
        let known = self.limiters.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(limiter) = known.get(&per_minute) {
            return Arc::clone(limiter);
        }
        drop(known);
        let mut limiters = self
            .limiters
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let limiter = limiters.entry(per_minute).or_insert_with(|| {
            let quota = Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN));
            let states = DefaultKeyedStateStore::default();
            Arc::new(RateLimiter::new(quota, states, self.clock.clone()))
        });
        Arc::clone(limiter)
    }

    /// As many calls pass between two sweeps as a sweep looks at players, so that each call pays a
    /// fixed part of it.
    fn sweep_now_and_then(&self) {
        let calls = self.since_sweep.fetch_add(1, Ordering::Relaxed) + 1;
        if !calls.is_multiple_of(SWEEP_EVERY) || calls < self.len() as u64 {
            return;
        }
        self.since_sweep.store(0, Ordering::Relaxed);
        // Looking at all players takes a while, which must not keep the others' events waiting.
        let known: Vec<_> = {
            let limiters = self.limiters.read().unwrap_or_else(PoisonError::into_inner);
            limiters.values().map(Arc::clone).collect()
        };
        let mut remembered = 0;
        for limiter in &known {
            let before = limiter.len();
            limiter.retain_recent();
            if limiter.len() < before / 2 {
                limiter.shrink_to_fit();
            }
            remembered += limiter.len();
        }
        metrics::gauge!("bm_admission_players").set(remembered as f64);
        drop(known);
        // Limits that studios had once must not pile up either. One that is in use stays.
        let mut limiters = self
            .limiters
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        limiters.retain(|_, limiter| !limiter.is_empty() || Arc::strong_count(limiter) > 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn ids(user: &str) -> (StudioId, GameId, UserId) {
        (
            StudioId::new("s").unwrap(),
            GameId::new("g").unwrap(),
            UserId::new(user).unwrap(),
        )
    }

    #[test]
    fn a_player_may_send_a_minutes_events_and_no_more() {
        let clock = FakeRelativeClock::default();
        let players = Players::with_clock(600, clock.clone());
        let (studio, game, user) = ids("a");
        let (_, _, other) = ids("b");
        for _ in 0..600 {
            players.admit(&studio, &game, &user, None).unwrap();
        }
        let refused = players.admit(&studio, &game, &user, None).unwrap_err();
        assert_eq!(refused.retry_after_secs, 1);
        players.admit(&studio, &game, &other, None).unwrap();
        clock.advance(Duration::from_millis(100));
        players.admit(&studio, &game, &user, None).unwrap();
        players.admit(&studio, &game, &user, None).unwrap_err();
    }

    #[test]
    fn a_studio_may_have_a_limit_of_its_own() {
        let players = Players::with_clock(600, FakeRelativeClock::default());
        let (studio, game, user) = ids("a");
        for _ in 0..2 {
            players.admit(&studio, &game, &user, Some(2)).unwrap();
        }
        let refused = players.admit(&studio, &game, &user, Some(2)).unwrap_err();
        assert_eq!(refused.retry_after_secs, 30);
    }

    #[test]
    fn players_of_long_ago_are_forgotten() {
        let clock = FakeRelativeClock::default();
        let players = Players::with_clock(600, clock.clone());
        for n in 0..SWEEP_EVERY - 1 {
            let (studio, game, user) = ids(&n.to_string());
            let own = (n == 7).then_some(5);
            players.admit(&studio, &game, &user, own).unwrap();
        }
        assert_eq!(players.len() as u64, SWEEP_EVERY - 1);
        clock.advance(Duration::from_secs(61));
        let (studio, game, user) = ids("the last");
        players.admit(&studio, &game, &user, None).unwrap();
        assert_eq!(players.len(), 1);
    }
}
