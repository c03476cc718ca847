//! The whole pipeline as separate processes, over a real broker, database and Redis.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod crashes;
mod first_event;
mod poison;
mod rebalance;
mod refusals;
mod rules_in_force;
