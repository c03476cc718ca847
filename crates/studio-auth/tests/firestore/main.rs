//! The key directory against Google's Firestore emulator, whole and cut off, and against a file.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot get its surroundings has failed, and a panic is how it says so"
)]

mod file;
mod frames;
mod mirror;
mod outage;
mod questions;
mod support;
