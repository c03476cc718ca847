//! The three stores: what they write, read back and refuse.

use std::collections::BTreeMap;
use std::sync::Arc;

use bm_contracts::messages::GrantStatus;
use bm_contracts::{GameId, StudioId, Timestamp, UserId};
use bm_domain::quest::QuestDomain;
use bm_domain::reward::RewardDomain;
use bm_domain::routing::{EventKey, RouterDomain};
use bm_storage::{CommitError, LaneStore};
use sqlx::Row;

use crate::support::{
    Fixture, NOW, commit_events, commit_grants, commit_progress, event_key, event_row, grant_row,
    quest_state, step,
};

fn assert_refused(result: &Result<(), CommitError>) {
    assert!(
        matches!(result, Err(CommitError::Refused { partitions }) if partitions == &[0]),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_zombie_owner_cannot_commit() {
    let fixture = Fixture::new().await;
    let key = fixture.quest_key("player").await;
    fixture.make_lanes::<RouterDomain>(1).await;
    fixture.make_lanes::<QuestDomain>(1).await;
    fixture.make_lanes::<RewardDomain>(1).await;
    let router = fixture.take::<RouterDomain>(0).await;
    let quest = fixture.take::<QuestDomain>(0).await;
    let reward = fixture.take::<RewardDomain>(0).await;
    // Somebody else takes over.
    fixture.take::<RouterDomain>(0).await;
    fixture.take::<QuestDomain>(0).await;
    fixture.take::<RewardDomain>(0).await;

    let rows = [event_row("e", "{}")];
    assert_refused(&commit_events(&fixture.router(), &[step(0, &router)], &rows).await);
    let states = BTreeMap::from([(key, quest_state("1", &[]))]);
    assert_refused(&commit_progress(&fixture.quests(), &[step(0, &quest)], &states).await);
    let rows = [grant_row(1)];
    assert_refused(&commit_grants(&fixture.rewards(), &[step(0, &reward)], &rows).await);

    for table in ["events_raw", "quest_progress", "reward_grants"] {
        assert_eq!(fixture.count(table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_commit_that_moves_no_lane_writes_nothing() {
    let fixture = Fixture::new().await;
    let result = commit_events(&fixture.router(), &[], &[event_row("e", "{}")]).await;
    assert!(
        matches!(
            result,
            Err(CommitError::Undone {
                transient: false,
                ..
            })
        ),
        "{result:?}"
    );
    assert_eq!(fixture.count("events_raw").await, 0);
}

#[tokio::test]
async fn events_are_known_once_they_are_committed_and_read_back_as_they_were() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let store = fixture.router();
    let mut earlier = event_row("earlier", r#"{"a": [1, 2.50, "é"]}"#);
    earlier.log_offset = 98;
    let mut bare = event_row("bare", "{}");
    let event = Arc::make_mut(&mut bare.event);
    event.metadata = None;
    event.extra.clear();
    event.event_name = None;
    bare.correlation_id = None;
    commit_events(&store, &[step(0, &row)], &[bare.clone(), earlier.clone()])
        .await
        .unwrap();

    let unknown = event_key(&event_row("unknown", "{}"));
    let another_day = EventKey {
        occurred_at: NOW.saturating_add_millis(24 * 60 * 60 * 1_000),
        ..event_key(&bare)
    };
    let keys = [unknown, event_key(&bare), another_day, event_key(&earlier)];
    let mut seen = LaneStore::<RouterDomain>::load(&store, &keys)
        .await
        .unwrap();
    seen.sort_by_key(|(key, _)| *key);
    let mut expected = [
        (event_key(&bare), bare.body_hash),
        (event_key(&earlier), earlier.body_hash),
    ];
    expected.sort_unstable();
    let seen: Vec<_> = seen.into_iter().map(|(k, s)| (k, s.body_hash)).collect();
    assert_eq!(seen, expected);

    let archived = fixture.storage.archived_events(3, 90, 100).await.unwrap();
    let json = |rows: &[bm_domain::routing::EventRow]| {
        rows.iter()
            .map(|row| String::from_utf8(row.event.to_json()).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(json(&archived), json(&[earlier.clone(), bare.clone()]));
    assert_eq!(archived[0].correlation_id, earlier.correlation_id);
    assert_eq!(archived[0].config_seq, earlier.config_seq);
    assert_eq!(archived[1].body_hash, bare.body_hash);
    assert!(
        fixture
            .storage
            .archived_events(3, 90, 98)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(fixture.count("events_raw").await, 2);
}

#[tokio::test]
async fn looking_for_events_touches_only_the_days_they_name() {
    let fixture = Fixture::new().await;
    let query = include_str!("../../queries/events_seen.sql");
    let keys: Vec<Vec<u8>> = (0..3_u8).map(|n| vec![n; 16]).collect();
    let days: Vec<jiff_sqlx::Timestamp> = vec![NOW.to_jiff().into(); 3];
    let plan: Vec<String> = sqlx::query(sqlx::AssertSqlSafe(format!(
        "EXPLAIN (ANALYZE, COSTS OFF) {query}"
    )))
    .bind(&keys)
    .bind(&days)
    .fetch_all(&fixture.pool)
    .await
    .unwrap()
    .iter()
    .map(|row| row.get(0))
    .collect();
    let scans: Vec<_> = plan
        .iter()
        .filter(|line| line.contains("Scan") && line.contains("events_raw_p"))
        .collect();
    assert!(scans.len() > 10, "{plan:#?}");
    assert!(scans.iter().all(|line| line.contains("Index")), "{plan:#?}");
    let used: Vec<_> = scans
        .iter()
        .filter(|line| !line.contains("never executed"))
        .collect();
    assert_eq!(used.len(), 1, "{plan:#?}");
    assert!(used[0].contains("events_raw_p20260304_pkey"), "{plan:#?}");
}

#[tokio::test]
async fn progress_reads_back_exactly_and_is_overwritten() {
    let fixture = Fixture::new().await;
    let key = fixture.quest_key("player").await;
    let other = fixture.quest_key("someone else").await;
    fixture.make_lanes::<QuestDomain>(1).await;
    let row = fixture.take::<QuestDomain>(0).await;
    let store = fixture.quests();
    let exact = "123456789012345678901234567890.000000000000000000000001";
    let mut state = quest_state(exact, &["a", "\"é\""]);
    let lane = step(0, &row);
    commit_progress(
        &store,
        std::slice::from_ref(&lane),
        &BTreeMap::from([(key.clone(), state.clone())]),
    )
    .await
    .unwrap();
    let loaded = LaneStore::<QuestDomain>::load(&store, &[other.clone(), key.clone()])
        .await
        .unwrap();
    assert_eq!(loaded, [(key.clone(), state.clone())]);

    state.version = 2;
    state.completed_at = Some(Timestamp::clamped(NOW.as_millis() + 1));
    let mut next = lane;
    (next.expected_offset, next.next_offset) = (1, 2);
    let states = BTreeMap::from([
        (key.clone(), state.clone()),
        (other.clone(), quest_state("0", &[])),
    ]);
    commit_progress(&store, &[next], &states).await.unwrap();
    let mut loaded = LaneStore::<QuestDomain>::load(&store, &[other, key.clone()])
        .await
        .unwrap();
    loaded.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(loaded, states.into_iter().collect::<Vec<_>>());

    let progress = fixture
        .storage
        .player_progress(&GameId::new("game").unwrap(), &key.user)
        .await
        .unwrap();
    assert_eq!(progress.len(), 1);
    assert_eq!(progress[0].current.to_string(), exact);
    assert_eq!(progress[0].completed_at, state.completed_at);
    let (completed, claimed, text): (bool, bool, String) = sqlx::query_as(
        "SELECT completed, rewards_claimed, progress ->> 'current' FROM quest_progress WHERE user_id = 'player'",
    )
    .fetch_one(&fixture.pool)
    .await
    .unwrap();
    assert!(completed && claimed);
    assert_eq!(text, exact);
}

#[tokio::test]
async fn grants_stand_in_the_ledger_once() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RewardDomain>(1).await;
    let row = fixture.take::<RewardDomain>(0).await;
    let store = fixture.rewards();
    let lane = step(0, &row);
    commit_grants(
        &store,
        std::slice::from_ref(&lane),
        &[grant_row(1), grant_row(2)],
    )
    .await
    .unwrap();
    let keys = [grant_row(3).grant_id, grant_row(2).grant_id];
    let known = LaneStore::<RewardDomain>::load(&store, &keys)
        .await
        .unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].0, keys[1]);
    assert_eq!(known[0].1.status, GrantStatus::Pending);

    let mut next = lane;
    (next.expected_offset, next.next_offset) = (1, 2);
    let again = commit_grants(&store, &[next], &[grant_row(3), grant_row(2)]).await;
    assert!(
        matches!(&again, Err(CommitError::Undone { transient: false, sqlstate, .. }) if sqlstate == "23505"),
        "{again:?}"
    );
    let grants = fixture
        .storage
        .player_grants(
            &StudioId::new("studio").unwrap(),
            &GameId::new("game").unwrap(),
            &UserId::new("player").unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(grants.len(), 2);
    assert_eq!(
        grants[0].reward.get(),
        r#"{"type": "coins", "amount": 0.10}"#
    );
    assert_eq!(fixture.storage.count_grants().await.unwrap(), 2);
}
