//! How large the next batch is, when it begins, and which lanes are in it: what batches learn of the database.

use std::time::Duration;

use bm_engine::batch::{LaneBuffer, Turns};
use bm_engine::{BatchLimits, Record};
use tokio::time::Instant;

use crate::config::RunnerConfig;
use crate::slot::STALLED_AFTER;

/// The longest a lane waits before it tries again what the database refused.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A record or a lane that the database fails to take alone waits as after so many failures, or more.
pub(crate) const ALONE: u32 = 3;

/// How long to wait after so many failures in a row.
pub(crate) fn pause(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.min(9)).min(LONGEST_PAUSE)
}

/// Tells what was known when a batch began from what is known now: it changes with that. What a batch says
/// counts while nothing else is known; otherwise it is of before, like what the others say that ran beside it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known(u64);

/// What a batch says of those after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Feedback {
    /// It, or a part of it, is committed.
    pub(crate) committed: bool,
    /// It was not got through: the next is to hold so many records at most.
    pub(crate) most_records: Option<usize>,
    /// The next is to begin with this lane: while others had their turns, their success would make it as
    /// large as before.
    pub(crate) begins_with: Option<i32>,
    /// So many are to hold one lane only, to find out whose commit the database refuses.
    pub(crate) one_lane_batches: Option<usize>,
    /// The database cannot do it now: all lanes wait.
    pub(crate) waits_for: Option<String>,
}

pub(crate) struct Pace {
    processor: &'static str,
    limits: BatchLimits,
    /// From the beginning of one batch to that of the next, unless that is full before.
    interval: Duration,
    /// Most batches at a time.
    workers: usize,
    known: Known,
    /// What was known when each of those that run began.
    running: Vec<Known>,
    /// The database could not be asked; all lanes wait until then.
    pause_until: Option<Instant>,
    failures: u32,
    /// Most records of the next batch; small while the record that the database refuses is looked for,
    /// and after a batch that it did not get through in time.
    most_records: usize,
    /// Batches left that hold one lane only.
    one_lane_batches: usize,
    /// Which lane begins the next batch.
    turns: Turns,
    /// When the last batch began.
    last_batch: Instant,
}

impl Pace {
    pub(crate) fn new(config: &RunnerConfig, processor: &'static str) -> Self {
        Self {
            processor,
            limits: config.limits,
            interval: config.batch_interval,
            workers: config.workers.max(1),
            known: Known::default(),
            running: Vec::new(),
            pause_until: None,
            failures: 0,
            most_records: config.limits.records,
            one_lane_batches: 0,
            turns: Turns::default(),
            last_batch: Instant::now(),
        }
    }

    /// Whether one more batch may run. While something is looked for, one at a time: what others learn
    /// meanwhile would be of other lanes. Those that began before do not count: they know nothing of it, and
    /// may be without an answer for long.
    pub(crate) fn may_begin(&self) -> bool {
        self.running.len() < self.workers
            && (self.is_at_ease() || !self.running.contains(&self.known))
    }

    /// Whether nothing is looked for, and the database is there.
    fn is_at_ease(&self) -> bool {
        let smaller = self.most_records < self.limits.records;
        !smaller && self.one_lane_batches == 0 && self.failures == 0
    }

    /// Whether the database has been away for so long that someone should know.
    pub(crate) fn is_stalled(&self) -> bool {
        self.failures >= STALLED_AFTER
    }

    /// When the next batch is to begin, when so much waits for one; `None` when nothing does.
    ///
    /// A batch costs the database and the broker much the same whether it has one record or twenty: those
    /// that come soon after another go together. The first after a pause waits for nobody.
    pub(crate) fn batch_due(&self, records: usize, bytes: usize, now: Instant) -> Option<Instant> {
        let limits = self.limits();
        let due = match records {
            0 => return None,
            _ if records >= limits.records || bytes >= limits.bytes_in => now,
            _ => self.last_batch + self.interval,
        };
        Some(self.pause_until.map_or(due, |until| due.max(until)))
    }

    /// The records of a batch that begins now, out of the lanes that are ready, and what is known when it
    /// begins: it runs until that comes back to [`Pace::ended`].
    pub(crate) fn begin(
        &mut self,
        ready: Vec<(i32, &mut LaneBuffer)>,
        now: Instant,
    ) -> (Vec<(i32, Vec<Record>)>, Known) {
        let most = if self.one_lane_batches > 0 {
            self.one_lane_batches -= 1;
            1
        } else {
            usize::MAX
        };
        self.running.push(self.known);
        self.last_batch = now;
        (self.turns.take(ready, most, self.limits()), self.known)
    }

    /// Bounds of the next batch.
    fn limits(&self) -> BatchLimits {
        BatchLimits {
            records: self.most_records,
            ..self.limits
        }
    }

    /// A batch that began with `known` is over: takes to heart what it says.
    pub(crate) fn ended(&mut self, feedback: Feedback, known: Known) {
        if let Some(index) = self.running.iter().position(|other| *other == known) {
            self.running.swap_remove(index);
        }
        if known != self.known {
            return;
        }
        let before = (self.most_records, self.failures);
        if feedback.committed {
            // While a refused record is looked for, a half that went through leaves the other to be halved.
            self.most_records = (self.most_records * 2).min(self.limits.records);
            self.failures = 0;
            self.pause_until = None;
        }
        if let Some(most) = feedback.most_records {
            self.most_records = most;
        }
        if let Some(lane) = feedback.begins_with {
            self.turns.again(lane);
        }
        if let Some(batches) = feedback.one_lane_batches {
            self.one_lane_batches = batches;
        }
        if let Some(error) = feedback.waits_for {
            self.wait(&error);
        }
        let is_search_new = feedback.one_lane_batches.is_some();
        if is_search_new || before != (self.most_records, self.failures) {
            self.known.0 += 1;
        }
    }

    fn wait(&mut self, error: &str) {
        self.failures += 1;
        let wait = pause(self.failures);
        self.pause_until = Some(Instant::now() + wait);
        if self.failures < STALLED_AFTER {
            tracing::warn!(
                processor = self.processor,
                error,
                ?wait,
                tries = self.failures,
                "the database cannot do it now; trying again"
            );
        } else {
            tracing::error!(
                processor = self.processor,
                error,
                ?wait,
                tries = self.failures,
                "LANES STALLED: the database has not done it for a while; nothing is skipped, trying again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three batches at a time, of ten records.
    fn pace() -> Pace {
        let get = |name: &str| match name {
            "BM_WORKERS" => Some("3".to_owned()),
            "BM_BATCH_RECORDS" => Some("10".to_owned()),
            _ => None,
        };
        Pace::new(&RunnerConfig::from_vars("test", get).unwrap(), "test")
    }

    fn committed() -> Feedback {
        Feedback {
            committed: true,
            ..Feedback::default()
        }
    }

    fn too_much(most_records: usize) -> Feedback {
        Feedback {
            most_records: Some(most_records),
            ..Feedback::default()
        }
    }

    fn one_lane_each(batches: usize) -> Feedback {
        Feedback {
            one_lane_batches: Some(batches),
            ..Feedback::default()
        }
    }

    fn away() -> Feedback {
        Feedback {
            waits_for: Some("it is away".to_owned()),
            ..Feedback::default()
        }
    }

    /// Begins a batch; gives what is known.
    fn begin(pace: &mut Pace) -> Known {
        pace.begin(Vec::new(), Instant::now()).1
    }

    /// Begins a batch that ends so.
    fn run(pace: &mut Pace, feedback: Feedback) {
        let known = begin(pace);
        pace.ended(feedback, known);
    }

    /// How many more batches may begin.
    fn free(pace: &mut Pace) -> usize {
        let mut begun = Vec::new();
        while pace.may_begin() {
            begun.push(begin(pace));
        }
        let free = begun.len();
        for known in begun {
            pace.ended(Feedback::default(), known);
        }
        free
    }

    #[test]
    fn a_batch_that_began_before_a_search_says_nothing_of_it() {
        let mut pace = pace();
        let [first, second, third, fourth] = [(); 4].map(|()| begin(&mut pace));
        pace.ended(too_much(4), first);
        assert_eq!(pace.most_records, 4);
        pace.ended(committed(), second);
        pace.ended(too_much(5), third);
        pace.ended(committed(), fourth);
        assert_eq!(pace.most_records, 4);
        for larger in [8, 10] {
            run(&mut pace, committed());
            assert_eq!(pace.most_records, larger);
        }
    }

    #[test]
    fn the_database_goes_away_once_for_all_batches_that_ran() {
        let mut pace = pace();
        let before: Vec<_> = (0..=STALLED_AFTER).map(|_| begin(&mut pace)).collect();
        let (last, others) = before.split_last().unwrap();
        for known in others {
            pace.ended(away(), *known);
        }
        assert_eq!(pace.failures, 1);
        assert!(!pace.is_stalled());
        // Committed just before.
        pace.ended(committed(), *last);
        assert_eq!(pace.failures, 1);
        for _ in 1..STALLED_AFTER {
            run(&mut pace, away());
        }
        assert!(pace.is_stalled());
        run(&mut pace, committed());
        assert!(!pace.is_stalled() && pace.pause_until.is_none());
    }

    #[test]
    fn a_batch_of_before_says_nothing_of_a_database_that_is_back() {
        for feedback in [|| too_much(5), || one_lane_each(4), away] {
            let mut pace = pace();
            let (first, second) = (begin(&mut pace), begin(&mut pace));
            pace.ended(feedback(), first);
            while !pace.is_at_ease() {
                run(&mut pace, committed());
            }
            pace.ended(feedback(), second);
            assert!(pace.is_at_ease());
        }
    }

    #[test]
    fn while_something_is_looked_for_one_batch_runs_at_a_time() {
        let mut pace = pace();
        assert_eq!(free(&mut pace), 3);
        run(&mut pace, too_much(5));
        assert_eq!(free(&mut pace), 1);
        run(&mut pace, committed());
        assert_eq!(free(&mut pace), 3);

        run(&mut pace, one_lane_each(2));
        let first = begin(&mut pace);
        assert!(!pace.may_begin());
        pace.ended(committed(), first);
        run(&mut pace, committed());
        assert_eq!(free(&mut pace), 3);

        run(&mut pace, away());
        assert_eq!(free(&mut pace), 1);
        run(&mut pace, committed());
        assert_eq!(free(&mut pace), 3);
    }

    #[test]
    fn batches_that_ran_before_a_search_do_not_hold_it_up() {
        for feedback in [too_much(5), one_lane_each(1), away()] {
            let mut pace = pace();
            let (silent, failed) = (begin(&mut pace), begin(&mut pace));
            pace.ended(feedback, failed);
            assert!(pace.may_begin());
            run(&mut pace, committed());
            // No more run than may, whatever they know.
            assert_eq!(free(&mut pace), 2);
            pace.ended(committed(), silent);
            assert_eq!(free(&mut pace), 3);
        }
    }

    #[test]
    fn a_full_batch_begins_at_once_and_a_small_one_after_the_interval() {
        let mut pace = pace();
        let began = Instant::now();
        let (_, known) = pace.begin(Vec::new(), began);
        pace.ended(Feedback::default(), known);
        let now = began + Duration::from_millis(1);
        assert_eq!(pace.batch_due(0, 0, now), None);
        assert_eq!(pace.batch_due(9, 100, now), Some(began + pace.interval));
        assert_eq!(pace.batch_due(10, 100, now), Some(now));
        assert_eq!(pace.batch_due(1, 1 << 20, now), Some(now));
        // A search makes smaller ones full; one that cannot be got through waits.
        run(&mut pace, too_much(5));
        assert_eq!(pace.batch_due(5, 100, now), Some(now));
        run(&mut pace, away());
        assert!(
            pace.batch_due(5, 100, now)
                .is_some_and(|due| due > now + pause(0))
        );
    }
}
