//! Commits that are held up on their way to the lanes' rows until a test lets them go.

use std::time::Duration;

use bm_testkit::eventually;
use bm_tests::Fleet;
use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};

/// The fence as it is, and one that lets everybody through; both wait for advisory lock 1 first
/// when their session says so, as a commit would that is held up on its way.
fn slow_fence(fenced: bool) -> String {
    let begin = "BEGIN IF current_setting('bm.slow', true) = 'on' THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;";
    let body = if fenced {
        "RETURN lanes_advance_at_once(p_processor, p_topic, p_partitions, p_epochs, p_expected, p_next, p_watermarks, p_outboxes, p_last_at, p_last_hash);"
    } else {
        "UPDATE lanes AS l SET next_offset = m.next_offset, watermarks = m.watermarks, outbox = m.outbox,
             last_record_at = m.last_at, last_record_hash = m.last_hash
         FROM unnest(p_partitions, p_next, p_watermarks, p_outboxes, p_last_at, p_last_hash)
             AS m (partition, next_offset, watermarks, outbox, last_at, last_hash)
         WHERE l.processor = p_processor AND l.topic = p_topic AND l.partition = m.partition;
         RETURN cardinality(p_partitions);"
    };
    format!(
        "CREATE FUNCTION lanes_advance(
             p_processor text, p_topic text, p_partitions integer[], p_epochs bigint[],
             p_expected bigint[], p_next bigint[], p_watermarks bytea[], p_outboxes bytea[],
             p_last_at timestamptz[], p_last_hash bigint[]
         ) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$ {begin} {body} END $$"
    )
}

/// Puts in place the fence that can be held up.
pub(crate) async fn install(fleet: &Fleet, fenced: bool) {
    for statement in [
        "ALTER FUNCTION lanes_advance RENAME TO lanes_advance_at_once".to_owned(),
        slow_fence(fenced),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&fleet.pool)
            .await
            .unwrap();
    }
}

/// The variables of a process whose commits are held up while the gate is closed.
pub(crate) fn variables(fleet: &Fleet) -> [(&'static str, String); 2] {
    let slow = format!("{}?options=-c%20bm.slow%3Don", fleet.database.url());
    [
        ("RDS_CONNECTION_STRING", slow),
        ("BM_DB_TIMEOUT", "60s".to_owned()),
    ]
}

/// Where commits are held up.
pub(crate) struct Gate {
    holder: PoolConnection<Postgres>,
    pool: PgPool,
}

impl Gate {
    /// Closed: commits that come to it wait.
    pub(crate) async fn closed(fleet: &Fleet) -> Self {
        let mut holder = fleet.pool.acquire().await.unwrap();
        sqlx::query("SELECT pg_advisory_lock(1)")
            .execute(&mut *holder)
            .await
            .unwrap();
        Self {
            holder,
            pool: fleet.pool.clone(),
        }
    }

    /// Waits until a commit waits.
    pub(crate) async fn holds_one(&self) {
        eventually(Duration::from_secs(20), "a commit under way", || async {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE wait_event_type = 'Lock' AND wait_event = 'advisory' AND datname = current_database()",
            )
            .fetch_one(&self.pool)
            .await
            .unwrap();
            (waiting > 0).then_some(())
        })
        .await;
    }

    /// Lets them go.
    pub(crate) async fn open(mut self) {
        sqlx::query("SELECT pg_advisory_unlock(1)")
            .execute(&mut *self.holder)
            .await
            .unwrap();
    }
}
