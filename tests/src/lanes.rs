//! Where the lanes stand, as their rows say.

use std::collections::BTreeMap;

use sqlx::PgPool;

use crate::Service;

/// A lane's row, as far as tests look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneRow {
    /// The fence.
    pub epoch: i64,
    /// The cursor.
    pub next_offset: i64,
}

/// All lanes of a processor, by partition.
pub async fn rows(pool: &PgPool, service: Service) -> BTreeMap<i32, LaneRow> {
    let rows: Vec<(i32, i64, i64)> = sqlx::query_as(
        "SELECT partition, epoch, next_offset FROM lanes WHERE processor = $1 AND topic = $2",
    )
    .bind(service.name())
    .bind(service.input())
    .fetch_all(pool)
    .await
    .expect("the lanes can be read");
    rows.into_iter()
        .map(|(partition, epoch, next_offset)| (partition, LaneRow { epoch, next_offset }))
        .collect()
}

/// How many records a processor has put behind it, over all its lanes.
pub async fn applied(pool: &PgPool, service: Service) -> i64 {
    let rows = rows(pool, service).await;
    rows.values().map(|row| row.next_offset).sum()
}
