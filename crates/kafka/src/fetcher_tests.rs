//! What a reader believes of a broker's words.

use super::*;

/// A reader without a broker: assigning asks none.
fn fetcher() -> Fetcher {
    let config = KafkaConfig::plaintext("127.0.0.1:1");
    Fetcher::new(&config, "test", Topic::QuestEvents).unwrap()
}

#[tokio::test]
async fn a_partition_that_cannot_be_read_on_is_told_and_can_be_assigned_anew() {
    let fetcher = fetcher();
    let consumer = fetcher.shared.consumer().unwrap();
    fetcher.assign(0, 5).unwrap();
    fetcher.assign(1, 5).unwrap();
    // Behind its back, so that the client refuses to take it out again.
    fetcher.shared.stop(&consumer, 0, false).unwrap();
    let failed = {
        let mut positions = lock(&fetcher.shared.positions);
        fetcher
            .shared
            .reassign(&mut positions, &consumer, 0, 5, false)
            .map_err(|error| Fetched::failed(0, &error))
            .unwrap_err()
    };
    assert!(
        matches!(failed, Fetched::Failed { partition: 0, .. }),
        "{failed:?}"
    );
    // Half a reassignment: taken out, and no place to start at.
    let failed = {
        let mut positions = lock(&fetcher.shared.positions);
        fetcher
            .shared
            .reassign(&mut positions, &consumer, 1, -7, false)
            .map_err(|error| Fetched::failed(1, &error))
            .unwrap_err()
    };
    fetcher.shared.found(1, None, failed);
    let Fetched::Failed { partition: 1, .. } = fetcher.recv().await else {
        panic!("what failed is told");
    };
    for partition in [0, 1] {
        assert_eq!(lock(&fetcher.shared.positions).assignment(partition), None);
        fetcher.unassign(partition).unwrap();
        fetcher.assign(partition, 5).unwrap();
    }
}

#[tokio::test]
async fn what_is_known_of_an_earlier_assignment_is_not_told() {
    let fetcher = fetcher();
    fetcher.assign(0, 5).unwrap();
    let failed = |error: &str| Fetched::Failed {
        partition: 0,
        error: error.to_owned(),
    };
    fetcher.shared.found(0, None, failed("before"));
    let now = lock(&fetcher.shared.positions).assignment(0);
    fetcher.shared.found(0, now, failed("now"));
    assert_eq!(fetcher.recv().await, failed("now"));
}
