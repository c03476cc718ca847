//! The commands against real servers: what they print, what they leave, how they end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod bench;
mod definitions;
mod dev;
mod docs;
mod doctor;
mod log;
mod settings;
