//! What the features do, pure: definitions, rules, state and how events change it. No clock, randomness or I/O.

pub mod amount;
pub mod cel;
pub mod definition;
mod json;
pub mod path;
pub mod quest;
mod record;
pub mod reward;
pub mod routing;

pub use amount::Amount;

#[cfg(test)]
mod fixture;
