//! The archive: folding what `events_raw` gives back is folding what was lived through, and it is
//! found by its place in the log.

use std::collections::BTreeMap;

use bm_contracts::messages::DeadLetter;
use bm_contracts::partition::player_key;
use bm_contracts::{GameEvent, Topic};
use bm_domain::definition::parse_file;
use bm_domain::quest::QuestDomain;
use bm_domain::routing::{EventRow, RouterDomain};
use bm_engine::domain::ConfigDemand;
use bm_engine::fold::prepare;
use bm_engine::lane::{Fence, LaneRow};
use bm_engine::{Domain, FoldContext, Folded, LaneInput, OutboxMessage, Record, Watermarks};
use bm_storage::{LaneStore, QuestStore, RouterStore};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use sqlx::Row;

use crate::played::{Played, played};
use crate::support::{Fixture, NOW};

/// Folds one batch over the states given. As in production, only those `keys` named can be seen.
fn fold<D: Domain>(
    domain: &D,
    rules: &D::Rules,
    watermarks: &Watermarks,
    records: Vec<Record>,
    loaded: &BTreeMap<D::Key, D::State>,
) -> Folded<D> {
    let counts: BTreeMap<Topic, i32> = Topic::ALL.into_iter().map(|t| (t, 1)).collect();
    let context = FoldContext {
        partition_counts: &counts,
        now: NOW,
        bytes_out: usize::MAX,
    };
    let input = LaneInput {
        partition: 0,
        generation: 0,
        watermarks: watermarks.clone(),
        records,
    };
    prepare(domain, vec![input], 1).fold(domain, rules, loaded, &context)
}

/// A lane as the runner has it, without memory between batches: all state comes from the database.
struct Lane<'a, D: Domain, S> {
    domain: D,
    store: &'a S,
    row: LaneRow,
    messages: Vec<OutboxMessage>,
    states: BTreeMap<D::Key, D::State>,
}

impl<'a, D: Domain, S: LaneStore<D>> Lane<'a, D, S> {
    async fn take(fixture: &Fixture, domain: D, store: &'a S) -> Self {
        Self {
            domain,
            store,
            row: fixture.take::<D>(0).await,
            messages: Vec::new(),
            states: BTreeMap::new(),
        }
    }

    async fn batch(&mut self, demand: ConfigDemand, mut records: Vec<Record>) {
        for (offset, record) in (self.row.next_offset..).zip(&mut records) {
            record.offset = offset;
        }
        let rules = self.store.rules(None, demand).await.unwrap();
        let prepared = prepare(
            &self.domain,
            vec![LaneInput {
                partition: 0,
                generation: 0,
                watermarks: self.row.watermarks.clone(),
                records: records.clone(),
            }],
            1,
        );
        let keys: Vec<_> = prepared.keys(&self.domain, &rules).into_keys().collect();
        let loaded: BTreeMap<_, _> = self.store.load(&keys).await.unwrap().into_iter().collect();
        let folded = fold(&self.domain, &rules, &self.row.watermarks, records, &loaded);
        let fence = Fence {
            epoch: self.row.epoch,
            cursor: self.row.next_offset,
        };
        let moves: Vec<_> = folded
            .lanes
            .iter()
            .map(|lane| lane.to_move(fence).unwrap())
            .collect();
        self.store
            .commit(&moves, &folded.states, &folded.rows)
            .await
            .unwrap();
        self.states.extend(folded.states);
        for lane in folded.lanes {
            self.row.next_offset = lane.next_offset;
            self.row.watermarks = lane.watermarks;
            self.messages.extend(lane.outbox.messages);
        }
    }
}

/// What was emitted to the outside: grants in full, dead letters by code and definition. Of progress
/// updates only the last per batch is sent, so they follow the batches and not the events.
fn effects(messages: &[OutboxMessage]) -> (Vec<Value>, Vec<(String, Option<String>)>) {
    let of = |topic| messages.iter().filter(move |m| m.topic == topic);
    let grants = of(Topic::RewardEvents)
        .map(|m| serde_json::from_slice(&m.value).unwrap())
        .collect();
    let dead = of(Topic::DeadLetter)
        .map(|m| serde_json::from_slice::<DeadLetter>(&m.value).unwrap())
        .map(|letter| (letter.code, letter.definition))
        .collect();
    (grants, dead)
}

fn game_record(event: &GameEvent, at: i64) -> Record {
    Record {
        partition: 0,
        offset: 0,
        timestamp: NOW.saturating_add_millis(at),
        key: Bytes::from(player_key(&event.game_id, &event.user_id)),
        value: Bytes::from(event.to_json()),
        headers: vec![("bm-correlation-id".into(), Bytes::from_static(b"c-1"))],
    }
}

/// A row of the archive as a record of `quest.events`.
fn replayed(row: &EventRow) -> Record {
    let mut record = game_record(&row.event, 0);
    record.offset = row.log_offset;
    record.headers = vec![
        ("bm-kind".into(), Bytes::from_static(b"event")),
        ("bm-config".into(), Bytes::from(row.config_seq.to_string())),
    ];
    record
}

/// Three files a studio applies one after the other; the last has all versions in force.
fn files(game: &str) -> [Value; 3] {
    let quest = |id: &str, conditions: Value| {
        let mut all = json!({"eventType": "enemy_killed", "progressType": "count", "target": 3});
        all.as_object_mut()
            .unwrap()
            .extend(conditions.as_object().unwrap().clone());
        json!({
            "gameId": game, "questId": id, "name": id, "conditions": all,
            "rewards": [{"type": "coins", "amount": 1.50}], "startDate": "2026-01-01T00:00:00Z",
        })
    };
    let sum = |target: i64| {
        let conditions =
            json!({"progressType": "accumulate", "valueField": "stats.n", "target": target});
        quest("sum", conditions)
    };
    let unique = |id, field| quest(id, json!({"progressType": "unique", "uniqueField": field}));
    let filter = |id, path: &str, value: Value| quest(id, json!({"filters": {path: value}}));
    let when = |id, expression| quest(id, json!({"when": expression}));
    let game = json!({"gameId": game, "studioId": "studio", "name": "A game"});
    [
        json!({"games": [game], "quests": [
            sum(900),
            unique("numbers", "stats.n"),
            filter("five", "stats.n", json!(5)),
            filter("half", "stats.n", json!(0.5)),
        ]}),
        json!({"quests": [
            sum(40),
            unique("words", "place"),
            filter("place", "place", json!("Caf\u{e9} \u{1f409}")),
            when("sums", "event.metadata.stats.n + 1 > 20"),
        ]}),
        json!({"quests": [
            when("double", "type(event.metadata.dup) == double"),
            when("extra", "event.session.id > 3 && size(event.session.tags) < 3"),
            when("nested", "event.metadata.deep.list.exists(x, x > 1.5)"),
            unique("duplicates", "dup"),
        ]}),
    ]
}

async fn live_and_again(
    fixture: &Fixture,
    (router_store, quest_store): &(RouterStore, QuestStore),
    game: &str,
    played: Vec<Played>,
    sizes: Vec<usize>,
) -> Result<(), TestCaseError> {
    let files = files(game).map(|file| parse_file(file.to_string().as_bytes()).unwrap());
    fixture.storage.apply(&files[0]).await.unwrap();
    let mut events: Vec<GameEvent> = Vec::new();
    for one in &played {
        match events.last() {
            Some(before) if one.repeats == 0 => events.push(before.clone()),
            _ => events.push(one.event(game)),
        }
    }
    let mut records: Vec<Record> = (0..)
        .zip(&events)
        .map(|(at, event)| game_record(event, at))
        .collect();

    // Live, through both lanes, while the studio changes its mind.
    let mut router = Lane::take(fixture, RouterDomain, router_store).await;
    let first = router.row.next_offset;
    let mut sizes = sizes.into_iter().cycle();
    let mut later = files[1..].iter();
    while !records.is_empty() {
        let size = sizes.next().unwrap_or(1).min(records.len());
        let batch = records.drain(..size).collect();
        router.batch(ConfigDemand::Latest, batch).await;
        if let Some(file) = later.next() {
            fixture.storage.apply(file).await.unwrap();
        }
    }
    let end = router.row.next_offset;
    let mut live = Lane::take(fixture, QuestDomain, quest_store).await;
    let forwarded: Vec<Record> = router
        .messages
        .iter()
        .filter(|m| m.topic == Topic::QuestEvents)
        .map(|message| message.to_record(0, NOW))
        .collect();
    for batch in forwarded.chunks(4) {
        live.batch(ConfigDemand::Latest, batch.to_vec()).await;
    }

    // Again, from what is kept, in windows of the log.
    let rules = LaneStore::<QuestDomain>::rules(quest_store, None, ConfigDemand::Latest)
        .await
        .unwrap();
    let mut states = BTreeMap::new();
    let mut messages = Vec::new();
    let mut kept = Vec::new();
    for from in (first..end).step_by(7) {
        let to = (from + 7).min(end);
        let rows = fixture.storage.archived_events(0, from, to).await.unwrap();
        kept.extend(rows.iter().map(|row| row.log_offset));
        let records = rows.iter().map(replayed).collect();
        let folded = fold(
            &QuestDomain,
            &rules,
            &Watermarks::default(),
            records,
            &states,
        );
        states.extend(folded.states);
        messages.extend(
            folded
                .lanes
                .into_iter()
                .flat_map(|lane| lane.outbox.messages),
        );
    }
    prop_assert!(kept.is_sorted());
    prop_assert_eq!(&live.states, &states);
    prop_assert_eq!(effects(&live.messages), effects(&messages));
    // And the database holds just that.
    let keys: Vec<_> = states.keys().cloned().collect();
    let stored = LaneStore::<QuestDomain>::load(quest_store, &keys)
        .await
        .unwrap();
    prop_assert_eq!(stored.into_iter().collect::<BTreeMap<_, _>>(), states);
    Ok(())
}

#[test]
fn folding_what_the_database_keeps_gives_what_folding_live_gave() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let fixture = runtime.block_on(async {
        let fixture = Fixture::new().await;
        fixture.make_lanes::<RouterDomain>(1).await;
        fixture.make_lanes::<QuestDomain>(1).await;
        fixture
    });
    // Kept: what they have compiled need not be compiled again for each case.
    let stores = (fixture.router(), fixture.quests());
    let mut runner = TestRunner::new(Config {
        cases: 40,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let games = std::cell::Cell::new(0);
    let strategy = (
        prop::collection::vec(played(), 0..40),
        prop::collection::vec(1..12_usize, 1..4),
    );
    let result = runner.run(&strategy, |(played, sizes)| {
        games.set(games.get() + 1);
        let game = format!("game{}", games.get());
        runtime.block_on(live_and_again(&fixture, &stores, &game, played, sizes))
    });
    // Pools close within their runtime.
    runtime.block_on(async { drop((stores, fixture)) });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[tokio::test]
async fn a_window_of_the_log_is_found_though_one_partition_is_far_ahead() {
    let fixture = Fixture::new().await;
    // Six of ten events are partition 0's, which is 100 million ahead of the others.
    sqlx::query(
        "INSERT INTO events_raw (event_key, occurred_at, body_hash, event_id, studio_id, game_id, \
             user_id, event_type, studio_tier, ingested_at, log_partition, log_offset, config_seq) \
         SELECT decode(md5(n::text), 'hex'), $1, decode(md5(''), 'hex'), 'e' || n, 's', 'g', 'u', \
                'custom', 'pro', now(), p, \
                CASE p WHEN 0 THEN 100000000 ELSE p * 1000000 END \
                    + row_number() OVER (PARTITION BY p ORDER BY n), 1 \
         FROM (SELECT n, CASE WHEN n % 10 < 6 THEN 0 ELSE n % 10 END AS p \
               FROM generate_series(1, 40000) AS n) AS s ORDER BY n",
    )
    .bind(jiff_sqlx::Timestamp::from(NOW.to_jiff()))
    .execute(&fixture.pool)
    .await
    .unwrap();
    let mut session = fixture.pool.acquire().await.unwrap();
    for statement in [
        // As autovacuum does in time.
        "SELECT brin_summarize_new_values('events_raw_p20260304_log_offset_idx')",
        "SET enable_seqscan = off",
    ] {
        sqlx::query(statement).execute(&mut *session).await.unwrap();
    }
    let blocks: i64 = sqlx::query_scalar(
        "SELECT pg_relation_size('events_raw_p20260304') / current_setting('block_size')::int",
    )
    .fetch_one(&mut *session)
    .await
    .unwrap();
    let plan: Vec<String> = sqlx::query(
        "EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM events_raw \
         WHERE log_partition = 7 AND log_offset >= 7001000 AND log_offset < 7001100 \
         ORDER BY log_offset",
    )
    .fetch_all(&mut *session)
    .await
    .unwrap()
    .iter()
    .map(|row| row.get(0))
    .collect();
    let read: i64 = plan
        .iter()
        .filter_map(|line| line.trim().strip_prefix("Heap Blocks: lossy="))
        .map(|n| n.parse::<i64>().unwrap())
        .sum();
    assert!(
        read > 0 && read * 4 < blocks,
        "{read} of {blocks}: {plan:#?}"
    );
    let window = fixture
        .storage
        .archived_events(7, 7_001_000, 7_001_100)
        .await
        .unwrap();
    assert_eq!(window.len(), 100);
}
