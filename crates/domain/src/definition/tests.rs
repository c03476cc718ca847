//! What a definition file may say, and what is said about one that may not.

#![expect(
    clippy::needless_pass_by_value,
    reason = "json! literals read better without a borrow"
)]

use serde_json::{Value, json};

use super::*;

pub(super) fn quest(conditions: Value) -> Value {
    let mut all = json!({"eventType": "enemy_killed", "progressType": "count", "target": 3});
    for (name, value) in conditions.as_object().unwrap() {
        all[name] = value.clone();
    }
    json!({"gameId": "g", "questId": "q", "name": "Quest", "conditions": all, "rewards": []})
}

/// The faults of a file with this one quest, changed by `change`.
fn faults_of(mut quest: Value, change: &Value) -> Vec<String> {
    for (name, value) in change.as_object().unwrap() {
        quest[name] = value.clone();
    }
    let file = json!({"quests": [quest]}).to_string();
    match parse_file(file.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_whole_file_is_read() {
    let file = r#"{
        "games": [{"gameId": "space-race", "studioId": "acme", "name": "Space Race"}],
        "quests": [{
            "gameId": "space-race", "questId": "first-blood", "name": "First blood",
            "description": "Two\nlines", "claim": "auto",
            "conditions": {
                "eventType": "custom", "eventName": "boss", "progressType": "accumulate",
                "target": 10.50, "valueField": "metadata.stats.damage",
                "filters": {"map": "forest", "metadata.weapon.kind": "sword", "n": 1.0, "x": null, "b": true},
                "when": "event.metadata.level > 3"
            },
            "rewards": [{"type": "coins", "amount": 10, "nested": {"b": [1], "a": 2.50}}],
            "startDate": "2026-01-02T00:00:00+02:00", "endDate": "2026-02-02T00:00:00Z"
        }]
    }"#;
    let file = parse_file(file.as_bytes()).unwrap();
    assert_eq!(file.games[0].studio_id.as_str(), "acme");
    let quest = &file.quests[0];
    assert_eq!(quest.conditions.target.to_string(), "10.5");
    assert_eq!(quest.conditions.progress.as_str(), "accumulate");
    assert_eq!(
        quest.rewards[0].get(),
        r#"{"amount":10,"nested":{"a":2.50,"b":[1]},"type":"coins"}"#
    );
    let stored = quest.to_stored();
    assert_eq!(
        stored,
        r#"{"conditions":{"eventName":"boss","eventType":"custom","filters":{"b":true,"map":"forest","n":1.0,"weapon.kind":"sword","x":null},"progressType":"accumulate","target":10.5,"valueField":"stats.damage","when":"event.metadata.level > 3"},"description":"Two\nlines","endDate":"2026-02-02T00:00:00.000Z","gameId":"space-race","name":"First blood","questId":"first-blood","rewards":[{"amount":10,"nested":{"a":2.50,"b":[1]},"type":"coins"}],"startDate":"2026-01-01T22:00:00.000Z"}"#
    );
    assert_eq!(
        QuestDefinition::from_stored(&stored).unwrap().to_stored(),
        stored
    );
}

#[test]
fn an_empty_file_changes_nothing_and_is_no_fault() {
    assert!(parse_file(b"{}").unwrap().quests.is_empty());
    assert!(
        parse_file(br#"{"games":[],"quests":[]}"#)
            .unwrap()
            .games
            .is_empty()
    );
}

#[test]
fn every_fault_is_told_at_once() {
    let file = r#"{
        "games": [{"gameId": "a:b", "studioId": "s"}, 7, {"gameId": "g", "studioId": "s", "name": "G"},
                  {"gameId": "g", "studioId": "s", "name": "G"}],
        "quests": [
            {"gameId": "g", "questId": "q", "name": "", "conditions": {"eventType": "jump", "progressType": "often",
             "target": 0, "filters": {"a..b": 1, "c": {}}, "when": "event.metadata.x >\n  > 3"}, "rewards": [{}, 5],
             "startDate": "tomorrow", "objectives": []},
            {"questId": "p", "name": "P", "rewards": {}, "colour": "red"},
            {"gameId": "g", "questId": "r", "name": "R", "conditions": {"eventType": "custom", "progressType": "count", "target": 1}},
            {"gameId": "g", "questId": "r", "name": "R", "conditions": {"eventType": "custom", "progressType": "count", "target": 1}}
        ],
        "tournaments": [], "extra": 1
    }"#;
    let faults = parse_file(file.as_bytes()).unwrap_err();
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let mut expected = vec![
        "$.extra: is an unknown field",
        "$.tournaments: is not supported yet",
        "$.games[0].gameId: must not contain ':'",
        "$.games[0].name: is missing",
        "$.games[1]: must be an object",
        "$.games[3].gameId: g stands twice",
        "$.quests[0].objectives: is not supported yet",
        "$.quests[0].name: must not be empty",
        "$.quests[0].conditions.eventType: must be one of match_start, match_end, score_update, level_complete, item_collected, enemy_killed, quest_action, achievement_unlocked, custom",
        "$.quests[0].conditions.filters[\"a..b\"]: is not a metadata path: it must be names joined by dots, like weapon.kind",
        "$.quests[0].conditions.filters.c: must be a string, a number, a boolean or null",
        "$.quests[0].conditions.target: must be at least 1",
        "$.quests[0].conditions.progressType: must be one of count, accumulate, unique",
        "$.quests[0].rewards[0].type: is missing",
        "$.quests[0].rewards[1]: must be an object with a type",
        "$.quests[0].startDate: must be an RFC 3339 date-time with an offset, like 2026-01-02T00:00:00Z, of the years 0001 to 9999",
        "$.quests[1].colour: is an unknown field",
        "$.quests[1].gameId: is missing",
        "$.quests[1].conditions: is missing",
        "$.quests[1].rewards: must be an array",
        "$.quests[3].questId: r stands twice for game g",
    ];
    let (cel, mut rest): (Vec<_>, Vec<_>) = texts
        .into_iter()
        .partition(|text| text.contains("conditions.when"));
    assert!(
        cel[0].starts_with("$.quests[0].conditions.when (line 2, column 3): "),
        "{}",
        cel[0]
    );
    rest.sort_unstable();
    expected.sort_unstable();
    assert_eq!(rest, expected);
}

#[test]
fn fields_that_mean_nothing_where_they_stand_are_refused() {
    for (conditions, fault) in [
        (
            json!({"valueField": "v"}),
            "$.quests[0].conditions.valueField: only means something where progressType is accumulate",
        ),
        (
            json!({"uniqueField": "v"}),
            "$.quests[0].conditions.uniqueField: only means something where progressType is unique",
        ),
        (
            json!({"progressType": "accumulate"}),
            "$.quests[0].conditions.valueField: is missing: progressType accumulate needs it",
        ),
        (
            json!({"progressType": "unique"}),
            "$.quests[0].conditions.uniqueField: is missing: progressType unique needs it",
        ),
        (
            json!({"progressType": "unique", "uniqueField": "v", "target": 1_001}),
            "$.quests[0].conditions.target: must be at most 1000 where progressType is unique",
        ),
        (
            json!({"progressType": "unique", "uniqueField": "v", "target": 2.5}),
            "$.quests[0].conditions.target: must be a whole number",
        ),
        (
            json!({"target": 2.5}),
            "$.quests[0].conditions.target: must be a whole number",
        ),
        (
            json!({"target": "3"}),
            "$.quests[0].conditions.target: must be a number",
        ),
        (
            json!({"target": -3}),
            "$.quests[0].conditions.target: must not be negative",
        ),
        (
            json!({"target": 2_000_000_000_000_000i64}),
            "$.quests[0].conditions.target: must be at most 1000000000000000",
        ),
        (
            json!({"eventName": "x".repeat(51)}),
            "$.quests[0].conditions.eventName: must be at most 50 characters",
        ),
        (
            json!({"filters": {"map": "a", "metadata.map": "b"}}),
            "$.quests[0].conditions.filters[\"metadata.map\"]: names a place that another filter names too",
        ),
        (
            json!({"filters": []}),
            "$.quests[0].conditions.filters: must be an object of metadata paths and values",
        ),
        (
            json!({"trust": "server"}),
            "$.quests[0].conditions.trust: is not supported yet",
        ),
        (
            json!({"max": 1}),
            "$.quests[0].conditions.max: is an unknown field",
        ),
    ] {
        assert_eq!(faults_of(quest(conditions), &json!({})), [fault]);
    }
}

#[test]
fn what_is_not_supported_yet_is_refused_and_not_ignored() {
    for (change, path) in [
        (json!({"objectives": []}), "objectives"),
        (json!({"prerequisites": ["a"]}), "prerequisites"),
        (json!({"repeat": {"period": "daily"}}), "repeat"),
        (json!({"claim": "manual"}), "claim"),
        (json!({"communityGate": {}}), "communityGate"),
        (json!({"timeBasis": "occurred"}), "timeBasis"),
        (json!({"trust": "player"}), "trust"),
        (json!({"version": 2}), "version"),
    ] {
        let faults = faults_of(quest(json!({})), &change);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(&format!("$.quests[0].{path}: is not supported yet")));
    }
}

#[test]
fn a_quest_is_active_unless_it_says_archived() {
    let read = |status: Option<Value>| {
        let mut quest = quest(json!({}));
        if let Some(status) = status {
            quest["status"] = status;
        }
        parse_file(json!({"quests": [quest]}).to_string().as_bytes())
            .map(|mut f| f.quests.remove(0))
    };
    let silent = read(None).unwrap();
    let active = read(Some(json!("active"))).unwrap();
    let archived = read(Some(json!("archived"))).unwrap();
    assert_eq!(silent.status, QuestStatus::Active);
    assert_eq!(archived.status, QuestStatus::Archived);
    // Saying what is so anyway makes no new version; archiving does.
    assert_eq!(silent.to_stored(), active.to_stored());
    assert_ne!(silent.to_stored(), archived.to_stored());
    let stored = QuestDefinition::from_stored(&archived.to_stored()).unwrap();
    assert_eq!(stored.status, QuestStatus::Archived);
    for bad in [json!("paused"), json!(""), json!(null), json!(true)] {
        let faults = faults_of(quest(json!({})), &json!({"status": bad}));
        assert_eq!(faults, ["$.quests[0].status: must be active or archived"]);
    }
}

#[test]
fn the_games_of_a_file_with_faults_can_be_named() {
    let file = json!({
        "games": [{"gameId": "a:b", "studioId": "s"}, 7, {"gameId": "g", "studioId": "s"}, {"gameId": "h"}],
        "quests": [{"colour": "red"}, {"gameId": "g", "target": -1}],
    });
    let named = named_games(file.to_string().as_bytes());
    let game = GameId::new("g").unwrap();
    assert_eq!(
        named.games,
        [(2, game.clone(), StudioId::new("s").unwrap())]
    );
    assert_eq!(named.quests, [(1, game)]);
    for other in ["[]", "{", r#"{"games": {}, "quests": 1}"#] {
        assert_eq!(named_games(other.as_bytes()), NamedGames::default());
    }
    let whole = json!({
        "games": [{"gameId": "g", "studioId": "s", "name": "G"}], "quests": [quest(json!({}))],
    })
    .to_string();
    let parsed = parse_file(whole.as_bytes()).unwrap();
    assert_eq!(named_games(whole.as_bytes()), NamedGames::of(&parsed));
}

#[test]
fn dates_and_rewards_keep_their_bounds() {
    let day = |n: u8| format!("2026-01-{n:02}T00:00:00Z");
    let faults = |change: Value| faults_of(quest(json!({})), &change);
    assert!(faults(json!({"startDate": day(1), "endDate": day(2)})).is_empty());
    for (start, end) in [(day(1), day(1)), (day(2), day(1))] {
        assert_eq!(
            faults(json!({"startDate": start, "endDate": end})),
            ["$.quests[0].endDate: must be later than startDate"]
        );
    }
    let reward = json!({"type": "x", "text": "y".repeat(16_384)});
    assert_eq!(
        faults(json!({"rewards": [reward]})),
        ["$.quests[0].rewards[0]: must be at most 16384 bytes, numbers written out"]
    );
    assert_eq!(
        faults(json!({"rewards": vec![json!({"type": "x"}); 51]})),
        ["$.quests[0].rewards: must have at most 50 rewards"]
    );
    let large = json!({"type": "x", "text": "y".repeat(16_000)});
    let found = faults(json!({"rewards": vec![large; 20]}));
    assert!(found[0].contains("more than 262144"), "{found:?}");
    assert_eq!(
        faults(json!({"rewards": [{"type": 5}]})),
        ["$.quests[0].rewards[0].type: must be a string that is not empty"]
    );
}

#[test]
fn json_that_hides_something_is_refused() {
    for (file, fault) in [
        (r#"{"quests": [}"#, "$ (line 1, column 13): is not JSON"),
        (r#"{"games": [], "games": []}"#, "$.games: stands twice"),
        (
            r#"{"quests": [{"a": {"b": 1, "b": 2}}]}"#,
            "$.quests[0].a.b: stands twice",
        ),
        (
            r#"{"quests": ["a\u0000b"]}"#,
            "$.quests[0]: must not contain NUL",
        ),
        (r#"{"quests": [{"a\u0000": 1}]}"#, "is a name with a NUL"),
        (r#"{"quests": [1e400]}"#, "$.quests[0]: is a number beyond"),
        (
            r#"{"quests": [9223372036854775808]}"#,
            "$.quests[0]: is a number beyond",
        ),
        (r#"{"quests": ["\ud800"]}"#, "is not JSON"),
        ("[]", "$: must be an object"),
        (r#"{"quests": {}}"#, "$.quests: must be an array"),
    ] {
        let faults = parse_file(file.as_bytes()).unwrap_err();
        let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(
            texts.iter().any(|text| text.contains(fault)),
            "{file}: {texts:?}"
        );
    }
    let deep = format!(r#"{{"quests": {}1{}}}"#, "[".repeat(60), "]".repeat(60));
    let faults = parse_file(deep.as_bytes()).unwrap_err();
    assert!(
        faults
            .iter()
            .any(|f| f.message.contains("nested more than 32"))
    );
    let deeper = format!(
        r#"{{"quests": {}1{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(parse_file(deeper.as_bytes()).is_err());
}

#[test]
fn ids_that_stand_twice_are_told_whatever_else_is_wrong() {
    let file = r#"{
        "games": [{"gameId": "g"}, {"gameId": "g", "studioId": "s", "name": "G"}],
        "quests": [{"gameId": "g", "questId": "q"}, {"gameId": "g", "questId": "q", "name": 5}, {"gameId": "h", "questId": "q"}]
    }"#;
    let faults = parse_file(file.as_bytes()).unwrap_err();
    let twice: Vec<_> = faults
        .iter()
        .map(ToString::to_string)
        .filter(|text| text.contains("twice"))
        .collect();
    assert_eq!(
        twice,
        [
            "$.games[1].gameId: g stands twice",
            "$.quests[1].questId: q stands twice for game g"
        ]
    );
}

#[test]
fn a_misspelt_progress_type_is_one_fault() {
    assert_eq!(
        faults_of(
            quest(json!({"progressType": "acumulate", "target": 2.5})),
            &json!({})
        ),
        ["$.quests[0].conditions.progressType: must be one of count, accumulate, unique"]
    );
}

#[test]
fn numbers_beyond_the_database_are_refused_with_their_place() {
    let faults = |number: &str| {
        let number: Value = serde_json::from_str(number).unwrap();
        faults_of(
            quest(json!({})),
            &json!({"rewards": [{"type": "x", "n": number}]}),
        )
    };
    let fine = format!("0.{}1", "0".repeat(16_300));
    for number in ["1e-16300", "1e300", &fine] {
        assert_eq!(faults(number), [""; 0], "{number:.20}");
    }
    let long = format!("0.{}1", "0".repeat(16_383));
    for number in ["1e-20000", "1e-16384", "1.5e-16383", &long] {
        let place = "$.quests[0].rewards[0].n: has more than 16383 decimal places";
        assert!(
            faults(number).iter().any(|fault| fault == place),
            "{number:.20}"
        );
    }
}

#[test]
fn for_ever_is_a_date() {
    let change = json!({"startDate": "0001-01-01T00:00:00Z", "endDate": "9999-12-31T23:59:59Z"});
    let mut quest = quest(json!({}));
    for (name, value) in change.as_object().unwrap() {
        quest[name] = value.clone();
    }
    let file = parse_file(json!({"quests": [quest]}).to_string().as_bytes()).unwrap();
    let stored = QuestDefinition::from_stored(&file.quests[0].to_stored()).unwrap();
    assert_eq!(
        stored.end_date.unwrap().to_string(),
        "9999-12-31T23:59:59.000Z"
    );
}

#[test]
fn a_reward_is_measured_as_it_will_be_read() {
    let numbers = |count: usize| {
        let number: Value = serde_json::from_str("1e300").unwrap();
        json!({"rewards": [{"type": "x", "numbers": vec![number; count]}]})
    };
    let faults = |change: &Value| faults_of(quest(json!({})), change);
    assert_eq!(faults(&numbers(53)), [""; 0]);
    // 302 bytes each.
    assert_eq!(
        faults(&numbers(60)),
        ["$.quests[0].rewards[0]: must be at most 16384 bytes, numbers written out"]
    );
}

#[test]
fn filters_compare_by_value() {
    let scalar = |text: &str| Scalar::from_json(&serde_json::from_str(text).unwrap()).unwrap();
    let matches = |a: &str, b: &str| scalar(a).matches(&serde_json::from_str(b).unwrap());
    for (a, b) in [
        ("1", "1.0"),
        ("1", "1e0"),
        ("0.5", "5e-1"),
        ("\"a\"", "\"\\u0061\""),
        ("true", "true"),
        ("null", "null"),
    ] {
        assert!(matches(a, b) && matches(b, a), "{a} {b}");
    }
    for (a, b) in [
        ("1", "\"1\""),
        ("1", "true"),
        ("null", "false"),
        ("1", "[1]"),
        ("9007199254740993", "9007199254740992"),
    ] {
        assert!(!matches(a, b), "{a} {b}");
    }
}
