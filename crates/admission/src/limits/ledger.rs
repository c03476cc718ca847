//! One gateway's side of a studio's limits: leases in hand, its own count, what it still has to tell.
//!
//! Pure: times are milliseconds of the gateway's own steady clock, and come as parameters.

use std::collections::VecDeque;

use super::lease::{Ended, Lease};
use super::pair::Pair;
use super::shared::{Closing, Grant, LeaseRequest, Seed};
use super::tiers::Limit;
use super::window::{TOKEN, Tokens, WINDOW_MS, Window};

/// How much earlier than the shared state thinks a lease ends here: clocks drift and round.
const MARGIN_MS: u64 = 20;
/// How long a refusal by the shared state is believed without asking again: others may give back.
const BELIEVE_MS: u64 = 50;
/// Recent use is measured over this long.
const RECENT_MS: u64 = 1_000;
/// How long a gateway keeps within its share after it found a loss: three heartbeats, in which every
/// other gateway that reaches Redis has found it too and booked its own count.
pub const CONFINED_MS: u64 = 3_000;
/// More ended leases than this are not remembered; the forgotten stay booked for their 60 seconds.
const MAX_CLOSINGS: usize = 64;

/// What a gateway may decide about an ask without the shared state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Admitted: all requests and as many events. Charged.
    Admitted(Pair<u32>),
    /// Refused; nothing is charged.
    Refused,
    /// These units are missing; ask for a lease.
    Missing(Pair<u32>),
}

/// What can be said of one limit in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Units in any 60 seconds.
    pub limit: u32,
    /// Units that could be admitted now, as far as this gateway knows.
    pub remaining: u32,
    /// Seconds until `remaining` is at its fullest again, 1 to 60; with nothing remaining, until
    /// something may be.
    pub reset_secs: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    leases: VecDeque<Lease>,
    ended: Vec<Ended>,
    /// Everything admitted here in the last 60 seconds.
    own: Pair<Window>,
    /// What of it the shared state has not been told.
    untold: Pair<Window>,
    /// What is being told by a call under way.
    telling: Pair<Window>,
    /// This gateway's share of the token buckets, for when it goes on alone.
    tokens: Pair<Tokens>,
    limits: Pair<Limit>,
    share: Pair<Limit>,
    gateways: u32,
    /// Which incarnation of Redis the leases are from.
    generation: u64,
    /// Names the state the leases are from, once it has answered.
    birth: Option<u64>,
    /// How often this studio's state alone was lost.
    losses: u64,
    /// Until when the own count keeps within the share because of that.
    confined_until: u64,
    /// Room in the shared state at its last answer; from when there may be more, refilled.
    room: Pair<Tokens>,
    /// Until when a kind is known to have no room there, and is not asked for.
    dry_until: Pair<u64>,
    /// Until when, as far as was known then, it has none even if nobody asks again.
    shut_until: Pair<u64>,
    /// When a kind that was refused may have room again.
    retry_at: Pair<u64>,
}

impl Ledger {
    /// Nothing admitted yet. `gateways` share the limits.
    pub fn new(now: u64, generation: u64, limits: Pair<Limit>, gateways: u32) -> Self {
        let share = limits.map(|limit| limit.share(gateways));
        Self {
            leases: VecDeque::new(),
            ended: Vec::new(),
            own: Pair::default(),
            untold: Pair::default(),
            telling: Pair::default(),
            tokens: share.map(|limit| Tokens::full(limit, now)),
            limits,
            share,
            gateways: gateways.max(1),
            generation,
            birth: None,
            losses: 0,
            confined_until: 0,
            room: limits.map(|limit| Tokens::full(limit, now)),
            dry_until: Pair::default(),
            shut_until: Pair::default(),
            retry_at: Pair::default(),
        }
    }

    /// Brings everything up to `now`, under these limits. To be called before anything else.
    ///
    /// When `generation` is another than before, the shared state was lost: leases from it are void,
    /// and all that was admitted here has to be told anew.
    pub fn advance(&mut self, now: u64, generation: u64, limits: Pair<Limit>, gateways: u32) {
        if limits != self.limits {
            // What was known was known of the old ones.
            self.shut_until = Pair::default();
        }
        self.limits = limits;
        self.gateways = gateways.max(1);
        self.share = limits.map(|limit| limit.share(gateways));
        self.refresh(now, generation);
    }

    /// [`Ledger::advance`] under the limits there were.
    pub fn refresh(&mut self, now: u64, generation: u64) {
        for window in [
            &mut self.own.requests,
            &mut self.own.events,
            &mut self.untold.requests,
            &mut self.untold.events,
        ] {
            window.expire(now);
        }
        self.tokens.requests.refill(self.share.requests, now);
        self.tokens.events.refill(self.share.events, now);
        if generation != self.generation {
            self.generation = generation;
            self.begin_anew();
        }
        self.end_leases(|lease| lease.until <= now);
    }

    /// Leases are void, and all that was admitted here has to be told anew.
    fn begin_anew(&mut self) {
        self.birth = None;
        self.leases.clear();
        self.ended.clear();
        self.telling = Pair::default();
        self.untold = self.own.clone();
        self.dry_until = Pair::default();
    }

    /// The birth of the state that must still be there, when it would be missed.
    pub fn relies_on(&self) -> Option<u64> {
        let used = !self.own.requests.is_empty() || !self.own.events.is_empty();
        self.birth.filter(|_| used || !self.leases.is_empty())
    }

    /// Takes in that the state is `found` (its birth) where `relied_on` was to be. True: this
    /// studio's counters were lost, though not Redis's others: evicted, deleted, or begun anew because
    /// the server's clock stepped back.
    pub fn check(&mut self, now: u64, relied_on: u64, found: Option<u64>) -> bool {
        let lost = self.relies_on() == Some(relied_on) && found != Some(relied_on);
        if lost {
            self.begin_anew();
            self.losses += 1;
            self.confined_until = now + CONFINED_MS;
        }
        lost
    }

    fn end_leases(&mut self, over: impl Fn(&Lease) -> bool) {
        let ended = &mut self.ended;
        self.leases.retain(|lease| {
            let over = over(lease);
            if over && ended.len() < MAX_CLOSINGS {
                ended.push(Ended::of(lease));
            }
            !over
        });
    }

    /// The limits of the last `advance`.
    pub fn limits(&self) -> Pair<Limit> {
        self.limits
    }

    /// Units of leases in hand.
    pub fn in_hand(&self) -> Pair<u32> {
        self.leases
            .iter()
            .fold(Pair::ZERO, |sum, lease| sum.plus(lease.left))
    }

    /// Units admitted here in the last 60 seconds.
    pub fn own(&self) -> Pair<u64> {
        self.own.each().map(Window::total)
    }

    /// What the own count may come to: the share, or the studio's whole limit, which a gateway never
    /// passes by itself whatever Redis says.
    fn bounds(&self, now: u64, confined: bool) -> Pair<Limit> {
        if confined || now < self.confined_until {
            self.share
        } else {
            self.limits
        }
    }

    /// What of `ask` the own count allows.
    fn within(&self, bounds: Pair<Limit>, ask: Pair<u32>) -> Pair<u32> {
        let room = self.own.each().zip(bounds, |own, bound| {
            u64::from(bound.per_minute).saturating_sub(own.total())
        });
        ask.zip(room, |ask, room| {
            u32::try_from(room).unwrap_or(u32::MAX).min(ask)
        })
    }

    /// Decides with what is in hand. `confined`: the own count must stay within the share as well.
    pub fn step(&mut self, now: u64, ask: Pair<u32>, confined: bool) -> Step {
        let bounds = self.bounds(now, confined);
        let reach = self.within(bounds, ask);
        if !ask.is_served_by(reach) {
            self.retry_at = self.own.each().zip(bounds, |own, bound| {
                let full = own.total() >= u64::from(bound.per_minute);
                now + if full { own.wait_ms(now) } else { 0 }
            });
            return Step::Refused;
        }
        let hand = self.in_hand();
        // A kind the shared state has no room for gives what is in hand and no more.
        let beyond = Self::where_over(self.dry_until, now, reach.less(hand));
        let reach = reach.min(hand).plus(beyond);
        if !ask.is_served_by(reach) {
            return Step::Refused;
        }
        let missing = reach.less(hand);
        if missing.is_zero() {
            self.use_leases(now, reach);
            Step::Admitted(reach)
        } else {
            Step::Missing(missing)
        }
    }

    /// `units` of the kinds whose time is over, nothing of the others.
    fn where_over(until: Pair<u64>, now: u64, units: Pair<u32>) -> Pair<u32> {
        units.zip(until, |units, until| if until > now { 0 } else { units })
    }

    /// Decides without the shared state: within the share, by the own count and the own tokens, and
    /// not while the shared state is known to have no room: a call that failed does not make any.
    pub fn alone(&mut self, now: u64, ask: Pair<u32>) -> Step {
        let got = self.within(self.share, ask).min(whole(self.tokens));
        let got = Self::where_over(self.shut_until, now, got);
        if ask.is_served_by(got) {
            self.record(now, got);
            self.untold.each_mut().zip(got, |window, units| {
                window.add(Window::bucket_of(now), units.into());
            });
            Step::Admitted(got)
        } else {
            let windows = self.own.each().zip(self.share, |own, share| {
                let full = own.total() >= u64::from(share.per_minute);
                if full { own.wait_ms(now) } else { 0 }
            });
            let tokens = self
                .tokens
                .zip(self.share, |tokens, share| tokens.wait_ms(share));
            let waits = windows.zip(tokens, u64::max);
            self.retry_at = waits.zip(self.shut_until, |wait, shut| (now + wait).max(shut));
            Step::Refused
        }
    }

    fn use_leases(&mut self, now: u64, units: Pair<u32>) {
        let mut wanted = units;
        for lease in &mut self.leases {
            let taken = lease.left.min(wanted);
            if !taken.is_zero() {
                lease.left -= taken;
                lease.used += taken;
                lease.last_use = now;
                wanted -= taken;
            }
        }
        self.end_leases(|lease| lease.left.is_zero());
        self.record(now, units);
    }

    fn record(&mut self, now: u64, units: Pair<u32>) {
        self.own.each_mut().zip(units, |window, units| {
            window.add(Window::bucket_of(now), units.into());
        });
        self.tokens
            .each_mut()
            .zip(units, |tokens, units| tokens.take(units.into()));
    }

    /// The call that asks for `need` and as much besides as `lease_ms` of recent use, and tells what
    /// there is to tell. After it, [`Ledger::settle`] or [`Ledger::failed`].
    ///
    /// A state that is not there begins with full tokens; but with this gateway's own tokens when it
    /// must have been lost, that is after a loss (`confined`) or when there has been use lately.
    pub fn plan(
        &mut self,
        now: u64,
        need: Pair<u32>,
        lease_ms: u64,
        confined: bool,
    ) -> LeaseRequest {
        let used = !self.own.requests.is_empty() || !self.own.events.is_empty();
        let limits = self.limits;
        let ahead = self.own.each().map(|own| {
            let recent = own.recent(now, RECENT_MS);
            u32::try_from((recent * lease_ms).div_ceil(RECENT_MS)).unwrap_or(u32::MAX)
        });
        let want = if need.is_zero() {
            need
        } else {
            need.plus(ahead)
        };
        let untold = std::mem::take(&mut self.untold);
        let seeds = Self::seeds(now, &untold);
        self.telling.requests.merge(untold.requests);
        self.telling.events.merge(untold.events);
        LeaseRequest {
            limits,
            need,
            want,
            fresh: if confined || used {
                self.tokens.map(|tokens| tokens.parts())
            } else {
                limits.map(Tokens::capacity)
            },
            closings: self
                .ended
                .drain(..)
                .map(|ended| Closing {
                    birth: ended.birth,
                    bucket: ended.bucket,
                    used: ended.used,
                    unused: ended.unused,
                    // Both times were cut to whole milliseconds.
                    age_ms: now.saturating_sub(ended.last_use).saturating_sub(1),
                })
                .collect(),
            seeds,
        }
    }

    fn seeds(now: u64, untold: &Pair<Window>) -> Vec<Seed> {
        let seed = |age_ms: u64, units| Seed {
            age_ms: age_ms.saturating_sub(1),
            units,
        };
        let count = |units: u64| u32::try_from(units).unwrap_or(u32::MAX);
        let requests = untold.requests.ages(now);
        let events = untold.events.ages(now);
        requests
            .map(|(age, units)| seed(age, Pair::new(count(units), 0)))
            .chain(events.map(|(age, units)| seed(age, Pair::new(0, count(units)))))
            .collect()
    }

    /// The answer to the call planned at `sent` under the present [`Ledger::incarnation`]; it may come
    /// late. False: this studio's counters were lost before the call, and what was granted does not
    /// count.
    pub fn settle(&mut self, now: u64, sent: u64, ttl: u64, grant: &Grant) -> bool {
        let relied_on = self.relies_on();
        let lost = relied_on.is_some_and(|birth| self.check(now, birth, Some(grant.birth)));
        self.birth = Some(grant.birth);
        self.telling = Pair::default();
        let wait = grant.wait_ms.map(|wait| wait.min(WINDOW_MS));
        self.retry_at = wait.map(|wait| now + wait);
        self.room = grant
            .room
            .zip(self.retry_at, |room, at| Tokens::holding(parts(room), at));
        let none = grant.room.map(|room| room == 0);
        let for_ms = |ms: u64, none: bool| if none { now + ms } else { 0 };
        self.dry_until = wait.map(|wait| wait.clamp(1, BELIEVE_MS)).zip(none, for_ms);
        self.shut_until = wait.zip(none, for_ms);
        let lease = Lease {
            birth: grant.birth,
            bucket: grant.bucket,
            left: grant.units,
            used: Pair::ZERO,
            last_use: sent,
            // From before it was asked for: the state cannot have granted it earlier.
            until: (sent + ttl).saturating_sub(MARGIN_MS),
        };
        if grant.units.is_zero() {
            // Nothing to keep.
        } else if lease.until > now && !lost {
            self.leases.push_back(lease);
        } else if self.ended.len() < MAX_CLOSINGS {
            self.ended.push(Ended::of(&lease));
        }
        // Alone, a gateway begins with what it has in hand and its part of what the bucket held.
        let (gateways, hand) = (u64::from(self.gateways), self.in_hand());
        let most = grant.room.zip(hand, |room, hand| {
            (parts(room) + TOKEN - 1) / gateways + parts(hand)
        });
        self.tokens.each_mut().zip(most, Tokens::keep_at_most);
        !lost
    }

    /// The planned call failed. Whether it was carried out is not known: what it told is told again,
    /// because counting twice refuses a little too much for a minute and never admits too much.
    pub fn failed(&mut self) {
        let telling = std::mem::take(&mut self.telling);
        self.untold.requests.merge(telling.requests);
        self.untold.events.merge(telling.events);
    }

    /// There is something the shared state should hear of.
    pub fn has_news(&self) -> bool {
        !self.ended.is_empty() || !self.untold.requests.is_empty() || !self.untold.events.is_empty()
    }

    /// Nothing here would be missed.
    pub fn is_idle(&self) -> bool {
        let forgotten = self.own.requests.is_empty() && self.own.events.is_empty();
        forgotten && self.leases.is_empty() && !self.has_news()
    }

    /// The generation of the last `advance`, and how often this studio's state alone was lost: an
    /// answer asked for under another says nothing of what there is now.
    pub fn incarnation(&self) -> (u64, u64) {
        (self.generation, self.losses)
    }

    /// What of an ask that was refused, in whole or in part, may be tried again in how many ms.
    pub fn retry_ms(&self, now: u64) -> u64 {
        let waits = self.retry_at.map(|at| at.saturating_sub(now));
        waits.requests.max(waits.events).min(WINDOW_MS)
    }

    /// What to tell the client. `alone`: the share counts, not the studio's whole limit.
    pub fn quotas(&self, now: u64, alone: bool) -> Pair<Quota> {
        let limits = self.limits;
        let remaining = if alone {
            let within = self.within(self.share, whole(self.tokens));
            Self::where_over(self.shut_until, now, within)
        } else {
            let room = self.room.zip(limits, |mut room, limit| {
                room.refill(limit, now);
                room
            });
            whole(room).plus(self.in_hand())
        };
        let retry = self
            .retry_at
            .map(|at| at.saturating_sub(now).div_ceil(1_000));
        limits
            .zip(remaining, |limit, remaining| (limit, remaining))
            .zip(retry, |(limit, remaining), retry| {
                let most = limit.per_minute.min(limit.burst);
                let remaining = remaining.min(most);
                let refill =
                    (u64::from(most - remaining) * 60).div_ceil(u64::from(limit.per_minute));
                let reset = if remaining == 0 { retry } else { refill };
                Quota {
                    limit: limit.per_minute,
                    remaining,
                    reset_secs: reset.clamp(1, 60),
                }
            })
    }
}

fn parts(units: u32) -> u64 {
    u64::from(units) * TOKEN
}

fn whole(tokens: Pair<Tokens>) -> Pair<u32> {
    tokens.map(|tokens| u32::try_from(tokens.whole()).unwrap_or(u32::MAX))
}
