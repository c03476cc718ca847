//! Configuration variables: the environment, and `.env` for what the environment does not say.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// The beginnings of the names this project reads.
const OURS: [&str; 6] = [
    "BM_",
    "REDPANDA_",
    "RDS_",
    "REDIS_",
    "FIRESTORE_",
    "CONSUMER_GROUP",
];

/// Configuration variables by name. Values never show in `Debug` or in errors: some are secrets.
#[derive(Clone, Default)]
pub struct Vars(Arc<BTreeMap<String, String>>);

/// Why the variables cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum VarsError {
    /// The file is there but cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line of the file is not `NAME=value`.
    #[error(
        "{path}, line {line}: not NAME=value (quote values that hold spaces, `#` or `$` with '…')"
    )]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A variable of ours holds bytes that are not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(String),
    /// A variable holds what it must not.
    #[error("{name} must be {expected}")]
    Invalid {
        /// Which variable.
        name: String,
        /// What it must look like.
        expected: &'static str,
    },
}

impl Vars {
    /// The process's environment, and `.env` in the working directory for names it lacks.
    pub fn load() -> Result<Self, VarsError> {
        Self::load_with_file(Path::new(".env"))
    }

    /// The process's environment, and `file`, which need not exist, for names it lacks.
    pub fn load_with_file(file: &Path) -> Result<Self, VarsError> {
        let mut vars = match std::fs::read_to_string(file) {
            Ok(text) => parse_file(file, &text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => {
                return Err(VarsError::Read {
                    path: file.to_owned(),
                    source,
                });
            }
        };
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => {
                    vars.insert(name, value);
                }
                Err(_) if OURS.iter().any(|ours| name.starts_with(ours)) => {
                    return Err(VarsError::NotUtf8(name));
                }
                Err(_) => {}
            }
        }
        Ok(Self(Arc::new(vars)))
    }

    /// Exactly these variables.
    pub fn from_map<N: Into<String>, V: Into<String>>(
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self(Arc::new(
            vars.into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        ))
    }

    /// These variables with `overrides` in place of what they say; an empty value unsets.
    #[must_use]
    pub fn with<N: Into<String>, V: Into<String>>(
        &self,
        overrides: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let mut vars = BTreeMap::clone(&self.0);
        vars.extend(
            overrides
                .into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        Self(Arc::new(vars))
    }

    /// The value of `name`; empty counts as unset.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// The value of `name` read as a `T`, or `default` where it is unset. `expected` completes
    /// "NAME must be …".
    pub fn parsed<T: FromStr>(
        &self,
        name: &str,
        expected: &'static str,
        default: T,
    ) -> Result<T, VarsError> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => text.trim().parse().map_err(|_| VarsError::Invalid {
                name: name.to_owned(),
                expected,
            }),
        }
    }
}

impl fmt::Debug for Vars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vars({} names)", self.0.len())
    }
}

fn parse_file(path: &Path, text: &str) -> Result<BTreeMap<String, String>, VarsError> {
    let mut vars = BTreeMap::new();
    for item in dotenvy::from_read_iter(text.as_bytes()) {
        match item {
            // The first of two lines with one name counts, as with every other dotenv reader.
            Ok((name, value)) => {
                vars.entry(name).or_insert(value);
            }
            // The error carries the text, which may be a secret; only its place is told.
            Err(dotenvy::Error::LineParse(..)) => {
                return Err(VarsError::Syntax {
                    path: path.to_owned(),
                    line: first_bad_line(text),
                });
            }
            Err(dotenvy::Error::Io(source)) => {
                return Err(VarsError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
            Err(other) => {
                return Err(VarsError::Read {
                    path: path.to_owned(),
                    source: io::Error::other(other),
                });
            }
        }
    }
    Ok(vars)
}

/// The number, from 1, of the first line that neither is an assignment nor begins one that ends
/// on a later line.
fn first_bad_line(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let parses = |lines: &[&str]| {
        dotenvy::from_read_iter(lines.join("\n").as_bytes()).all(|item| item.is_ok())
    };
    let mut begin = 0;
    while begin < lines.len() {
        match (begin + 1..=lines.len()).find(|end| parses(&lines[begin..*end])) {
            Some(end) => begin = end,
            None => break,
        }
    }
    begin + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let path = std::env::var("PATH").unwrap();
        let file = file("# said here\nPATH=from-file\nBM_FROM_FILE='a b#c'\n");
        let vars = Vars::load_with_file(file.path()).unwrap();
        assert_eq!(vars.get("PATH").unwrap(), path);
        assert_eq!(vars.get("BM_FROM_FILE").unwrap(), "a b#c");
    }

    #[test]
    fn a_broken_line_is_named_and_its_text_is_not() {
        let file = file("BM_GOOD=1\nBM_TWO='of\nlines'\nBM_SECRET=a b\nBM_ON=1\n");
        let error = Vars::load_with_file(file.path()).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("line 4"), "{shown}");
        assert!(!shown.contains("a b"), "{shown}");
    }

    #[test]
    fn a_missing_file_is_no_error() {
        Vars::load_with_file(Path::new("/nonexistent/.env")).unwrap();
    }

    #[test]
    fn empty_counts_as_unset_and_overrides_can_unset() {
        let vars = Vars::from_map([("A", ""), ("B", "2")]);
        assert_eq!(vars.get("A"), None);
        assert_eq!(vars.with([("B", "")]).get("B"), None);
        assert_eq!(vars.get("B").unwrap(), "2");
    }

    #[test]
    fn a_value_of_the_wrong_kind_names_the_variable_and_not_the_value() {
        let vars = Vars::from_map([("BM_X", "hunter2")]);
        let error = vars
            .parsed("BM_X", "a number of threads", 4_usize)
            .unwrap_err();
        assert_eq!(error.to_string(), "BM_X must be a number of threads");
        assert_eq!(vars.parsed("BM_Y", "a number", 4_usize).unwrap(), 4);
    }

    #[test]
    fn values_do_not_show_in_debug() {
        let vars = Vars::from_map([("REDPANDA_PASSWORD", "hunter2")]);
        assert!(!format!("{vars:?}").contains("hunter2"));
    }
}
