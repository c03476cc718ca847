//! A storm: the whole fleet twice over, under load, while at random everything fails that may.
//!
//! A seed gives the faults in their order and with their lengths, and what players and studio do;
//! how these meet is the machine's doing. Faults come in rounds. After each all must come right
//! again, and every leg of some rounds ends with the oracle's look at everything.

mod changes;
mod evidence;
pub mod fault;
mod links;
mod usage;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use bm_contracts::Timestamp;
use bm_testkit::TestClock;
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::fleet::Fleet;
use crate::traffic::quests;
use crate::{Sender, Service, Traffic, lanes};
use changes::{Changes, Studio};
use fault::{Fault, Instance, Planned, Round, Rounds, Shared};
use links::Links;
use usage::Usage;

/// Rounds go on for so long before everything is compared.
const LEG: Duration = Duration::from_mins(1);
/// Players' devices, each with a request under way or a short pause; one more has no pause.
const CLIENTS: u64 = 4;
/// A gateway that stands still is not waited for long.
const ANSWERED_WITHIN: Duration = Duration::from_secs(4);
/// Faults of a round last ten seconds and some, starting anew takes a rebalance.
const SETTLED_WITHIN: Duration = Duration::from_mins(2);
/// From the end of a round's faults until all is as it should be.
const RIGHT_WITHIN: Duration = Duration::from_secs(90);
/// A process that is asked to end has so long.
const ENDS_WITHIN: Duration = Duration::from_secs(40);
/// Events that must be settled after each round.
const PROGRESS: u64 = 20;

/// Runs a storm of at least this length; panics when anything is not as it must be, and says what a
/// failure has left and where.
pub async fn run(seed: u64, length: Duration) {
    println!("a storm of {length:?}: BM_CRASH_SEED={seed}");
    let (fleet, links) = Box::pin(Links::of_a_fleet()).await;
    let mut storm = Storm {
        fleet,
        links,
        began: Instant::now(),
        chronicle: Vec::new(),
    };
    let played = AssertUnwindSafe(storm.play(seed, length));
    if let Err(panic) = Box::pin(played).catch_unwind().await {
        storm.note(format!("found: {}", reason(&*panic)));
        storm.links.calm_all();
        let Storm {
            fleet, chronicle, ..
        } = &mut storm;
        let kept = Box::pin(evidence::leave(fleet, seed, chronicle)).await;
        println!(
            "the crash test has found something: BM_CRASH_SEED={seed}, all that was seen is in {}",
            kept.display()
        );
        std::panic::resume_unwind(panic);
    }
}

/// What a panic says.
fn reason(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
}

struct Storm {
    fleet: Fleet,
    links: Links,
    began: Instant,
    /// What happened, with times.
    chronicle: Vec<String>,
}

/// A moment of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Begins,
    Ends,
}

impl Storm {
    fn note(&mut self, what: impl AsRef<str>) {
        let line = format!(
            "{:8.3} {}",
            self.began.elapsed().as_secs_f64(),
            what.as_ref()
        );
        println!("{line}");
        self.chronicle.push(line);
    }

    async fn play(&mut self, seed: u64, length: Duration) {
        // Logs tell the time of day.
        let now = TestClock::starting_now().now_millis();
        self.note(format!("it is {}", Timestamp::clamped(now)));
        let mut rounds = Rounds::of(seed);
        // Players and studio draw from elsewhere: what they do may depend on how fast things go.
        let mut others = StdRng::seed_from_u64(!seed);
        self.fleet.save_all(quests()).await;
        let sender = self.fleet.sender().waiting(ANSWERED_WITHIN, SETTLED_WITHIN);
        self.leg_without_faults(&sender, others.random()).await;
        let before = Usage::of(&mut self.fleet).await;
        self.note(format!("held before: {before:?}"));

        let mut changes = Changes::of(others.random(), quests());
        let began = Instant::now();
        let (mut settled, mut count) = (0, 0);
        while began.elapsed() < length {
            let leg = Instant::now();
            let (game, names) = (self.fleet.game(), others.random());
            let mut traffic = Traffic::start_with_a_dense_one(&sender, game, names, CLIENTS);
            let studio = Studio::start(self.links.studio(), &self.fleet, changes);
            while leg.elapsed() < LEG && began.elapsed() < length {
                if let Some(round) = rounds.next() {
                    count += 1;
                    self.note(format!("round {count}"));
                    self.live_through(&round, &mut traffic).await;
                }
            }
            changes = studio.stop().await;
            settled += traffic.stop().await;
            self.fleet.await_all(0).await;
            self.note(format!(
                "all is as it must be: {settled} events settled, {} answers to them cut off, {} versions of quests saved",
                sender.tally().cut_off(),
                self.fleet.book.quests().len()
            ));
            let now = Usage::of(&mut self.fleet).await;
            self.note(format!("held now: {now:?}"));
        }
        let beyond = Usage::of(&mut self.fleet).await.beyond(&before);
        assert!(beyond.is_empty(), "not given back:\n{}", beyond.join("\n"));
        self.fleet.verify(0).await;
        self.note("ended well");
    }

    /// Caches, pools and connections are there afterwards.
    async fn leg_without_faults(&mut self, sender: &Sender, seed: u64) {
        let mut traffic = Traffic::start(sender, self.fleet.game(), seed, CLIENTS);
        traffic.more(300).await;
        traffic.stop().await;
        self.fleet.await_all(0).await;
    }

    /// One round, and what must follow it.
    async fn live_through(&mut self, round: &Round, traffic: &mut Traffic) {
        traffic.during(self.inflict(round)).await;
        traffic.during(self.comes_right()).await;
        traffic.more(PROGRESS).await;
        traffic.during(tokio::time::sleep(round.rest)).await;
    }

    /// Lets faults begin and end at their times, or later where something before takes longer.
    async fn inflict(&mut self, round: &Round) {
        let mut moments: Vec<(Duration, Moment, Planned)> = Vec::new();
        for planned in &round.faults {
            moments.push((planned.begins, Moment::Begins, *planned));
            moments.push((planned.begins + planned.lasts, Moment::Ends, *planned));
        }
        moments.sort_by_key(|(at, moment, _)| (*at, *moment));
        let began = tokio::time::Instant::now();
        for (at, moment, planned) in moments {
            tokio::time::sleep_until(began + at).await;
            match moment {
                Moment::Begins => self.begin(planned).await,
                Moment::Ends => self.end(planned.fault).await,
            }
        }
    }

    async fn begin(&mut self, planned: Planned) {
        self.note(format!("  {} for {:?}", planned.fault, planned.lasts));
        match planned.fault {
            Fault::Killed(Instance { service, place }) => self.fleet.process(service, place).kill(),
            Fault::Stopped(Instance { service, place }) => {
                self.fleet.process(service, place).pause();
            }
            Fault::Terminated(Instance { service, place }) => {
                self.fleet.process(service, place).terminate();
            }
            Fault::Flushed => self.fleet.flush_redis().await,
            Fault::Shut(Shared::Postgres) => {
                self.fleet.shared(Shared::Postgres).stop_at_once().await;
            }
            Fault::Shut(what) => self.fleet.shared(what).stop().await,
            Fault::Crashed(what) => self.fleet.shared(what).kill(),
            Fault::Network(link, weather) => self.links.disturb(link, weather),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Killed(Instance { service, place }) => {
                self.fleet.process(service, place).start_again();
            }
            Fault::Stopped(Instance { service, place }) => {
                self.fleet.process(service, place).resume();
            }
            Fault::Terminated(whom @ Instance { service, place }) => {
                let process = self.fleet.process(service, place);
                let status = process.wait(ENDS_WITHIN).await;
                assert!(status.success(), "{whom} was asked to end: {status}");
                process.start_again();
            }
            Fault::Flushed => return,
            Fault::Shut(what) | Fault::Crashed(what) => {
                self.fleet.shared(what).start_again().await;
            }
            Fault::Network(link, _) => {
                self.links.calm(link);
                let lost = self.links.answers_lost(link);
                self.note(format!(
                    "  over: {fault} ({lost} answers lost there so far)"
                ));
                return;
            }
        }
        self.note(format!("  over: {fault}"));
    }

    /// All processes are ready, and each processor has applied what stood before it when the one
    /// before had: a lane that never goes on is found after the round that stopped it.
    async fn comes_right(&mut self) {
        let began = Instant::now();
        for Instance { service, place } in Instance::all() {
            self.fleet
                .process(service, place)
                .wait_ready(RIGHT_WITHIN)
                .await;
        }
        for service in Service::PROCESSORS {
            let ends = self.fleet.topics.ends(service.input()).await;
            let what = format!("{} has applied what there was", service.name());
            bm_testkit::eventually(RIGHT_WITHIN, &what, || async {
                let rows = lanes::rows(&self.fleet.pool, service).await;
                let there = |partition| rows.get(partition).map_or(0, |row| row.next_offset);
                let all = ends.iter().all(|(partition, end)| there(partition) >= *end);
                all.then_some(())
            })
            .await;
        }
        self.note(format!("  right after {:?}", began.elapsed()));
    }
}
