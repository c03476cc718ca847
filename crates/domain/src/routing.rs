//! Routing: makes each event count once, keeps it, and forwards it to the features that want it.

use std::sync::Arc;

use bm_contracts::event::EVENT_NAME_MAX_CHARS;
use bm_contracts::headers::{self, Kind, Name};
use bm_contracts::{GameEvent, Timestamp, Topic, hash};
use bm_engine::domain::Emit;
use bm_engine::{ConfigDemand, Domain, Poison, Record, Scope};

use crate::quest::{EventFacts, QuestRules};
use crate::record;

/// Names a row of `events_raw`: its unique key, with the column it is partitioned by first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    /// `occurred_at`: the event's own timestamp, whole milliseconds.
    pub occurred_at: Timestamp,
    /// `event_key`: see [`bm_contracts::hash::event_key`].
    pub event_key: [u8; 16],
}

/// What is known of an event that is in `events_raw`.
///
/// Read by key before a batch; storage never writes it, since the [`EventRow`] of the same event is
/// the row it is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenEvent {
    /// `body_hash`: see [`bm_contracts::hash::body_hash`].
    pub body_hash: [u8; 16],
}

/// A row to be added to `events_raw`.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// `event_id`, `studio_id`, `game_id`, `user_id`, `event_type`, `event_name`, `studio_tier`,
    /// `occurred_at` (its `timestamp`), `event_data` (its `metadata`, SQL NULL for none);
    /// `ingested_at` is set.
    pub event: Arc<GameEvent>,
    /// `event_key`
    pub event_key: [u8; 16],
    /// `body_hash`
    pub body_hash: [u8; 16],
    /// `ingested_at`: when the broker appended it to `game.events`.
    pub ingested_at: Timestamp,
    /// `log_partition`: partition of `game.events`.
    pub log_partition: i32,
    /// `log_offset`: offset there.
    pub log_offset: i64,
    /// `config_seq`: the stamp.
    pub config_seq: i64,
    /// `correlation_id`
    pub correlation_id: Option<String>,
}

impl EventRow {
    /// `extra`: the kept top-level fields as one JSON object; `None` (SQL NULL) when there are none.
    pub fn extra_json(&self) -> Option<String> {
        if self.event.extra.is_empty() {
            return None;
        }
        let mut out = String::from("{");
        for (index, (name, raw)) in self.event.extra.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            // A string always encodes.
            out.push_str(&serde_json::to_string(name).unwrap_or_default());
            out.push(':');
            out.push_str(raw.get());
        }
        out.push('}');
        Some(out)
    }
}

/// What the router knows of all features' definitions.
#[derive(Debug, Clone, Default)]
pub struct RouteRules {
    /// The config sequence in force, with which events are stamped; the features' rules hold it.
    pub seq: i64,
    /// The quests.
    pub quests: Arc<QuestRules>,
}

/// Folds `game.events` into `events_raw`, and forwards what is new to the features.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouterDomain;

/// A record of `game.events`, understood.
#[derive(Debug)]
pub struct RouterInput {
    facts: EventFacts,
    key: EventKey,
    body_hash: [u8; 16],
}

impl RouterInput {
    /// The event; `ingested_at` is the record's time.
    pub fn event(&self) -> &Arc<GameEvent> {
        self.facts.event()
    }
}

/// How far before its append an event may have happened. The gateway takes 7 days; day partitions
/// are kept for 16.
const MAX_LATE_MILLIS: i64 = 8 * 24 * 60 * 60 * 1_000;
/// How far ahead of its append an event's clock may be. The gateway takes 5 minutes.
const MAX_AHEAD_MILLIS: i64 = 10 * 60 * 1_000;
/// Longest `studioTier`, in characters.
const MAX_TIER_CHARS: usize = 50;

impl Domain for RouterDomain {
    const PROCESSOR: &'static str = "event-router";
    const INPUT: Topic = Topic::GameEvents;
    // An event is looked for when it comes, and hardly ever comes again.
    const CACHE_BYTES_PER_LANE: usize = 0;

    type Input = RouterInput;
    type Key = EventKey;
    type State = SeenEvent;
    type Rules = RouteRules;
    type Row = EventRow;

    fn decode(&self, record: &Record) -> Result<RouterInput, Poison> {
        record::expect_event(record)?;
        let mut event = record::decode_event(record)?;
        let long = |text: &str, max: usize| text.chars().count() > max;
        if event
            .event_name
            .as_deref()
            .is_some_and(|name| long(name, EVENT_NAME_MAX_CHARS))
        {
            return Err(Poison::new(
                "undecodable",
                format!("field eventName: must be at most {EVENT_NAME_MAX_CHARS} characters"),
            ));
        }
        if long(&event.studio_tier, MAX_TIER_CHARS) {
            return Err(Poison::new(
                "undecodable",
                format!("field studioTier: must be at most {MAX_TIER_CHARS} characters"),
            ));
        }
        record::expect_key(record, &event.game_id, &event.user_id)?;
        let earliest = record.timestamp.saturating_add_millis(-MAX_LATE_MILLIS);
        let latest = record.timestamp.saturating_add_millis(MAX_AHEAD_MILLIS);
        if event.timestamp < earliest || event.timestamp > latest {
            return Err(Poison::new(
                "timestamp_out_of_range",
                format!(
                    "the event says {}, and was appended at {}",
                    event.timestamp, record.timestamp
                ),
            ));
        }
        event.ingested_at = Some(record.timestamp);
        Ok(RouterInput {
            key: EventKey {
                occurred_at: event.timestamp,
                event_key: hash::event_key(
                    &event.studio_id,
                    &event.game_id,
                    &event.user_id,
                    &event.event_id,
                ),
            },
            body_hash: hash::body_hash(&event),
            facts: EventFacts::new(event, record.timestamp),
        })
    }

    fn demand(&self, _input: &RouterInput) -> ConfigDemand {
        ConfigDemand::Latest
    }

    fn keys(&self, _rules: &RouteRules, input: &RouterInput, keys: &mut Vec<EventKey>) {
        keys.push(input.key);
    }

    fn apply(
        &self,
        rules: &RouteRules,
        record: &Record,
        input: &RouterInput,
        scope: &mut Scope<'_, Self>,
    ) -> Result<(), Poison> {
        let event = input.event();
        match scope.state(&input.key) {
            Some(seen) if seen.body_hash == input.body_hash => return Ok(()),
            Some(_) => {
                return Err(Poison::new(
                    "event_id_reused",
                    format!(
                        "eventId {} was used before by an event with another body",
                        event.event_id
                    ),
                ));
            }
            None => {}
        }
        scope.put(
            input.key,
            SeenEvent {
                body_hash: input.body_hash,
            },
        );
        scope.row(EventRow {
            event: Arc::clone(event),
            event_key: input.key.event_key,
            body_hash: input.body_hash,
            ingested_at: record.timestamp,
            log_partition: record.partition,
            log_offset: record.offset,
            config_seq: rules.seq,
            correlation_id: record.correlation_id().map(ToOwned::to_owned),
        });
        if rules.quests.wants(&input.facts, rules.seq) {
            scope.emit(forward(Topic::QuestEvents, event, rules.seq));
        }
        Ok(())
    }
}

/// The event as a feature's topic carries it.
fn forward(topic: Topic, event: &GameEvent, stamp: i64) -> Emit {
    let header = |name: &'static str, value: &str| (Name::Borrowed(name), value.to_owned());
    let (key, value) = event.to_record();
    Emit {
        topic,
        key,
        headers: vec![
            header(headers::KIND, Kind::Event.as_str()),
            header(headers::CONFIG, &stamp.to_string()),
            header(headers::STUDIO_ID, event.studio_id.as_str()),
            header(headers::GAME_ID, event.game_id.as_str()),
            header(headers::EVENT_TYPE, event.event_type.as_str()),
        ],
        value,
    }
}

#[cfg(test)]
mod tests;
