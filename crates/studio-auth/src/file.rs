//! A file of studios in place of Firestore, read again when it changes.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;

use crate::document::StudioDocument;
use crate::shared::{Origin, Shared};

/// The file is read and compared this often. Editors write in place, or rename a new file over the
/// old one, in a mounted folder or a link; reading sees all of it, where notifications and
/// modification times miss some.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a studios file is refused as a whole.
#[derive(Debug, thiserror::Error)]
pub enum StudiosFileError {
    /// It is not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is not `{"studios":[{"id", …}]}`.
    #[error("must be {{\"studios\": [{{\"id\": …}}, …]}}")]
    Shape,
}

/// Reads `{"studios":[{"id", …}]}`; each studio as a document of Firestore, with its id. Broken
/// studios, and those whose id stood before, are left out and logged.
pub fn parse_studios_file(bytes: &[u8]) -> Result<Vec<StudioDocument>, StudiosFileError> {
    let file: Value = serde_json::from_slice(bytes)?;
    let studios = file.get("studios").and_then(Value::as_array);
    let studios = studios.ok_or(StudiosFileError::Shape)?;
    let mut seen = HashSet::new();
    let mut documents = Vec::new();
    for (i, studio) in studios.iter().enumerate() {
        let Some(id) = studio.get("id").and_then(Value::as_str) else {
            tracing::error!(
                index = i,
                "a studio in the studios file has no id; it is left out"
            );
            continue;
        };
        if !seen.insert(id) {
            tracing::error!(
                studio.id = id,
                "the studios file holds this studio twice; the first counts"
            );
            continue;
        }
        documents.extend(StudioDocument::read_or_report(id, studio));
    }
    Ok(documents)
}

/// Watches one file.
pub(crate) struct FileWatch {
    path: PathBuf,
    shared: Arc<Shared>,
    /// What was read last, right or wrong: nothing is reported twice.
    last: Option<Result<Vec<u8>, std::io::ErrorKind>>,
}

impl FileWatch {
    pub(crate) fn new(path: PathBuf, shared: Arc<Shared>) -> Self {
        Self {
            path,
            shared,
            last: None,
        }
    }

    /// Reads the file and takes what it says, if it says something new. A file that is missing,
    /// torn or broken changes nothing.
    pub(crate) async fn look(&mut self) {
        let read = tokio::fs::read(&self.path).await;
        let read = read.map_err(|error| error.kind());
        if self.last.as_ref() == Some(&read) {
            return;
        }
        let problem = match &read {
            Ok(bytes) => match parse_studios_file(bytes) {
                Ok(documents) => {
                    let count = documents.len();
                    let documents = documents.into_iter().map(Arc::new).collect();
                    let now = self.shared.now();
                    self.shared.publish(documents, Origin::Source, now);
                    tracing::info!(path = %self.path.display(), studios = count, "read the studios file");
                    None
                }
                Err(error) => Some(error.to_string()),
            },
            Err(kind) => Some(kind.to_string()),
        };
        self.shared.set_connected(problem.is_none());
        let path = self.path.display();
        if let Some(problem) = problem {
            tracing::error!(%path, problem, "cannot use the studios file; what it said before still counts");
            self.shared.report(format!("{path}: {problem}"));
        } else {
            self.shared.report(format!("{path} is read"));
        }
        self.last = Some(read);
    }
}

/// Looks now and then, for ever.
pub(crate) async fn watch(file: Arc<Mutex<FileWatch>>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        file.lock().await.look().await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bm_contracts::Timestamp;

    use super::*;
    use crate::document::KeyHash;
    use crate::shared::Lookup;

    const NOW: Timestamp = Timestamp::clamped(0);

    fn file(key: &str) -> String {
        format!(
            r#"{{"studios":[{{"id":"a","tier":"pro","subscriptionStatus":"active","apiKey":"{key}"}}]}}"#
        )
    }

    fn knows(shared: &Shared, key: &str) -> bool {
        matches!(
            shared.lookup(&KeyHash::of(key), NOW),
            Lookup::Decided(Ok(_))
        )
    }

    #[tokio::test]
    async fn a_change_is_taken_and_a_torn_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("studios.json");
        let shared = Arc::new(Shared::new("file", None, Arc::new(|| NOW)));
        let mut watch = FileWatch::new(path.clone(), Arc::clone(&shared));

        watch.look().await;
        let health = shared.health(NOW);
        assert!(
            !health.ready && health.detail.contains("not found"),
            "{health:?}"
        );

        fs::write(&path, file("one")).unwrap();
        watch.look().await;
        assert!(knows(&shared, "one") && shared.health(NOW).ready);

        for torn in ["", "{\"studios\":[{\"id\"", "[]", "{\"studios\":{}}"] {
            fs::write(&path, torn).unwrap();
            watch.look().await;
            assert!(knows(&shared, "one"), "{torn}");
            assert!(!shared.health(NOW).detail.contains("is read"));
        }
        fs::remove_file(&path).unwrap();
        watch.look().await;
        assert!(knows(&shared, "one"));

        let new = folder.path().join("new");
        fs::write(&new, file("two")).unwrap();
        fs::rename(&new, &path).unwrap();
        watch.look().await;
        assert!(knows(&shared, "two") && !knows(&shared, "one"));
    }

    #[test]
    fn a_broken_studio_is_left_out_and_the_others_count() {
        let text = r#"{"studios":[
            {"tier":"pro"},
            {"id":"a","tier":"gold","subscriptionStatus":"active"},
            {"id":"b","tier":"pro","subscriptionStatus":"active","apiKey":"first"},
            {"id":"b","tier":"pro","subscriptionStatus":"active","apiKey":"second"}
        ]}"#;
        let documents = parse_studios_file(text.as_bytes()).unwrap();
        assert_eq!(documents.len(), 1);
        assert_eq!(documents[0].keys[0].hash, KeyHash::of("first"));
    }
}
