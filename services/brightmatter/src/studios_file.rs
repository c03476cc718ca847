//! Adds studios to the studios file without touching what else is in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::keys::{FreshKeys, KeyError};

/// A studio to be added.
#[derive(Debug, Clone)]
pub(crate) struct NewStudio {
    /// Its id.
    pub(crate) id: String,
    /// For people.
    pub(crate) name: String,
    /// Whether it gets limits that nobody meets on one machine.
    pub(crate) generous: bool,
}

/// What of a studio its owner needs to begin.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StudioKeys {
    /// Whether it was added just now, with fresh keys.
    pub(crate) added: bool,
    /// Its client key; `None` where the file holds only its hash.
    pub(crate) client: Option<String>,
    /// Its server key; `None` where it has none or the file holds only its hash.
    pub(crate) server: Option<String>,
}

/// Why the studios file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StudiosFileError {
    /// The file, or its folder, does not let itself be read or written.
    #[error("cannot {action} the studios file {path}")]
    Io {
        /// `read`, `write` or `lock`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not `{"studios": […]}`. The place is told, not the text: it holds keys.
    #[error(
        "the studios file {path} is not {{\"studios\": [{{\"id\", …}}]}} (line {line}, column {column})"
    )]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// No keys can be made.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// As the file is written: what a studio document must have, in an order that reads well.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    id: &'a str,
    name: &'a str,
    tier: &'a str,
    subscription_status: &'a str,
    api_key: &'a str,
    secret_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<Limits>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    requests_per_minute: u32,
    burst: u32,
    events_per_minute: u32,
    events_burst: u32,
    player_events_per_minute: u32,
}

const GENEROUS: Limits = Limits {
    requests_per_minute: 1_000_000,
    burst: 100_000,
    events_per_minute: 10_000_000,
    events_burst: 1_000_000,
    player_events_per_minute: 1_000_000,
};

/// As it is read: only what is looked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    api_key: Option<String>,
    #[serde(default)]
    secret_key: Option<String>,
}

/// Adds `studio` to the file at `path`, with fresh keys; where a studio of that id is there already
/// nothing is changed and its keys are returned.
///
/// The file, and its folder, are made where they are missing, readable by their owner alone. What
/// else is in it stays byte by byte but for the white space between studios. Readers never see
/// half a file, and two writers do not lose each other's studio.
pub(crate) fn ensure(path: &Path, studio: &NewStudio) -> Result<StudioKeys, StudiosFileError> {
    let failed = |action| {
        let path = path.to_owned();
        move |source| StudiosFileError::Io {
            action,
            path,
            source,
        }
    };
    // The file behind a link is replaced, not the link.
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(e) => return Err(failed("read")(e)),
    };
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&folder).map_err(failed("write"))?;
    // Locking the folder keeps other writers out and leaves no lock file behind.
    let lock = File::open(&folder).map_err(failed("lock"))?;
    lock.lock().map_err(failed("lock"))?;

    let text = match fs::read_to_string(&target) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed("read")(e)),
    };
    let malformed = |e: &serde_json::Error| StudiosFileError::Malformed {
        path: path.to_owned(),
        line: e.line(),
        column: e.column(),
    };
    let mut document: BTreeMap<String, Box<RawValue>> = match text.as_deref().map(str::trim) {
        None | Some("") => BTreeMap::new(),
        Some(text) => serde_json::from_str(text).map_err(|e| malformed(&e))?,
    };
    let mut studios: Vec<Box<RawValue>> = match document.remove("studios") {
        None => Vec::new(),
        Some(raw) => serde_json::from_str(raw.get()).map_err(|e| malformed(&e))?,
    };
    for raw in &studios {
        let read: Read = serde_json::from_str(raw.get()).map_err(|e| malformed(&e))?;
        if read.id.as_deref() == Some(&studio.id) {
            return Ok(StudioKeys {
                added: false,
                client: read.api_key,
                server: read.secret_key,
            });
        }
    }

    let keys = FreshKeys::new()?;
    let written = Written {
        id: &studio.id,
        name: &studio.name,
        tier: if studio.generous { "enterprise" } else { "pro" },
        subscription_status: "active",
        api_key: &keys.client,
        secret_key: &keys.server,
        rate_limit: studio.generous.then_some(GENEROUS),
    };
    let pretty = serde_json::to_string_pretty(&written)
        .and_then(|text| RawValue::from_string(text.replace('\n', "\n    ")))
        .map_err(|e| malformed(&e))?;
    studios.push(pretty);
    replace(&target, &folder, &render(&studios, &document)).map_err(failed("write"))?;
    Ok(StudioKeys {
        added: true,
        client: Some(keys.client),
        server: Some(keys.server),
    })
}

fn render(studios: &[Box<RawValue>], others: &BTreeMap<String, Box<RawValue>>) -> String {
    let studios: Vec<&str> = studios.iter().map(|raw| raw.get()).collect();
    let mut text = format!("{{\n  \"studios\": [\n    {}\n  ]", studios.join(",\n    "));
    for (name, raw) in others {
        // A string always encodes.
        let name = serde_json::to_string(name).unwrap_or_default();
        // Writing to a String cannot fail.
        let _infallible = write!(text, ",\n  {name}: {}", raw.get());
    }
    text.push_str("\n}\n");
    text
}

/// Writes beside the file and renames, so that whoever reads sees the old or the new.
fn replace(target: &Path, folder: &Path, text: &str) -> io::Result<()> {
    let mode = match fs::metadata(target) {
        Ok(there) => there.permissions().mode() & 0o777,
        // It holds keys.
        Err(_) => 0o600,
    };
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, target));
    if written.is_err() {
        // What failed is told; a left-over beside the file is not worth a second error.
        let _left_over = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn new(id: &str) -> NewStudio {
        NewStudio {
            id: id.to_owned(),
            name: format!("{id} Inc."),
            generous: false,
        }
    }

    fn read(path: &Path) -> Value {
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn a_missing_file_is_made_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deeper/studios.json");
        let keys = ensure(&path, &new("acme")).unwrap();
        assert!(keys.added);
        let file = read(&path);
        assert_eq!(file["studios"][0]["id"], "acme");
        assert_eq!(file["studios"][0]["apiKey"], keys.client.unwrap());
        assert_eq!(file["studios"][0]["secretKey"], keys.server.unwrap());
        assert_eq!(file["studios"][0]["subscriptionStatus"], "active");
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn other_studios_and_unknown_fields_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("studios.json");
        let other = r#"{"id":"other", "apiKeyHash":"ab","n":1.50,"mine":{"z":1,"a":2}}"#;
        fs::write(
            &path,
            format!(r#"{{"note":"keep  me","studios":[{other}]}}"#),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        ensure(&path, &new("acme")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(other), "{text}");
        assert!(text.contains(r#""note": "keep  me""#), "{text}");
        assert_eq!(read(&path)["studios"].as_array().unwrap().len(), 2);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_studio_that_is_there_keeps_its_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("studios.json");
        let first = ensure(&path, &new("acme")).unwrap();
        let before = fs::read(&path).unwrap();
        let second = ensure(&path, &new("acme")).unwrap();
        assert!(!second.added);
        assert_eq!(first.client, second.client);
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_file_that_is_something_else_is_not_overwritten_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("studios.json");
        for text in ["{\"studios\":\n {\"apiKey\":\"hunter2\"}}", "hunter2", "[]"] {
            fs::write(&path, text).unwrap();
            let Err(error) = ensure(&path, &new("acme")) else {
                panic!("taken: {text}");
            };
            assert!(matches!(error, StudiosFileError::Malformed { .. }));
            assert!(!bm_bootstrap::error_chain(&error).contains("hunter2"));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn writers_at_once_lose_no_studio() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("studios.json");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || ensure(path, &new(&format!("studio-{n}"))).unwrap());
            }
        });
        assert_eq!(read(&path)["studios"].as_array().unwrap().len(), 8);
    }

    #[test]
    fn the_demo_studio_has_limits_nobody_meets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("studios.json");
        let studio = NewStudio {
            generous: true,
            ..new("demo-studio")
        };
        ensure(&path, &studio).unwrap();
        assert_eq!(read(&path)["studios"][0]["rateLimit"]["burst"], 100_000);
    }
}
