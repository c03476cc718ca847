//! One row and one status message per grant.

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::fixture::Lane;

fn record(offset: i64, change: &Value) -> Record {
    let mut grant = json!({
        "grantId": "grt_00112233445566778899aabbccddeeff", "studioId": "s", "gameId": "g",
        "userId": "u", "source": "quest_q", "reward": {"type": "coins", "amount": 10},
        "timestamp": "2026-01-02T03:04:05.700Z",
    });
    for (name, value) in change.as_object().unwrap() {
        grant[name] = value.clone();
    }
    Record {
        partition: 0,
        offset,
        timestamp: Timestamp::clamped(0),
        key: Bytes::from_static(b"g:u"),
        value: Bytes::from(grant.to_string()),
        headers: vec![("bm-correlation-id".into(), Bytes::from_static(b"c-1"))],
    }
}

#[test]
fn a_grant_is_kept_once_however_often_it_comes() {
    let other = json!({"grantId": "grt_ffffffffffffffffffffffffffffffff"});
    for sizes in [[1, 1], [10, 10], [2, 1]] {
        let mut lane = Lane::new(RewardDomain);
        let records = vec![
            record(0, &json!({})),
            record(1, &json!({})),
            record(2, &other),
            record(3, &json!({})),
        ];
        lane.batches(&(), records, &sizes);
        assert_eq!(lane.rows.len(), 2);
        let row = &lane.rows[0];
        assert_eq!(
            row.grant_id.as_str(),
            "grt_00112233445566778899aabbccddeeff"
        );
        assert_eq!(row.reward.get(), r#"{"amount":10,"type":"coins"}"#);
        assert_eq!(row.earned_at.to_string(), "2026-01-02T03:04:05.700Z");
        assert_eq!(row.correlation_id.as_deref(), Some("c-1"));
        let statuses = lane.sent(Topic::RewardStatus);
        assert_eq!(statuses.len(), 2);
        assert_eq!(
            statuses[0],
            json!({"grantId": "grt_00112233445566778899aabbccddeeff", "studioId": "s",
                   "gameId": "g", "userId": "u", "status": "pending",
                   "timestamp": "2026-01-02T03:04:05.700Z"})
        );
        assert!(lane.messages.iter().all(|m| m.key == "g:u"));
    }
}

#[test]
fn what_is_no_grant_becomes_a_dead_letter() {
    let bad = [
        json!({"grantId": "grt_1"}),
        json!({"grantId": "grt_00112233445566778899AABBCCDDEEFF"}),
        json!({"source": ""}),
        json!({"source": "x".repeat(151)}),
        json!({"reward": 5}),
        json!({"userId": "v"}),
        json!({"timestamp": "yesterday"}),
    ];
    let mut lane = Lane::new(RewardDomain);
    let records = bad
        .iter()
        .enumerate()
        .map(|(i, change)| record(i as i64, change));
    lane.batch(&(), records.collect());
    let codes: Vec<_> = lane.dead().into_iter().map(|(code, _)| code).collect();
    let mut expected = vec!["undecodable"; bad.len()];
    expected[5] = "wrong_key";
    assert_eq!(codes, expected);
    assert!(lane.rows.is_empty() && lane.states.is_empty());
}
