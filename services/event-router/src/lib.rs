//! Makes each event count once, keeps it, and forwards it to the features whose rules want it.

pub mod config_outbox;
mod upkeep;

use std::time::Duration;

use bm_bootstrap::vars::{Vars, VarsError};
use bm_bootstrap::{Context, supervise};
use bm_domain::routing::RouterDomain;
use bm_kafka::KafkaConfig;
use bm_lane_runner::{ProcessorError, run_processor};
use bm_storage::maintenance::MIN_KEEP_DAYS;
use bm_storage::{RouterStore, Storage, StoreError};
use tokio::task::JoinSet;

/// How soon what a start needs of the database is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long events are kept unless `BM_EVENTS_KEEP_DAYS` says otherwise: a quarter can be explained
/// and folded again.
const KEEP_DAYS: u16 = 90;
/// No days are counted beyond a century.
const MAX_KEEP_DAYS: u16 = 36_500;

/// Why the router could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// A variable of its own.
    #[error(transparent)]
    Vars(#[from] VarsError),
    /// What every processor needs.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
}

/// Runs the router until `ctx` is told to stop.
pub async fn run(ctx: Context) -> Result<(), RouterError> {
    let kafka = KafkaConfig::from_vars(|name| ctx.vars.get(name)).map_err(ProcessorError::from)?;
    let keep_days = keep_days(&ctx.vars)?;
    // Ends with this function, whatever the processor ends with.
    let mut upkeep = JoinSet::new();
    run_processor(
        ctx,
        RouterDomain,
        async |ctx: &Context, storage: &Storage| {
            make_days(ctx, storage).await?;
            // Upkeep is not worth the process: days are made 3 days ahead and definitions are
            // published by whoever saves them. One that panics is an alarm, and begins again.
            let clock = ctx.clock.clone();
            let database = storage.clone();
            upkeep.spawn(supervise::supervised("event-days", move || {
                upkeep::keep_days(clock.clone(), database.clone(), keep_days)
            }));
            let database = storage.clone();
            upkeep.spawn(supervise::supervised("snapshots", move || {
                upkeep::watch_snapshots(database.clone())
            }));
            let database = storage.clone();
            upkeep.spawn(supervise::supervised("config-outbox", move || {
                upkeep::publish_definitions(database.clone(), kafka.clone())
            }));
            Ok(RouterStore::new(storage.clone()))
        },
    )
    .await?;
    Ok(())
}

/// Makes the partitions without which no event can be kept. Told to stop before it could, it gives
/// up; the processor then stops before it reads anything.
async fn make_days(ctx: &Context, storage: &Storage) -> Result<(), StoreError> {
    loop {
        let made = tokio::select! {
            () = ctx.shutdown.tripped() => return Ok(()),
            made = storage.ensure_event_days(ctx.clock.now()) => made,
        };
        match made {
            Ok(_) => return Ok(()),
            Err(error) if error.is_transient() => {
                tracing::warn!(error = %error, "could not make the days' partitions of events_raw; trying again");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = ctx.shutdown.tripped() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

fn keep_days(vars: &Vars) -> Result<u16, VarsError> {
    const NAME: &str = "BM_EVENTS_KEEP_DAYS";
    let expected = "a number of days from 16 to 36500: an event may come 7 days late and lie 7 more in the log, and is then still to be told from its repetition";
    let days = vars.parsed(NAME, expected, KEEP_DAYS)?;
    if (MIN_KEEP_DAYS..=MAX_KEEP_DAYS).contains(&days) {
        Ok(days)
    } else {
        Err(VarsError::Invalid {
            name: NAME.to_owned(),
            expected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_kept_for_as_long_as_is_said_and_never_less_than_16_days() {
        let with = |value: &str| keep_days(&Vars::from_map([("BM_EVENTS_KEEP_DAYS", value)]));
        assert_eq!(with("").unwrap(), 90);
        assert_eq!(with("16").unwrap(), 16);
        assert_eq!(with("400").unwrap(), 400);
        for bad in ["15", "0", "-1", "36501", "99999", "16 days", "forever"] {
            let error = with(bad).unwrap_err().to_string();
            assert!(
                error.starts_with("BM_EVENTS_KEEP_DAYS must be a number of days from 16"),
                "{bad}: {error}"
            );
        }
    }
}
