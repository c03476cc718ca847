//! The only user of sqlx: the pool, the lanes' commits, one module per aggregate, and the schema.
//!
//! Every statement has a name, which is in its errors and in the metrics `bm_db_statement_seconds`
//! (histogram) and `bm_db_statement_errors_total` (counter, with a `kind`).

mod arrays;
pub mod config;
pub mod config_outbox;
pub mod definitions;
pub mod error;
pub mod games;
pub mod lane_store;
pub mod lanes;
pub mod last_known;
pub mod maintenance;
pub mod migrate;
pub mod pool;
pub mod quest_store;
pub mod reads;
pub mod reward_store;
pub mod router_store;
pub mod rules;
mod session;
pub mod snapshots;

pub use config::StorageConfig;
pub use error::{CommitError, StoreError};
pub use lane_store::LaneStore;
pub use lanes::LaneTable;
pub use pool::Storage;
pub use quest_store::QuestStore;
pub use reward_store::RewardStore;
pub use router_store::RouterStore;
