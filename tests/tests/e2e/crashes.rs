//! Processes killed in the middle of their work, and answers lost on the way.

use std::time::Duration;

use bm_testkit::{TcpProxy, TestEnv, eventually};
use bm_tests::{Fleet, Service, Traffic, lanes, traffic};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// From `BM_TEST_SEED`, so that a run can be repeated, or any.
fn seed() -> u64 {
    let given = std::env::var("BM_TEST_SEED").ok();
    let seed = given.map_or_else(rand::random, |text| {
        text.parse().expect("BM_TEST_SEED is a number")
    });
    println!("BM_TEST_SEED={seed}");
    seed
}

/// Kills a processor while it works: some records after it began to.
async fn kill_at_work(fleet: &mut Fleet, random: &mut StdRng, service: Service) {
    let before = lanes::applied(&fleet.pool, service).await;
    fleet
        .wait_applied(service, before, random.random_range(1..40))
        .await;
    fleet.process(service, 0).start_again();
}

/// Kills the first gateway while it works: clients of its alone send without pause, it has accepted
/// some events since they began, by its own count, and has requests of theirs when it goes. Gives
/// the clients, who still have to settle these.
async fn kill_gateway_at_work(fleet: &mut Fleet, random: &mut StdRng) -> Traffic {
    let accepted = r#"bm_gateway_events_total{status="accepted",code=""}"#;
    let gateway = fleet.process(Service::Gateway, 0);
    gateway.wait_ready(Duration::from_mins(1)).await;
    let before = fleet.metric(Service::Gateway, 0, accepted).await;
    let pinned = fleet.sender_to(0);
    let tally = pinned.tally();
    let clients = Traffic::start_dense(&pinned, fleet.game(), random.random(), 4);
    let more = f64::from(random.random_range(1..40));
    fleet
        .wait_metric(Service::Gateway, 0, accepted, before.unwrap_or(0.0) + more)
        .await;
    fleet.process(Service::Gateway, 0).kill();
    eventually(Duration::from_secs(10), "requests cut off", || async {
        (tally.cut_off() > 0).then_some(())
    })
    .await;
    fleet.process(Service::Gateway, 0).start_again();
    clients.send_no_more();
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_binary_killed_again_and_again_loses_and_doubles_nothing() {
    const ROUNDS: usize = 3;
    let mut random = StdRng::seed_from_u64(seed());
    let mut fleet = Fleet::new().await;
    fleet.save_all(traffic::quests()).await;
    fleet.start(Service::ALL).await;
    // The one that is not killed keeps events coming.
    fleet.start([Service::Gateway]).await;
    let sender = fleet.sender();
    let mut others = Traffic::start(&sender, fleet.game(), random.random(), 8);
    for _ in 0..ROUNDS {
        let mut order = Service::ALL;
        order.shuffle(&mut random);
        let mut cut_off = Vec::new();
        for service in order {
            let killing = async {
                if service == Service::Gateway {
                    cut_off.push(kill_gateway_at_work(&mut fleet, &mut random).await);
                } else {
                    kill_at_work(&mut fleet, &mut random, service).await;
                }
            };
            others.during(killing).await;
        }
        // What a killed gateway had under way is taken when asked again, not only when its marks end.
        fleet.flush_redis().await;
        for clients in cut_off {
            others.during(clients.stop()).await;
        }
    }
    fleet.wait_ready().await;
    others.more(50).await;
    let settled = others.stop().await;
    let retried = sender.tally().retried();
    println!("{settled} events settled, {retried} of batches asked for again");
    fleet.verify(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_and_a_database_killed_under_traffic_lose_and_double_nothing() {
    let mut fleet = Fleet::with_servers().await;
    fleet.save_all(traffic::quests()).await;
    fleet.start(Service::ALL).await;
    let sender = fleet.sender();
    let mut others = Traffic::start(&sender, fleet.game(), 12, 4);
    others.more(50).await;
    let broker = fleet.broker.as_mut().expect("this fleet has one");
    broker.kill();
    broker.start_again().await;
    others.more(100).await;
    let postgres = fleet.postgres.as_mut().expect("this fleet has one");
    postgres.kill();
    postgres.start_again().await;
    others.more(100).await;
    others.stop().await;
    fleet.verify(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_asked_to_end_under_traffic_lose_and_double_nothing() {
    let mut fleet = Fleet::new().await;
    fleet.save_all(traffic::quests()).await;
    fleet.start(Service::ALL).await;
    fleet.start([Service::Gateway]).await;
    let sender = fleet.sender();
    let mut others = Traffic::start(&sender, fleet.game(), 13, 8);
    for place in [0, 1, 0, 1] {
        others.more(60).await;
        let gateway = fleet.process(Service::Gateway, place);
        gateway.terminate();
        let status = gateway.wait(Duration::from_secs(20)).await;
        assert!(status.success(), "{status}");
        gateway.start_again();
        gateway.wait_ready(Duration::from_secs(20)).await;
    }
    others.stop().await;
    fleet.verify(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_whose_answers_are_lost_on_the_way_lose_and_double_nothing() {
    const LOSSES: u64 = 4;
    let mut fleet = Fleet::new().await;
    fleet.save_all(traffic::quests()).await;
    let mut proxies = Vec::new();
    for service in Service::PROCESSORS {
        let server = TestEnv::get().postgres.clone();
        let proxy = TcpProxy::to(address_of(&server)).await;
        let url = fleet.database.url_through(&proxy.address());
        let place = fleet.start_with(service, &[("RDS_CONNECTION_STRING", &url)]);
        proxies.push((service, place, proxy));
    }
    fleet.wait_ready().await;
    let sender = fleet.log_sender();
    let mut others = Traffic::start(&sender, fleet.game(), 11, 4);
    others.more(20).await;
    for _ in 0..LOSSES {
        for (service, _, proxy) in &proxies {
            // Takes and commits name their topic; nothing else does.
            let lost = proxy.lost_replies();
            proxy.close_before_reply_to(service.input().as_bytes());
            eventually(Duration::from_secs(30), "a lost answer", || async {
                (proxy.lost_replies() > lost).then_some(())
            })
            .await;
            proxy.pass();
        }
        for service in Service::PROCESSORS {
            let before = lanes::applied(&fleet.pool, service).await;
            let more = if service == Service::RewardProcessor {
                1
            } else {
                10
            };
            fleet.wait_applied(service, before, more).await;
        }
    }
    others.stop().await;
    fleet.verify(0).await;
}

/// `host:port` of a database's URL.
fn address_of(url: &str) -> String {
    let authority = url.split("://").nth(1).unwrap_or(url);
    let authority = authority.split(['/', '?']).next().unwrap_or(authority);
    let address = authority.rsplit('@').next().unwrap_or(authority);
    if address.contains(':') {
        address.to_owned()
    } else {
        format!("{address}:5432")
    }
}
