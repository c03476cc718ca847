//! Random quests and events: the engine's fold against a model that knows nothing of JSON, CEL or batches.

use std::collections::{BTreeMap, BTreeSet};

use bm_contracts::{Topic, hash};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{Lane, at, event, quest, quest_record};

const TYPES: [&str; 2] = ["enemy_killed", "match_end"];
const NAMES: [&str; 2] = ["boss", "minion"];
const MAPS: [&str; 2] = ["forest", "desert"];
const KINDS: [&str; 3] = ["count", "accumulate", "unique"];
const QUESTS: [&str; 3] = ["qa", "qb", "qc"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Value10 {
    Missing,
    Tenths(u64),
    Negative,
    Text,
}

#[derive(Debug, Clone, PartialEq)]
enum Item {
    Missing,
    Number(u64),
    Text(u64),
    List,
}

#[derive(Debug, Clone)]
struct Played {
    user: usize,
    event_type: usize,
    name: Option<usize>,
    map: Option<usize>,
    level: i64,
    value: Value10,
    item: Item,
    /// Which way numbers are written.
    form: usize,
    /// Millis since the event before.
    pause: i64,
    /// Saves since the event before.
    saves: i64,
}

#[derive(Debug, Clone)]
struct Version {
    active: bool,
    event_type: usize,
    name: Option<usize>,
    map: Option<usize>,
    level_above: Option<i64>,
    level_is: Option<i64>,
    progress: usize,
    target: u64,
    start: Option<i64>,
    end: Option<i64>,
    rewards: usize,
    saved_after: i64,
}

fn played() -> impl Strategy<Value = Played> {
    let value = prop_oneof![
        2 => Just(Value10::Missing),
        6 => (0..30u64).prop_map(Value10::Tenths),
        1 => Just(Value10::Negative),
        1 => Just(Value10::Text),
    ];
    let item = prop_oneof![
        1 => Just(Item::Missing),
        4 => (0..4u64).prop_map(Item::Number),
        4 => (0..4u64).prop_map(Item::Text),
        1 => Just(Item::List),
    ];
    (
        (0..3usize, 0..2usize, prop::option::of(0..2usize)),
        (prop::option::of(0..2usize), 0..5i64, value, item),
        (0..3usize, 0..20i64, prop_oneof![4 => Just(0), 1 => 1..3i64]),
    )
        .prop_map(
            |((user, event_type, name), (map, level, value, item), (form, pause, saves))| Played {
                user,
                event_type,
                name,
                map,
                level,
                value,
                item,
                form,
                pause,
                saves,
            },
        )
}

fn version() -> impl Strategy<Value = Version> {
    (
        (
            prop::bool::weighted(0.9),
            prop_oneof![3 => Just(0usize), 1 => Just(1)],
        ),
        prop::option::weighted(0.3, 0..2usize),
        prop::option::weighted(0.3, 0..2usize),
        (
            prop::option::weighted(0.3, 0..4i64),
            prop::option::weighted(0.2, 0..5i64),
        ),
        (0..3usize, 1..6u64),
        prop::option::weighted(0.2, 0..100i64),
        prop::option::weighted(0.2, 100..400i64),
        (0..3usize, 1..5i64),
    )
        .prop_map(
            |(
                (active, event_type),
                name,
                map,
                (level_above, level_is),
                (progress, target),
                start,
                end,
                (rewards, saved_after),
            )| Version {
                active,
                event_type,
                name,
                map,
                level_above,
                level_is,
                progress,
                target,
                start,
                end,
                rewards,
                saved_after,
            },
        )
}

fn stored(id: &str, number: usize, seq: i64, version: &Version) -> StoredQuest {
    let mut conditions = json!({
        "eventType": TYPES[version.event_type],
        "progressType": KINDS[version.progress],
        "target": version.target,
    });
    match version.progress {
        1 => conditions["valueField"] = "stats.v".into(),
        2 => conditions["uniqueField"] = "item".into(),
        _ => {}
    }
    if let Some(name) = version.name {
        conditions["eventName"] = NAMES[name].into();
    }
    let mut filters = json!({});
    if let Some(map) = version.map {
        filters["map"] = MAPS[map].into();
    }
    if let Some(level) = version.level_is {
        filters["stats.level"] = serde_json::from_str(&format!("{level}.0")).unwrap();
    }
    conditions["filters"] = filters;
    if let Some(level) = version.level_above {
        // Few texts, so that versions and quests share them; some with a loop, guarded.
        let when = match level {
            0 => "!has(event.metadata.tags) ? event.metadata.stats.level > 0 : event.metadata.tags.exists(t, t == 1)".to_owned(),
            _ => format!("event.metadata.stats.level > {level}"),
        };
        conditions["when"] = when.into();
    }
    let mut more = json!({"rewards": vec![json!({"type": "x"}); version.rewards]});
    if let Some(start) = version.start {
        more["startDate"] = at(start).to_string().into();
    }
    if let Some(end) = version.end {
        more["endDate"] = at(end).to_string().into();
    }
    let mut stored = quest(id, number as i32 + 1, seq, conditions, more);
    if !version.active {
        stored.status = QuestStatus::Archived;
    }
    stored
}

fn metadata(played: &Played) -> String {
    let number = |tenths: u64| match played.form {
        0 => format!("{}.{}", tenths / 10, tenths % 10),
        1 => format!("{tenths}e-1"),
        _ => format!("{}.{}00", tenths / 10, tenths % 10),
    };
    let value = match played.value {
        Value10::Missing => String::new(),
        Value10::Tenths(tenths) => format!(r#","v":{}"#, number(tenths)),
        Value10::Negative => r#","v":-0.5"#.to_owned(),
        Value10::Text => r#","v":"1""#.to_owned(),
    };
    let item = match played.item {
        Item::Missing => String::new(),
        Item::Number(n) => format!(r#","item":{}"#, number(n * 10)),
        Item::Text(n) => format!(r#","item":"{n}""#),
        Item::List => r#","item":[1]"#.to_owned(),
    };
    let map = played
        .map
        .map_or_else(String::new, |map| format!(r#","map":"{}""#, MAPS[map]));
    format!(
        r#"{{"stats":{{"level":{}{value}}}{map}{item}}}"#,
        played.level
    )
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Standing {
    tenths: u64,
    items: BTreeSet<String>,
    completed: Option<i64>,
    changes: i64,
}

#[derive(Debug, Default, PartialEq)]
struct Outcome {
    standings: BTreeMap<(usize, usize), Standing>,
    grants: BTreeSet<String>,
    dead: Vec<Option<String>>,
}

/// The rules of quests as one would say them.
fn model(quests: &[Vec<(i64, Version)>], events: &[(i64, i64, Played)]) -> Outcome {
    let mut outcome = Outcome::default();
    for (time, stamp, played) in events {
        for (quest, versions) in quests.iter().enumerate() {
            let Some((_, version)) = versions.iter().rfind(|(seq, _)| seq <= stamp) else {
                continue;
            };
            let place = (quest, played.user);
            let mut standing = outcome.standings.get(&place).cloned().unwrap_or_default();
            let counts = standing.completed.is_none()
                && version.active
                && version.event_type == played.event_type
                && version.name.is_none_or(|name| played.name == Some(name))
                && version.map.is_none_or(|map| played.map == Some(map))
                && version.level_above.is_none_or(|level| played.level > level)
                && version.level_is.is_none_or(|level| played.level == level)
                && version.start.is_none_or(|start| *time >= start)
                && version.end.is_none_or(|end| *time < end);
            if !counts {
                continue;
            }
            let before = standing.clone();
            let usable = match (version.progress, played.value, &played.item) {
                (0, ..) | (1, Value10::Missing, _) => {
                    standing.tenths += 10;
                    true
                }
                (1, Value10::Tenths(tenths), _) => {
                    standing.tenths += tenths;
                    true
                }
                (2, _, Item::Missing) => continue,
                (2, _, Item::Number(_) | Item::Text(_)) => {
                    if standing.items.insert(format!("{:?}", played.item)) {
                        standing.tenths += 10;
                    }
                    true
                }
                _ => false,
            };
            if !usable {
                outcome.dead.push(Some(format!("quest_{}", QUESTS[quest])));
                continue;
            }
            let done = standing.tenths >= version.target * 10;
            if standing == before && !done {
                continue;
            }
            standing.changes += 1;
            if done {
                standing.completed = Some(*time);
                standing.items.clear();
                for index in 0..version.rewards {
                    outcome
                        .grants
                        .insert(format!("{} {} {index}", QUESTS[quest], played.user));
                }
            }
            outcome.standings.insert(place, standing);
        }
    }
    outcome.dead.sort();
    outcome
}

fn observed(lane: &Lane<QuestDomain>) -> Outcome {
    let mut outcome = Outcome::default();
    for (key, state) in &lane.states {
        let quest = QUESTS
            .iter()
            .position(|id| quest_uuid(id) == key.quest)
            .unwrap();
        let user: usize = key.user.as_str()[1..].parse().unwrap();
        let items = state.items.iter().map(|item| match item.strip_prefix('"') {
            Some(text) => format!("Text({})", text.trim_end_matches('"')),
            None => format!("Number({item})"),
        });
        let tenths: f64 = state.current.to_string().parse::<f64>().unwrap() * 10.0;
        outcome.standings.insert(
            (quest, user),
            Standing {
                tenths: tenths.round() as u64,
                items: items.collect(),
                completed: state.completed_at.map(Timestamp::as_millis),
                changes: state.version,
            },
        );
    }
    let grants = lane.sent(Topic::RewardEvents);
    for grant in &grants {
        let text = |field: &str| grant[field].as_str().unwrap().to_owned();
        let index = (0..9)
            .find(|index| {
                text("grantId")
                    == hash::grant_id(
                        &text("studioId").try_into().unwrap(),
                        &text("gameId").try_into().unwrap(),
                        &text("source"),
                        "",
                        &text("userId").try_into().unwrap(),
                        *index,
                    )
            })
            .unwrap();
        let quest = text("source").replace("quest_", "");
        let user = text("userId").replace('u', "");
        assert!(
            outcome.grants.insert(format!("{quest} {user} {index}")),
            "granted twice"
        );
    }
    outcome.dead = lane
        .dead()
        .into_iter()
        .map(|(_, definition)| definition)
        .collect();
    outcome.dead.sort();
    outcome
}

fn quest_uuid(id: &str) -> Uuid {
    crate::fixture::simple(id, 1, 1).id
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn folding_in_any_batches_gives_what_the_model_says(
        quests in prop::collection::vec(prop::collection::vec(version(), 1..4), 1..=3),
        played in prop::collection::vec(played(), 0..80),
        sizes in prop::collection::vec((select(vec![1usize, 2, 3, 7, 100]), 0..3i64), 1..4),
    ) {
        let quests: Vec<Vec<(i64, Version)>> = quests
            .into_iter()
            .map(|versions| {
                let mut seq = -1;
                versions
                    .into_iter()
                    .map(|version| {
                        seq += version.saved_after;
                        (seq, version)
                    })
                    .collect()
            })
            .collect();
        let stored: Vec<_> = quests.iter().enumerate().flat_map(|(quest, versions)| {
            let versions = versions.iter().enumerate();
            versions.map(move |(n, (seq, version))| stored(QUESTS[quest], n, *seq, version))
        }).collect();
        let (mut time, mut stamp) = (0, 0);
        let events: Vec<(i64, i64, Played)> = played
            .into_iter()
            .map(|played| {
                time += played.pause;
                stamp += played.saves;
                (time, stamp, played)
            })
            .collect();
        let records = events.iter().enumerate().map(|(index, (time, stamp, played))| {
            let mut more = json!({"eventType": TYPES[played.event_type]});
            if let Some(name) = played.name {
                more["eventName"] = Value::from(NAMES[name]);
            }
            let user = format!("u{}", played.user);
            let mut event = event(&user, &format!("e{index}"), "{}", more);
            event.metadata = Some(RawValue::from_string(metadata(played)).unwrap());
            quest_record(index as i64, *time, *stamp, &event)
        });
        // Rules grow as events come: up to the newest stamp of a batch, or a little further.
        let mut lane = Lane::new(QuestDomain);
        let mut rules = QuestRules::default();
        let mut records = records.peekable();
        let mut sizes = sizes.iter().cycle();
        while records.peek().is_some() {
            let (size, ahead) = *sizes.next().unwrap();
            let batch: Vec<_> = records.by_ref().take(size).collect();
            let newest = batch.last().unwrap().config_seq().unwrap().unwrap();
            if newest > rules.seq() || newest == 0 {
                let seq = (newest + ahead).max(rules.seq());
                let saved = |q: &&StoredQuest| (rules.seq()..=seq).contains(&q.config_seq);
                let saved = stored.iter().filter(saved).cloned();
                rules = rules.with_changes(seq, saved).unwrap();
            }
            lane.batch(&rules, batch);
        }

        prop_assert_eq!(observed(&lane), model(&quests, &events));
        // What screens show in the end is what is stored.
        let mut shown: BTreeMap<(String, String), Value> = BTreeMap::new();
        for update in lane.sent(Topic::UiUpdates) {
            let text = |field: &str| update[field].as_str().unwrap().to_owned();
            shown.insert((text("questId"), text("userId")), update.clone());
        }
        prop_assert_eq!(shown.len(), lane.states.len());
        for (key, state) in &lane.states {
            let quest = QUESTS.iter().find(|id| quest_uuid(id) == key.quest).unwrap();
            let update = &shown[&((*quest).to_owned(), key.user.as_str().to_owned())];
            prop_assert_eq!(&update["version"], &json!(state.version));
            prop_assert_eq!(&update["completed"], &json!(state.completed_at.is_some()));
            prop_assert_eq!(update["progress"]["current"].to_string(), state.current.to_string());
        }
    }
}
