//! One record of the watched topics, and how it is told in a line.

use bm_contracts::messages::{DeadLetter, RewardStatusChange, UiUpdate};
use bm_contracts::{GameEvent, Timestamp, Topic};
use bm_domain::quest::{Decision, Explained, Ignored};
use bm_engine::Record;
use serde_json::{Value, json};

use crate::output::plain;

/// So many quests' reasons are told for an event; a game may have hundreds.
const REASONS: usize = 4;

/// A record and what it says.
pub(super) struct Seen {
    time: Timestamp,
    /// Empty where the record does not say.
    pub(super) game: String,
    /// Empty where the record does not say, or is about no player.
    pub(super) player: String,
    pub(super) thing: Thing,
    value: Vec<u8>,
}

/// What a record is.
pub(super) enum Thing {
    /// An accepted event, and what quests make of it.
    Event {
        event: Box<GameEvent>,
        verdicts: Verdicts,
    },
    /// A player's progress.
    Progress(UiUpdate),
    /// A reward.
    Reward(RewardStatusChange),
    /// A record nobody could use.
    DeadLetter(Box<DeadLetter>),
    /// It cannot be read.
    Unreadable { topic: Topic, why: String },
}

/// What quests make of an event.
pub(super) enum Verdicts {
    /// Of each quest of its game.
    Known(Vec<Explained>),
    /// It could not be found out.
    Unknown(String),
}

impl Seen {
    /// Reads a record of `topic`.
    pub(super) fn read(topic: Topic, record: &Record) -> Self {
        let key = String::from_utf8_lossy(&record.key);
        let (game, player) = key.split_once(':').unwrap_or((&key, ""));
        // `!kind:id` is no player.
        let player = if player.starts_with('!') { "" } else { player };
        Self {
            time: record.timestamp,
            game: game.to_owned(),
            player: player.to_owned(),
            thing: Thing::read(topic, &record.value)
                .unwrap_or_else(|why| Thing::Unreadable { topic, why }),
            value: record.value.to_vec(),
        }
    }

    /// In one line for people: time (UTC), game, player, what.
    pub(super) fn line(&self) -> String {
        let time = self.time.to_string();
        // Of `2026-01-02T03:04:05.678Z` the time of day.
        let time = time.get(11..23).unwrap_or(&time);
        let name = |text: &str| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text.to_owned()
            }
        };
        plain(&format!(
            "{time} {} {} {}",
            name(&self.game),
            name(&self.player),
            self.thing.told(),
        ))
    }

    /// As one JSON object.
    pub(super) fn json(&self) -> Value {
        let mut object = json!({
            "time": self.time,
            "kind": self.thing.kind(),
            "gameId": self.game,
            "userId": self.player,
            "message": serde_json::from_slice::<Value>(&self.value).unwrap_or_default(),
        });
        match &self.thing {
            Thing::Event {
                verdicts: Verdicts::Known(explained),
                ..
            } => {
                object["quests"] = explained.iter().map(verdict).collect();
            }
            Thing::Event {
                verdicts: Verdicts::Unknown(why),
                ..
            }
            | Thing::Unreadable { why, .. } => object["error"] = json!(why),
            Thing::Progress(_) | Thing::Reward(_) | Thing::DeadLetter(_) => {}
        }
        object
    }
}

impl Thing {
    fn read(topic: Topic, value: &[u8]) -> Result<Self, String> {
        fn from<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, String> {
            serde_json::from_slice(value).map_err(|e| e.to_string())
        }
        Ok(match topic {
            Topic::GameEvents => Self::Event {
                event: Box::new(GameEvent::from_json(value).map_err(|e| e.to_string())?),
                verdicts: Verdicts::Known(Vec::new()),
            },
            Topic::UiUpdates => Self::Progress(from(value)?),
            Topic::RewardStatus => Self::Reward(from(value)?),
            Topic::DeadLetter => Self::DeadLetter(Box::new(from(value)?)),
            other => return Err(format!("{other} is not watched")),
        })
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Event { .. } => "event",
            Self::Progress(_) => "progress",
            Self::Reward(_) => "reward",
            Self::DeadLetter(_) => "deadLetter",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    fn told(&self) -> String {
        match self {
            Self::Event { event, verdicts } => {
                let name = event
                    .event_name
                    .as_ref()
                    .map_or_else(String::new, |name| format!(" {name}"));
                let what = match verdicts {
                    Verdicts::Known(explained) => outcome(explained),
                    Verdicts::Unknown(why) => format!("({why})"),
                };
                format!("event {}{name} {what}", event.event_type)
            }
            Self::Progress(UiUpdate::QuestProgress(update)) => {
                let completed = if update.completed { " completed" } else { "" };
                format!(
                    "quest {} {}/{}{completed}",
                    update.quest_id, update.progress.current, update.progress.target
                )
            }
            Self::Reward(change) => {
                format!("reward {} {}", change.grant_id, change.status.as_str())
            }
            Self::DeadLetter(letter) => {
                let definition = letter
                    .definition
                    .as_ref()
                    .map_or_else(String::new, |definition| format!(" for {definition}"));
                format!(
                    "dead letter {}/{}@{} {}{definition}: {}: {}",
                    letter.topic,
                    letter.partition,
                    letter.offset,
                    letter.service,
                    letter.code,
                    letter.error
                )
            }
            Self::Unreadable { topic, why } => format!("unreadable record of {topic}: {why}"),
        }
    }
}

/// Which quests an event counts for; or, if none, why not, the nearest misses first.
fn outcome(explained: &[Explained]) -> String {
    let counting: Vec<String> = explained
        .iter()
        .filter_map(|e| match &e.decision {
            Decision::Count(_) => Some(e.quest_id.to_string()),
            Decision::Unusable(poison) => Some(format!("{} ({})", e.quest_id, poison.error)),
            Decision::Ignore(_) => None,
        })
        .collect();
    if !counting.is_empty() {
        return format!("counts for {}", listed(&counting, ", "));
    }
    let mut misses: Vec<(u8, String)> = explained
        .iter()
        .filter_map(|e| match &e.decision {
            Decision::Ignore(why) => Some((farness(why), format!("{why} ({})", e.quest_id))),
            Decision::Count(_) | Decision::Unusable(_) => None,
        })
        .collect();
    if misses.is_empty() {
        return "ignored: the game has no active quest".to_owned();
    }
    misses.sort_by_key(|(farness, _)| *farness);
    let misses: Vec<String> = misses.into_iter().map(|(_, text)| text).collect();
    format!("ignored: {}", listed(&misses, "; "))
}

/// How little a quest has to do with an event that it ignores.
const fn farness(why: &Ignored) -> u8 {
    match why {
        Ignored::Filter { .. } | Ignored::When | Ignored::WhenFailed(_) | Ignored::NoItem(_) => 0,
        Ignored::NotStarted(_) | Ignored::Ended(_) | Ignored::NotDefined => 1,
        Ignored::EventName { .. } => 2,
        Ignored::EventType { .. } => 3,
        Ignored::Inactive(_) | Ignored::OtherStudio => 4,
    }
}

fn listed(texts: &[String], separator: &str) -> String {
    let told = texts[..texts.len().min(REASONS)].join(separator);
    match texts.len().saturating_sub(REASONS) {
        0 => told,
        more => format!("{told}{separator}and {more} more"),
    }
}

fn verdict(explained: &Explained) -> Value {
    let (outcome, reason) = match &explained.decision {
        Decision::Count(_) => ("counts", None),
        Decision::Ignore(why) => ("ignored", Some(why.to_string())),
        Decision::Unusable(poison) => ("unusable", Some(poison.error.clone())),
    };
    json!({
        "questId": explained.quest_id,
        "version": explained.version,
        "outcome": outcome,
        "reason": reason,
    })
}

#[cfg(test)]
impl Seen {
    /// Something of that game and player.
    pub(super) fn of(game: &str, player: &str) -> Self {
        Self {
            time: Timestamp::clamped(0),
            game: game.to_owned(),
            player: player.to_owned(),
            thing: Thing::Unreadable {
                topic: Topic::GameEvents,
                why: String::new(),
            },
            value: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bm_contracts::{GameId, QuestId, StudioId};
    use bm_domain::definition::parse_file;
    use bm_domain::quest::{EventFacts, QuestRules, QuestStatus, StoredQuest};
    use serde_json::value::RawValue;
    use uuid::Uuid;

    use super::*;
    use crate::starter;

    fn record(key: &str, value: &str) -> Record {
        Record {
            partition: 0,
            offset: 0,
            timestamp: Timestamp::parse_rfc3339("2026-01-02T03:04:05.678Z").unwrap(),
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            headers: Vec::new(),
        }
    }

    fn rules() -> QuestRules {
        let text = starter::definitions("acme", "g", "G");
        let file = parse_file(text.as_bytes()).unwrap();
        QuestRules::build(
            1,
            file.quests.iter().map(|quest| StoredQuest {
                id: Uuid::nil(),
                studio_id: StudioId::new("acme").unwrap(),
                game_id: GameId::new("g").unwrap(),
                quest_id: QuestId::new("forest-hunter").unwrap(),
                version: 1,
                config_seq: 1,
                status: QuestStatus::Active,
                definition: RawValue::from_string(quest.to_stored()).unwrap(),
            }),
        )
        .unwrap()
    }

    fn seen_event(kind: &str, map: &str) -> Seen {
        let value = format!(
            r#"{{"eventType":"{kind}","userId":"p","gameId":"g","timestamp":"2026-01-02T03:04:05Z","eventId":"e","studioId":"acme","studioTier":"pro","partitionKey":"g:p","metadata":{{"map":"{map}"}}}}"#
        );
        let mut seen = Seen::read(Topic::GameEvents, &record("g:p", &value));
        let Thing::Event { event, verdicts } = &mut seen.thing else {
            panic!("{}", seen.line());
        };
        let facts = EventFacts::new((**event).clone(), Timestamp::clamped(0));
        *verdicts = Verdicts::Known(rules().explain(&facts, 1));
        seen
    }

    #[test]
    fn an_event_nobody_wants_says_why() {
        assert_eq!(
            seen_event("enemy_killed", "desert").line(),
            "03:04:05.678 g p event enemy_killed ignored: filter map is forest, event says desert \
             (forest-hunter)"
        );
        assert_eq!(
            seen_event("match_end", "forest").line(),
            "03:04:05.678 g p event match_end ignored: eventType is enemy_killed, event says \
             match_end (forest-hunter)"
        );
    }

    #[test]
    fn an_event_that_counts_says_for_what() {
        let seen = seen_event("enemy_killed", "forest");
        assert_eq!(
            seen.line(),
            "03:04:05.678 g p event enemy_killed counts for forest-hunter"
        );
        let json = seen.json();
        assert_eq!(json["kind"], "event");
        assert_eq!(json["quests"][0]["outcome"], "counts");
        assert_eq!(json["message"]["metadata"]["map"], "forest");
    }

    #[test]
    fn what_a_player_writes_cannot_drive_the_terminal() {
        let line = seen_event("enemy_killed", "\\u001b[2J").line();
        assert!(line.contains("event says \\u{1b}[2J"), "{line}");
    }

    #[test]
    fn progress_rewards_and_dead_letters_are_a_line_each() {
        let golden = |topic, text: &str| Seen::read(topic, &record("space-race:p", text)).line();
        assert_eq!(
            golden(
                Topic::UiUpdates,
                include_str!("../../../../crates/contracts/golden/ui_quest_progress.json")
            ),
            "03:04:05.678 space-race p quest first-blood 3/10.5"
        );
        assert_eq!(
            golden(
                Topic::RewardStatus,
                include_str!("../../../../crates/contracts/golden/reward_status.json")
            ),
            "03:04:05.678 space-race p reward grt_00112233445566778899aabbccddeeff pending"
        );
        assert_eq!(
            golden(
                Topic::DeadLetter,
                include_str!("../../../../crates/contracts/golden/dead_letter.json")
            ),
            "03:04:05.678 space-race p dead letter game.events/3@42 event-router: undecodable: \
             field userId is missing"
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_too() {
        let seen = Seen::read(Topic::UiUpdates, &record("g:!gate:x", "no"));
        assert!(
            seen.line()
                .starts_with("03:04:05.678 g - unreadable record of ui.updates"),
            "{}",
            seen.line()
        );
        assert_eq!(seen.json()["kind"], "unreadable");
    }

    #[test]
    fn of_many_reasons_the_nearest_are_told() {
        let texts: Vec<String> = (0..6).map(|n| n.to_string()).collect();
        assert_eq!(listed(&texts, "; "), "0; 1; 2; 3; and 2 more");
    }
}
