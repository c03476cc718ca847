//! Tests of the engine as a whole: a model of its protocol, and random runs against a naive one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod exactness;
mod model;
mod owners;
mod world;
