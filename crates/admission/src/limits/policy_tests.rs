//! The policy against brute force: any gateways, any requests, any order of calls and answers.

use proptest::prelude::*;

use super::ledger::{Ledger, Step};
use super::pair::Pair;
use super::shared::{Grant, LeaseRequest, SharedState};
use super::tiers::Limit;
use super::window::{BUCKET_MS, WINDOW_MS};

const TTL: u64 = 1_000;
/// Larger leases than in earnest, so that much is out on lease when windows end.
const LEASE_MS: u64 = 1_500;
/// The shared clock is not the gateways' clock.
const SKEW: u64 = 1_700_000_000_123;

#[derive(Debug, Clone)]
enum Op {
    Pass(u64),
    Ask {
        gateway: usize,
        events: u32,
    },
    /// So many asks, each with its call and answer at once.
    Rush {
        gateway: usize,
        asks: usize,
        events: u32,
    },
    /// A call arrives at Redis, or its answer at the gateway.
    Deliver(usize),
    Lose(usize),
    Tick(usize),
    Alone {
        gateway: usize,
        events: u32,
    },
    Flush,
    /// The studio's counters are gone, and only they.
    Evict,
    /// A gateway looks whether they are.
    Check(usize),
}

#[derive(Debug)]
enum Call {
    Sent(LeaseRequest),
    Answered(Grant, u64),
}

#[derive(Debug)]
struct Flight {
    call: Call,
    ask: Pair<u32>,
    sent: u64,
    incarnation: (u64, u64),
}

struct World {
    now: u64,
    limits: Pair<Limit>,
    shared: Option<SharedState>,
    /// Which incarnation of Redis there is, and which each gateway knows.
    born: u64,
    known: Vec<u64>,
    ledgers: Vec<Ledger>,
    flights: Vec<Option<Flight>>,
    admitted: Vec<(u64, Pair<u32>)>,
    out_on_lease: Pair<i64>,
    check_under: bool,
}

impl World {
    fn new(limits: Pair<Limit>, gateways: usize, check_under: bool) -> Self {
        Self {
            now: 5,
            limits,
            shared: None,
            born: 0,
            known: vec![0; gateways],
            ledgers: (0..gateways)
                .map(|_| Ledger::new(5, 0, limits, gateways as u32))
                .collect(),
            flights: (0..gateways).map(|_| None).collect(),
            admitted: Vec::new(),
            out_on_lease: Pair::default(),
            check_under,
        }
    }

    fn ledger(&mut self, gateway: usize) -> &mut Ledger {
        let count = self.ledgers.len() as u32;
        let ledger = &mut self.ledgers[gateway];
        ledger.advance(self.now, self.known[gateway], self.limits, count);
        ledger
    }

    fn admit(&mut self, units: Pair<u32>, leased: bool) {
        self.admitted.push((self.now, units));
        if leased {
            self.out_on_lease = self
                .out_on_lease
                .zip(units, |out, used| out - i64::from(used));
        }
    }

    fn call(&mut self, gateway: usize, ask: Pair<u32>, need: Pair<u32>) {
        let now = self.now;
        let ledger = self.ledger(gateway);
        let incarnation = ledger.incarnation();
        let request = ledger.plan(now, need, LEASE_MS, false);
        self.flights[gateway] = Some(Flight {
            call: Call::Sent(request),
            ask,
            sent: now,
            incarnation,
        });
    }

    fn apply(&mut self, op: &Op) {
        let now = self.now;
        match *op {
            Op::Pass(ms) => self.now += ms,
            Op::Ask { gateway, events } => {
                let ask = Pair::new(1, events);
                match self.ledger(gateway).step(now, ask, false) {
                    Step::Admitted(units) => self.admit(units, true),
                    Step::Refused => {}
                    Step::Missing(missing) => {
                        if self.flights[gateway].is_none() {
                            self.call(gateway, ask, missing);
                        }
                    }
                }
            }
            Op::Rush {
                gateway,
                asks,
                events,
            } => {
                for _ in 0..asks {
                    ask_now(self, gateway, events);
                }
            }
            Op::Tick(gateway) => {
                if self.flights[gateway].is_none() && self.ledger(gateway).has_news() {
                    self.call(gateway, Pair::ZERO, Pair::ZERO);
                }
            }
            Op::Deliver(gateway) => self.deliver(gateway),
            Op::Lose(gateway) => {
                if self.flights[gateway].take().is_some() {
                    self.ledger(gateway).failed();
                }
            }
            Op::Alone { gateway, events } => {
                let step = self.ledger(gateway).alone(now, Pair::new(1, events));
                if let Step::Admitted(units) = step {
                    self.admit(units, false);
                }
            }
            Op::Flush => {
                self.shared = None;
                self.born += 1;
            }
            Op::Evict => {
                self.shared = None;
                // No two states have the same birth.
                self.now += 1;
            }
            Op::Check(gateway) => {
                let found = self.shared.as_ref().map(SharedState::birth);
                let ledger = self.ledger(gateway);
                if let Some(relied_on) = ledger.relies_on() {
                    ledger.check(now, relied_on, found);
                }
            }
        }
    }

    fn deliver(&mut self, gateway: usize) {
        let now = self.now;
        let Some(mut flight) = self.flights[gateway].take() else {
            return;
        };
        match flight.call {
            Call::Sent(request) => {
                let at = now + SKEW;
                let born = self.born;
                let shared = self
                    .shared
                    .get_or_insert_with(|| SharedState::new(at * 1_000, at, request.fresh));
                let grant = shared.lease(at, TTL, &request);
                let booked = shared.booked();
                for closing in &request.closings {
                    self.out_on_lease = self
                        .out_on_lease
                        .zip(closing.unused, |out, back| out - i64::from(back));
                }
                self.out_on_lease = self
                    .out_on_lease
                    .zip(grant.units, |out, more| out + i64::from(more));
                if self.check_under {
                    self.assert_not_under(booked);
                }
                flight.call = Call::Answered(grant, born);
                self.flights[gateway] = Some(flight);
            }
            Call::Answered(grant, born) => {
                self.known[gateway] = born;
                let ledger = self.ledger(gateway);
                let kept = ledger.incarnation() == flight.incarnation
                    && ledger.settle(now, flight.sent, TTL, &grant);
                if !kept || flight.ask.is_zero() {
                    // Lost: the gateway would ask again, which another `Ask` does.
                    return;
                }
                if let Step::Admitted(units) = ledger.step(now, flight.ask, false) {
                    self.admit(units, true);
                }
            }
        }
    }

    fn admitted_within(&self, from: u64, to: u64) -> Pair<u64> {
        let mut sum = Pair::default();
        for (_, units) in self
            .admitted
            .iter()
            .filter(|(at, _)| *at > from && *at <= to)
        {
            sum = sum.zip(*units, |sum: u64, units| sum + u64::from(units));
        }
        sum
    }

    /// What is counted is what was admitted in the last 60 seconds (and a lease's life and a
    /// sub-bucket before them) and what is out on lease, and nothing else.
    fn assert_not_under(&self, booked: Pair<u64>) {
        let slack = TTL + BUCKET_MS + 2;
        let from = (self.now + 1).saturating_sub(WINDOW_MS + slack);
        let admitted = self.admitted_within(from, self.now);
        let explained = admitted.zip(self.out_on_lease, |admitted, out| {
            assert!(out >= 0, "more used than granted: {out}");
            admitted + out as u64
        });
        assert!(
            booked.requests <= explained.requests && booked.events <= explained.events,
            "booked {booked:?}, explained {explained:?}"
        );
    }

    fn assert_never_over(&self) {
        for &(end, _) in &self.admitted {
            // Nothing is admitted at 0.
            let sum = self.admitted_within(end.saturating_sub(WINDOW_MS), end);
            assert!(
                sum.requests <= u64::from(self.limits.requests.per_minute)
                    && sum.events <= u64::from(self.limits.events.per_minute),
                "{sum:?} admitted in the 60 s before {end}, limits {:?}",
                self.limits
            );
        }
    }
}

fn limits() -> impl Strategy<Value = Pair<Limit>> {
    let limit = |most: u32| {
        // Mostly bursts so large that the window alone decides.
        (1..most, prop_oneof![1 => 1..most, 2 => Just(most)])
            .prop_map(|(per_minute, burst)| Limit::new(per_minute, burst))
    };
    (limit(120), limit(900)).prop_map(|(requests, events)| Pair::new(requests, events))
}

fn usual(gateways: usize) -> impl Strategy<Value = Op> {
    let gateway = 0..gateways;
    prop_oneof![
        6 => (0_u64..400).prop_map(Op::Pass),
        3 => (700_u64..1_300).prop_map(Op::Pass),
        1 => (0_u64..20_000).prop_map(Op::Pass),
        1 => (58_500_u64..60_500).prop_map(Op::Pass),
        8 => (gateway.clone(), 0_u32..30).prop_map(|(gateway, events)| Op::Ask { gateway, events }),
        3 => (gateway.clone(), 1_usize..60, 0_u32..10)
            .prop_map(|(gateway, asks, events)| Op::Rush { gateway, asks, events }),
        8 => gateway.clone().prop_map(Op::Deliver),
        1 => gateway.prop_map(Op::Tick),
    ]
}

/// The dangerous course: leases used late, and the whole limit asked for just when a minute has
/// passed since they were granted.
fn late_use(gateways: usize) -> impl Strategy<Value = Vec<Op>> {
    let rush = |most: usize| {
        (0..gateways, 1..most).prop_map(|(gateway, asks)| Op::Rush {
            gateway,
            asks,
            events: 0,
        })
    };
    let pass = |from: u64, to: u64| (from..to).prop_map(Op::Pass);
    let begin = (rush(40), rush(10), pass(400, 1_000), rush(6), rush(6));
    (begin, pass(59_000, 60_200), rush(150)).prop_map(|(begin, minute, all)| {
        let (first, second, late, third, fourth) = begin;
        vec![first, second, late, third, fourth, minute, all]
    })
}

fn course(op: impl Strategy<Value = Op>, gateways: usize) -> impl Strategy<Value = Vec<Op>> {
    let part = prop_oneof![
        20 => op.prop_map(|op| vec![op]),
        1 => late_use(gateways),
    ];
    prop::collection::vec(part, 1..200).prop_map(|parts| parts.concat())
}

fn gateways_with<S: Strategy<Value = Op>>(
    op: impl Fn(usize) -> S,
) -> impl Strategy<Value = (usize, Vec<Op>)> {
    (1_usize..5).prop_flat_map(move |n| (Just(n), course(op(n), n)))
}

fn with_losses(gateways: usize) -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => usual(gateways),
        1 => (0..gateways).prop_map(Op::Lose),
    ]
}

fn with_everything() -> impl Strategy<Value = Op> {
    prop_oneof![
        24 => with_losses(1),
        4 => (0_u32..30).prop_map(|events| Op::Alone { gateway: 0, events }),
        1 => Just(Op::Flush),
        1 => Just(Op::Evict),
    ]
}

fn run(mut world: World, ops: &[Op]) -> World {
    for op in ops {
        world.apply(op);
    }
    world.assert_never_over();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_sixty_seconds_see_more_than_the_limit(
        limits in limits(),
        ops in gateways_with(with_losses),
    ) {
        run(World::new(limits, ops.0, false), &ops.1);
    }

    #[test]
    fn nothing_is_counted_but_what_was_admitted_or_is_out_on_lease(
        limits in limits(),
        ops in gateways_with(usual),
    ) {
        run(World::new(limits, ops.0, true), &ops.1);
    }

    #[test]
    fn a_single_gateway_is_never_over_whatever_redis_forgets_or_does_not_answer(
        limits in limits(),
        ops in course(with_everything(), 1),
    ) {
        run(World::new(limits, 1, false), &ops);
    }
}

/// Asks and takes the answers at once.
fn ask_now(world: &mut World, gateway: usize, events: u32) {
    world.apply(&Op::Ask { gateway, events });
    world.apply(&Op::Deliver(gateway));
    world.apply(&Op::Deliver(gateway));
}

#[path = "policy_cases.rs"]
mod cases;
