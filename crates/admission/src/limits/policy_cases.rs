//! Single courses of the policy, each with the numbers it must give.

use super::*;

fn total(world: &World) -> Pair<u64> {
    world.admitted_within(0, u64::MAX)
}

#[test]
fn the_whole_limit_is_admitted_and_no_more_than_the_burst_at_once() {
    let limits = Pair::new(Limit::new(1_000, 100), Limit::new(10_000, 1_000));
    let mut world = World::new(limits, 1, true);
    for _ in 0..300 {
        ask_now(&mut world, 0, 0);
        world.now += world.now % 2;
    }
    assert!(
        (100..=106).contains(&total(&world).requests),
        "{:?}",
        total(&world)
    );
    while world.now < 240_000 {
        ask_now(&mut world, 0, 0);
        world.now += 20;
    }
    world.assert_never_over();
    // Any minute sees the limit, but for what lies at its far edge.
    for end in (70_000..240_000).step_by(1_000) {
        let minute = world.admitted_within(end - WINDOW_MS, end).requests;
        assert!(
            (985..=1_000).contains(&minute),
            "{minute} in the minute before {end}"
        );
    }
}

#[test]
fn several_gateways_share_one_limit_and_use_it_up() {
    let limits = Pair::new(Limit::new(300, 300), Limit::new(3_000, 3_000));
    let mut world = World::new(limits, 3, true);
    for n in 0..600 {
        ask_now(&mut world, n % 3, 10);
        world.now += 60;
    }
    world.assert_never_over();
    let got = total(&world);
    assert!((295..=300).contains(&got.requests), "{got:?}");
}

#[test]
fn a_batch_is_admitted_from_the_front_and_charged_only_for_that() {
    let limits = Pair::new(Limit::new(10, 10), Limit::new(700, 700));
    let mut world = World::new(limits, 1, true);
    ask_now(&mut world, 0, 500);
    ask_now(&mut world, 0, 500);
    assert_eq!(total(&world), Pair::new(2, 700));
    // Refused as a whole, so the request is not charged either.
    ask_now(&mut world, 0, 500);
    assert_eq!(total(&world), Pair::new(2, 700));
    ask_now(&mut world, 0, 0);
    assert_eq!(total(&world), Pair::new(3, 700));
}

#[test]
fn alone_a_gateway_keeps_within_its_share_by_its_own_count() {
    let limits = Pair::new(Limit::new(90, 90), Limit::new(900, 900));
    let mut world = World::new(limits, 3, false);
    for _ in 0..25 {
        ask_now(&mut world, 0, 0);
    }
    for _ in 0..50 {
        world.apply(&Op::Alone {
            gateway: 0,
            events: 0,
        });
        world.apply(&Op::Alone {
            gateway: 1,
            events: 0,
        });
    }
    // 25 before and 5 more on the first; its whole share on the second.
    assert_eq!(total(&world).requests, 30 + 30);
    let quotas = world.ledger(0).quotas(5, true);
    assert_eq!((quotas.requests.limit, quotas.requests.remaining), (90, 0));
}

#[test]
fn what_was_admitted_alone_is_told_when_redis_is_back() {
    let limits = Pair::new(Limit::new(90, 90), Limit::new(900, 900));
    let mut world = World::new(limits, 2, false);
    for gateway in [0, 1] {
        for _ in 0..40 {
            world.apply(&Op::Alone {
                gateway,
                events: 10,
            });
        }
        world.now += 1;
        world.apply(&Op::Tick(gateway));
        world.apply(&Op::Lose(gateway));
        world.apply(&Op::Tick(gateway));
        world.apply(&Op::Deliver(gateway));
    }
    let booked = world.shared.as_ref().map(SharedState::booked);
    assert_eq!(booked, Some(Pair::new(80, 800)));
}

#[test]
fn after_a_flush_the_own_count_is_booked_anew_and_bursts_do_not_begin_again() {
    let limits = Pair::new(Limit::new(100, 50), Limit::new(1_000, 500));
    let mut world = World::new(limits, 1, false);
    for _ in 0..60 {
        ask_now(&mut world, 0, 0);
    }
    assert_eq!(total(&world).requests, 50);
    world.apply(&Op::Flush);
    world.now += 2_000;
    for _ in 0..60 {
        ask_now(&mut world, 0, 0);
    }
    // Two seconds refill 3.3 tokens, of which the lease that was void may have cost one.
    let got = total(&world).requests;
    assert!((52..=53).contains(&got), "{got}");
    let booked = world.shared.as_ref().map(SharedState::booked);
    assert!(
        booked.is_some_and(|booked| booked.requests >= got),
        "{booked:?}"
    );
}

#[test]
fn leases_are_larger_for_a_busy_studio_and_small_near_the_limit() {
    let limits = Pair::new(Limit::new(10_000, 10_000), Limit::new(100_000, 100_000));
    let mut world = World::new(limits, 1, true);
    let mut largest = 0;
    for _ in 0..9_900 {
        ask_now(&mut world, 0, 0);
        largest = largest.max(world.ledger(0).in_hand().requests);
        if world.admitted.len().is_multiple_of(4) {
            world.now += 1;
        }
    }
    assert!(largest >= 100, "{largest}");
    let near = world.ledger(0).in_hand().requests;
    assert!(near <= 100 / 8 + 1, "{near}");
}

#[test]
fn counters_of_one_studio_that_are_gone_are_booked_anew_by_all_who_used_them() {
    let limits = Pair::new(Limit::new(300, 300), Limit::new(3_000, 3_000));
    let mut world = World::new(limits, 2, false);
    for n in 0..280 {
        ask_now(&mut world, n % 2, 0);
    }
    world.apply(&Op::Evict);
    for gateway in [0, 1] {
        world.apply(&Op::Check(gateway));
        world.apply(&Op::Tick(gateway));
        world.apply(&Op::Deliver(gateway));
        world.apply(&Op::Deliver(gateway));
    }
    let booked = world.shared.as_ref().map(SharedState::booked);
    assert_eq!(booked, Some(Pair::new(280, 0)));
    for n in 0..20_000 {
        ask_now(&mut world, n % 2, 0);
        world.now += 1;
    }
    world.assert_never_over();
    assert!(total(&world).requests >= 290, "{:?}", total(&world));
}

#[test]
fn a_call_that_finds_another_state_than_it_relied_on_tells_it_everything_first() {
    let limits = Pair::new(Limit::new(300, 300), Limit::new(3_000, 3_000));
    let mut world = World::new(limits, 2, false);
    for _ in 0..200 {
        ask_now(&mut world, 0, 0);
    }
    world.apply(&Op::Evict);
    // Nothing is admitted by the first answer, which knew nothing of the 200.
    world.now += TTL;
    ask_now(&mut world, 0, 0);
    assert_eq!(total(&world).requests, 200);
    world.apply(&Op::Tick(0));
    world.apply(&Op::Deliver(0));
    world.apply(&Op::Deliver(0));
    ask_now(&mut world, 0, 0);
    let booked = world.shared.as_ref().map(SharedState::booked);
    assert!(
        booked.is_some_and(|booked| booked.requests >= 200),
        "{booked:?}"
    );
    // Confined to its share, of which it has had more.
    assert_eq!(total(&world).requests, 200);
}

#[test]
fn alone_a_gateway_does_not_admit_what_the_shared_counters_are_known_not_to_have() {
    let limits = Pair::new(Limit::new(300, 300), Limit::new(3_000, 3_000));
    let mut world = World::new(limits, 2, false);
    for _ in 0..300 {
        ask_now(&mut world, 0, 0);
    }
    ask_now(&mut world, 1, 0);
    assert_eq!(total(&world).requests, 300);
    let alone = Op::Alone {
        gateway: 1,
        events: 0,
    };
    for _ in 0..590 {
        world.apply(&alone);
        world.now += 100;
    }
    assert_eq!(total(&world).requests, 300);
    let now = world.now;
    let quotas = world.ledger(1).quotas(now, true);
    assert_eq!(quotas.requests.remaining, 0);
    // After a minute all of it has left the window, and the gateway has its share again.
    for _ in 0..100 {
        world.apply(&alone);
        world.now += 100;
    }
    world.assert_never_over();
    assert!(total(&world).requests > 310, "{:?}", total(&world));
}

#[test]
fn alone_a_gateway_begins_with_its_part_of_the_shared_bucket() {
    let limits = Pair::new(Limit::new(6_000, 100), Limit::new(60_000, 1_000));
    let mut world = World::new(limits, 2, false);
    for _ in 0..100 {
        ask_now(&mut world, 0, 0);
    }
    ask_now(&mut world, 1, 0);
    world.now += 100;
    for _ in 0..100 {
        world.apply(&Op::Alone {
            gateway: 1,
            events: 0,
        });
    }
    // 100 ms bring a share of a half 5 tokens.
    let more = total(&world).requests - 100;
    assert!((4..=6).contains(&more), "{more}");
}

#[test]
fn what_is_left_grows_while_nobody_asks() {
    let limits = Pair::new(Limit::new(600, 60), Limit::new(6_000, 600));
    let mut world = World::new(limits, 1, false);
    for _ in 0..70 {
        ask_now(&mut world, 0, 0);
    }
    let now = world.now;
    let left = |world: &mut World, now| world.ledger(0).quotas(now, false).requests.remaining;
    assert_eq!(left(&mut world, now), 0);
    world.now += 3_100;
    let later = world.now;
    assert!((29..=31).contains(&left(&mut world, later)));
    world.now += 60_000;
    let later = world.now;
    assert_eq!(left(&mut world, later), 60);
}
