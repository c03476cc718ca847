//! What a test has done so far: definitions saved, events sent, and what was answered.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::Value;

use crate::Quest;

/// An event that was sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// As a client sends it.
    pub event: Value,
    /// Whether some answer said that it is in the log.
    pub settled: bool,
    /// The config sequence of the last save that was answered before it was first sent.
    pub config_seq: i64,
}

/// The test's own account; shared by all who send.
#[derive(Debug, Default)]
pub struct Book {
    quests: Mutex<Vec<(i64, Quest)>>,
    sent: Mutex<BTreeMap<String, Sent>>,
}

const POISONED: &str = "nobody panics while holding the book";

impl Book {
    /// A version of a quest was saved with this config sequence.
    pub fn saved(&self, config_seq: i64, quest: Quest) {
        self.quests
            .lock()
            .expect(POISONED)
            .push((config_seq, quest));
    }

    /// The config sequence of the newest save that was answered.
    pub fn config_seq(&self) -> i64 {
        let quests = self.quests.lock().expect(POISONED);
        quests.iter().map(|(seq, _)| *seq).max().unwrap_or(0)
    }

    /// All versions of all quests, oldest first.
    pub fn quests(&self) -> Vec<(i64, Quest)> {
        let mut quests = self.quests.lock().expect(POISONED).clone();
        quests.sort_by_key(|(seq, _)| *seq);
        quests
    }

    /// An event is about to be sent, perhaps again.
    pub fn sending(&self, event: &Value) {
        let config_seq = self.config_seq();
        let mut sent = self.sent.lock().expect(POISONED);
        sent.entry(event_id(event)).or_insert_with(|| Sent {
            event: event.clone(),
            settled: false,
            config_seq,
        });
    }

    /// An answer said that the event is in the log.
    pub fn settled(&self, event: &Value) {
        let mut sent = self.sent.lock().expect(POISONED);
        let entry = sent.get_mut(&event_id(event));
        entry.expect("an answer follows a request").settled = true;
    }

    /// All events sent, by id.
    pub fn sent(&self) -> BTreeMap<String, Sent> {
        self.sent.lock().expect(POISONED).clone()
    }
}

/// The event's id, which all events of these tests have.
pub fn event_id(event: &Value) -> String {
    let id = event["eventId"].as_str();
    id.expect("the tests' events have ids").to_owned()
}
