//! The pool of connections, each brought into the state the protocol relies on before its first use.

use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};

use crate::config::StorageConfig;
use crate::error::{Failure, StoreError};
use crate::session::{Connections, RESTED, Session, run};

/// The database. Cheap to clone; all clones share one pool.
#[derive(Clone, Debug)]
pub struct Storage {
    connections: Connections,
    config: StorageConfig,
    limit: Duration,
}

/// How much longer than the server's own limit an answer is waited for: the server's refusal says
/// that nothing was written, silence does not.
const GRACE: Duration = Duration::from_secs(3);

/// A transaction in which the client does nothing is ended, and its locks with it.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// How long closing waits for statements under way; a process that ends has no more time for them.
const CLOSE: Duration = Duration::from_secs(3);

impl Storage {
    /// A pool that connects when it is first used. Connections are asked for again and again for
    /// [`StorageConfig::timeout`] while the server refuses or is starting.
    ///
    /// Must be called within a Tokio runtime.
    pub fn connect_lazily(config: &StorageConfig) -> Self {
        describe_metrics();
        let timeout = config.timeout;
        let pool = PgPoolOptions::new()
            .max_connections(config.pool)
            .acquire_timeout(timeout)
            .idle_timeout(Duration::from_mins(5))
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > RESTED {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(move |connection, _| Box::pin(prepare(connection, timeout)))
            .connect_lazy_with(config.options.clone());
        Self {
            connections: Connections::new(pool),
            config: config.clone(),
            limit: timeout + GRACE,
        }
    }

    /// Whether a statement is answered by a server that can write.
    pub async fn ping(&self) -> Result<(), StoreError> {
        const NAME: &str = "ping";
        let standby = run!(self, NAME, |connection| sqlx::query_scalar!(
            r#"SELECT pg_is_in_recovery() AS "standby!""#
        )
        .fetch_one(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        if standby {
            // Connections made before a failover; closing them makes the next ask elsewhere.
            if let Ok(session) = self.session(NAME).await {
                drop(session);
            }
            return Err(StoreError::Unavailable {
                statement: NAME,
                message: "the server is a read-only standby".to_owned(),
            });
        }
        Ok(())
    }

    /// What it was configured with.
    pub fn config(&self) -> &StorageConfig {
        &self.config
    }

    /// Refuses new statements, waits up to 3 s for those under way and closes all connections; any
    /// statement that takes longer is left to the end of the process.
    pub async fn close(&self) {
        let closing = self.connections.close();
        if tokio::time::timeout(CLOSE, closing).await.is_err() {
            tracing::warn!("a statement is still under way; its connection is left open");
        }
    }

    pub(crate) async fn session(&self, name: &'static str) -> Result<Session, Failure> {
        self.session_within(name, self.limit).await
    }

    /// A session for work that may take another time than usual.
    pub(crate) async fn session_within(
        &self,
        name: &'static str,
        limit: Duration,
    ) -> Result<Session, Failure> {
        Session::open(&self.connections, name, limit).await
    }
}

/// Refuses a standby, bounds statements and idle transactions, and makes sure that a commit that is
/// answered is on disk. A stricter `synchronous_commit` of the server's stays.
///
/// By statement and not in the start-up message, which proxies refuse.
async fn prepare(connection: &mut PgConnection, timeout: Duration) -> Result<(), sqlx::Error> {
    let row = sqlx::query!(
        r#"
        SELECT pg_is_in_recovery() AS "standby!",
               set_config('statement_timeout', $1, false) AS statement_timeout,
               set_config('idle_in_transaction_session_timeout', $2, false) AS idle_timeout,
               set_config('TimeZone', 'UTC', false) AS time_zone,
               set_config(
                   'synchronous_commit',
                   CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on'
                        ELSE current_setting('synchronous_commit') END,
                   false
               ) AS synchronous_commit
        "#,
        timeout.as_millis().to_string(),
        IDLE_IN_TRANSACTION.as_millis().to_string(),
    )
    .fetch_one(connection)
    .await?;
    if row.standby {
        return Err(sqlx::Error::Protocol(
            "the server is a read-only standby".to_owned(),
        ));
    }
    Ok(())
}

/// Says what the metrics of this crate mean; more than once does no harm.
fn describe_metrics() {
    metrics::describe_histogram!(
        "bm_db_statement_seconds",
        "How long statements took, by name; waiting for a connection is not in it."
    );
    metrics::describe_counter!(
        "bm_db_statement_errors_total",
        "Statements that gave no result, by name and kind."
    );
    metrics::describe_gauge!(
        "bm_db_event_days_end_timestamp_seconds",
        "Events of this time and later have no day partition yet and would stop their lanes."
    );
    metrics::describe_gauge!(
        "bm_db_oldest_snapshot_seconds",
        "Age of the oldest open transaction, prepared ones included; above 30 every commit gets slower."
    );
    metrics::describe_gauge!(
        "bm_db_oldest_snapshot_transactions",
        "Transactions begun since the oldest snapshot that holders of this kind keep."
    );
}
