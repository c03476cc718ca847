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

/// Whose turn it is among lanes that have more than one batch can hold.
#[derive(Debug, Default)]
pub struct Turns {
    /// The next batch begins with the first lane from here on.
    next: i32,
}

impl Turns {
    /// Takes a batch out of `lanes` (those that may commit, by partition in ascending order): another lane
    /// begins each time, and no more of them are in it than fill it, nor more than `most`. Of a backlog,
    /// others can so be committed while these are published.
    ///
    /// Gives the records of each lane that is in it, the one that began first.
    pub fn take(
        &mut self,
        mut lanes: Vec<(i32, &mut LaneBuffer)>,
        most: usize,
        limits: BatchLimits,
    ) -> Vec<(i32, Vec<Record>)> {
        let begins = lanes.iter().position(|(lane, _)| *lane >= self.next);
        lanes.rotate_left(begins.unwrap_or(0));
        if let Some((first, _)) = lanes.first() {
            self.next = first + 1;
        }
        lanes.truncate(enough_for(&lanes, limits).min(most));
        let (lanes, mut buffers): (Vec<i32>, Vec<&mut LaneBuffer>) = lanes.into_iter().unzip();
        lanes
            .into_iter()
            .zip(take_batch(&mut buffers, limits))
            .collect()
    }

    /// The next batch begins with this lane again.
    pub fn again(&mut self, lane: i32) {
        self.next = lane;
    }
}

/// How many of `lanes`, from the first on, fill a batch together; all, if they do not.
fn enough_for(lanes: &[(i32, &mut LaneBuffer)], limits: BatchLimits) -> usize {
    let (mut records, mut bytes) = (0, 0);
    let full = lanes.iter().position(|(_, buffer)| {
        records += buffer.len();
        bytes += buffer.bytes();
        records >= limits.records || bytes >= limits.bytes_in
    });
    full.map_or(lanes.len(), |last| last + 1)
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
        let value = Bytes::from(vec![0; size]);
        for offset in 0..count {
            buffer.push(Record {
                partition,
                offset: offset as i64,
                timestamp: Timestamp::clamped(0),
                key: Bytes::new(),
                value: value.clone(),
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

    /// Lanes 0, 1, … by their buffers.
    fn numbered(buffers: &mut [LaneBuffer]) -> Vec<(i32, &mut LaneBuffer)> {
        (0..).zip(buffers).collect()
    }

    #[test]
    fn a_batch_has_no_more_lanes_than_fill_it() {
        let lanes = |sizes: &[(usize, usize)]| {
            let mut buffers: Vec<_> = (0..)
                .zip(sizes)
                .map(|(lane, (count, size))| buffer(lane, *count, *size))
                .collect();
            let taken = Turns::default().take(numbered(&mut buffers), usize::MAX, LIMITS);
            taken.iter().map(|(lane, _)| *lane).collect::<Vec<_>>()
        };
        assert_eq!(lanes(&[(10, 1), (20, 1), (30, 1)]), [0, 1, 2]);
        assert_eq!(lanes(&[(40, 1), (60, 1), (10, 1)]), [0, 1]);
        assert_eq!(lanes(&[(2, 600), (1, 600), (1, 600)]), [0]);
    }

    /// How many records each of `lanes` backlogged lanes gets in many batches. A lane's last batch is
    /// published while the next is committed: it is not in two that follow each other.
    fn shares(lanes: usize, count: usize, size: usize) -> Vec<usize> {
        let limits = BatchLimits::default();
        let mut turns = Turns::default();
        let mut got = vec![0; lanes];
        let mut published = Vec::new();
        for _ in 0..600 {
            let mut buffers: Vec<_> = (0..lanes).map(|_| buffer(0, count, size)).collect();
            let ready = numbered(&mut buffers)
                .into_iter()
                .filter(|(lane, _)| !published.contains(lane));
            let taken = turns.take(ready.collect(), usize::MAX, limits);
            published = taken.iter().map(|(lane, _)| *lane).collect();
            for (lane, records) in taken {
                got[lane as usize] += records.len();
            }
        }
        got
    }

    #[test]
    fn lanes_with_a_backlog_get_the_same_whatever_the_size_of_their_records() {
        for (lanes, count, size) in [
            (5, 1_500, 100),
            (5, 300, 2_048),
            (5, 11, 500_000),
            (10, 600, 2_048),
        ] {
            let got = shares(lanes, count, size);
            let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
            assert!(
                most - least <= most / 20,
                "{count} records of {size} bytes: {got:?}"
            );
        }
    }

    #[test]
    fn a_lane_that_is_to_begin_again_does() {
        let mut buffers = [buffer(0, 200, 1), buffer(1, 200, 1), buffer(2, 200, 1)];
        let mut turns = Turns::default();
        let mut first = |turns: &mut Turns| turns.take(numbered(&mut buffers), 1, LIMITS)[0].0;
        assert_eq!([first(&mut turns), first(&mut turns)], [0, 1]);
        turns.again(1);
        assert_eq!(
            [first(&mut turns), first(&mut turns), first(&mut turns)],
            [1, 2, 0]
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
