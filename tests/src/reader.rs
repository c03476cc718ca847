//! A reader of the bus as the protocol wants it: one watermark per partition and source.

use std::collections::BTreeMap;

use bm_testkit::TestRecord;

/// What such a reader sees of the records of one topic, in partition and offset order: each message
/// once. Records without a source pass as they are.
pub fn once(records: Vec<TestRecord>) -> Vec<TestRecord> {
    let mut watermarks: BTreeMap<(i32, String), (i64, i64, i64)> = BTreeMap::new();
    let mut seen = Vec::with_capacity(records.len());
    for record in records {
        if let Some(source) = record.header("bm-source") {
            let at = (record.partition, source.to_owned());
            let sequence = sequence(&record);
            match watermarks.get_mut(&at) {
                Some(watermark) if *watermark >= sequence => continue,
                Some(watermark) => *watermark = sequence,
                None => {
                    watermarks.insert(at, sequence);
                }
            }
        }
        seen.push(record);
    }
    seen
}

/// `bm-seq`: generation, offset, index.
fn sequence(record: &TestRecord) -> (i64, i64, i64) {
    let text = record.header("bm-seq").unwrap_or_default();
    let mut parts = text.split('.').map(str::parse::<i64>);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(generation)), Some(Ok(offset)), Some(Ok(index)), None) => {
            (generation, offset, index)
        }
        _ => panic!("bm-seq is not generation.offset.index: {record:?}"),
    }
}
