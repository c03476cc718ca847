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
//! **Redis down**, or refusing (full, unable to save, a replica, forbidden): each gateway goes on alone,
//! within its own count of the last 60 seconds and its share of the limit: the limit divided by the
//! number of gateways last known (those that Redis has heard of in the last 10 seconds, at least
//! `BM_GATEWAYS`). Where the shared counters were full when it last heard of them, it admits nothing
//! before they could have had room again. What it admits so it tells them when Redis is back.
//!
//! **Redis flushed, started again or failed over**: every call reads the name of the incarnation,
//! which is lost with the data and changes with the server; when it has changed, leases are void,
//! states of before begin anew, and each gateway books its own count of the last 60 seconds anew before
//! it asks for more. For 3 seconds after that, and after an outage, until every gateway has done so, a
//! gateway keeps within its share as well, and so does one that has just come, which cannot know what was
//! before; a studio's state that is made in that time begins with that share's tokens. Until all have (a second at most, and the life of what was
//! leased in it), a gateway that admitted nothing before may admit its share's burst on top of what
//! the others had: each is exact about its own count, and that is what a flush leaves. One gateway
//! alone is never over, whatever Redis forgets.
//!
//! **One studio's counters gone** (evicted, deleted, the server's clock stepped back by over a minute):
//! every answer names the state it is from, and once a second each gateway looks whether the states
//! that hold its own count are still there; when not, it does the same for that studio. A gateway that
//! has admitted nothing for the studio lately cannot tell such a loss from a studio that is new: until
//! the others have booked their counts, a second at most, it may admit the whole limit. A Redis
//! for limits is to run with `maxmemory-policy noeviction`.

mod exchange;
pub mod headers;
mod lease;
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
