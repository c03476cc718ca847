//! The exactly-once engine, pure: what a lane may do next, what a batch gives, what is emitted.
//!
//! `bm-lane-runner` joins these decisions to Kafka and Postgres; `tests/engine/model.rs` explores them exhaustively.

pub mod batch;
pub mod domain;
pub mod fold;
pub mod lane;
pub mod outbox;
mod outbox_writer;
pub mod position;
pub mod record;
pub mod watermark;

pub use batch::{BatchLimits, LaneBuffer};
pub use domain::{ConfigDemand, Domain, Poison, Scope};
pub use fold::{FoldContext, Folded, LaneInput, LaneOutput};
pub use outbox::{Outbox, OutboxError, OutboxMessage};
pub use record::Record;
pub use watermark::Watermarks;
