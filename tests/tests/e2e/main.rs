//! The whole pipeline as separate processes, over a real broker, database and Redis.

mod crashes;
mod first_event;
mod poison;
mod rebalance;
mod refusals;
mod rules_in_force;
