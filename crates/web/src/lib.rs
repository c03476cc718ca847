//! What every HTTP service of ours does alike: errors in one form, correlation ids, trace context,
//! CORS, access log, request metrics, panics turned into answers.
//!
//! [`dress`] puts all of it around a router.

pub mod correlation;
pub mod cors;
pub mod error;
pub mod scope;
pub mod stats;
pub mod trace;

pub use correlation::CorrelationId;
pub use cors::Cors;
pub use error::{ApiError, Code};
pub use scope::dress;
pub use stats::HttpStats;
pub use trace::TraceParent;
