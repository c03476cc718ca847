//! Upkeep of `events_raw`: day partitions made ahead, and dropped when old.

use std::time::Duration;

use bm_contracts::Timestamp;
use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff_sqlx::ToSqlx;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::error::StoreError;
use crate::pool::Storage;
use crate::session::run;

/// Days before today that have a partition: an event may be 8 days old when it is appended, and lie
/// 7 more in the log before it is read.
const DAYS_BEHIND: i32 = MIN_KEEP_DAYS as i32;
/// Days after today: so long nobody need notice that upkeep has stopped.
const DAYS_AHEAD: i32 = 3;
/// Events are kept at least so long: lateness, log, and the days that both begin in.
pub const MIN_KEEP_DAYS: u16 = 16;

/// Detaching waits until every transaction that may look at the partition has ended.
const DETACH_LIMIT: Duration = Duration::from_mins(2);

/// One at a time: two that detach would wait for each other.
const UPKEEP_LOCK: i64 = 0x626d_7570_6b65_6570;

/// What [`Storage::drop_old_event_days`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DroppedDays {
    /// The days whose events are gone, oldest first.
    Dropped(Vec<Date>),
    /// Somebody else is at it.
    Busy,
}

impl Storage {
    /// Makes the day partitions of `events_raw` from [`MIN_KEEP_DAYS`] before `now` to 3 days after it that are
    /// missing; gives how many it made. Any number may do so at once.
    pub async fn ensure_event_days(&self, now: Timestamp) -> Result<i32, StoreError> {
        const NAME: &str = "event_days_ensure";
        let today = day(now);
        let first = today.saturating_sub(DAYS_BEHIND.days());
        let last = today.saturating_add(DAYS_AHEAD.days());
        let made = run!(self, NAME, |connection| sqlx::query_scalar!(
            r#"SELECT events_raw_ensure_partitions($1, $2) AS "made!""#,
            first.to_sqlx() as _,
            last.to_sqlx() as _,
        )
        .fetch_one(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        // An alarm stands on this: events of later days stop their lanes.
        let end = last.saturating_add(1.day());
        if let Ok(end) = end.to_zoned(TimeZone::UTC) {
            metrics::gauge!("bm_db_event_days_end_timestamp_seconds")
                .set(end.timestamp().as_second() as f64);
        }
        Ok(made)
    }

    /// Drops the day partitions older than `keep_days` (at least [`MIN_KEEP_DAYS`]) before `now`.
    /// Detaches each without stopping readers and writers, and finishes what an earlier call,
    /// killed half-way, has left.
    pub async fn drop_old_event_days(
        &self,
        now: Timestamp,
        keep_days: u16,
    ) -> Result<DroppedDays, StoreError> {
        const NAME: &str = "event_days_drop";
        let keep = i32::from(keep_days.max(MIN_KEEP_DAYS));
        let oldest_kept = day(now).saturating_sub(keep.days());
        let failed = |failure: crate::error::Failure| failure.into_store_error(NAME);
        let mut session = self
            .session_within(NAME, DETACH_LIMIT)
            .await
            .map_err(failed)?;
        let deadline = session.deadline();
        let result = match session.connection() {
            Ok(connection) => {
                let work = drop_days(connection, oldest_kept, self.config().timeout);
                tokio::time::timeout_at(deadline, work).await
            }
            Err(error) => Ok(Err(error)),
        };
        session.finish(result).map_err(failed)
    }
}

/// The day (UTC) of a time.
fn day(time: Timestamp) -> Date {
    TimeZone::UTC.to_datetime(time.to_jiff()).date()
}

/// A table that is, or was, a partition of `events_raw`.
struct DayTable {
    name: String,
    day: Date,
    /// `None` when it is detached; else whether detaching was begun.
    detaching: Option<bool>,
}

/// Holds the upkeep's lock and a longer time limit while it works. Both are the session's, so they
/// are put back whether it works out or not; a session that breaks takes them with it.
async fn drop_days(
    connection: &mut PgConnection,
    oldest_kept: Date,
    usual_timeout: Duration,
) -> Result<DroppedDays, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        SELECT pg_try_advisory_lock($1) AS "locked!",
               set_config('statement_timeout', $2, false) AS timeout
        "#,
        UPKEEP_LOCK,
        DETACH_LIMIT.as_millis().to_string(),
    )
    .fetch_one(&mut *connection)
    .await?;
    let dropped = if row.locked {
        drop_each(connection, oldest_kept)
            .await
            .map(DroppedDays::Dropped)
    } else {
        Ok(DroppedDays::Busy)
    };
    sqlx::query!(
        r#"
        SELECT CASE WHEN $2 THEN pg_advisory_unlock($1) END AS unlocked,
               set_config('statement_timeout', $3, false) AS timeout
        "#,
        UPKEEP_LOCK,
        row.locked,
        usual_timeout.as_millis().to_string(),
    )
    .fetch_one(&mut *connection)
    .await?;
    dropped
}

async fn drop_each(
    connection: &mut PgConnection,
    oldest_kept: Date,
) -> Result<Vec<Date>, sqlx::Error> {
    let mut dropped = Vec::new();
    for table in day_tables(connection).await? {
        if table.day >= oldest_kept {
            continue;
        }
        // `name` is of the form events_raw_pYYYYMMDD: nothing to quote.
        let name = &table.name;
        let how = match table.detaching {
            Some(false) => Some("CONCURRENTLY"),
            Some(true) => Some("FINALIZE"),
            None => None,
        };
        if let Some(how) = how {
            let detach = format!("ALTER TABLE events_raw DETACH PARTITION {name} {how}");
            execute(connection, detach).await?;
        }
        execute(connection, format!("DROP TABLE {name}")).await?;
        tracing::info!(partition = name.as_str(), "old events dropped");
        dropped.push(table.day);
    }
    Ok(dropped)
}

/// By simple query: DETACH … CONCURRENTLY runs in no transaction.
async fn execute(connection: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await?;
    Ok(())
}

/// All day tables, oldest first.
async fn day_tables(connection: &mut PgConnection) -> Result<Vec<DayTable>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT c.relname::text AS "name!", i.inhdetachpending AS "detaching?"
        FROM pg_class AS c
        LEFT JOIN pg_inherits AS i
            ON i.inhrelid = c.oid AND i.inhparent = 'events_raw'::regclass
        WHERE c.relkind = 'r' AND c.relname ~ '^events_raw_p[0-9]{8}$'
          AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events_raw'::regclass)
        ORDER BY c.relname
        "#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let day = Date::strptime("events_raw_p%Y%m%d", &row.name).ok()?;
            Some(DayTable {
                name: row.name,
                day,
                detaching: row.detaching,
            })
        })
        .collect())
}
