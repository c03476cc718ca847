//! What events do to progress, case by case.

#![expect(
    clippy::needless_pass_by_value,
    reason = "json! literals read better without a borrow"
)]

use bm_contracts::{Topic, headers};
use serde_json::{Value, json};

use super::*;
use crate::fixture::{Lane, at, event, quest, quest_record, simple};

fn conditions(more: Value) -> Value {
    let mut all = json!({"eventType": "enemy_killed", "progressType": "count", "target": 3});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

/// Folds events of player `u` with this metadata, one after another, under one quest.
fn fold(quest: StoredQuest, metadata: &[&str]) -> Lane<QuestDomain> {
    let rules = QuestRules::build(9, [quest]).unwrap();
    let mut lane = Lane::new(QuestDomain);
    let records = metadata.iter().enumerate().map(|(index, metadata)| {
        let event = event("u", &format!("e{index}"), metadata, json!({}));
        quest_record(index as i64, 1_000 + index as i64, 9, &event)
    });
    lane.batches(&rules, records.collect(), &[2]);
    lane
}

fn only(lane: &Lane<QuestDomain>) -> &QuestState {
    assert_eq!(lane.states.len(), 1);
    lane.states.values().next().unwrap()
}

#[test]
fn completion_freezes_progress_and_grants_each_reward_once() {
    let rewards = json!({"rewards": [{"type": "coins", "amount": 10.50}, {"type": "badge"}]});
    let lane = fold(quest("q", 1, 1, conditions(json!({})), rewards), &["{}"; 5]);
    let state = only(&lane);
    assert_eq!(state.current, Amount::from(3));
    assert_eq!(state.completed_at, Some(at(1_002)));
    assert_eq!((state.version, state.last_updated), (3, at(1_002)));
    let grants = lane.sent(Topic::RewardEvents);
    assert_eq!(grants.len(), 2);
    assert_ne!(grants[0]["grantId"], grants[1]["grantId"]);
    assert_eq!(grants[0]["source"], "quest_q");
    assert_eq!(
        grants[0]["reward"].to_string(),
        r#"{"amount":10.5,"type":"coins"}"#
    );
    assert_eq!(grants[1]["timestamp"], at(1_002).to_string());
    let grant = lane
        .messages
        .iter()
        .find(|m| m.topic == Topic::RewardEvents)
        .unwrap();
    assert_eq!(grant.key, "g:u");
    assert!(
        grant
            .headers
            .contains(&("bm-kind".into(), "event".to_owned()))
    );
    // Batches of two: of the first two changes only the second is shown.
    let versions: Vec<_> = lane.sent(Topic::UiUpdates);
    assert_eq!(versions.len(), 2);
    assert_eq!(
        versions[1],
        json!({"type": "quest_progress", "gameId": "g", "userId": "u", "questId": "q",
               "progress": {"current": 3, "target": 3}, "completed": true, "version": 3})
    );
}

#[test]
fn accumulate_adds_exact_decimals() {
    let quest = |target: &str| {
        let target: Value = serde_json::from_str(target).unwrap();
        let more = json!({"progressType": "accumulate", "valueField": "v", "target": target});
        quest("q", 1, 1, conditions(more), json!({}))
    };
    let lane = fold(quest("1.0"), &[r#"{"v":0.1}"#; 10]);
    assert_eq!(only(&lane).current, Amount::ONE);
    assert!(only(&lane).completed_at.is_some());
    // A value that is not there counts 1, an explicit 0 counts 0.
    let lane = fold(
        quest("100"),
        &["{}", r#"{"v":0}"#, r#"{"v":0.0}"#, r#"{"v":2e1}"#],
    );
    assert_eq!(only(&lane).current, Amount::from(21));
    assert_eq!(only(&lane).version, 2);
    // The last step may pass the target.
    let lane = fold(quest("10"), &[r#"{"v":7}"#, r#"{"v":7}"#, r#"{"v":7}"#]);
    assert_eq!(only(&lane).current, Amount::from(14));
}

#[test]
fn a_value_the_quest_cannot_use_is_a_dead_letter_for_it_alone() {
    let accumulate = json!({"progressType": "accumulate", "valueField": "v", "target": 1e15});
    let rules = QuestRules::build(
        2,
        [
            quest("a", 1, 1, conditions(accumulate), json!({})),
            quest("b", 1, 2, conditions(json!({"target": 100})), json!({})),
        ],
    )
    .unwrap();
    let mut lane = Lane::new(QuestDomain);
    let bad = ["-1", "\"5\"", "null", "true", "[]", "1e40", "1e-40", "1e36"];
    let records = bad.iter().enumerate().map(|(index, bad)| {
        let event = event(
            "u",
            &format!("e{index}"),
            &format!("{{\"v\":{bad}}}"),
            json!({}),
        );
        quest_record(index as i64, 5, 2, &event)
    });
    lane.batch(&rules, records.collect());
    let expected = ("invalid_value".to_owned(), Some("quest_a".to_owned()));
    assert_eq!(lane.dead(), vec![expected; bad.len()]);
    assert_eq!(only(&lane).current, Amount::from(bad.len() as u64));
}

#[test]
fn unique_counts_each_item_once_whatever_its_form() {
    let more = json!({"progressType": "unique", "uniqueField": "item", "target": 5});
    let quest = quest("q", 1, 1, conditions(more), json!({}));
    let long = format!("{{\"item\":\"{}\"}}", "x".repeat(500));
    let lane = fold(
        quest,
        &[
            r#"{"item":1}"#,
            r#"{"item":1.0}"#,
            r#"{"item":1e0}"#,
            r#"{"item":"1"}"#,
            r#"{"item":true}"#,
            r#"{"item":null}"#,
            "{}",
            r#"{"item":{}}"#,
            &long,
            &long,
        ],
    );
    let state = only(&lane);
    assert_eq!(state.current, Amount::from(4));
    assert_eq!(state.items.len(), 4);
    assert!(state.items.contains("1") && state.items.contains("\"1\""));
    assert!(state.items.iter().all(|item| item.len() <= 23));
    assert_eq!(lane.dead().len(), 1);
}

#[test]
fn the_items_of_a_set_are_small_and_gone_at_completion() {
    let more = json!({"progressType": "unique", "uniqueField": "item", "target": 1_000});
    let quest = quest("q", 1, 1, conditions(more), json!({}));
    let items: Vec<String> = (0..1_001)
        .map(|n| format!("{{\"item\":\"{:0>500}\"}}", n % 1_000))
        .collect();
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let lane = fold(quest.clone(), &items[..999]);
    let state = only(&lane);
    assert_eq!((state.items.len(), state.completed_at), (999, None));
    let json = serde_json::to_string(&state.items.iter().collect::<Vec<_>>()).unwrap();
    assert!(json.len() < 27_000, "{}", json.len());
    let lane = fold(quest, &items);
    let state = only(&lane);
    assert_eq!(state.current, Amount::from(1_000));
    assert!(state.completed_at.is_some() && state.items.is_empty());
}

#[test]
fn the_window_is_half_open() {
    let window = json!({"startDate": at(1_001).to_string(), "endDate": at(1_003).to_string()});
    let lane = fold(
        quest("q", 1, 1, conditions(json!({"target": 9})), window),
        &["{}"; 5],
    );
    assert_eq!(only(&lane).current, Amount::from(2));
}

#[test]
fn a_new_version_keeps_progress_and_does_not_undo_completion() {
    let target = |version, seq, target: i64| {
        quest(
            "q",
            version,
            seq,
            conditions(json!({"target": target})),
            json!({}),
        )
    };
    let rules = QuestRules::build(9, [target(1, 1, 2), target(2, 5, 4), target(3, 7, 1)]).unwrap();
    let mut lane = Lane::new(QuestDomain);
    let mut offset = 0;
    let mut play = |user: &str, stamp: i64| {
        offset += 1;
        let event = event(user, &format!("e{offset}"), "{}", json!({}));
        lane.batch(&rules, vec![quest_record(offset, 10, stamp, &event)]);
        let key = lane
            .states
            .keys()
            .find(|key| key.user.as_str() == user)
            .unwrap();
        let state = &lane.states[key];
        (
            state.current.to_u64().unwrap(),
            state.completed_at.is_some(),
            state.version,
        )
    };
    assert_eq!(play("done", 1), (1, false, 1));
    assert_eq!(play("done", 4), (2, true, 2));
    assert_eq!(play("done", 5), (2, true, 2));
    assert_eq!(play("half", 4), (1, false, 1));
    assert_eq!(play("half", 6), (2, false, 2));
    assert_eq!(play("half", 9), (3, true, 3));
}

#[test]
fn an_event_that_adds_nothing_still_completes_under_a_lowered_target() {
    let accumulate = |version, seq, target: i64| {
        let more = json!({"progressType": "accumulate", "valueField": "v", "target": target});
        quest("q", version, seq, conditions(more), json!({}))
    };
    let rules = QuestRules::build(2, [accumulate(1, 1, 10), accumulate(2, 2, 5)]).unwrap();
    let mut lane = Lane::new(QuestDomain);
    let first = event("u", "e1", r#"{"v":6}"#, json!({}));
    let second = event("u", "e2", r#"{"v":0}"#, json!({}));
    lane.batch(&rules, vec![quest_record(0, 1, 1, &first)]);
    assert_eq!(only(&lane).completed_at, None);
    lane.batch(&rules, vec![quest_record(1, 2, 2, &second)]);
    assert_eq!(only(&lane).completed_at, Some(at(2)));
    assert_eq!(lane.sent(Topic::RewardEvents).len(), 1);
}

#[test]
fn records_no_one_can_use_become_dead_letters_and_the_lane_goes_on() {
    let rules = QuestRules::build(1, [simple("q", 1, 1)]).unwrap();
    let event = event("u", "e", "{}", json!({}));
    let good = quest_record(0, 1, 1, &event);
    let with_header = |name: &str, value: Option<&'static str>| {
        let mut record = good.clone();
        record.headers.retain(|(header, _)| header != name);
        record
            .headers
            .extend(value.map(|v| (headers::name(name), v.into())));
        record
    };
    let mut no_time = good.clone();
    no_time.value = event.to_json().into();
    let mut wrong_key = good.clone();
    wrong_key.key = "g:v".into();
    let records = [
        (with_header("bm-kind", Some("command")), "unsupported_kind"),
        (with_header("bm-kind", Some("hat")), "bad_header"),
        (with_header("bm-config", None), "missing_header"),
        (with_header("bm-config", Some("x")), "bad_header"),
        (no_time, "undecodable"),
        (wrong_key, "wrong_key"),
    ];
    let mut lane = Lane::new(QuestDomain);
    let codes: Vec<_> = records.iter().map(|(_, code)| (*code).to_owned()).collect();
    let mut all: Vec<_> = records.into_iter().map(|(record, _)| record).collect();
    all.push(with_header("bm-kind", None));
    for (offset, record) in all.iter_mut().enumerate() {
        record.offset = offset as i64;
    }
    lane.batch(&rules, all);
    assert_eq!(
        lane.dead()
            .into_iter()
            .map(|(code, _)| code)
            .collect::<Vec<_>>(),
        codes
    );
    assert!(only(&lane).completed_at.is_some());
}
