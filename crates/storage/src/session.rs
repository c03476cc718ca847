//! One statement or transaction on one connection: its name, its time limit, its metrics, and
//! whether the connection may be used again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, error::Elapsed};

use crate::error::Failure;

/// How long the server may take to say that a connection given back works.
const RETURN: Duration = Duration::from_secs(2);

/// Connections that rested longer are asked whether they still work before they are used.
pub(crate) const RESTED: Duration = Duration::from_secs(5);

/// After so long a connection goes through the pool, which asks whether it works and retires old ones.
const IN_HAND: Duration = Duration::from_mins(1);

/// The pool, and connections in hand before it.
///
/// The pool asks the server about every connection it gets back, for which it may have been left in
/// the middle of something. One whose statement was answered in full is not: it stays in hand for
/// the next statement, and a round trip per statement is saved.
#[derive(Debug, Clone)]
pub(crate) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    /// As many as the pool has: whoever holds one finds a connection in hand, or room in the pool.
    places: Arc<Semaphore>,
    in_hand: Mutex<InHand>,
}

#[derive(Debug, Default)]
struct InHand {
    closed: bool,
    /// The one used last is at the end.
    resting: Vec<Resting>,
}

#[derive(Debug)]
struct Resting {
    connection: PoolConnection<Postgres>,
    from_pool: Instant,
    since: Instant,
}

impl Connections {
    pub(crate) fn new(pool: PgPool) -> Self {
        let places = pool.options().get_max_connections() as usize;
        Self(Arc::new(Inner {
            pool,
            places: Arc::new(Semaphore::new(places)),
            in_hand: Mutex::default(),
        }))
    }

    /// Waits for statements under way and closes all connections.
    pub(crate) async fn close(&self) {
        let resting = self.in_hand(|in_hand| {
            in_hand.closed = true;
            std::mem::take(&mut in_hand.resting)
        });
        // From now on there are no new ones; those waiting for one are refused.
        let closing = self.0.pool.close();
        self.0.places.close();
        for one in resting {
            // Whether the server heard the farewell does not matter.
            let _unheard = one.connection.close().await;
        }
        closing.await;
    }

    async fn acquire(&self) -> Result<(OwnedSemaphorePermit, Resting), sqlx::Error> {
        let acquired = async {
            let place = Arc::clone(&self.0.places)
                .acquire_owned()
                .await
                .map_err(|_closed| sqlx::Error::PoolClosed)?;
            if let Some(one) = self.take() {
                return Ok((place, one));
            }
            let connection = self.0.pool.acquire().await?;
            let now = Instant::now();
            let one = Resting {
                connection,
                from_pool: now,
                since: now,
            };
            Ok((place, one))
        };
        tokio::time::timeout(self.0.pool.options().get_acquire_timeout(), acquired)
            .await
            .map_err(|_elapsed| sqlx::Error::PoolTimedOut)?
    }

    /// The connection used last, unless it rested for long; those that did go to the pool.
    fn take(&self) -> Option<Resting> {
        let (taken, rested) = self.in_hand(|in_hand| {
            let rested: Vec<_> = in_hand
                .resting
                .extract_if(.., |one| one.since.elapsed() > RESTED)
                .collect();
            (in_hand.resting.pop(), rested)
        });
        for one in rested {
            to_pool(one.connection);
        }
        taken
    }

    fn keep(&self, one: Resting) {
        let refused = self.in_hand(|in_hand| {
            if in_hand.closed || one.from_pool.elapsed() > IN_HAND {
                return Some(one);
            }
            in_hand.resting.push(one);
            None
        });
        if let Some(one) = refused {
            to_pool(one.connection);
        }
    }

    fn in_hand<T>(&self, look: impl FnOnce(&mut InHand) -> T) -> T {
        look(
            &mut self
                .0
                .in_hand
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// Returns a connection to the pool, which first asks the server whether it works. Left to itself
/// the pool would wait for that answer without end, and lend the place to nobody.
fn to_pool(mut connection: PoolConnection<Postgres>) {
    let returning = connection.return_to_pool();
    tokio::spawn(tokio::time::timeout(RETURN, returning));
}

/// A connection on which one named piece of work is done.
///
/// Dropped before it is finished, it closes the connection: what the server still does with an
/// abandoned statement must not meet the next one.
pub(crate) struct Session {
    name: &'static str,
    connections: Connections,
    connection: Option<PoolConnection<Postgres>>,
    from_pool: Instant,
    started: Instant,
    limit: Duration,
    /// Let go after the connection.
    _place: OwnedSemaphorePermit,
}

impl Session {
    /// Waits for a connection as long as the pool allows.
    pub(crate) async fn open(
        connections: &Connections,
        name: &'static str,
        limit: Duration,
    ) -> Result<Self, Failure> {
        match connections.acquire().await {
            Ok((place, one)) => Ok(Self {
                name,
                connections: connections.clone(),
                connection: Some(one.connection),
                from_pool: one.from_pool,
                started: Instant::now(),
                limit,
                _place: place,
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

    /// Reports what became of the work, and keeps the connection, gives it back or closes it.
    pub(crate) fn finish<T>(
        mut self,
        result: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, Failure> {
        metrics::histogram!("bm_db_statement_seconds", "name" => self.name)
            .record(self.started.elapsed().as_secs_f64());
        let failure = match result {
            Ok(Ok(value)) => {
                if let Some(connection) = self.connection.take() {
                    self.connections.keep(Resting {
                        connection,
                        from_pool: self.from_pool,
                        since: Instant::now(),
                    });
                }
                return Ok(value);
            }
            Ok(Err(error)) => Failure::from(error),
            Err(_) => Failure::Silent(self.limit),
        };
        count(self.name, &failure);
        if failure.leaves_connection_usable()
            && let Some(connection) = self.connection.take()
        {
            // A transaction may have been left open; the pool ends it.
            to_pool(connection);
        }
        Err(failure)
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
