//! Records that were read before: after a crash a service publishes its last messages again.

use std::collections::BTreeMap;

use bm_contracts::Topic;
use bm_engine::{Record, Watermarks};

/// What was read, a watermark per emitting lane and partition read.
#[derive(Debug, Default)]
pub(crate) struct Repeats(BTreeMap<(Topic, i32), Watermarks>);

impl Repeats {
    /// Whether the record was read before under another offset. What carries no sequence was not.
    pub(crate) fn has(&mut self, topic: Topic, record: &Record) -> bool {
        let Ok(Some((source, seq))) = record.origin() else {
            return false;
        };
        let marks = self.0.entry((topic, record.partition)).or_default();
        !marks.admit(&source.to_owned(), seq)
    }
}

#[cfg(test)]
mod tests {
    use bm_contracts::Timestamp;
    use bm_contracts::headers::{self, SEQ, SOURCE};

    use super::*;

    fn record(partition: i32, headers: &[(&str, &str)]) -> Record {
        let headers = headers.iter().map(|(name, value)| {
            let value = value.to_owned().to_owned();
            (headers::name(name), value.into_bytes().into())
        });
        Record {
            partition,
            offset: 0,
            timestamp: Timestamp::clamped(0),
            key: "g:p".to_owned().into(),
            value: "{}".to_owned().into(),
            headers: headers.collect(),
        }
    }

    #[test]
    fn what_a_lane_published_twice_is_read_once_in_each_partition() {
        let mut repeats = Repeats::default();
        let mut has = |partition, seq| {
            let lane = (SOURCE, "quest-processor/quest.events/1");
            repeats.has(Topic::DeadLetter, &record(partition, &[lane, (SEQ, seq)]))
        };
        assert!(!has(0, "0.7.0") && !has(0, "0.7.1"));
        assert!(has(0, "0.7.0") && has(0, "0.7.1"));
        assert!(!has(1, "0.7.0") && !has(0, "0.8.0"));
        let plain = record(0, &[]);
        assert!(!repeats.has(Topic::GameEvents, &plain) && !repeats.has(Topic::GameEvents, &plain));
    }
}
