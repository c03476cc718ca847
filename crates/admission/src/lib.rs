//! Who may come in: limits per studio and per player, and the memory of event ids.
//!
//! The order in a gateway: [`Limiter::admit`] once the body is read and its events are counted; then
//! for each admitted event [`Players::admit`] and [`Idempotency::begin_many`]; after the broker's ack
//! [`Idempotency::done`], on 503 [`Idempotency::clear`]. None of it ever keeps an event out because
//! Redis is away.

mod clock;
mod config;
pub mod idempotency;
pub mod limits;
pub mod players;
mod redis_handle;
mod stats;
mod unique;

pub use clock::SteadyClock;
pub use config::{AdmissionConfig, AdmissionConfigError};
pub use idempotency::{Attempt, Begin, Idempotency};
pub use limits::{
    Admission, Limit, Limiter, LimiterConfig, Pair, Quota, RATE_LIMIT, RATE_LIMIT_POLICY,
    RateLimitOverride, StudioLimits, Tier, rate_limit, rate_limit_policy,
};
pub use players::{PlayerRefused, Players};
pub use redis_handle::{RedisFailure, RedisHandle};

/// Says what the metrics of this crate mean. Once, after the recorder is installed.
pub fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(
        "bm_admission_requests_total",
        "Requests by result (admitted, partial, refused) and mode (shared, alone)"
    );
    describe_counter!(
        "bm_admission_events_total",
        "Events by result of the studio's limit (admitted, refused)"
    );
    describe_counter!(
        "bm_admission_player_refused_total",
        "Events refused by a player's limit"
    );
    describe_counter!(
        "bm_admission_counters_lost_total",
        "How often Redis was found to have lost counters: all of them, or one studio's"
    );
    describe_counter!(
        "bm_admission_redis_errors_total",
        "Calls to Redis that gave no answer, by call and kind (timeout, connection, server, down)"
    );
    describe_counter!(
        "bm_admission_idempotency_total",
        "Events by what was known of them (fresh, in_flight, done, other_body, same_batch, unknown)"
    );
    describe_counter!(
        "bm_admission_idempotency_dropped_total",
        "Outcomes that could not be remembered; the router still dedupes"
    );
    describe_histogram!(
        "bm_admission_lease_units",
        Unit::Count,
        "Units in a lease, by kind (requests, events)"
    );
    describe_gauge!(
        "bm_admission_fallback",
        "1 while this gateway keeps within its own share of the limits, because Redis is or was away or the gateway has just come"
    );
    describe_gauge!(
        "bm_admission_gateways",
        "Gateways that share the limits, as last known"
    );
    describe_gauge!(
        "bm_admission_players",
        "Players remembered at the last sweep"
    );
    describe_gauge!(
        "bm_admission_redis_up",
        "1 while Redis answers and can be written"
    );
}
