//! Which quests an event may count for, and what each says of one it ignores.

use serde_json::{Value, json};

use super::*;
use crate::fixture::{at, event, quest, simple};

fn conditions(more: &Value) -> Value {
    let mut all = json!({"eventType": "enemy_killed", "progressType": "count", "target": 3});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
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
        let event = event("u", "e", "{}", Value::Object(more));
        let versions: Vec<_> = rules
            .candidates(&event, stamp)
            .map(|rule| rule.version())
            .collect();
        assert_eq!(rules.wants(&event, stamp), !versions.is_empty());
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
    assert!(!rules.wants(&foreign, 50), "another studio's event");
    foreign.studio_id = "s".to_owned().try_into().unwrap();
    foreign.game_id = "h".to_owned().try_into().unwrap();
    assert!(!rules.wants(&foreign, 50), "another game's event");
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
    let event = event("u", "e", "{}", json!({}));
    let versions = |rules: &QuestRules, stamp| -> Vec<_> {
        rules
            .candidates(&event, stamp)
            .map(|rule| (rule.quest_id().as_str().to_owned(), rule.version()))
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

#[test]
fn stored_definitions_that_cannot_be_used_make_no_rules() {
    let bad = quest(
        "q",
        1,
        1,
        conditions(&json!({"when": "event.metadata.x >"})),
        json!({}),
    );
    let error = QuestRules::build(1, [bad]).unwrap_err();
    assert!(
        error.to_string().contains("when: line 1, column"),
        "{error}"
    );
    let newer = quest("q", 1, 1, conditions(&json!({})), json!({"objectives": []}));
    assert!(matches!(
        QuestRules::build(1, [newer]),
        Err(RulesError::Definition { .. })
    ));
    let mut misfiled = simple("q", 1, 1);
    misfiled.quest_id = "other".to_owned().try_into().unwrap();
    assert!(matches!(
        QuestRules::build(1, [misfiled]),
        Err(RulesError::Misfiled { .. })
    ));
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
    let facts = EventFacts::new(event, at(5)).unwrap();
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
