//! Taking a lane: the statement, the first rows of a processor, and whether the log is still its own.

use std::sync::Arc;
use std::time::Duration;

use bm_engine::Domain;
use bm_engine::lane::LaneRow;
use bm_engine::position::{LogBounds, ReadFrom, WrongLog, read_from};
use bm_kafka::KafkaError;
use bm_storage::{LaneStore, StoreError};

use crate::Shared;

/// A lane taken, and where to begin to read.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) row: LaneRow,
    /// Its outbox is due even where the log is not its own any more.
    pub(crate) from: Result<ReadFrom, WrongLog>,
}

/// Why a lane was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error("database: {0}")]
    Store(#[from] StoreError),
    #[error("broker: {0}")]
    Kafka(#[from] KafkaError),
    #[error("no answer of the database in time")]
    TimedOut,
    #[error("a panic, which the log shows above")]
    Panicked,
    #[error(
        "the lane has no row though its processor has others; were partitions added? drain and rescale the lanes"
    )]
    MissingRow,
}

impl TakeError {
    /// Whether trying again cannot help: someone has to look.
    pub(crate) fn halts(&self) -> bool {
        matches!(self, Self::MissingRow)
    }

    /// Whether it may pass without anyone doing anything about it.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Kafka(error) => !error.is_lasting(),
            Self::TimedOut => true,
            Self::MissingRow | Self::Panicked => false,
        }
    }
}

/// How long to wait before a take after `failed` failures in a row, within 50 ms and 5 s.
pub(crate) fn backoff(failed: u32) -> Duration {
    Duration::from_millis(50 << failed.min(7)).min(Duration::from_secs(5))
}

pub(crate) async fn take<D: Domain, S: LaneStore<D>>(
    shared: &Arc<Shared<D, S>>,
    partition: i32,
) -> Result<Taken, TakeError> {
    shared.metrics.takes.increment(1);
    let topic = D::INPUT;
    let statement = async {
        if let Some(row) = shared.lanes.take(D::PROCESSOR, topic, partition).await? {
            return Ok(row);
        }
        create(shared).await?;
        shared
            .lanes
            .take(D::PROCESSOR, topic, partition)
            .await?
            .ok_or(TakeError::MissingRow)
    };
    let row = tokio::time::timeout(shared.config.statement_timeout, statement)
        .await
        .map_err(|_| TakeError::TimedOut)??;
    let partition_count = shared.fetcher.partition_count().await?;
    let (low, high) = shared.fetcher.watermarks(partition).await?;
    let from = read_from(
        &row,
        LogBounds {
            partition_count,
            low,
            high,
        },
    );
    Ok(Taken { row, from })
}

/// Makes the rows of all partitions, from the earliest offsets, if the processor has none yet.
async fn create<D: Domain, S: LaneStore<D>>(shared: &Arc<Shared<D, S>>) -> Result<(), TakeError> {
    let mut earliest = Vec::new();
    for partition in 0..shared.fetcher.partition_count().await? {
        earliest.push(shared.fetcher.watermarks(partition).await?.0);
    }
    shared
        .lanes
        .create(D::PROCESSOR, D::INPUT, &earliest)
        .await?;
    Ok(())
}
