//! The schema: bringing it up, and refusing one that is older than this software knows.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgPoolOptions;

use crate::config::StorageConfig;
use crate::error::StoreError;
use crate::pool::Storage;
use crate::session::run;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(30);
/// How long to wait for whoever else is migrating, and to migrate. Far longer than any migration takes: the
/// server would end one that is given up, and throw it away.
const PATIENCE: Duration = Duration::from_hours(6);

/// Brings the schema up to what this software knows. Any number may do so at once: one works, the
/// others wait and find it done. A newer schema is left as it is.
pub async fn migrate(config: &StorageConfig) -> Result<(), StoreError> {
    // A connection of its own, without the other pool's limits on statements.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(CONNECT)
        .connect_lazy_with(config.options.clone());
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrator.set_ignore_missing(true);
    let result = tokio::time::timeout(PATIENCE, migrator.run(&pool)).await;
    pool.close().await;
    let unavailable = |message: String| StoreError::Unavailable {
        statement: "migrate",
        message,
    };
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(MigrateError::Execute(
            error @ (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Tls(_)),
        ))) => Err(unavailable(error.to_string())),
        Ok(Err(error)) => Err(StoreError::Migration(error.to_string())),
        Err(_) => Err(unavailable(format!("not done within {PATIENCE:?}"))),
    }
}

impl Storage {
    /// Refuses a schema older than this software knows. A newer one will do: migrations add before
    /// they take away.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        const NAME: &str = "schema_version";
        let needed = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
        // Not checked at compile time: the table is the migrator's and in none of our migrations.
        let found = match run!(self, NAME, |connection| {
            sqlx::query_scalar::<_, Option<i64>>(
                "SELECT max(version) FROM _sqlx_migrations WHERE success",
            )
            .fetch_one(connection)
        })
        .map_err(|failure| failure.into_store_error(NAME))
        {
            Ok(version) => version.unwrap_or(0),
            // No such table: nothing was ever migrated.
            Err(StoreError::Refused { sqlstate, .. }) if sqlstate == "42P01" => 0,
            Err(error) => return Err(error),
        };
        if found < needed {
            return Err(StoreError::OldSchema { found, needed });
        }
        Ok(())
    }
}
