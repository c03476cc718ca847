//! One record of the watched topics, and how it is told in a line.

use std::collections::BTreeSet;

use bm_contracts::messages::{DeadLetter, RewardStatusChange, UiUpdate};
use bm_contracts::{GameEvent, Timestamp, Topic};
use bm_domain::quest::{Decision, Explained, Ignored};
use bm_engine::Record;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::dead_letters;
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
    /// As far as the database knows.
    Known(Known),
    /// It could not be found out.
    Unknown(String),
}

/// What each quest of an event's game makes of it, and what came before it.
#[derive(Default)]
pub(super) struct Known {
    /// By the rules alone.
    pub(super) explained: Vec<Explained>,
    /// `quests.id` of those that the player had completed before.
    pub(super) completed: BTreeSet<Uuid>,
    /// Partition and offset of the event that counts in its place, under the same eventId.
    pub(super) repeat_of: Option<(i32, i64)>,
}

/// What a quest makes of an event.
enum Verdict<'a> {
    /// It counts, unless one before it completes the quest.
    Wanted,
    /// It would count, had the player not completed the quest.
    Completed,
    /// It has a value that the quest cannot use.
    Unusable(&'a str),
    /// It does not count.
    Ignored(&'a Ignored),
}

impl Known {
    /// What each quest makes of it.
    fn verdicts(&self) -> impl Iterator<Item = (&Explained, Verdict<'_>)> {
        self.explained.iter().map(|e| {
            let verdict = match &e.decision {
                Decision::Count(_) if self.completed.contains(&e.quest) => Verdict::Completed,
                Decision::Count(_) => Verdict::Wanted,
                Decision::Unusable(poison) => Verdict::Unusable(&poison.error),
                Decision::Ignore(why) => Verdict::Ignored(why),
            };
            (e, verdict)
        })
    }

    /// Which quests want the event; or, if none, why not, the nearest misses first.
    fn told(&self) -> String {
        if let Some((partition, offset)) = self.repeat_of {
            return format!(
                "ignored: a repeat of {}/{partition}@{offset}, which has its eventId and counts once",
                Topic::GameEvents
            );
        }
        let (mut wanting, mut unusable, mut misses) = (Vec::new(), Vec::new(), Vec::new());
        for (e, verdict) in self.verdicts() {
            let quest = &e.quest_id;
            match verdict {
                Verdict::Wanted => wanting.push(quest.to_string()),
                Verdict::Unusable(why) => unusable.push(format!("not usable for {quest}: {why}")),
                Verdict::Completed => misses.push((0, format!("completed already ({quest})"))),
                Verdict::Ignored(why) => misses.push((farness(why), format!("{why} ({quest})"))),
            }
        }
        let mut parts = Vec::new();
        if !wanting.is_empty() {
            parts.push(format!("wanted by {}", listed(&wanting, ", ")));
        }
        if !unusable.is_empty() {
            parts.push(listed(&unusable, "; "));
        }
        if !parts.is_empty() {
            return parts.join("; ");
        }
        if misses.is_empty() {
            return "ignored: the game has no active quest".to_owned();
        }
        misses.sort_by_key(|(farness, _)| *farness);
        let misses: Vec<String> = misses.into_iter().map(|(_, text)| text).collect();
        format!("ignored: {}", listed(&misses, "; "))
    }

    fn json(&self) -> Value {
        self.verdicts()
            .map(|(e, verdict)| {
                let (outcome, reason) = match verdict {
                    Verdict::Wanted => ("wanted", None),
                    Verdict::Completed => ("completed", None),
                    Verdict::Unusable(why) => ("unusable", Some(why.to_owned())),
                    Verdict::Ignored(why) => ("ignored", Some(why.to_string())),
                };
                json!({
                    "questId": e.quest_id,
                    "version": e.version,
                    "outcome": outcome,
                    "reason": reason,
                })
            })
            .collect()
    }
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
                verdicts: Verdicts::Known(known),
                ..
            } => {
                object["quests"] = known.json();
                if let Some((partition, offset)) = known.repeat_of {
                    object["repeatOf"] = json!({"partition": partition, "offset": offset});
                }
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
                verdicts: Verdicts::Known(Known::default()),
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
                    Verdicts::Known(known) => known.told(),
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
            Self::DeadLetter(letter) => format!("dead letter {}", dead_letters::told(letter)),
            Self::Unreadable { topic, why } => format!("unreadable record of {topic}: {why}"),
        }
    }
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
    use bm_contracts::{GameId, StudioId};
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
        rules_of(&starter::definitions("acme", "g", "G"))
    }

    fn rules_of(text: &str) -> QuestRules {
        let file = parse_file(text.as_bytes()).unwrap();
        QuestRules::build(
            1,
            file.quests.iter().map(|quest| StoredQuest {
                id: Uuid::nil(),
                studio_id: StudioId::new("acme").unwrap(),
                game_id: GameId::new("g").unwrap(),
                quest_id: quest.quest_id.clone(),
                version: 1,
                config_seq: 1,
                status: QuestStatus::Active,
                definition: RawValue::from_string(quest.to_stored()).unwrap(),
            }),
        )
        .unwrap()
    }

    fn seen_event(kind: &str, map: &str) -> Seen {
        seen_with(&rules(), kind, &format!(r#"{{"map":"{map}"}}"#), |_| {})
    }

    fn seen_with(
        rules: &QuestRules,
        kind: &str,
        metadata: &str,
        change: impl FnOnce(&mut Known),
    ) -> Seen {
        let value = format!(
            r#"{{"eventType":"{kind}","userId":"p","gameId":"g","timestamp":"2026-01-02T03:04:05Z","eventId":"e","studioId":"acme","studioTier":"pro","partitionKey":"g:p","metadata":{metadata}}}"#
        );
        let mut seen = Seen::read(Topic::GameEvents, &record("g:p", &value));
        let Thing::Event { event, verdicts } = &mut seen.thing else {
            panic!("{}", seen.line());
        };
        let facts = EventFacts::new((**event).clone(), Timestamp::clamped(0));
        let mut known = Known {
            explained: rules.explain(&facts, 1),
            ..Known::default()
        };
        change(&mut known);
        *verdicts = Verdicts::Known(known);
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
    fn an_event_that_is_wanted_says_by_what() {
        let seen = seen_event("enemy_killed", "forest");
        assert_eq!(
            seen.line(),
            "03:04:05.678 g p event enemy_killed wanted by forest-hunter"
        );
        let json = seen.json();
        assert_eq!(json["kind"], "event");
        assert_eq!(json["quests"][0]["outcome"], "wanted");
        assert_eq!(json["message"]["metadata"]["map"], "forest");
    }

    #[test]
    fn a_quest_that_is_completed_and_an_event_that_repeats_another_count_no_more() {
        let forest = r#"{"map":"forest"}"#;
        let seen = seen_with(&rules(), "enemy_killed", forest, |known| {
            known.completed = known.explained.iter().map(|e| e.quest).collect();
        });
        assert!(
            seen.line()
                .ends_with("enemy_killed ignored: completed already (forest-hunter)"),
            "{}",
            seen.line()
        );
        assert_eq!(seen.json()["quests"][0]["outcome"], "completed");
        let seen = seen_with(&rules(), "enemy_killed", forest, |known| {
            known.repeat_of = Some((3, 42));
        });
        assert!(
            seen.line()
                .contains("enemy_killed ignored: a repeat of game.events/3@42"),
            "{}",
            seen.line()
        );
        assert_eq!(seen.json()["repeatOf"]["offset"], 42);
    }

    #[test]
    fn an_event_that_cannot_be_used_is_not_said_to_count() {
        let mut file: Value =
            serde_json::from_str(&starter::definitions("acme", "g", "G")).unwrap();
        file["quests"][0]["conditions"] = json!({
            "eventType": "enemy_killed", "progressType": "accumulate", "valueField": "damage",
            "target": 5,
        });
        let rules = rules_of(&file.to_string());
        let seen = seen_with(&rules, "enemy_killed", r#"{"damage":-1}"#, |_| {});
        assert!(
            seen.line().ends_with(
                "enemy_killed not usable for forest-hunter: metadata.damage must not be negative"
            ),
            "{}",
            seen.line()
        );
        assert_eq!(seen.json()["quests"][0]["outcome"], "unusable");
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
