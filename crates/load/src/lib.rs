//! A load generator for gateways: an open loop, so that a slow answer delays no later request, and
//! latency counted from the moment a request was meant to be sent.

pub mod client;
pub mod mix;
pub mod plan;
pub mod report;
pub mod run;
pub mod track;

pub use mix::{Mix, MixError};
pub use plan::{Plan, PlanError};
pub use report::{Latency, Report};
pub use run::{Load, LoadError, Progress};
pub use track::Tracker;
