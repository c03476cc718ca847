//! What a gateway and Redis tell each other: leases, ended leases, heartbeats, losses.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinSet;

use super::ledger::{CONFINED_MS, Step};
use super::limiter::Inner;
use super::pair::Pair;
use super::script;
use super::shared::{Grant, LeaseRequest};
use super::studio::{Studio, lock};
use super::tiers::Limit;
use crate::clock::SteadyClock;
use crate::redis_handle::RedisFailure;
use crate::unique;

/// How often ended leases are reported.
const TICK: Duration = Duration::from_millis(250);
/// A heartbeat, and a look for losses, every so many ticks.
const TICKS_PER_BEAT: u32 = 4;
/// A gateway not heard of for so long does not count.
const FORGET_GATEWAY_MS: u64 = 10_000;
/// So many studios' states are looked for in one round trip.
const CHECKED_AT_ONCE: usize = 256;
/// So many studios' news are told at a time.
const REPORTED_AT_ONCE: usize = 16;

impl Inner {
    /// One call for a studio, its answer entered; then decides on `ask`, before anybody else can use
    /// what was granted. None: Redis had lost the counters.
    pub(super) async fn ask_redis(
        &self,
        studio: &Studio,
        limits: Pair<Limit>,
        need: Pair<u32>,
        ask: Pair<u32>,
    ) -> Result<Option<Step>, RedisFailure> {
        let sent = self.clock.now();
        let (request, incarnation) = {
            let mut ledger = self.advanced(studio, limits, sent);
            let confined = self.is_confined(sent);
            let request = ledger.plan(sent, need, self.config.lease_ms, confined);
            (request, ledger.incarnation())
        };
        let answer = self.call(studio.key.clone(), request).await;
        let now = self.clock.now();
        match answer {
            Ok((grant, born)) => {
                self.observe(now, born);
                let mut ledger = self.advanced(studio, limits, now);
                if ledger.incarnation() != incarnation {
                    return Ok(None);
                }
                if !ledger.settle(now, sent, self.config.ttl_ms, &grant) {
                    drop(ledger);
                    Self::tell_of_loss(studio);
                    return Ok(None);
                }
                let step = ledger.step(now, ask, self.is_confined(now));
                drop(ledger);
                for (kind, units) in [
                    ("requests", grant.units.requests),
                    ("events", grant.units.events),
                ] {
                    if units > 0 {
                        metrics::histogram!("bm_admission_lease_units", "kind" => kind)
                            .record(units);
                    }
                }
                Ok(Some(step))
            }
            Err(failure) => {
                lock(&studio.ledger).failed();
                self.outage.store(true, Ordering::Release);
                Err(failure)
            }
        }
    }

    async fn call(
        &self,
        studio_key: String,
        request: LeaseRequest,
    ) -> Result<(Grant, String), RedisFailure> {
        let redis = self.redis.as_ref().ok_or(RedisFailure::Down)?;
        let keys = self.keys.clone();
        let now = self.config.redis_clock.as_ref().map_or(0, SteadyClock::now);
        let ttl = self.config.ttl_ms;
        redis
            .run("lease", |connection| {
                script::lease(
                    connection,
                    keys,
                    studio_key,
                    now,
                    ttl,
                    request,
                    unique::text(),
                )
            })
            .await
    }

    /// Takes in which incarnation of Redis has answered.
    fn observe(&self, now: u64, seen: String) {
        let mut born = lock(&self.born);
        let lost = born.as_ref().is_some_and(|born| *born != seen);
        // Who comes to a Redis that was flushed a moment ago cannot tell.
        let newcomer = born.is_none();
        if lost {
            self.generation.fetch_add(1, Ordering::AcqRel);
            metrics::counter!("bm_admission_counters_lost_total").increment(1);
            tracing::warn!("Redis has lost its counters; booking this gateway's own count anew");
        }
        let outage = self.outage.swap(false, Ordering::AcqRel);
        if lost || outage || newcomer {
            self.confined_until
                .store(now + CONFINED_MS, Ordering::Release);
        }
        *born = Some(seen);
    }

    fn tell_of_loss(studio: &Studio) {
        metrics::counter!("bm_admission_counters_lost_total").increment(1);
        tracing::warn!(
            redis.key = studio.key,
            "Redis has lost the counters of a studio; booking this gateway's own count anew"
        );
    }

    /// Looks whether the states that hold what was admitted here are still there. A gateway whose
    /// studio is quiet would not notice their loss otherwise, and the others would not hear of its
    /// count before its next request.
    async fn check_births(&self) {
        let Some(redis) = &self.redis else { return };
        let mut relied_on = Vec::new();
        for studio in self.known() {
            let birth = lock(&studio.ledger).relies_on();
            relied_on.extend(birth.map(|birth| (studio, birth)));
        }
        for some in relied_on.chunks(CHECKED_AT_ONCE) {
            let keys = some.iter().map(|(studio, _)| studio.key.clone()).collect();
            let found = redis.run("births", |connection| script::births(connection, keys));
            let Ok(found) = found.await else { return };
            let now = self.clock.now();
            for ((studio, birth), found) in some.iter().zip(found) {
                if lock(&studio.ledger).check(now, *birth, found) {
                    Self::tell_of_loss(studio);
                }
            }
        }
    }

    fn known(&self) -> Vec<Arc<Studio>> {
        let studios = self.studios.read().unwrap_or_else(PoisonError::into_inner);
        studios.values().map(Arc::clone).collect()
    }

    pub(super) async fn beat(&self) {
        let Some(redis) = &self.redis else { return };
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        let (keys, id) = (self.keys.clone(), self.id.clone());
        let beat = redis
            .run("heartbeat", |connection| {
                script::heartbeat(connection, keys, id, FORGET_GATEWAY_MS, unique::text())
            })
            .await;
        let now = self.clock.now();
        match beat {
            Ok((living, born)) => {
                self.observe(now, born);
                let living = living.max(self.config.gateways).max(1);
                // After a loss the others have yet to register again.
                let confined = now < self.confined_until.load(Ordering::Acquire);
                let known = self.gateways.load(Ordering::Relaxed);
                let gateways = if confined { living.max(known) } else { living };
                self.gateways.store(gateways, Ordering::Relaxed);
                metrics::gauge!("bm_admission_gateways").set(gateways);
                self.check_births().await;
            }
            Err(_) => self.outage.store(true, Ordering::Release),
        }
        let fallback = self.is_alone() || self.is_confined(now);
        metrics::gauge!("bm_admission_fallback").set(if fallback { 1.0 } else { 0.0 });
    }

    /// Tells Redis of ended leases and of what was admitted without it; forgets idle studios.
    pub(super) async fn report(self: &Arc<Self>) {
        let now = self.clock.now();
        let mut any_idle = false;
        let mut under_way = JoinSet::new();
        for studio in self.known() {
            let (news, limits) = {
                let mut ledger = lock(&studio.ledger);
                ledger.refresh(now, self.generation.load(Ordering::Acquire));
                any_idle |= ledger.is_idle();
                (ledger.has_news(), ledger.limits())
            };
            if !news || self.is_alone() {
                continue;
            }
            // Whoever has the turn brings the news along.
            let Ok(turn) = Arc::clone(&studio.flight).try_lock_owned() else {
                continue;
            };
            if under_way.len() >= REPORTED_AT_ONCE {
                under_way.join_next().await;
            }
            let inner = Arc::clone(self);
            under_way.spawn(async move {
                // What a call that fails was to tell is told by the next.
                let nothing = Pair::ZERO;
                let _told = inner.ask_redis(&studio, limits, nothing, nothing).await;
                drop(turn);
            });
        }
        while under_way.join_next().await.is_some() {}
        if any_idle {
            self.forget_idle();
        }
    }

    fn forget_idle(&self) {
        let mut studios = self.studios.write().unwrap_or_else(PoisonError::into_inner);
        studios
            .retain(|_, studio| Arc::strong_count(studio) > 1 || !lock(&studio.ledger).is_idle());
    }
}

/// Says that this gateway lives and looks for losses, until the limiter is dropped. Not by the task
/// that reports: however much there is to tell, the others must not take this gateway for gone.
pub(super) async fn keep_beating(inner: Weak<Inner>) {
    let mut ticks = ticks();
    let mut count = 0_u32;
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        // An outage is over when a heartbeat says so: at the next tick, not the next second.
        if count.is_multiple_of(TICKS_PER_BEAT) || inner.outage.load(Ordering::Acquire) {
            inner.beat().await;
        }
        count = count.wrapping_add(1);
    }
}

/// Tells what there is to tell, until the limiter is dropped.
pub(super) async fn keep_reporting(inner: Weak<Inner>) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        inner.report().await;
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}
