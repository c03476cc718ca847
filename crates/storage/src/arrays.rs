//! Turns rows into the columns that UNNEST takes, and times into the database's.

use bm_contracts::Timestamp;
use bm_engine::lane::LaneMove;
use jiff_sqlx::ToSqlx;

use crate::error::CommitError;

/// `timestamptz` as sqlx reads and writes it.
pub(crate) type SqlTime = jiff_sqlx::Timestamp;

pub(crate) fn sql_time(time: Timestamp) -> SqlTime {
    time.to_jiff().to_sqlx()
}

/// Times are whole milliseconds when they come from us; finer ones are cut off.
pub(crate) fn from_sql(time: SqlTime) -> Timestamp {
    Timestamp::from(time.to_jiff())
}

/// The parameters of `lanes_advance` after processor and topic, in its order.
#[derive(Default)]
pub(crate) struct LaneMoves<'a> {
    pub(crate) partitions: Vec<i32>,
    pub(crate) epochs: Vec<i64>,
    pub(crate) expected: Vec<i64>,
    pub(crate) next: Vec<i64>,
    pub(crate) watermarks: Vec<&'a [u8]>,
    pub(crate) outboxes: Vec<&'a [u8]>,
    pub(crate) last_at: Vec<SqlTime>,
    pub(crate) last_hash: Vec<i64>,
}

impl<'a> LaneMoves<'a> {
    /// Refuses a commit that moves no lane: nothing would fence what it writes.
    pub(crate) fn new(lanes: &'a [LaneMove]) -> Result<Self, CommitError> {
        if lanes.is_empty() {
            return Err(CommitError::Undone {
                transient: false,
                sqlstate: String::new(),
                message: "a commit that moves no lane is not fenced".to_owned(),
            });
        }
        let mut columns = Self::default();
        for lane in lanes {
            columns.partitions.push(lane.partition);
            columns.epochs.push(lane.epoch);
            columns.expected.push(lane.expected_offset);
            columns.next.push(lane.next_offset);
            columns.watermarks.push(&lane.watermarks);
            columns.outboxes.push(&lane.outbox);
            columns.last_at.push(sql_time(lane.last_record.timestamp));
            columns.last_hash.push(lane.last_record.hash);
        }
        Ok(columns)
    }
}
