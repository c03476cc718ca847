//! Which records go into a batch: what is there, in fair shares, within bounds.

use std::collections::VecDeque;

use crate::record::Record;

/// Bounds of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most records in.
    pub records: usize,
    /// Most bytes in; a first record larger than this still goes, alone.
    pub bytes_in: usize,
    /// Bytes of messages out after which no further record is applied.
    pub bytes_out: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            records: 1_000,
            bytes_in: 1 << 20,
            bytes_out: 4 << 20,
        }
    }
}

/// The records of one lane that were read and not yet committed.
#[derive(Debug, Default)]
pub struct LaneBuffer {
    records: VecDeque<Record>,
    bytes: usize,
}

impl LaneBuffer {
    /// Adds the next record read.
    pub fn push(&mut self, record: Record) {
        self.bytes += record.size();
        self.records.push_back(record);
    }

    /// Puts records that were taken out back in front, in their order.
    pub fn put_back(&mut self, records: impl DoubleEndedIterator<Item = Record>) {
        for record in records.rev() {
            self.bytes += record.size();
            self.records.push_front(record);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }

    /// How many records wait.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of the records that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn pop_within(
        &mut self,
        records: &mut usize,
        bytes: &mut usize,
        first: bool,
    ) -> Option<Record> {
        let size = self.records.front()?.size();
        if *records == 0 || (size > *bytes && !first) {
            return None;
        }
        *records -= 1;
        *bytes = bytes.saturating_sub(size);
        self.bytes -= size;
        self.records.pop_front()
    }
}

/// How many of `buffers`, from the first on, fill a batch together; all, if they do not.
pub fn enough_for<'a>(buffers: impl Iterator<Item = &'a LaneBuffer>, limits: BatchLimits) -> usize {
    let (mut records, mut bytes, mut enough) = (0, 0, 0);
    for buffer in buffers {
        if records >= limits.records || bytes >= limits.bytes_in {
            break;
        }
        records += buffer.len();
        bytes += buffer.bytes();
        enough += 1;
    }
    enough
}

/// Takes a batch out of `buffers` (one per lane that may commit): a fair share from each lane, and
/// what that leaves to whoever has more.
///
/// Gives the records per buffer, in offset order; empty for lanes with none.
pub fn take_batch(buffers: &mut [&mut LaneBuffer], limits: BatchLimits) -> Vec<Vec<Record>> {
    let mut taken: Vec<Vec<Record>> = buffers.iter().map(|_| Vec::new()).collect();
    let mut records = limits.records;
    let mut bytes = limits.bytes_in;
    let mut first = true;
    loop {
        let waiting = buffers.iter().filter(|b| !b.is_empty()).count();
        if waiting == 0 || records == 0 {
            return taken;
        }
        let share = (records / waiting).max(1);
        let before = records;
        for (buffer, out) in buffers.iter_mut().zip(&mut taken) {
            for _ in 0..share {
                let Some(record) = buffer.pop_within(&mut records, &mut bytes, first) else {
                    break;
                };
                first = false;
                out.push(record);
            }
        }
        if records == before {
            return taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use bm_contracts::Timestamp;
    use bytes::Bytes;

    use super::*;

    fn buffer(partition: i32, count: usize, size: usize) -> LaneBuffer {
        let mut buffer = LaneBuffer::default();
        for offset in 0..count {
            buffer.push(Record {
                partition,
                offset: offset as i64,
                timestamp: Timestamp::clamped(0),
                key: Bytes::new(),
                value: Bytes::from(vec![0; size]),
                headers: Vec::new(),
            });
        }
        buffer
    }

    fn take(buffers: &mut [LaneBuffer], limits: BatchLimits) -> Vec<usize> {
        let mut refs: Vec<_> = buffers.iter_mut().collect();
        take_batch(&mut refs, limits).iter().map(Vec::len).collect()
    }

    const LIMITS: BatchLimits = BatchLimits {
        records: 100,
        bytes_in: 1_000,
        bytes_out: 1_000,
    };

    #[test]
    fn a_busy_lane_does_not_starve_the_others_and_may_use_what_they_leave() {
        let mut buffers = [buffer(0, 1_000, 1), buffer(1, 10, 1), buffer(2, 40, 1)];
        assert_eq!(take(&mut buffers, LIMITS), [50, 10, 40]);
    }

    #[test]
    fn a_batch_needs_no_more_lanes_than_fill_it() {
        let enough = |lanes: &[(usize, usize)]| {
            let lanes = lanes.iter().map(|(count, size)| buffer(0, *count, *size));
            enough_for(lanes.collect::<Vec<_>>().iter(), LIMITS)
        };
        assert_eq!(enough(&[(10, 1), (20, 1), (30, 1)]), 3, "all are less");
        assert_eq!(
            enough(&[(40, 1), (60, 1), (10, 1)]),
            2,
            "two have its records"
        );
        assert_eq!(
            enough(&[(2, 600), (1, 600), (1, 600)]),
            1,
            "one has its bytes"
        );
    }

    #[test]
    fn bytes_bound_a_batch_but_a_large_record_goes_alone() {
        let mut buffers = [buffer(0, 5, 400)];
        assert_eq!(take(&mut buffers, LIMITS), [2]);
        let mut buffers = [buffer(0, 2, 5_000), buffer(1, 1, 1)];
        assert_eq!(take(&mut buffers, LIMITS)[0], 1);
    }

    #[test]
    fn what_is_put_back_comes_first_again() {
        let mut buffers = [buffer(0, 5, 1)];
        let mut refs: Vec<_> = buffers.iter_mut().collect();
        let batch = take_batch(
            &mut refs,
            BatchLimits {
                records: 3,
                ..LIMITS
            },
        )
        .remove(0);
        buffers[0].put_back(batch.into_iter());
        let mut refs: Vec<_> = buffers.iter_mut().collect();
        let offsets: Vec<_> = take_batch(&mut refs, LIMITS)
            .remove(0)
            .iter()
            .map(|r| r.offset)
            .collect();
        assert_eq!(offsets, [0, 1, 2, 3, 4]);
        assert_eq!(buffers[0].bytes(), 0);
    }
}
