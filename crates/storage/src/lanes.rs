//! Table `lanes`: making the rows of a new processor, and taking a lane.

use bm_contracts::Topic;
use bm_engine::lane::{LaneRow, LastRecord};
use bm_engine::{Outbox, Watermarks};

use crate::arrays::{SqlTime, from_sql};
use crate::error::StoreError;
use crate::pool::Storage;
use crate::session::run;

/// The rows all lanes live by. They move in the commits of the [`crate::LaneStore`]s.
#[derive(Debug, Clone)]
pub struct LaneTable {
    storage: Storage,
}

impl LaneTable {
    /// Of that database.
    pub fn new(storage: Storage) -> Self {
        Self { storage }
    }

    /// Takes a lane: from now on nobody who took it before can move it. `None` when it has no row.
    ///
    /// An error may mean that the lane was taken and the reply lost; taking it again is right.
    pub async fn take(
        &self,
        processor: &str,
        topic: Topic,
        partition: i32,
    ) -> Result<Option<LaneRow>, StoreError> {
        const NAME: &str = "lane_take";
        let row = run!(self.storage, NAME, |connection| sqlx::query!(
            r#"
            UPDATE lanes SET epoch = epoch + 1, updated_at = now()
            WHERE processor = $1 AND topic = $2 AND partition = $3
            RETURNING epoch, generation, next_offset, watermarks, outbox, partition_count,
                      last_record_at AS "last_record_at: SqlTime", last_record_hash
            "#,
            processor,
            topic.name(),
            partition,
        )
        .fetch_optional(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        let Some(row) = row else { return Ok(None) };
        let corrupt = |why: String| StoreError::Corrupt {
            statement: NAME,
            why: format!("lane {processor}/{topic}/{partition}: {why}"),
        };
        Ok(Some(LaneRow {
            epoch: row.epoch,
            generation: row.generation,
            next_offset: row.next_offset,
            watermarks: Watermarks::decode(&row.watermarks).map_err(|e| corrupt(e.to_string()))?,
            outbox: Outbox::decode(&row.outbox).map_err(|e| corrupt(e.to_string()))?,
            partition_count: row.partition_count,
            last_record: row
                .last_record_at
                .zip(row.last_record_hash)
                .map(|(at, hash)| LastRecord {
                    timestamp: from_sql(at),
                    hash,
                }),
        }))
    }

    /// Makes the lanes of a processor that meets a topic for the first time: one per entry of
    /// `earliest`, each beginning at that offset. Does nothing when there is any row of them.
    pub async fn create(
        &self,
        processor: &str,
        topic: Topic,
        earliest: &[i64],
    ) -> Result<(), StoreError> {
        const NAME: &str = "lanes_create";
        let made = run!(self.storage, NAME, |connection| sqlx::query_scalar!(
            r#"SELECT lanes_create($1, $2, $3) AS "made!""#,
            processor,
            topic.name(),
            earliest,
        )
        .fetch_one(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        if made > 0 {
            tracing::info!(processor, topic = topic.name(), lanes = made, "lanes made");
        }
        Ok(())
    }
}
