//! The copy of the studios under clocks that are wrong.

use serde_json::json;

use crate::support::{Fixture, NOW};

const HOUR: i64 = 3_600_000;

#[tokio::test]
async fn a_writer_whose_clock_is_ahead_keeps_no_other_out() {
    let fixture = Fixture::new().await;
    let storage = &fixture.storage;
    let ahead = NOW.saturating_add_millis(1_000_000 * HOUR);
    storage
        .save_last_known_studios(&json!({"by": "one ahead"}), ahead)
        .await
        .unwrap();
    let (saved_at, _) = storage.load_last_known_studios().await.unwrap().unwrap();
    assert!(
        saved_at < NOW.saturating_add_millis(500_000 * HOUR),
        "{saved_at}"
    );
    // The one ahead is not the last to save; neither is one whose clock is a little behind.
    let later = saved_at.saturating_add_millis(1);
    for by in ["another", "a third"] {
        storage
            .save_last_known_studios(&json!({"by": by}), later)
            .await
            .unwrap();
        let (_, kept) = storage.load_last_known_studios().await.unwrap().unwrap();
        assert_eq!(kept, json!({"by": by}));
    }
}

#[tokio::test]
async fn a_copy_that_lies_ahead_is_replaced() {
    let fixture = Fixture::new().await;
    let storage = &fixture.storage;
    sqlx::query(
        "INSERT INTO studios_last_known (saved_at, snapshot) VALUES (now() + interval '3 days', '{}')",
    )
    .execute(&fixture.pool)
    .await
    .unwrap();
    let revoked = json!({"studios": []});
    storage
        .save_last_known_studios(&revoked, NOW)
        .await
        .unwrap();
    let kept = storage.load_last_known_studios().await.unwrap();
    assert_eq!(kept, Some((NOW, revoked)));
}
