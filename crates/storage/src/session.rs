//! One statement or transaction on one connection: its name, its time limit, its metrics, and
//! whether the connection may be used again.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::time::{Instant, error::Elapsed};

use crate::error::Failure;

/// How long the server may take to say that a connection given back works.
const RETURN: Duration = Duration::from_secs(2);

/// A connection on which one named piece of work is done.
///
/// Dropped before it is finished, it closes the connection: what the server still does with an
/// abandoned statement must not meet the next one.
pub(crate) struct Session {
    name: &'static str,
    connection: Option<PoolConnection<Postgres>>,
    started: Instant,
    limit: Duration,
}

impl Session {
    /// Waits for a connection as long as the pool allows.
    pub(crate) async fn open(
        pool: &PgPool,
        name: &'static str,
        limit: Duration,
    ) -> Result<Self, Failure> {
        match pool.acquire().await {
            Ok(connection) => Ok(Self {
                name,
                connection: Some(connection),
                started: Instant::now(),
                limit,
            }),
            Err(error) => {
                // Whatever the pool says, nothing was sent.
                let failure = Failure::NotSent(error);
                count(name, &failure);
                Err(failure)
            }
        }
    }

    /// When to stop waiting for the answer.
    pub(crate) fn deadline(&self) -> Instant {
        self.started + self.limit
    }

    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.connection
            .as_deref_mut()
            .ok_or(sqlx::Error::PoolClosed)
    }

    /// Reports what became of the work, and gives the connection back or closes it.
    pub(crate) fn finish<T>(
        mut self,
        result: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, Failure> {
        metrics::histogram!("bm_db_statement_seconds", "name" => self.name)
            .record(self.started.elapsed().as_secs_f64());
        let failure = match result {
            Ok(Ok(value)) => {
                self.give_back();
                return Ok(value);
            }
            Ok(Err(error)) => Failure::from(error),
            Err(_) => Failure::Silent(self.limit),
        };
        count(self.name, &failure);
        if failure.leaves_connection_usable() {
            self.give_back();
        }
        Err(failure)
    }

    /// Returns the connection to the pool, which first asks the server whether it works. Left to
    /// itself the pool would wait for that answer without end, and lend the place to nobody.
    fn give_back(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            let returning = connection.return_to_pool();
            tokio::spawn(tokio::time::timeout(RETURN, returning));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Closes the socket without waiting for a server that may not answer.
            drop(connection.detach());
        }
    }
}

fn count(name: &'static str, failure: &Failure) {
    metrics::counter!("bm_db_statement_errors_total", "name" => name, "kind" => failure.kind())
        .increment(1);
}

/// Runs one piece of work on a connection of `$storage`, under the name `$name`; gives
/// `Result<_, Failure>`. `$work` is a future of `Result<_, sqlx::Error>`.
macro_rules! run {
    ($storage:expr, $name:expr, |$connection:ident| $work:expr) => {
        match $storage.session($name).await {
            Ok(mut session) => {
                let deadline = session.deadline();
                let result = match session.connection() {
                    Ok($connection) => tokio::time::timeout_at(deadline, $work).await,
                    Err(error) => Ok(Err(error)),
                };
                session.finish(result)
            }
            Err(failure) => Err(failure),
        }
    };
}
pub(crate) use run;
