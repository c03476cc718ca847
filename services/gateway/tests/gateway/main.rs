//! The gateway with real parts: a broker, PostgreSQL, Redis, a studios file, and HTTP.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod bad_input;
mod contract;
mod support;
mod trouble;
