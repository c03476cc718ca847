//! What can go wrong with the database, told apart by what may be done about it.

use std::time::Duration;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// A statement other than a lane's commit did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or it broke: try again.
    #[error("{statement}: database not reachable: {message}")]
    Unavailable {
        /// Name of the statement.
        statement: &'static str,
        /// What the network or the pool said.
        message: String,
    },
    /// The database refused.
    #[error("{statement}: database refused ({sqlstate}): {message}")]
    Refused {
        /// Name of the statement.
        statement: &'static str,
        /// The five characters of its code.
        sqlstate: String,
        /// Its sentence.
        message: String,
        /// Whether the same may succeed later.
        transient: bool,
    },
    /// A row cannot be understood.
    #[error("{statement}: stored data cannot be read: {why}")]
    Corrupt {
        /// Name of the statement.
        statement: &'static str,
        /// Which row, and what is wrong with it.
        why: String,
    },
    /// The database holds older definitions than an event was stamped with.
    #[error("rules up to {demanded} are demanded, and the database holds {held}")]
    RulesBehind {
        /// The stamp.
        demanded: i64,
        /// The config counter.
        held: i64,
    },
    /// The schema is older than this software knows.
    #[error(
        "the database schema is at version {found}, this software needs {needed}: run `brightmatter migrate`"
    )]
    OldSchema {
        /// The newest migration applied; 0 for none.
        found: i64,
        /// The newest migration this software has.
        needed: i64,
    },
    /// A migration failed.
    #[error("migration failed: {0}")]
    Migration(String),
}

impl StoreError {
    /// Whether the same may succeed later without anyone doing anything about it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Refused { transient, .. } => *transient,
            Self::Corrupt { .. }
            | Self::RulesBehind { .. }
            | Self::OldSchema { .. }
            | Self::Migration(_) => false,
        }
    }
}

/// A lane's commit did not, or may not, have happened.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// These lanes belong to someone else now; nothing was written.
    #[error("commit refused: lanes {partitions:?} were taken by someone else")]
    Refused {
        /// Partitions of the refused lanes.
        partitions: Vec<i32>,
    },
    /// A value cannot be stored (class 22, or beyond a limit of the database: class 54); nothing was
    /// written. The record it comes from is poison.
    #[error("the database cannot store a value ({sqlstate}): {message}")]
    Data {
        /// The five characters of its code.
        sqlstate: String,
        /// Its sentence.
        message: String,
    },
    /// The commit may or may not have happened, or may still happen: only the lane's row knows.
    #[error("reply to the commit lost: {0}")]
    ReplyLost(String),
    /// The commit did not happen and will not.
    #[error("commit undone ({sqlstate}): {message}")]
    Undone {
        /// Whether the same may succeed later without anyone doing anything about it.
        transient: bool,
        /// The five characters of its code; empty when the database was not asked.
        sqlstate: String,
        /// Its sentence.
        message: String,
    },
}

/// What became of a statement that gave no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There was no connection to send it on.
    NotSent(sqlx::Error),
    /// The database answered with an error.
    Database(Box<PgDatabaseError>),
    /// The connection broke, or its answer made no sense.
    Broken(sqlx::Error),
    /// No answer in this time.
    Silent(Duration),
}

/// `lanes_advance` refused.
const LANES_REFUSED: &str = "BM001";

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => match error.try_downcast::<PgDatabaseError>() {
                Ok(error) => Self::Database(error),
                Err(error) => Self::Broken(sqlx::Error::Database(error)),
            },
            // All of these arise before anything is sent.
            error @ (sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Configuration(_)
            | sqlx::Error::InvalidArgument(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Encode(_)) => Self::NotSent(error),
            error => Self::Broken(error),
        }
    }
}

impl Failure {
    /// Its label in metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::NotSent(_) => "not_sent",
            Self::Database(error) if error.code() == LANES_REFUSED => "lanes_refused",
            Self::Database(error) if is_transient(error.code()) => "transient",
            Self::Database(_) => "refused",
            Self::Broken(_) => "broken",
            Self::Silent(_) => "silent",
        }
    }

    /// Whether the connection can be used for the next statement.
    ///
    /// After a failover it may lead to a standby (25006), and what it prepared may be gone or out of
    /// date (26000, 0A000): a new one knows nothing and is right.
    pub(crate) fn leaves_connection_usable(&self) -> bool {
        match self {
            Self::Database(error) => {
                error.severity() == PgSeverity::Error
                    && !matches!(error.code(), "25006" | "26000" | "0A000")
                    && !error.code().starts_with("08")
                    && !error.code().starts_with("57P")
            }
            Self::NotSent(_) | Self::Broken(_) | Self::Silent(_) => false,
        }
    }

    pub(crate) fn into_store_error(self, statement: &'static str) -> StoreError {
        match self {
            Self::NotSent(error @ (sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_))) => {
                StoreError::Corrupt {
                    statement,
                    why: error.to_string(),
                }
            }
            Self::Broken(
                error @ (sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::ColumnIndexOutOfBounds { .. }
                | sqlx::Error::TypeNotFound { .. }
                | sqlx::Error::RowNotFound),
            ) => StoreError::Corrupt {
                statement,
                why: error.to_string(),
            },
            Self::NotSent(error) | Self::Broken(error) => StoreError::Unavailable {
                statement,
                message: error.to_string(),
            },
            Self::Silent(after) => StoreError::Unavailable {
                statement,
                message: format!("no answer within {after:?}"),
            },
            Self::Database(error) => StoreError::Refused {
                statement,
                sqlstate: error.code().to_owned(),
                message: sentence(&error),
                transient: is_transient(error.code()) || is_fatal(&error),
            },
        }
    }

    pub(crate) fn into_commit_error(self) -> CommitError {
        match self {
            Self::NotSent(error) => CommitError::Undone {
                transient: !matches!(
                    error,
                    sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_)
                ),
                sqlstate: String::new(),
                message: error.to_string(),
            },
            Self::Broken(error) => CommitError::ReplyLost(error.to_string()),
            Self::Silent(after) => CommitError::ReplyLost(format!("no answer within {after:?}")),
            Self::Database(error) => commit_error(&error),
        }
    }
}

fn commit_error(error: &PgDatabaseError) -> CommitError {
    let code = error.code();
    // A session that ends while it answers does not say whether the commit was before or after.
    if is_fatal(error) || code.starts_with("08") || code == "40003" {
        return CommitError::ReplyLost(format!("{code}: {}", sentence(error)));
    }
    if code == LANES_REFUSED {
        let partitions: Option<Vec<i32>> = error
            .detail()
            .unwrap_or_default()
            .split(',')
            .map(|n| n.parse().ok())
            .collect();
        if let Some(partitions) = partitions {
            return CommitError::Refused { partitions };
        }
    }
    if is_data(code) {
        return CommitError::Data {
            sqlstate: code.to_owned(),
            message: sentence(error),
        };
    }
    CommitError::Undone {
        transient: is_transient(code),
        sqlstate: code.to_owned(),
        message: sentence(error),
    }
}

fn is_fatal(error: &PgDatabaseError) -> bool {
    matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
}

/// A value is the cause, so another value would pass: class 22, and values too large (54000) or too
/// deep (54001) for the database.
fn is_data(code: &str) -> bool {
    code.starts_with("22") || matches!(code, "54000" | "54001")
}

/// The same statement may succeed later: serialization failures and deadlocks, a read-only standby,
/// exhausted resources, locks not to be had, cancelled or shut down, I/O errors of the server,
/// and what another connection cures (see [`Failure::leaves_connection_usable`]).
fn is_transient(code: &str) -> bool {
    matches!(
        code,
        "40001" | "40P01" | "25006" | "55P03" | "57014" | "26000" | "0A000"
    ) || ["08", "53", "57P", "58"]
        .iter()
        .any(|class| code.starts_with(class))
}

fn sentence(error: &PgDatabaseError) -> String {
    match error.constraint() {
        Some(constraint) => format!("{} [{constraint}]", error.message()),
        None => error.message().to_owned(),
    }
}
