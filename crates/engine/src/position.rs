//! Whether a taken lane's log is still its own, and where to begin reading it.

use crate::lane::{LaneRow, LastRecord};

/// What a lane's position is checked against before it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Partitions the topic has now.
    pub partition_count: i32,
    /// Offset of the oldest record kept.
    pub low: i64,
    /// Offset the next record will get.
    pub high: i64,
}

/// Why a lane refuses to run: the log is not the one its row speaks of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongLog {
    /// Keys would go to other lanes than their state.
    #[error(
        "the topic has {found} partitions, the lane was made for {recorded}; drain it and rescale the lanes"
    )]
    PartitionCount {
        /// When the rows were made.
        recorded: i32,
        /// Now.
        found: i32,
    },
    /// Records were lost before they were applied, or the topic is another one.
    #[error(
        "the cursor {cursor} lies outside the log ({low} to {high}); records are missing or the topic was made anew"
    )]
    OutsideLog {
        /// Where the lane stands.
        cursor: i64,
        /// Oldest record kept.
        low: i64,
        /// End of the log.
        high: i64,
    },
    /// Another record stands where the last applied one stood.
    #[error(
        "the record before the cursor {cursor} is not the one that was applied; the topic was made anew"
    )]
    OtherRecord {
        /// Where the lane stands.
        cursor: i64,
    },
}

/// Where a lane begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// At the cursor.
    Cursor(i64),
    /// One record before it, which must be the recorded one.
    Before {
        /// The offset to read first: the cursor less one.
        offset: i64,
        /// What must be found there.
        expected: LastRecord,
    },
}

/// Decides whether and where a taken lane may read its log.
pub fn read_from(row: &LaneRow, log: LogBounds) -> Result<ReadFrom, WrongLog> {
    if log.partition_count != row.partition_count {
        return Err(WrongLog::PartitionCount {
            recorded: row.partition_count,
            found: log.partition_count,
        });
    }
    let cursor = row.next_offset;
    if cursor < log.low || cursor > log.high {
        return Err(WrongLog::OutsideLog {
            cursor,
            low: log.low,
            high: log.high,
        });
    }
    match row.last_record {
        Some(expected) if cursor > log.low => Ok(ReadFrom::Before {
            offset: cursor - 1,
            expected,
        }),
        _ => Ok(ReadFrom::Cursor(cursor)),
    }
}

#[cfg(test)]
mod tests {
    use bm_contracts::Timestamp;

    use super::*;
    use crate::{Outbox, Watermarks};

    fn row(next_offset: i64, last: Option<LastRecord>) -> LaneRow {
        LaneRow {
            epoch: 1,
            generation: 0,
            next_offset,
            watermarks: Watermarks::default(),
            outbox: Outbox::default(),
            partition_count: 5,
            last_record: last,
        }
    }

    #[test]
    fn a_lane_refuses_a_log_that_is_not_its_own() {
        let last = Some(LastRecord {
            timestamp: Timestamp::clamped(1),
            hash: 9,
        });
        let log = |low, high| LogBounds {
            partition_count: 5,
            low,
            high,
        };
        assert!(matches!(
            read_from(
                &row(3, last),
                LogBounds {
                    partition_count: 6,
                    low: 0,
                    high: 9
                }
            ),
            Err(WrongLog::PartitionCount {
                recorded: 5,
                found: 6
            })
        ));
        assert!(matches!(
            read_from(&row(3, last), log(4, 9)),
            Err(WrongLog::OutsideLog { .. })
        ));
        assert!(matches!(
            read_from(&row(3, last), log(0, 2)),
            Err(WrongLog::OutsideLog { .. })
        ));
        assert!(matches!(
            read_from(&row(3, last), log(0, 9)),
            Ok(ReadFrom::Before { offset: 2, .. })
        ));
        assert_eq!(read_from(&row(3, last), log(3, 9)), Ok(ReadFrom::Cursor(3)));
        assert_eq!(read_from(&row(0, None), log(0, 0)), Ok(ReadFrom::Cursor(0)));
    }
}
