//! Each event counts once; and what is kept of events gives back what living through them gave.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{Lane, at, event, game_record, jsonb, quest, quest_record, simple};
use crate::quest::{QuestDomain, StoredQuest};

fn rules(seq: i64, quests: impl IntoIterator<Item = StoredQuest>) -> RouteRules {
    RouteRules {
        seq,
        quests: Arc::new(QuestRules::build(seq, quests).unwrap()),
    }
}

#[test]
fn a_new_event_is_kept_stamped_and_forwarded() {
    let mut lane = Lane::new(RouterDomain);
    let event = event("u", "e1", r#"{"a": 1}"#, json!({"session": "x", "n": 1.50}));
    lane.batch(
        &rules(7, [simple("q", 1, 7)]),
        vec![game_record(5, 1_000_500, &event)],
    );
    let row = &lane.rows[0];
    assert_eq!(
        (row.log_partition, row.log_offset, row.config_seq),
        (0, 5, 7)
    );
    assert_eq!(row.ingested_at, at(1_000_500));
    assert_eq!(row.event.ingested_at, Some(at(1_000_500)));
    assert_eq!(row.correlation_id.as_deref(), Some("c-1"));
    let extra: Value = serde_json::from_str(&row.extra_json().unwrap()).unwrap();
    assert_eq!(extra.to_string(), r#"{"n":1.5,"session":"x"}"#);
    assert_eq!(lane.states.len(), 1);
    let [message] = &lane.messages[..] else {
        panic!("one message");
    };
    assert_eq!(
        (message.topic, message.key.as_str()),
        (Topic::QuestEvents, "g:u")
    );
    let record = message.to_record(0, at(0));
    assert_eq!(record.config_seq(), Ok(Some(7)));
    assert_eq!(record.kind(), Ok(Kind::Event));
    assert_eq!(record.header("studioId"), Some("s"));
    assert_eq!(record.header("gameId"), Some("g"));
    assert_eq!(record.header("eventType"), Some("enemy_killed"));
    let sent = GameEvent::from_json(&message.value).unwrap();
    assert_eq!(sent.ingested_at, Some(at(1_000_500)));
}

#[test]
fn an_event_no_rule_wants_is_kept_and_not_forwarded() {
    let mut lane = Lane::new(RouterDomain);
    let wanted = event("u", "e1", "{}", json!({}));
    let unwanted = event("u", "e2", "{}", json!({"eventType": "match_end"}));
    // Saved at 9, so not in force yet at 8.
    lane.batch(
        &rules(8, [simple("q", 1, 9)]),
        vec![game_record(0, 1_000_000, &wanted)],
    );
    lane.batch(
        &rules(9, [simple("q", 1, 9)]),
        vec![game_record(1, 1_000_000, &unwanted)],
    );
    assert_eq!(lane.rows.len(), 2);
    assert!(lane.messages.is_empty());
}

#[test]
fn an_event_that_can_count_for_no_quest_is_not_forwarded() {
    let window = |start: i64, end: i64| json!({"startDate": at(start).to_string(), "endDate": at(end).to_string()});
    let conditions = |filters: Value| json!({"eventType": "enemy_killed", "progressType": "count", "target": 9, "filters": filters});
    let rules = rules(
        3,
        [
            quest("past", 1, 1, conditions(json!({})), window(0, 1_000_000)),
            quest(
                "future",
                1,
                2,
                conditions(json!({})),
                window(1_000_001, 2_000_000),
            ),
            quest(
                "forest",
                1,
                3,
                conditions(json!({"map": "forest"})),
                json!({}),
            ),
        ],
    );
    let mut router = Lane::new(RouterDomain);
    let maps = [r#"{"map":"desert"}"#, r#"{"map":"forest"}"#, "{}"];
    let records = maps.iter().enumerate().map(|(i, metadata)| {
        let event = event("u", &format!("e{i}"), metadata, json!({}));
        game_record(i as i64, 1_000_000, &event)
    });
    router.batch(&rules, records.collect());
    assert_eq!((router.rows.len(), router.messages.len()), (3, 1));
    // And the quest processor asks for the progress of no quest but the one.
    let keys = |metadata: &str, millis: i64| {
        let event = event("u", "e", metadata, json!({}));
        let input = QuestDomain
            .decode(&quest_record(0, millis, 3, &event))
            .unwrap();
        let mut keys = Vec::new();
        QuestDomain.keys(&rules.quests, &input, &mut keys);
        keys.len()
    };
    assert_eq!(keys(r#"{"map":"desert"}"#, 1_000_000), 0);
    assert_eq!(keys(r#"{"map":"forest"}"#, 1_000_000), 1);
    assert_eq!(keys(r#"{"map":"forest"}"#, 999_999), 2);
    assert_eq!(keys("{}", 1_000_001), 1);
}

#[test]
fn a_repeated_event_counts_once_and_another_body_is_a_dead_letter() {
    let first = event("u", "e1", r#"{"a":1}"#, json!({}));
    let other_body = event("u", "e1", r#"{"a":2}"#, json!({}));
    let other_player = event("v", "e1", r#"{"a":2}"#, json!({}));
    let other_time = event("u", "e1", r#"{"a":1}"#, json!({"timestamp": 1_000_001}));
    for sizes in [[1, 1], [10, 10]] {
        let mut lane = Lane::new(RouterDomain);
        let records = [
            &first,
            &first,
            &other_body,
            &other_player,
            &other_time,
            &first,
        ]
        .into_iter()
        .enumerate()
        .map(|(offset, event)| game_record(offset as i64, 1_000_000, event));
        lane.batches(&rules(1, [simple("q", 1, 1)]), records.collect(), &sizes);
        let offsets: Vec<_> = lane.rows.iter().map(|row| row.log_offset).collect();
        assert_eq!(offsets, [0, 3, 4]);
        assert_eq!(lane.dead(), [("event_id_reused".to_owned(), None)]);
        assert_eq!(lane.messages.len(), 4);
    }
}

#[test]
fn records_that_cannot_be_kept_become_dead_letters() {
    const DAY: i64 = 86_400_000;
    let base = 100 * DAY;
    let at_time = |offset: i64, time: i64| {
        let event = event("u", &format!("e{offset}"), "{}", json!({"timestamp": time}));
        game_record(offset, base, &event)
    };
    let mut wrong_key = at_time(4, base);
    wrong_key.key = "g:someone".into();
    let mut no_json = at_time(5, base);
    no_json.value = "hello".into();
    let mut barrier = at_time(6, base);
    barrier.headers.push(("bm-kind".into(), "barrier".into()));
    let long = event(
        "u",
        "e7",
        "{}",
        json!({"timestamp": base, "eventName": "x".repeat(51)}),
    );
    let mut lane = Lane::new(RouterDomain);
    let records = vec![
        at_time(0, base - 8 * DAY),
        at_time(1, base - 8 * DAY - 1),
        at_time(2, base + 600_000),
        at_time(3, base + 600_001),
        wrong_key,
        no_json,
        barrier,
        game_record(7, base, &long),
    ];
    lane.batch(&rules(1, []), records);
    let codes: Vec<_> = lane.dead().into_iter().map(|(code, _)| code).collect();
    assert_eq!(
        codes,
        [
            "timestamp_out_of_range",
            "timestamp_out_of_range",
            "wrong_key",
            "undecodable",
            "unsupported_kind",
            "undecodable"
        ]
    );
    let kept: Vec<_> = lane.rows.iter().map(|row| row.log_offset).collect();
    assert_eq!(kept, [0, 2]);
}

/// An event as it can be made from the columns of its row.
fn restored(row: &EventRow) -> GameEvent {
    let mut event = GameEvent::clone(&row.event);
    event.ingested_at = Some(row.ingested_at);
    event.metadata = event
        .metadata
        .map(|raw| RawValue::from_string(jsonb(raw.get())).unwrap());
    event.extra = match row.extra_json() {
        None => Vec::new(),
        Some(text) => {
            let raw = jsonb(&text);
            let map: std::collections::BTreeMap<String, Box<RawValue>> =
                serde_json::from_str(&raw).unwrap();
            map.into_iter().collect()
        }
    };
    event
}

fn number() -> impl Strategy<Value = String> {
    (-40i64..400, 0..5u8).prop_map(|(n, form)| match form {
        0 => format!("{n}"),
        1 => format!("{n}.00"),
        2 => format!("{n}e-1"),
        3 => format!("{n}.5E1"),
        _ => format!("{n}e2"),
    })
}

fn metadata() -> impl Strategy<Value = String> {
    (number(), number(), 0..3u8, any::<bool>()).prop_map(|(n, i, map, list)| {
        let map = ["forest", "desert", "caf\u{e9}"][map as usize];
        let item = if list { format!("[{i}]") } else { i };
        format!(
            r#"{{"stats":{{"n":{n},"long name":null}},"map":"{map}","i":{item},"dup":1,"dup":{n}}}"#
        )
    })
}

/// What a studio may change about a quest without making another of it.
#[derive(Debug, Clone)]
struct Change {
    seq: i64,
    active: bool,
    start: Option<i64>,
    end: Option<i64>,
}

fn change() -> impl Strategy<Value = Change> {
    (
        0..12i64,
        prop::bool::weighted(0.85),
        prop::option::weighted(0.3, 999_990..1_000_030i64),
        prop::option::weighted(0.3, 1_000_030..1_000_060i64),
    )
        .prop_map(|(seq, active, start, end)| Change {
            seq,
            active,
            start,
            end,
        })
}

/// Each version as it is or archived, between other dates, and saved at another time.
fn changed(quests: Vec<StoredQuest>, changes: &[Change]) -> Vec<StoredQuest> {
    let mut seqs: Vec<i64> = changes.iter().map(|change| change.seq).collect();
    // Versions of a quest stand in the order they were saved.
    seqs.sort_unstable();
    let quests = quests.into_iter().zip(changes).zip(seqs);
    quests
        .map(|((mut quest, change), seq)| {
            let mut definition: Value = serde_json::from_str(quest.definition.get()).unwrap();
            if let Some(start) = change.start {
                definition["startDate"] = at(start).to_string().into();
            }
            if let Some(end) = change.end {
                definition["endDate"] = at(end).to_string().into();
            }
            quest.definition = serde_json::value::to_raw_value(&definition).unwrap();
            if !change.active {
                quest.status = crate::quest::QuestStatus::Archived;
            }
            quest.config_seq = seq;
            quest
        })
        .collect()
}

fn quests(seq: &[i64]) -> Vec<StoredQuest> {
    let conditions = |more: Value| {
        let mut all = json!({"eventType": "enemy_killed", "progressType": "count", "target": 4});
        for (name, value) in more.as_object().unwrap() {
            all[name] = value.clone();
        }
        all
    };
    let accumulate = |target: i64| json!({"progressType": "accumulate", "valueField": "stats.n", "target": target});
    let none = || json!({});
    vec![
        quest("sum", 1, seq[0], conditions(accumulate(900)), none()),
        quest("sum", 2, seq[1], conditions(accumulate(300)), none()),
        quest(
            "items",
            1,
            seq[1],
            conditions(json!({"progressType": "unique", "uniqueField": "i"})),
            none(),
        ),
        quest(
            "forest",
            1,
            seq[2],
            conditions(json!({"filters": {"map": "forest"}})),
            none(),
        ),
        quest(
            "five",
            1,
            seq[0],
            conditions(json!({"filters": {"stats.n": 5}})),
            none(),
        ),
        quest(
            "cel",
            1,
            seq[1],
            conditions(json!({"when": "event.metadata.stats.n + 1 > 20 && event.session.id > 3"})),
            none(),
        ),
        quest(
            "double",
            1,
            seq[2],
            conditions(json!({"when": "type(event.metadata.dup) == double"})),
            none(),
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn folding_what_is_kept_gives_what_folding_live_gave(
        played in prop::collection::vec((0..3usize, 0..40usize, metadata(), number(), 0..3i64), 0..60),
        sizes in prop::collection::vec(1..9usize, 1..4),
        changes in prop::collection::vec(change(), 8),
    ) {
        let all = changed(quests(&[1, 4, 8]), &changes);
        // Live: the router's rules grow from batch to batch, and so do the quests'.
        let mut router = Lane::new(RouterDomain);
        let mut route_rules = RouteRules::default();
        let mut live = Lane::new(QuestDomain);
        let mut delivered_before = 0;
        let mut rest = played.iter().enumerate().peekable();
        let mut sizes = sizes.iter().cycle();
        while rest.peek().is_some() {
            let batch: Vec<_> = rest.by_ref().take(*sizes.next().unwrap()).collect();
            let (since, seq) = (route_rules.seq, route_rules.seq + batch[0].1.4);
            // From the beginning on, and again what is held already.
            let saved = all.iter().filter(|q| q.config_seq >= since && q.config_seq <= seq);
            let grown = route_rules.quests.with_changes(seq, saved.cloned()).unwrap();
            route_rules = RouteRules { seq, quests: Arc::new(grown) };
            let records = batch.into_iter().map(|(offset, (user, id, metadata, session, _))| {
                let mut event = event(&format!("u{user}"), &format!("e{id}"), "{}", json!({}));
                event.metadata = Some(RawValue::from_string(metadata.clone()).unwrap());
                let session = format!(r#"{{"id": {session}}}"#);
                event.extra = vec![("session".to_owned(), RawValue::from_string(session).unwrap())];
                game_record(offset as i64, 1_000_000 + offset as i64, &event)
            });
            router.batch(&route_rules, records.collect());
            let forwarded = router.messages.iter().filter(|m| m.topic == Topic::QuestEvents);
            let records: Vec<_> = forwarded
                .enumerate()
                .map(|(i, m)| m.to_record(i as i64, at(0)))
                .skip(delivered_before)
                .collect();
            delivered_before += records.len();
            live.batches(&route_rules.quests, records, &[5]);
        }
        let quest_rules = QuestRules::build(100, all).unwrap();
        prop_assert_eq!(quest_rules.broken_since(-1).count(), 0);

        // Again: from the rows alone.
        let archived = router.rows.iter().map(|row| {
            let event = restored(row);
            quest_record(row.log_offset, row.ingested_at.as_millis(), row.config_seq, &event)
        });
        let mut replayed = Lane::new(QuestDomain);
        replayed.batches(&quest_rules, archived.collect(), &[3]);

        prop_assert_eq!(&live.states, &replayed.states);
        let grants = |lane: &Lane<QuestDomain>| lane.sent(Topic::RewardEvents);
        prop_assert_eq!(grants(&live), grants(&replayed));
        prop_assert_eq!(live.dead(), replayed.dead());
        // Nothing is kept twice.
        let keys: BTreeSet<_> = router.rows.iter().map(|row| row.event_key).collect();
        prop_assert_eq!(keys.len(), router.rows.len());
    }
}
