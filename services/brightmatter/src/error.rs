//! Why a command failed.

use std::io;
use std::path::PathBuf;

use bm_storage::definitions::ApplyError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A variable is missing or wrong.
    #[error(transparent)]
    Vars(#[from] bm_bootstrap::vars::VarsError),
    /// The broker's settings are missing or wrong.
    #[error(transparent)]
    KafkaConfig(#[from] bm_kafka::ConfigError),
    /// The database's settings are missing or wrong.
    #[error(transparent)]
    StorageConfig(#[from] bm_storage::config::StorageConfigError),
    /// An address is missing, and somebody may know it.
    #[error("{what}; {hint}")]
    NotSet {
        /// Which, and what it must look like.
        what: String,
        /// Where it may be found.
        hint: String,
    },
    /// The broker cannot be used.
    #[error(transparent)]
    Kafka(bm_kafka::KafkaError),
    /// A topic is missing.
    #[error("topic {0} does not exist: run `brightmatter topics`")]
    NoTopic(String),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] bm_storage::StoreError),
    /// The studios file cannot be used.
    #[error(transparent)]
    Studios(#[from] crate::studios_file::StudiosFileError),
    /// A load that cannot be run.
    #[error("{0}")]
    Load(String),
    /// No studios file is named.
    #[error(
        "BM_STUDIOS_FILE is not set: `init` adds studios to a file. With Firestore, add a document to \
         its collection `studios` instead, and use `brightmatter apply`"
    )]
    NoStudiosFile,
    /// A name that cannot name everything `init` makes.
    #[error("a name is 1 to 40 letters, digits, '-' and '_', and begins with a letter or digit")]
    Name,
    /// A file cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of definitions has faults; nothing was saved.
    #[error("{path}: nothing was saved:\n{}", lines(.faults))]
    Faults {
        /// Which file.
        path: PathBuf,
        /// Every fault there is, a line each.
        faults: Vec<String>,
    },
    /// Definitions are saved and not all of them published.
    #[error(
        "the definitions are saved and count, but config.quests does not have them yet: {0}. They will \
         be published by the event router within seconds, or with the next `brightmatter apply`"
    )]
    NotPublished(String),
    /// The report says which and why.
    #[error("some topics could not be created")]
    Topics,
    /// Metrics and readiness cannot be served.
    #[error(transparent)]
    Ops(#[from] bm_bootstrap::ops::OpsError),
    /// A service of `brightmatter dev` ended.
    #[error("{service} ended: {why}")]
    Service {
        /// Which.
        service: &'static str,
        /// Its error.
        why: String,
    },
    /// The services of `brightmatter dev` were not ready in time.
    #[error("not ready after {seconds} s: {what}")]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// Which checks of which services fail, and why.
        what: String,
    },
    /// Lanes of `brightmatter dev` halted: their log is another than the one they have read.
    #[error("{0}")]
    OtherLog(String),
    /// Nobody reads our output any more.
    #[error("output closed")]
    OutputClosed,
    /// Our output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

fn lines(faults: &[String]) -> String {
    let lines: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
    lines.join("\n")
}

impl From<bm_kafka::KafkaError> for CliError {
    fn from(error: bm_kafka::KafkaError) -> Self {
        match error {
            bm_kafka::KafkaError::UnknownTopic(name) => Self::NoTopic(name),
            error => Self::Kafka(error),
        }
    }
}

impl CliError {
    /// With where to find it, if it is that an address is not set.
    pub(crate) fn with_hint(self, hint: impl FnOnce() -> String) -> Self {
        use bm_kafka::ConfigError;
        use bm_storage::config::StorageConfigError;
        match &self {
            Self::KafkaConfig(ConfigError::Missing {
                variable: "REDPANDA_BROKERS",
                ..
            })
            | Self::StorageConfig(StorageConfigError::Missing)
            | Self::NoStudiosFile => Self::NotSet {
                what: self.to_string(),
                hint: hint(),
            },
            _ => self,
        }
    }

    /// Faults of a definition file, one or more.
    pub(crate) fn faults(path: &std::path::Path, faults: &[impl ToString]) -> Self {
        Self::Faults {
            path: path.to_owned(),
            faults: faults.iter().map(ToString::to_string).collect(),
        }
    }

    /// What saving a definition file ran into.
    pub(crate) fn apply(path: &std::path::Path, error: ApplyError) -> Self {
        match error {
            ApplyError::Store(error) => Self::Store(error),
            ApplyError::Faults(faults) => Self::faults(path, &faults),
        }
    }
}
