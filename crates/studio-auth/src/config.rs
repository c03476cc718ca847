//! Where studios come from, read from the environment.

use std::path::PathBuf;
use std::time::Duration;

/// How long the last-known copy is good for unless `BM_STUDIOS_MAX_STALE_HOURS` says otherwise.
pub const DEFAULT_MAX_STALE: Duration = Duration::from_hours(24);

/// Where studios come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StudioSource {
    /// `BM_STUDIOS_FILE`: a file `{"studios":[{"id", …}]}`, for a developer's machine.
    File(PathBuf),
    /// The `studios` collection of a Firestore database.
    Firestore(FirestoreConfig),
}

/// The Firestore database that holds the `studios` collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirestoreConfig {
    /// `FIRESTORE_PROJECT_ID`: the Google Cloud project.
    pub project_id: String,
    /// `FIRESTORE_EMULATOR_HOST`: `host:port` of an emulator instead of Google.
    pub emulator_host: Option<String>,
    /// `BM_STUDIOS_MAX_STALE_HOURS`: how long what was last known is believed while Firestore is
    /// away, counted from when it was last confirmed.
    pub max_stale: Duration,
}

/// Settings of the key directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudioAuthConfig {
    /// Where studios come from.
    pub source: StudioSource,
}

/// What is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StudioAuthConfigError {
    /// Neither source is named.
    #[error(
        "set FIRESTORE_PROJECT_ID (a Google Cloud project id, such as brightmatter-prod) or BM_STUDIOS_FILE (the path of a studios file)"
    )]
    NoSource,
    /// Both are.
    #[error("FIRESTORE_PROJECT_ID and BM_STUDIOS_FILE are both set; unset one of them")]
    TwoSources,
    /// The emulator's address is not one.
    #[error("FIRESTORE_EMULATOR_HOST must be host:port, such as 127.0.0.1:8080")]
    EmulatorHost,
    /// The limit is not a number of hours.
    #[error("BM_STUDIOS_MAX_STALE_HOURS must be a whole number of hours from 1 to 8760")]
    MaxStale,
}

impl StudioAuthConfig {
    /// From variables: `BM_STUDIOS_FILE`, or `FIRESTORE_PROJECT_ID` with `FIRESTORE_EMULATOR_HOST`
    /// and `BM_STUDIOS_MAX_STALE_HOURS` (24). Empty counts as unset.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Result<Self, StudioAuthConfigError> {
        let get = |name: &str| {
            let value = get(name)?;
            let value = value.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let source = match (get("BM_STUDIOS_FILE"), get("FIRESTORE_PROJECT_ID")) {
            (None, None) => return Err(StudioAuthConfigError::NoSource),
            (Some(_), Some(_)) => return Err(StudioAuthConfigError::TwoSources),
            (Some(path), None) => StudioSource::File(path.into()),
            (None, Some(project_id)) => StudioSource::Firestore(FirestoreConfig {
                project_id,
                emulator_host: get("FIRESTORE_EMULATOR_HOST")
                    .map(|text| emulator_host(&text))
                    .transpose()?,
                max_stale: get("BM_STUDIOS_MAX_STALE_HOURS").map_or(
                    Ok(DEFAULT_MAX_STALE),
                    |text| {
                        let hours = text.parse().ok().filter(|hours| (1..=8760).contains(hours));
                        let hours: u64 = hours.ok_or(StudioAuthConfigError::MaxStale)?;
                        Ok(Duration::from_hours(hours))
                    },
                )?,
            }),
        };
        Ok(Self { source })
    }
}

/// `host:port`, taken with `http://` before it as well, as Google's own clients do.
fn emulator_host(text: &str) -> Result<String, StudioAuthConfigError> {
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let bare = bare.trim_end_matches('/');
    let shaped = bare.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
    });
    if shaped {
        Ok(bare.to_owned())
    } else {
        Err(StudioAuthConfigError::EmulatorHost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<StudioSource, StudioAuthConfigError> {
        StudioAuthConfig::from_vars(|name| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .map(|config| config.source)
    }

    #[test]
    fn exactly_one_source_must_be_named() {
        assert_eq!(read(&[]), Err(StudioAuthConfigError::NoSource));
        assert_eq!(
            read(&[("FIRESTORE_PROJECT_ID", " ")]),
            Err(StudioAuthConfigError::NoSource)
        );
        assert_eq!(
            read(&[("FIRESTORE_PROJECT_ID", "p"), ("BM_STUDIOS_FILE", "f")]),
            Err(StudioAuthConfigError::TwoSources)
        );
        assert_eq!(
            read(&[("BM_STUDIOS_FILE", "f"), ("FIRESTORE_PROJECT_ID", "")]),
            Ok(StudioSource::File("f".into()))
        );
    }

    #[test]
    fn the_emulator_and_the_limit_are_checked() {
        let with = |name, value| read(&[("FIRESTORE_PROJECT_ID", "p"), (name, value)]);
        let Ok(StudioSource::Firestore(config)) =
            with("FIRESTORE_EMULATOR_HOST", "http://[::1]:8080/")
        else {
            panic!("refused");
        };
        assert_eq!(config.emulator_host.as_deref(), Some("[::1]:8080"));
        assert_eq!(config.max_stale, DEFAULT_MAX_STALE);
        for bad in [
            "localhost",
            "localhost:",
            ":8080",
            "https://x:1/y",
            "x:99999",
        ] {
            assert_eq!(
                with("FIRESTORE_EMULATOR_HOST", bad),
                Err(StudioAuthConfigError::EmulatorHost),
                "{bad}"
            );
        }
        for bad in ["0", "-1", "1.5", "day", "9000"] {
            assert_eq!(
                with("BM_STUDIOS_MAX_STALE_HOURS", bad),
                Err(StudioAuthConfigError::MaxStale),
                "{bad}"
            );
        }
    }
}
