//! The crash test: everything fails at random from a seed, and nothing is lost or doubled.
//!
//! `make crash` runs it for as long as wanted; here it is short.

use std::time::Duration;

use bm_tests::storm;
use bm_tests::storm::fault::Rounds;

/// In minutes; a few rounds of faults.
const SHORT: f64 = 0.7;

/// What a variable says, if it is set.
fn given<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let number = text.parse().ok();
    Some(number.unwrap_or_else(|| panic!("{name} is a number, not {text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_faults_loses_and_doubles_nothing() {
    let seed = given("BM_CRASH_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let minutes: f64 = given("BM_CRASH_MINUTES").unwrap_or(SHORT);
    storm::run(seed, Duration::from_secs_f64(minutes * 60.0)).await;
}

#[test]
fn a_seed_repeats_its_faults() {
    let some = |seed| Rounds::of(seed).take(50).collect::<Vec<_>>();
    assert_eq!(some(7), some(7));
    assert_ne!(some(7), some(8));
    assert!(some(7).iter().all(|round| !round.faults.is_empty()));
}
