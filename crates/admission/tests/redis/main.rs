//! Limits and idempotency against a real Redis.

#![expect(
    clippy::unwrap_used,
    reason = "tests; the lint's own exemption does not reach helper functions"
)]

mod common;
mod idempotency;
mod outages;
mod sharing;
