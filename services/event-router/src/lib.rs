//! Makes each event count once, keeps it, and forwards it to the features whose rules want it.

pub mod config_outbox;

use std::time::Duration;

use bm_bootstrap::Context;
use bm_domain::routing::RouterDomain;
use bm_kafka::KafkaConfig;
use bm_lane_runner::{ProcessorError, run_processor};
use bm_storage::maintenance::{DroppedDays, MIN_KEEP_DAYS};
use bm_storage::{RouterStore, Storage};

/// How often day partitions are made ahead and old ones dropped. Any number of routers may do so.
const UPKEEP_EVERY: Duration = Duration::from_mins(10);

/// How soon what a start needs of the database is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often saved definitions are looked for that whoever saved them could not publish.
const PUBLISH_EVERY: Duration = Duration::from_secs(15);

/// Runs the router until `ctx` is told to stop.
pub async fn run(ctx: Context) -> Result<(), ProcessorError> {
    let kafka = KafkaConfig::from_vars(|name| ctx.vars.get(name))?;
    run_processor(
        ctx,
        RouterDomain,
        async |ctx: &Context, storage: &Storage| {
            // Without today's partition no event can be kept.
            while let Err(error) = storage.ensure_event_days(ctx.clock.now()).await {
                if !error.is_transient() || ctx.shutdown.token().is_cancelled() {
                    return Err(error);
                }
                tracing::warn!(error = %error, "could not make the days' partitions of events_raw; trying again");
                tokio::time::sleep(RETRY).await;
            }
            tokio::spawn(keep_up(ctx.clone(), storage.clone()));
            tokio::spawn(publish_definitions(ctx.clone(), storage.clone(), kafka));
            Ok(RouterStore::new(storage.clone()))
        },
    )
    .await
}

async fn keep_up(ctx: Context, storage: Storage) {
    loop {
        tokio::select! {
            () = ctx.shutdown.tripped() => return,
            () = tokio::time::sleep(UPKEEP_EVERY) => {}
        }
        let now = ctx.clock.now();
        if let Err(error) = storage.ensure_event_days(now).await {
            tracing::error!(error = %error, "could not make the coming days' partitions of events_raw; they are needed within 3 days");
        }
        match storage.drop_old_event_days(now, MIN_KEEP_DAYS).await {
            Ok(DroppedDays::Dropped(days)) if !days.is_empty() => {
                tracing::info!(?days, "dropped old days of events_raw")
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = %error, "could not drop old days of events_raw; trying again later")
            }
        }
        if let Err(error) = storage.oldest_snapshot_age().await {
            tracing::warn!(error = %error, "could not read the age of the oldest snapshot");
        }
    }
}

async fn publish_definitions(ctx: Context, storage: Storage, kafka: KafkaConfig) {
    loop {
        tokio::select! {
            () = ctx.shutdown.tripped() => return,
            () = tokio::time::sleep(PUBLISH_EVERY) => {}
        }
        match config_outbox::publish(&kafka, &storage).await {
            Ok(0) => {}
            Ok(published) => tracing::info!(
                published,
                "published definitions that were saved and not published"
            ),
            Err(error) => {
                tracing::warn!(error = %error, "could not publish saved definitions; trying again")
            }
        }
    }
}
