//! `brightmatter migrate`: the schema, and the partitions of the days to come.

use std::process::ExitCode;
use std::time::Duration;

use bm_bootstrap::Context;
use bm_storage::{Storage, StorageConfig};

use crate::error::CliError;
use crate::output;

/// Longer than this nobody should wait without knowing for what.
const SILENCE: Duration = Duration::from_secs(3);
/// Connections of a command: one does the work.
const POOL: u32 = 2;

/// Brings the database up to date. Safe to run in any number at once.
pub(crate) async fn run(ctx: &Context) -> Result<ExitCode, CliError> {
    let storage = migrated(ctx).await?;
    let address = storage.config().address();
    storage.close().await;
    output::line(format_args!("{address} is up to date"))?;
    Ok(ExitCode::SUCCESS)
}

/// The database, brought up to date.
pub(crate) async fn migrated(ctx: &Context) -> Result<Storage, CliError> {
    let config = config(ctx)?;
    let mut migration = std::pin::pin!(bm_storage::migrate::migrate(&config));
    match tokio::time::timeout(SILENCE, migration.as_mut()).await {
        Ok(done) => done?,
        Err(_elapsed) => {
            // A server that starts, others who migrate, a large table: all are waited for.
            eprintln!("  still at work on the database {}", config.address());
            migration.await?;
        }
    }
    let storage = Storage::connect_lazily(&config);
    storage.ensure_event_days(ctx.clock.now()).await?;
    Ok(storage)
}

/// The database of a schema this software can use.
pub(crate) async fn checked(ctx: &Context) -> Result<Storage, CliError> {
    let storage = Storage::connect_lazily(&config(ctx)?);
    storage.check_schema().await?;
    Ok(storage)
}

fn config(ctx: &Context) -> Result<StorageConfig, CliError> {
    let get = |name: &str| ctx.vars.get(name);
    Ok(StorageConfig::from_vars("brightmatter", POOL, get)?)
}
