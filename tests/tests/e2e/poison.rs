//! Records that nobody can use become dead letters, and what stands behind them goes on.

use bm_contracts::partition::partition_for;
use bm_contracts::topics::MAX_MESSAGE_BYTES;
use bm_testkit::TestRecord;
use bm_tests::reader::once;
use bm_tests::traffic::{self, Events};
use bm_tests::{Fleet, Service, Traffic};
use serde_json::{Value, json};

/// Each is given every kind of poison.
const PLAYERS: usize = 4;
/// What a record's headers, key and framing need at most besides its value.
const ROOM: usize = 300;
/// Of this many bytes base64 makes more than a message may have.
const TOO_LARGE_IN_BASE64: usize = 900_000;

/// Topic, partition and offset, and the code it must be given up with.
type Poisoned = (String, i32, i64, &'static str);

async fn put(
    fleet: &Fleet,
    topic: &str,
    partitions: i32,
    key: &str,
    value: &[u8],
    headers: &[(&str, &[u8])],
) -> (i32, i64) {
    let partition = partition_for(key.as_bytes(), partitions);
    let offset = fleet
        .topics
        .produce(topic, partition, Some(key.as_bytes()), Some(value), headers)
        .await;
    (partition, offset)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_record_becomes_a_dead_letter_and_the_lane_goes_on() {
    let mut fleet = Fleet::new().await;
    fleet.save_all(traffic::quests()).await;
    fleet.start(Service::PROCESSORS).await;
    let sender = fleet.log_sender();
    let mut others = Traffic::start(&sender, fleet.game(), 41, 3);
    others.more(20).await;

    let mut poisoned: Vec<Poisoned> = Vec::new();
    let game = fleet.game().to_owned();
    let mut events = Events::new(&game, "poison", 1);
    for player in 0..PLAYERS {
        let player = format!("player-{player}");
        let key = format!("{game}:{player}");
        let mut event = events.of(&player, "enemy_killed", &json!({"damage": 1}));
        event["studioId"] = fleet.studio().into();
        event["studioTier"] = "pro".into();
        let whole = event.to_string();
        let nul = whole.replace("\"damage\":1", "\"damage\":1,\"note\":\"\\u0000\"");
        let note = "x".repeat(MAX_MESSAGE_BYTES - whole.len() - ROOM);
        let large = whole.replace("\"damage\":1", &format!("\"damage\":1,\"note\":\"{note}\""));
        let stamp: [(&str, &[u8]); 1] = [("bm-config", b"1")];
        for (topic, partitions, key, value, headers, code) in [
            (
                "game.events",
                10,
                key.as_str(),
                &b"\xff\xfe not json"[..],
                &[][..],
                "undecodable",
            ),
            (
                "game.events",
                10,
                "another:key",
                whole.as_bytes(),
                &[],
                "wrong_key",
            ),
            // Valid JSON that PostgreSQL cannot hold.
            (
                "game.events",
                10,
                key.as_str(),
                nul.as_bytes(),
                &[],
                "refused_by_database_22",
            ),
            (
                "quest.events",
                5,
                key.as_str(),
                b"{}",
                &stamp[..],
                "undecodable",
            ),
            (
                "quest.events",
                5,
                key.as_str(),
                whole.as_bytes(),
                &[],
                "missing_header",
            ),
            ("reward.events", 5, key.as_str(), b"[1]", &[], "undecodable"),
            // Taken as it is, and too large for the broker once it is forwarded.
            (
                "game.events",
                10,
                key.as_str(),
                large.as_bytes(),
                &[],
                "message_too_large",
            ),
            // Too large once it stands in a dead letter.
            (
                "quest.events",
                5,
                key.as_str(),
                &vec![b'x'; TOO_LARGE_IN_BASE64],
                &[],
                "undecodable",
            ),
        ] {
            let (partition, offset) = put(&fleet, topic, partitions, key, value, headers).await;
            poisoned.push((topic.to_owned(), partition, offset, code));
        }
        others.more(5).await;
    }
    others.more(40).await;
    others.stop().await;
    fleet.await_all(poisoned.len()).await;

    every_letter_says_what_is_wrong(&fleet, &poisoned).await;
    fleet.verify(poisoned.len()).await;
}

/// One for each poisoned record, and no other.
async fn every_letter_says_what_is_wrong(fleet: &Fleet, poisoned: &[Poisoned]) {
    let letters: Vec<TestRecord> = once(fleet.topics.read_all("dead.letter").await);
    let mut large = 0;
    for (topic, partition, offset, code) in poisoned {
        let letters: Vec<Value> = letters
            .iter()
            .map(TestRecord::json)
            .filter(|letter| {
                letter["topic"] == topic.as_str()
                    && letter["partition"].as_i64() == Some(i64::from(*partition))
                    && letter["offset"].as_i64() == Some(*offset)
            })
            .collect();
        let [letter] = &letters[..] else {
            panic!("one dead letter of {topic}/{partition}@{offset}: {letters:?}");
        };
        let told = letter["code"].as_str().unwrap();
        assert!(told.starts_with(code), "{code} was to be said of {letter}");
        assert!(!letter["error"].as_str().unwrap().is_empty(), "{letter}");
        let error = letter["error"].as_str().unwrap();
        let left_out = letter["valueBase64"].as_str().unwrap().is_empty();
        assert_eq!(left_out, error.contains("left out here"), "{error}");
        large += usize::from(left_out);
    }
    assert_eq!(large, 2 * PLAYERS, "those too large to be shown");
}
