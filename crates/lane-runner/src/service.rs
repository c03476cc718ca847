//! A processor as a service: from configuration to a running [`Runner`], with health and drain.

use std::sync::Arc;
use std::time::Duration;

use bm_bootstrap::ops::{self, OpsError};
use bm_bootstrap::{Context, Need, Outcome};
use bm_engine::Domain;
use bm_kafka::{ConfigError, KafkaConfig};
use bm_storage::config::StorageConfigError;
use bm_storage::{LaneStore, LaneTable, Storage, StorageConfig, StoreError};

use crate::{Runner, RunnerConfig, RunnerConfigError, RunnerError, RunnerStatus};

/// Why a processor could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// A variable of the bus.
    #[error(transparent)]
    Kafka(#[from] ConfigError),
    /// A variable of the database.
    #[error(transparent)]
    Storage(#[from] StorageConfigError),
    /// A variable of the runner.
    #[error(transparent)]
    Config(#[from] RunnerConfigError),
    /// The database's schema does not fit.
    #[error(transparent)]
    Schema(#[from] StoreError),
    /// The operators' server.
    #[error(transparent)]
    Ops(#[from] OpsError),
    /// The runner.
    #[error(transparent)]
    Runner(#[from] RunnerError),
}

/// Runs a processor until `ctx` is told to stop.
///
/// `store` makes its storage once the database answers and its schema is known to fit.
pub async fn run_processor<D, S, F>(ctx: Context, domain: D, store: F) -> Result<(), ProcessorError>
where
    D: Domain,
    S: LaneStore<D>,
    F: AsyncFnOnce(&Context, &Storage) -> Result<S, StoreError>,
{
    let vars = &ctx.vars;
    let kafka = KafkaConfig::from_vars(|name| vars.get(name))?;
    let mut config = RunnerConfig::from_vars(D::PROCESSOR, |name| vars.get(name))?;
    // Two per batch, for one that erred is looked at before it is used again; and two to take lanes
    // with and for health.
    let pool = 2 * config.workers as u32 + 2;
    let database = StorageConfig::from_vars(D::PROCESSOR, pool, |name| vars.get(name))?;
    // The database's own limits, on getting a connection and on the statement, come first: what they
    // say is certain, silence is not.
    config.statement_timeout = config
        .statement_timeout
        .max(database.timeout * 2 + Duration::from_secs(5));
    let storage = Storage::connect_lazily(&database);
    let status = Arc::new(RunnerStatus::default());
    register_health(&ctx, &storage, &status);
    let _ops = ops::start(&ctx).await?;
    if !wait_for_schema(&ctx, &storage).await? {
        return Ok(());
    }
    let store = store(&ctx, &storage).await?;
    let clock = ctx.clock.clone();
    let runner = Runner {
        domain: Arc::new(domain),
        store: Arc::new(store),
        lanes: LaneTable::new(storage.clone()),
        kafka,
        config,
        now: Arc::new(move || clock.now()),
        status,
    };
    let ended = runner.run(ctx.shutdown.token()).await;
    storage.close().await;
    Ok(ended?)
}

fn register_health(ctx: &Context, storage: &Storage, status: &Arc<RunnerStatus>) {
    let checked = storage.clone();
    ctx.health.register(
        "postgres",
        Need::Required,
        Duration::from_secs(2),
        move || {
            let storage = checked.clone();
            async move { storage.ping().await }
        },
    );
    let status = Arc::clone(status);
    ctx.health
        .register("lanes", Need::Required, Duration::from_secs(1), move || {
            let mut detail = format!(
                "{} assigned, {} running, {} stalled, {} halted",
                status.assigned(),
                status.running(),
                status.stalled(),
                status.halted()
            );
            if let Some(late) = status.late_acks() {
                detail.push_str("; ");
                detail.push_str(&late);
            }
            let ready = status.is_ready();
            async move {
                if ready {
                    Outcome::ok_with(detail)
                } else {
                    Outcome::failed(detail)
                }
            }
        });
}

/// Waits until the database answers with a schema that fits; false when told to stop meanwhile.
async fn wait_for_schema(ctx: &Context, storage: &Storage) -> Result<bool, StoreError> {
    let mut wait = Duration::from_millis(100);
    loop {
        match storage.check_schema().await {
            Ok(()) => return Ok(true),
            Err(error) if error.is_transient() => {
                tracing::warn!(service = ctx.service, error = %error, "the database does not answer yet; trying again");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = ctx.shutdown.tripped() => return Ok(false),
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(5)),
        }
    }
}
