//! Limits per studio, shared by all gateways through Redis, held by each alone when Redis is away.
//!
//! A request is admitted iff the last 60 seconds stay within the studio's limit **and** a token bucket
//! (refilled at the limit's rate, holding its burst) has room; both for requests and for events.
//! Gateways take short prepaid leases from the shared counters and admit from them without a
//! trip to Redis. No 60 seconds ever see more than the limit ([`shared`] says why). They may see
//! less by what is out on lease: taken by a gateway and not yet used or given back, or lying within
//! a lease's life or a sub-bucket (200 ms) of the far edge of the window. Tokens are paid when a lease
//! is granted and put back when it ends, so a burst is exact to what was out on lease.
//!
//! A lease is usable for a second, holds about what was used in the last 100 ms, and at most an
//! eighth of the room above what is needed at once, so that near the limit it is small. When it is
//! over, the gateway says how much was used, and when: what was not used is given back, what was is
//! booked at the time of the last use.
//!
//! **Redis down**: each gateway goes on alone, within its own count of the last 60 seconds and its
//! share of the limit: the limit divided by the number of gateways last known (those that Redis has
//! heard of in the last 10 seconds, at least `BM_GATEWAYS`). What it admits so it tells the
//! shared counters when Redis is back.
//!
//! **Redis flushed**: every call reads the name of the incarnation; when that has changed, leases
//! are void and each gateway books its own count of the last 60 seconds anew before it asks for more.
//! For 3 seconds after a flush or an outage, until every gateway has done so, a gateway keeps within
//! its share as well. Until all have (a second at most), a gateway that admitted nothing before may
//! admit its share's burst on top of what the others had: each is exact about its own count, and
//! that is what a flush leaves. One gateway alone is never over, whatever Redis forgets.

mod exchange;
pub mod headers;
pub mod ledger;
mod limiter;
pub mod pair;
#[cfg(test)]
mod policy_tests;
#[doc(hidden)]
pub mod script;
pub mod shared;
mod studio;
pub mod tiers;
pub mod window;

pub use headers::{RATE_LIMIT, RATE_LIMIT_POLICY, rate_limit, rate_limit_policy};
pub use ledger::Quota;
pub use limiter::{Admission, Limiter, LimiterConfig};
pub use pair::Pair;
pub use tiers::{Limit, RateLimitOverride, StudioLimits, Tier, TierLimits};
