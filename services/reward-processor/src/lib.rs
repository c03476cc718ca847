//! Keeps the reward ledger: one row per grant id, and every change of status on `reward.status`.

use bm_bootstrap::Context;
use bm_domain::reward::RewardDomain;
use bm_lane_runner::{ProcessorError, run_processor};
use bm_storage::{RewardStore, Storage};

/// Runs the reward processor until `ctx` is told to stop.
pub async fn run(ctx: Context) -> Result<(), ProcessorError> {
    run_processor(ctx, RewardDomain, async |_: &Context, storage: &Storage| {
        Ok(RewardStore::new(storage.clone()))
    })
    .await
}
