//! The whole pipeline as separate processes, over a real broker, database and Redis.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "all of it is tests, what they share included"
)]

mod apply;
mod crashes;
mod first_event;
mod gate;
mod held_commits;
mod outbox;
mod poison;
mod rebalance;
mod refusals;
mod rules_in_force;
mod storm;
mod studios;
