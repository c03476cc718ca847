//! A file of studios in place of Firestore.

use std::fs;

use bm_studio_auth::{AuthError, StudioAuthConfig, StudioSource};
use serde_json::json;

use crate::support::{SOON, start, studio};

#[tokio::test]
async fn a_file_is_read_at_the_start_and_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("studios.json");
    let write = |key: &str| {
        let mut studio = studio(key);
        studio["id"] = json!("demo");
        fs::write(&path, json!({ "studios": [studio] }).to_string()).unwrap();
    };
    write("first");
    let config = StudioAuthConfig {
        source: StudioSource::File(path.clone()),
    };
    let subject = start(&config, None).await;
    assert!(
        subject.ask("first").await.is_ok(),
        "loaded before the start returns"
    );
    assert_eq!(subject.directory.health().source, "file");
    write("second");
    subject.becomes(SOON, "second", Ok(())).await;
    assert_eq!(subject.ask("first").await, Err(AuthError::Unknown));
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("studios.json");
    let config = StudioAuthConfig {
        source: StudioSource::File(path.clone()),
    };
    let subject = start(&config, None).await;
    assert_eq!(subject.ask("k").await, Err(AuthError::Unavailable));
    let mut studio = studio("k");
    studio["id"] = json!("demo");
    fs::write(&path, json!({ "studios": [studio] }).to_string()).unwrap();
    subject.becomes(SOON, "k", Ok(())).await;
}
