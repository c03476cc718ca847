//! One lane in memory: its protocol state, backlog, cached states, and what bounds them.

use std::hash::Hash;
use std::sync::Arc;

use bm_engine::lane::{Lane, LastRecord};
use bm_engine::{LaneBuffer, Watermarks};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::flow::Flow;
use crate::memory::StateCache;
use crate::status::LaneFlags;

/// After so many setbacks in a row a lane counts as stalled: it comes to nothing without someone's doing.
pub(crate) const STALLED_AFTER: u32 = 6;

/// Identifies one reading of a partition; records of an older one are stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ReadToken(u64);

impl ReadToken {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// How far the current reading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Not asked for.
    None,
    /// Asked for; what comes before it begins is of an older one.
    Asked {
        token: ReadToken,
        check: Option<Check>,
    },
    /// The record before the cursor is looked at first.
    Checking(Check),
    /// Records go into the buffer.
    Running,
}

/// The record that must stand before the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) offset: i64,
    pub(crate) expected: LastRecord,
}

pub(crate) struct Slot<K: Hash + Eq, S> {
    pub(crate) lane: Lane,
    pub(crate) generation: i64,
    pub(crate) watermarks: Watermarks,
    pub(crate) buffer: LaneBuffer,
    /// States right while the epoch holds; `None` where states are never read again.
    pub(crate) cache: Option<StateCache<K, S>>,
    pub(crate) reading: Reading,
    pub(crate) last_token: ReadToken,
    pub(crate) flow: Arc<Flow>,
    pub(crate) publishing: Option<AbortHandle>,
    /// The attempt to take the lane that is under way, or waits for its backoff.
    pub(crate) taking: Option<AbortHandle>,
    /// Takes that failed in a row.
    pub(crate) failed_takes: u32,
    /// How often the lane was lost in mid-work since its last commit: to another owner, with a reply,
    /// or to a reading that failed. A take that succeeds between two of them is no progress.
    pub(crate) setbacks: u32,
    /// Batches of this lane alone that could not be committed in a row (refused, or its rules or a state
    /// of it cannot be read), and when to try again.
    pub(crate) refusals: u32,
    pub(crate) not_before: Option<Instant>,
    pub(crate) flags: LaneFlags,
}

impl<K: Hash + Eq, S> Slot<K, S> {
    pub(crate) fn new(cache_bytes: usize, flow: Flow) -> Self {
        Self {
            lane: Lane::default(),
            generation: 0,
            watermarks: Watermarks::default(),
            buffer: LaneBuffer::default(),
            cache: (cache_bytes > 0).then(|| StateCache::new(cache_bytes)),
            reading: Reading::None,
            last_token: ReadToken::default(),
            flow: Arc::new(flow),
            publishing: None,
            taking: None,
            failed_takes: 0,
            setbacks: 0,
            refusals: 0,
            not_before: None,
            flags: LaneFlags::default(),
        }
    }

    /// Throws away all memory of the lane.
    pub(crate) fn forget(&mut self) {
        self.watermarks = Watermarks::default();
        self.buffer.clear();
        if let Some(cache) = &mut self.cache {
            cache.clear();
        }
        self.reading = Reading::None;
        // Whoever still counts on the old one counts for nothing.
        self.flow = Arc::new(self.flow.anew());
        if let Some(publishing) = self.publishing.take() {
            publishing.abort();
        }
        // A lane given away must not be taken from its next owner after all.
        if let Some(taking) = self.taking.take() {
            taking.abort();
        }
        self.refusals = 0;
        self.not_before = None;
    }

    /// Whether the lane may be part of a batch at `now` and has records for one.
    pub(crate) fn has_work(&self, now: Instant) -> bool {
        !self.buffer.is_empty()
            && self.lane.may_commit().is_some()
            && self.not_before.is_none_or(|at| at <= now)
    }

    /// The lane is lost in mid-work, and to be taken again.
    pub(crate) fn set_back(&mut self) -> u32 {
        self.setbacks = self.setbacks.saturating_add(1);
        self.setbacks
    }

    /// Setbacks of all kinds in a row, for the backoff of the next take.
    pub(crate) fn in_vain(&self) -> u32 {
        self.failed_takes.max(self.setbacks)
    }

    /// The group took the lane away: what went wrong with it is the next owner's to find out.
    pub(crate) fn given_up(&mut self) {
        self.failed_takes = 0;
        self.setbacks = 0;
    }

    fn comes_to_nothing(&self) -> bool {
        // One that runs and has nothing to do is not held up by what was.
        let idle = self.reading == Reading::Running && self.buffer.is_empty();
        self.refusals > 0
            || self.failed_takes >= STALLED_AFTER
            || (self.setbacks >= STALLED_AFTER && !idle)
    }

    pub(crate) fn current_flags(&self) -> LaneFlags {
        LaneFlags {
            assigned: self.lane.is_assigned() || self.lane.is_halted(),
            running: self.reading == Reading::Running,
            halted: self.lane.is_halted(),
            stalled: self.lane.is_assigned() && self.comes_to_nothing(),
        }
    }
}
