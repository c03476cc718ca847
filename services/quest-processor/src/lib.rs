//! Folds `quest.events` into players' progress, and grants what completed quests reward.

use bm_bootstrap::Context;
use bm_domain::quest::QuestDomain;
use bm_lane_runner::{ProcessorError, run_processor};
use bm_storage::{QuestStore, Storage};

/// Runs the quest processor until `ctx` is told to stop.
pub async fn run(ctx: Context) -> Result<(), ProcessorError> {
    run_processor(ctx, QuestDomain, async |_: &Context, storage: &Storage| {
        Ok(QuestStore::new(storage.clone()))
    })
    .await
}
