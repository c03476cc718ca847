//! What the router does beside routing, in any number of routers at once; each task runs until it is
//! dropped.

use std::time::Duration;

use bm_bootstrap::Clock;
use bm_kafka::KafkaConfig;
use bm_storage::Storage;
use bm_storage::maintenance::DroppedDays;
use tokio::time::Instant;

use crate::config_outbox;

/// How often day partitions are made ahead and old ones dropped.
const DAYS_EVERY: Duration = Duration::from_mins(10);

/// How often old snapshots are looked for: they do harm from about half a minute on.
const SNAPSHOTS_EVERY: Duration = Duration::from_secs(10);
/// How often an old snapshot that stays is told again.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// How often saved definitions are looked for that whoever saved them could not publish.
const PUBLISH_EVERY: Duration = Duration::from_secs(15);

/// Makes the partitions of days to come and drops those of events older than `keep`.
pub(crate) async fn keep_days(clock: Clock, storage: Storage, keep: u16) {
    loop {
        let now = clock.now();
        if let Err(error) = storage.ensure_event_days(now).await {
            tracing::error!(error = %error, "could not make the coming days' partitions of events_raw; they are needed within 3 days");
        }
        match storage.drop_old_event_days(now, keep).await {
            Ok(DroppedDays::Dropped(days)) if !days.is_empty() => {
                tracing::info!(?days, keep, "dropped old days of events_raw")
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = %error, "could not drop old days of events_raw; trying again later")
            }
        }
        tokio::time::sleep(DAYS_EVERY).await;
    }
}

/// Raises an alarm while somebody's old snapshot slows the lanes down.
pub(crate) async fn watch_snapshots(storage: Storage) {
    let mut told: Option<Instant> = None;
    loop {
        match storage.snapshot_holders().await {
            Ok(holders) => match holders.iter().find(|holder| holder.is_harmful()) {
                Some(holder) if told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) => {
                    told = Some(Instant::now());
                    tracing::error!(
                        holder = %holder,
                        todo = holder.advice(),
                        "OLD SNAPSHOT: every commit gets slower while it lives"
                    );
                }
                None if told.take().is_some() => tracing::info!("the old snapshot is gone"),
                Some(_) | None => {}
            },
            Err(error) => {
                tracing::warn!(error = %error, "could not look for old snapshots");
            }
        }
        tokio::time::sleep(SNAPSHOTS_EVERY).await;
    }
}

/// Publishes saved definitions that whoever saved them could not publish.
pub(crate) async fn publish_definitions(storage: Storage, kafka: KafkaConfig) {
    loop {
        tokio::time::sleep(PUBLISH_EVERY).await;
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
