//! Which quests an event may count for, and what each says of one it ignores.

use bm_contracts::GameEvent;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{Lane, at, event, quest, quest_record, simple};

fn conditions(more: &Value) -> Value {
    let mut all = json!({"eventType": "enemy_killed", "progressType": "count", "target": 3});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn facts(event: GameEvent) -> EventFacts {
    EventFacts::new(event, at(5))
}

#[test]
fn the_version_that_counts_is_the_newest_not_above_the_stamp() {
    let named = |version, seq, name: &str| {
        quest(
            "q",
            version,
            seq,
            conditions(&json!({"eventName": name})),
            json!({}),
        )
    };
    let other_type = quest(
        "q",
        3,
        30,
        json!({"eventType": "match_end", "progressType": "count", "target": 1}),
        json!({}),
    );
    let mut archived = simple("q", 4, 40);
    archived.status = QuestStatus::Archived;
    let any = simple("q", 5, 50);
    let rules = QuestRules::build(
        50,
        [
            any,
            archived,
            other_type,
            named(2, 20, "b"),
            named(1, 10, "a"),
        ],
    );
    let rules = rules.unwrap();
    let wanted = |stamp: i64, event_type: &str, name: Option<&str>| {
        let more = json!({"eventType": event_type, "eventName": name});
        let more: serde_json::Map<_, _> = more
            .as_object()
            .unwrap()
            .clone()
            .into_iter()
            .filter(|(_, v)| !v.is_null())
            .collect();
        let facts = facts(event("u", "e", "{}", Value::Object(more)));
        let versions: Vec<_> = rules
            .candidates(&facts, stamp)
            .map(|version| version.version())
            .collect();
        assert_eq!(rules.wants(&facts, stamp), !versions.is_empty());
        versions
    };
    for (stamp, event_type, name, expected) in [
        (9, "enemy_killed", Some("a"), vec![]),
        (10, "enemy_killed", Some("a"), vec![1]),
        (19, "enemy_killed", Some("a"), vec![1]),
        (20, "enemy_killed", Some("a"), vec![]),
        (20, "enemy_killed", Some("b"), vec![2]),
        (20, "enemy_killed", None, vec![]),
        (30, "enemy_killed", Some("b"), vec![]),
        (30, "match_end", Some("b"), vec![3]),
        (40, "enemy_killed", None, vec![]),
        (40, "match_end", None, vec![]),
        (50, "enemy_killed", Some("b"), vec![5]),
        (50, "enemy_killed", None, vec![5]),
    ] {
        assert_eq!(
            wanted(stamp, event_type, name),
            expected,
            "{stamp} {event_type} {name:?}"
        );
    }
    let mut foreign = event("u", "e", "{}", json!({}));
    foreign.studio_id = "t".to_owned().try_into().unwrap();
    assert!(
        !rules.wants(&facts(foreign.clone()), 50),
        "another studio's event"
    );
    foreign.studio_id = "s".to_owned().try_into().unwrap();
    foreign.game_id = "h".to_owned().try_into().unwrap();
    assert!(!rules.wants(&facts(foreign), 50), "another game's event");
}

#[test]
fn changes_share_what_did_not_change_and_give_what_building_anew_gives() {
    let mut foreign = simple("x", 1, 1);
    foreign.game_id = "h".to_owned().try_into().unwrap();
    let text = foreign.definition.get().replace("\"g\"", "\"h\"");
    foreign.definition = serde_json::value::RawValue::from_string(text).unwrap();
    let first = QuestRules::build(2, [simple("a", 1, 1), simple("b", 1, 2), foreign]).unwrap();
    let second = first
        .with_changes(5, [simple("a", 2, 5), simple("b", 1, 2)])
        .unwrap();
    let facts = facts(event("u", "e", "{}", json!({})));
    let versions = |rules: &QuestRules, stamp| -> Vec<_> {
        rules
            .candidates(&facts, stamp)
            .map(|version| (version.quest_id().as_str().to_owned(), version.version()))
            .collect()
    };
    assert_eq!(
        versions(&first, 9),
        [("a".to_owned(), 1), ("b".to_owned(), 1)]
    );
    assert_eq!(
        versions(&second, 9),
        [("a".to_owned(), 2), ("b".to_owned(), 1)]
    );
    assert_eq!(
        versions(&second, 4),
        [("a".to_owned(), 1), ("b".to_owned(), 1)]
    );
    assert_eq!(second.seq(), 5);
    assert!(matches!(
        second.with_changes(4, []),
        Err(RulesError::Backwards { from: 5, to: 4 })
    ));
}

/// Four versions no rule can be made of: by expression, by a field of newer software, misfiled, and
/// one of which nothing is known.
fn broken() -> [StoredQuest; 4] {
    let more = |more: Value| conditions(&more);
    let mut misfiled = simple("other", 1, 3);
    misfiled.quest_id = "misfiled".to_owned().try_into().unwrap();
    [
        quest(
            "expression",
            1,
            1,
            more(json!({"when": "event.metadata.x >", "filters": {"map": "a"}})),
            json!({"endDate": at(100).to_string()}),
        ),
        quest(
            "newer",
            1,
            2,
            more(json!({"eventName": "boss"})),
            json!({"objectives": []}),
        ),
        misfiled,
        quest("riddle", 1, 4, json!({"eventType": "new_type"}), json!({})),
    ]
}

#[test]
fn a_version_that_cannot_be_used_is_held_as_broken_and_says_why() {
    let rules = QuestRules::build(5, broken()).unwrap();
    let told = |since| {
        let mut told: Vec<_> = rules
            .broken_since(since)
            .map(|v| format!("{}: {}", v.quest_id(), v.broken().unwrap()))
            .collect();
        told.sort();
        told
    };
    let all = told(0);
    assert_eq!(all.len(), 4);
    assert!(
        all[0].starts_with("expression: when: line 1, column"),
        "{}",
        all[0]
    );
    assert_eq!(
        all[1],
        "misfiled: its definition names another quest or game"
    );
    assert!(all[2].contains("unknown field objectives"), "{}", all[2]);
    assert!(
        all[3].contains("eventType new_type is unknown"),
        "{}",
        all[3]
    );
    assert_eq!(told(2).len(), 2);
    let none = rules.with_changes(6, []).unwrap();
    assert_eq!(none.broken_since(5).count(), 0);
}

#[test]
fn events_that_reach_a_broken_version_are_dead_letters_for_it_alone() {
    let mut all: Vec<_> = broken().into();
    all.push(simple("whole", 1, 5));
    let rules = QuestRules::build(5, all).unwrap();
    // Event, time, and the quests that give it up.
    let cases: [(Value, &str, i64, &[&str]); 5] = [
        (json!({}), r#"{"map":"a"}"#, 99, &["expression", "misfiled"]),
        (json!({}), r#"{"map":"b"}"#, 99, &["misfiled"]),
        (json!({}), r#"{"map":"a"}"#, 100, &["misfiled"]),
        (
            json!({"eventName": "boss"}),
            "{}",
            99,
            &["newer", "misfiled"],
        ),
        (json!({"eventType": "match_end"}), "{}", 99, &[]),
    ];
    for (more, metadata, millis, givers) in cases {
        let event = event("u", "e", metadata, more.clone());
        let facts = EventFacts::new(event.clone(), at(millis));
        let wanted = more.get("eventType").is_none();
        assert_eq!(rules.wants(&facts, 5), wanted, "the router forwards it");
        let mut lane = Lane::new(QuestDomain);
        lane.batch(&rules, vec![quest_record(0, millis, 5, &event)]);
        let mut expected: Vec<_> = givers
            .iter()
            .map(|quest| {
                (
                    "broken_definition".to_owned(),
                    Some(format!("quest_{quest}")),
                )
            })
            .collect();
        let mut dead = lane.dead();
        expected.sort();
        dead.sort();
        assert_eq!(dead, expected, "{metadata} {millis}");
        assert_eq!(
            lane.states.len(),
            usize::from(wanted),
            "the whole quest counts"
        );
        let unusable = rules.explain(&facts, 5);
        let unusable = unusable.iter().filter(
            |e| matches!(&e.decision, Decision::Unusable(p) if p.code == "broken_definition"),
        );
        // Of the riddle nobody knows whether it asks for the event.
        assert_eq!(unusable.count(), givers.len() + 1);
    }
}

#[test]
fn a_broken_version_leaves_finished_players_alone_and_ends_with_the_next() {
    let [expression, ..] = broken();
    let mut whole = simple("expression", 1, 1);
    whole.id = expression.id;
    let broken = StoredQuest {
        version: 2,
        config_seq: 2,
        ..expression
    };
    let mended = StoredQuest {
        version: 3,
        config_seq: 3,
        ..whole.clone()
    };
    let rules = QuestRules::build(3, [whole, broken, mended]).unwrap();
    let mut lane = Lane::new(QuestDomain);
    let event = |user: &str, n: i64| event(user, &format!("e{n}"), r#"{"map":"a"}"#, json!({}));
    lane.batch(&rules, vec![quest_record(0, 1, 1, &event("done", 0))]);
    lane.batch(&rules, vec![quest_record(1, 2, 2, &event("done", 1))]);
    assert!(lane.dead().is_empty());
    lane.batch(&rules, vec![quest_record(2, 3, 2, &event("new", 2))]);
    assert_eq!(lane.dead().len(), 1);
    lane.batch(&rules, vec![quest_record(3, 4, 3, &event("new", 3))]);
    assert_eq!((lane.dead().len(), lane.states.len()), (1, 2));
}

#[test]
fn metadata_that_cannot_be_read_is_given_up_by_those_that_ask_for_it() {
    let asking = [
        conditions(&json!({"filters": {"map": "a"}})),
        conditions(&json!({"when": "event.metadata.x > 1"})),
        conditions(&json!({"progressType": "accumulate", "valueField": "v"})),
        conditions(&json!({"progressType": "unique", "uniqueField": "v"})),
    ];
    let asking = asking.into_iter().enumerate();
    let asking = asking.map(|(n, c)| quest(&format!("q{n}"), 1, 1, c, json!({})));
    let rules = QuestRules::build(1, asking.chain([simple("whole", 1, 1)])).unwrap();
    let deep = format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200));
    for metadata in [deep.as_str(), r#"{"map":"\ud800"}"#] {
        let mut event = event("u", "e", "{}", json!({}));
        event.metadata =
            Some(serde_json::value::RawValue::from_string(metadata.to_owned()).unwrap());
        let mut lane = Lane::new(QuestDomain);
        lane.batch(&rules, vec![quest_record(0, 1, 1, &event)]);
        let dead = lane.dead();
        assert_eq!(dead.len(), 4, "{metadata}");
        assert!(dead.iter().all(|(code, _)| code == "undecodable"));
        assert_eq!(lane.states.len(), 1);
    }
}

#[test]
fn expressions_of_the_same_text_are_compiled_once() {
    let when = json!({"when": "event.metadata.x > 1"});
    let of = |id: &str, version, seq| quest(id, version, seq, conditions(&when), json!({}));
    let first = QuestRules::build(2, [of("a", 1, 1), of("b", 1, 2)]).unwrap();
    let second = first
        .with_changes(4, [of("a", 2, 3), simple("c", 1, 4)])
        .unwrap();
    let facts = facts(event("u", "e", "{}", json!({})));
    let compiled: Vec<_> = [(&first, 2), (&second, 4)]
        .into_iter()
        .flat_map(|(rules, stamp)| rules.candidates(&facts, stamp))
        .filter_map(|version| version.rule().unwrap().when())
        .collect();
    assert_eq!(compiled.len(), 4);
    assert!(compiled.iter().all(|when| std::ptr::eq(*when, compiled[0])));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one line per reason")]
fn every_quest_of_the_game_says_why_it_ignores_an_event() {
    let archived = StoredQuest {
        status: QuestStatus::Archived,
        ..simple("z", 1, 1)
    };
    let rules = QuestRules::build(
        9,
        [
            quest(
                "filter",
                1,
                1,
                conditions(&json!({"filters": {"map": "forest"}})),
                json!({}),
            ),
            quest(
                "none",
                1,
                1,
                conditions(&json!({"filters": {"a.b": null}})),
                json!({}),
            ),
            quest(
                "name",
                1,
                1,
                conditions(&json!({"eventName": "boss"})),
                json!({}),
            ),
            quest(
                "type",
                1,
                1,
                conditions(&json!({"eventType": "match_end"})),
                json!({}),
            ),
            quest(
                "when",
                1,
                1,
                conditions(&json!({"when": "event.metadata.level > 3"})),
                json!({}),
            ),
            quest(
                "error",
                1,
                1,
                conditions(&json!({"when": "event.metadata.x > 3"})),
                json!({}),
            ),
            quest(
                "early",
                1,
                1,
                conditions(&json!({})),
                json!({"startDate": "2030-01-01T00:00:00Z"}),
            ),
            quest(
                "late",
                1,
                1,
                conditions(&json!({})),
                json!({"endDate": "1969-01-01T00:00:00Z"}),
            ),
            quest(
                "unique",
                1,
                1,
                conditions(&json!({"progressType": "unique", "uniqueField": "x"})),
                json!({}),
            ),
            quest("yes", 1, 1, conditions(&json!({})), json!({})),
            simple("later", 1, 9),
            archived,
        ],
    )
    .unwrap();
    let event = event("u", "e", r#"{"map":"desert","level":2}"#, json!({}));
    let facts = EventFacts::new(event, at(5));
    let explained: Vec<(String, String)> = rules
        .explain(&facts, 8)
        .into_iter()
        .map(|e| {
            let text = match e.decision {
                Decision::Ignore(reason) => format!("ignored: {reason}"),
                other => format!("{other:?}"),
            };
            (e.quest_id.as_str().to_owned(), text)
        })
        .collect();
    let expected = [
        (
            "early",
            "ignored: the quest starts at 2030-01-01T00:00:00.000Z",
        ),
        ("error", "ignored: when cannot be evaluated: No such key: x"),
        ("filter", "ignored: filter map is forest, event says desert"),
        (
            "late",
            "ignored: the quest ended at 1969-01-01T00:00:00.000Z",
        ),
        ("later", "ignored: the quest was not defined yet"),
        ("name", "ignored: eventName is boss, event has none"),
        ("none", "ignored: filter a.b is null, event has none"),
        (
            "type",
            "ignored: eventType is match_end, event says enemy_killed",
        ),
        ("unique", "ignored: event has no x in its metadata"),
        ("when", "ignored: when is false"),
    ];
    let found: Vec<_> = explained
        .iter()
        .map(|(q, t)| (q.as_str(), t.as_str()))
        .collect();
    assert_eq!(found[..expected.len()], expected);
    assert!(found[expected.len()].1.starts_with("Count"));
    assert_eq!(found.len(), expected.len() + 1);
}
