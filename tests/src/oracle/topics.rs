//! The topics, compared with what must be.

use std::collections::{BTreeMap, BTreeSet};

use bm_contracts::Timestamp;
use bm_testkit::TestRecord;
use serde_json::{Map, Value, json};

use super::expected::{Expected, Grant, Who};
use super::{Faults, Kept};
use crate::book::Sent;
use crate::fleet::Fleet;
use crate::reader::once;
use crate::{Service, lanes};

impl Fleet {
    pub(super) async fn compare_topics(
        &self,
        kept: &[Kept],
        expected: &Expected,
        dead: usize,
        faults: &mut Faults,
    ) {
        let log = self.topics.read_all("game.events").await;
        compare_log(&log, kept, &self.book.sent(), self.studio(), faults);
        let forwarded = once(self.topics.read_all("quest.events").await);
        compare_forwarded(&forwarded, kept, expected, faults);
        let grants = once(self.topics.read_all("reward.events").await);
        compare_grants("reward.events", &grants, expected, faults, |id, grant| {
            json!({
                "grantId": id, "studioId": grant.studio, "gameId": grant.game, "userId": grant.user,
                "source": grant.source, "reward": grant.reward, "timestamp": told(grant.at),
            })
        });
        let statuses = once(self.topics.read_all("reward.status").await);
        compare_grants("reward.status", &statuses, expected, faults, |id, grant| {
            json!({
                "grantId": id, "studioId": grant.studio, "gameId": grant.game, "userId": grant.user,
                "status": "pending", "timestamp": told(grant.at),
            })
        });
        let updates = self.topics.read_all("ui.updates").await;
        compare_updates(&updates, self.game(), expected, faults);
        let letters = once(self.topics.read_all("dead.letter").await);
        faults.unless(letters.len() == dead, || {
            let letters: Vec<&str> = letters.iter().map(TestRecord::value_text).collect();
            format!("{dead} dead letters were to be, there are {letters:?}")
        });
    }

    /// Nothing is under way: every lane stands at the end of its partition.
    pub(super) async fn compare_cursors(&self, faults: &mut Faults) {
        for service in Service::PROCESSORS {
            let records = self.topics.read_all(service.input()).await;
            for (partition, row) in lanes::rows(&self.pool, service).await {
                let of_partition = records.iter().filter(|one| one.partition == partition);
                let end = of_partition.map(|one| one.offset + 1).max().unwrap_or(0);
                faults.unless(row.next_offset == end, || {
                    format!(
                        "the lane {}/{partition} stands at {}, its log ends at {end}",
                        service.name(),
                        row.next_offset
                    )
                });
            }
        }
    }
}

/// A time as messages tell it.
fn told(millis: i64) -> String {
    Timestamp::clamped(millis).to_string()
}

/// A record's value as a JSON object, if it is one: tests put others there, too.
fn object(record: &TestRecord) -> Option<Map<String, Value>> {
    serde_json::from_slice(record.value.as_deref()?).ok()
}

/// Every row stands for the first record of its event in the log: at its place, appended at its
/// time, with what the client sent.
fn compare_log(
    log: &[TestRecord],
    kept: &[Kept],
    sent: &BTreeMap<String, Sent>,
    studio: &str,
    faults: &mut Faults,
) {
    let mut first_of: BTreeMap<String, (&TestRecord, Map<String, Value>)> = BTreeMap::new();
    for record in log {
        if let Some(value) = object(record)
            && let Some(id) = value.get("eventId").and_then(Value::as_str)
        {
            first_of
                .entry(id.to_owned())
                .or_insert_with(|| (record, value.clone()));
        }
    }
    for row in kept {
        let Some((record, logged)) = first_of.get(&row.event_id) else {
            faults.add(format!("kept, and not in the log: {row:?}"));
            continue;
        };
        let at = (record.partition, record.offset);
        faults.unless(at == row.at, || {
            format!("{row:?} stands first in the log at {at:?}")
        });
        faults.unless(record.timestamp == Some(row.ingested_at), || {
            format!("{row:?} was appended at {:?}", record.timestamp)
        });
        let key = format!("{}:{}", row.game, row.user);
        faults.unless(
            record.key.as_deref() == Some(key.as_bytes())
                && logged.get("partitionKey") == Some(&Value::from(key)),
            || format!("{row:?} is logged under another key: {record:?}"),
        );
        faults.unless(
            row.studio == studio && logged.get("studioId") == Some(&Value::from(studio)),
            || format!("{row:?} belongs to {studio}, the log says {logged:?}"),
        );
        let Some(event) = sent.get(&row.event_id).map(|sent| &sent.event) else {
            continue;
        };
        let fields = event.as_object().into_iter().flatten();
        for (name, value) in fields {
            let same = if name == "timestamp" {
                // Either form is taken, one is written.
                logged.get(name).map(millis) == Some(millis(value))
            } else {
                logged.get(name) == Some(value)
            };
            faults.unless(same, || {
                format!("{name} of {event} was sent, the log says {logged:?}")
            });
        }
        faults.unless(as_sent(row) == sent_form(event), || {
            format!("{event} was sent, {row:?} was kept")
        });
    }
}

/// Milliseconds of either form of a time.
fn millis(time: &Value) -> Option<i64> {
    match time {
        Value::String(text) => Some(Timestamp::parse_rfc3339(text).ok()?.as_millis()),
        other => other.as_i64(),
    }
}

/// An event as a client sends it, with its time in milliseconds.
fn sent_form(event: &Value) -> Value {
    let mut event = event.clone();
    event["timestamp"] = millis(&event["timestamp"]).into();
    event
}

/// The same from what was kept.
fn as_sent(row: &Kept) -> Value {
    let mut event = json!({
        "eventId": row.event_id, "eventType": row.event_type, "userId": row.user,
        "gameId": row.game, "timestamp": row.occurred_at,
    });
    if let Some(name) = &row.event_name {
        event["eventName"] = name.as_str().into();
    }
    if !row.metadata.is_null() {
        event["metadata"] = row.metadata.clone();
    }
    for (name, value) in row.extra.as_object().into_iter().flatten() {
        event[name] = value.clone();
    }
    event
}

/// What the router forwarded: each wanted event once, as it was kept and with its stamp; nothing
/// that was not kept or that no quest is about; and each player's in the order of the log.
fn compare_forwarded(
    records: &[TestRecord],
    kept: &[Kept],
    expected: &Expected,
    faults: &mut Faults,
) {
    let places: BTreeMap<&str, &Kept> = kept
        .iter()
        .map(|row| (row.event_id.as_str(), row))
        .collect();
    let mut wanted = expected.wanted.clone();
    let mut seen = BTreeSet::new();
    let mut last_of: BTreeMap<String, i64> = BTreeMap::new();
    // Records without a source were put there by a test.
    for record in records
        .iter()
        .filter(|one| one.header("bm-source").is_some())
    {
        let event = record.json();
        let id = event["eventId"].as_str().unwrap_or_default().to_owned();
        let Some(row) = places.get(id.as_str()) else {
            faults.add(format!("forwarded but not kept: {event}"));
            continue;
        };
        wanted.remove(&id);
        faults.unless(!expected.unwanted.contains(&id), || {
            format!("forwarded though no quest is about it: {event}")
        });
        let same = event["userId"] == row.user.as_str()
            && event["gameId"] == row.game.as_str()
            && event["studioId"] == row.studio.as_str()
            && event["eventType"] == row.event_type.as_str()
            && event.get("eventName").and_then(Value::as_str) == row.event_name.as_deref()
            && event.get("metadata").unwrap_or(&Value::Null) == &row.metadata
            && event["ingestedAt"] == told(row.ingested_at)
            && record.header("bm-config") == Some(&row.config_seq.to_string());
        faults.unless(same, || {
            format!("{row:?} was kept, {record:?} was forwarded")
        });
        let last = last_of.insert(row.user.clone(), row.at.1);
        faults.unless(last.is_none_or(|last| last < row.at.1), || {
            format!("forwarded out of order: {event}")
        });
        faults.unless(seen.insert(id), || format!("forwarded twice: {event}"));
    }
    faults.unless(wanted.is_empty(), || {
        format!("wanted and not forwarded: {wanted:?}")
    });
}

/// Each grant once, with all that must be said of it, and no other.
fn compare_grants(
    topic: &str,
    records: &[TestRecord],
    expected: &Expected,
    faults: &mut Faults,
    message: impl Fn(&str, &Grant) -> Value,
) {
    let mut missing = expected.grants.clone();
    for record in records
        .iter()
        .filter(|one| one.header("bm-source").is_some())
    {
        let found = record.json();
        let id = found["grantId"].as_str().unwrap_or_default();
        let Some(grant) = missing.remove(id) else {
            faults.add(format!("{topic} holds twice, or without cause: {found}"));
            continue;
        };
        let wanted = message(id, &grant);
        faults.unless(found == wanted, || {
            format!("{topic} must hold {wanted}, holds {found}")
        });
        let key = format!("{}:{}", grant.game, grant.user);
        faults.unless(record.key_text() == key, || {
            format!("{topic} holds {found} under another key than {key}: {record:?}")
        });
    }
    for (id, grant) in missing {
        faults.add(format!("{topic} does not hold {id}: {grant:?}"));
    }
}

/// Every update shows a state that was, and the newest of each player and quest the last one.
fn compare_updates(records: &[TestRecord], game: &str, expected: &Expected, faults: &mut Faults) {
    let mut newest: BTreeMap<Who, i64> = BTreeMap::new();
    for record in records {
        let update = record.json();
        let text = |name: &str| update[name].as_str().unwrap_or_default().to_owned();
        let who = (text("userId"), text("questId"));
        let version = update["version"].as_i64().unwrap_or(0);
        let history = expected.progress.get(&who);
        let state = usize::try_from(version - 1)
            .ok()
            .and_then(|index| history?.get(index));
        let well = state.is_some_and(|state| {
            update["type"] == "quest_progress"
                && update["gameId"] == game
                && record.key_text() == format!("{game}:{}", who.0)
                && state.current.is(&update["progress"]["current"])
                && state.target.is(&update["progress"]["target"])
                && update["completed"] == state.completed_at.is_some()
        });
        faults.unless(well, || {
            format!("ui.updates shows {update}, which must be {state:?}")
        });
        let newest = newest.entry(who).or_default();
        *newest = version.max(*newest);
    }
    for (who, history) in &expected.progress {
        let shown = newest.get(who).copied();
        let last = history.last().map(|state| state.version);
        faults.unless(shown == last, || {
            format!("the newest update of {who:?} is {shown:?}, must be {last:?}")
        });
    }
}
