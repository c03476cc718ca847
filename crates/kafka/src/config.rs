//! Where the brokers are, how to log in, and what topics are called there.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bm_contracts::TopicNames;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mechanism {
    /// SCRAM-SHA-256
    #[default]
    ScramSha256,
    /// SCRAM-SHA-512
    ScramSha512,
}

impl Mechanism {
    /// As Kafka spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// How to talk to the brokers.
#[derive(Clone, PartialEq, Eq)]
pub enum Security {
    /// Neither TLS nor login.
    Plaintext,
    /// SASL SCRAM over TLS.
    SaslTls {
        /// User name.
        username: String,
        /// Password; never shown by `Debug`.
        password: String,
        /// Which SCRAM.
        mechanism: Mechanism,
        /// PEM file of the authority to trust; the system's authorities without.
        ca_file: Option<PathBuf>,
    },
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plaintext => f.write_str("Plaintext"),
            Self::SaslTls {
                username,
                mechanism,
                ca_file,
                password: _,
            } => f
                .debug_struct("SaslTls")
                .field("username", username)
                .field("password", &"…")
                .field("mechanism", mechanism)
                .field("ca_file", ca_file)
                .finish(),
        }
    }
}

/// What every client of the bus must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// How to talk to them.
    pub security: Security,
    /// Topic names, with their prefix.
    pub names: TopicNames,
    /// Replication factor of topics to be created; `None`: 1 where there is one broker, else 3.
    pub replication: Option<i16>,
    /// After so long without a heartbeat a group member is taken for dead.
    pub session_timeout: Duration,
}

/// A variable is missing or of the wrong form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It must be set.
    #[error("{variable} is not set; it must be {form}")]
    Missing {
        /// Which variable.
        variable: &'static str,
        /// What it must look like.
        form: &'static str,
    },
    /// Its value is not of the form. The value is not repeated: it may be a secret.
    #[error("{variable} must be {form}")]
    Invalid {
        /// Which variable.
        variable: &'static str,
        /// What it must look like.
        form: &'static str,
    },
}

/// Kafka allows 249 characters in a topic's name; the longest of ours has 20.
const MAX_PREFIX: usize = 200;

impl KafkaConfig {
    /// Plaintext, no prefix, everything else by default.
    pub fn plaintext(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            security: Security::Plaintext,
            names: TopicNames::default(),
            replication: None,
            session_timeout: Duration::from_secs(10),
        }
    }

    /// Reads `REDPANDA_BROKERS`, `REDPANDA_USERNAME`, `REDPANDA_PASSWORD`, `REDPANDA_SASL_MECHANISM`,
    /// `REDPANDA_CA_FILE`, `BM_TOPIC_PREFIX`, `BM_REPLICATION_FACTOR` and `BM_SESSION_TIMEOUT_MS`.
    ///
    /// An empty value counts as none. Errors name the variable and what it must look like.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |variable: &str| {
            get(variable)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let brokers = brokers(get("REDPANDA_BROKERS"))?;
        let prefix = get("BM_TOPIC_PREFIX").unwrap_or_default();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if prefix.len() > MAX_PREFIX || !prefix.chars().all(legal) {
            return Err(ConfigError::Invalid {
                variable: "BM_TOPIC_PREFIX",
                form: "at most 200 of a-z, A-Z, 0-9, '.', '_' and '-'",
            });
        }
        let replication = number(
            get("BM_REPLICATION_FACTOR"),
            "BM_REPLICATION_FACTOR",
            "a number from 1 to 9",
            1..=9,
        )?;
        let session_timeout = number(
            get("BM_SESSION_TIMEOUT_MS"),
            "BM_SESSION_TIMEOUT_MS",
            "a number of milliseconds from 1000 to 300000",
            1_000..=300_000,
        )?;
        Ok(Self {
            brokers,
            security: security(&get)?,
            names: TopicNames::with_prefix(prefix),
            replication: replication.map(|factor| factor as i16),
            session_timeout: Duration::from_millis(session_timeout.unwrap_or(10_000)),
        })
    }

    /// The settings every client shares: addresses, login, and how fast a broken connection is made anew.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "brightmatter")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            // A broker that is silent for so long is tried on a new connection.
            .set("socket.timeout.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "10000")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            // Topics are made by the registry's rules only.
            .set("allow.auto.create.topics", "false")
            // How long a topic that the library has only just asked for, or just found, may be unknown to a
            // broker before it counts as gone (its own choice is half a minute, and a second one for a topic that
            // was found); one known for longer counts as gone at once. A cluster spreads the news in less.
            .set("topic.metadata.propagation.max.ms", "5000")
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Info);
        match &self.security {
            Security::Plaintext => {
                config.set("security.protocol", "plaintext");
            }
            Security::SaslTls {
                username,
                password,
                mechanism,
                ca_file,
            } => {
                config
                    .set("security.protocol", "sasl_ssl")
                    .set("sasl.mechanisms", mechanism.as_str())
                    .set("sasl.username", username)
                    .set("sasl.password", password);
                match ca_file {
                    Some(file) => config.set("ssl.ca.location", file.to_string_lossy()),
                    None => config.set("ssl.ca.location", "probe"),
                };
            }
        }
        config
    }
}

fn brokers(value: Option<String>) -> Result<String, ConfigError> {
    const VARIABLE: &str = "REDPANDA_BROKERS";
    const FORM: &str = "host:port, several separated by commas";
    let value = value.ok_or(ConfigError::Missing {
        variable: VARIABLE,
        form: FORM,
    })?;
    let address = |text: &str| {
        text.trim()
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if value.split(',').all(address) {
        Ok(value)
    } else {
        Err(ConfigError::Invalid {
            variable: VARIABLE,
            form: FORM,
        })
    }
}

fn security(get: &impl Fn(&str) -> Option<String>) -> Result<Security, ConfigError> {
    let (username, password) = match (get("REDPANDA_USERNAME"), get("REDPANDA_PASSWORD")) {
        (None, None) => return Ok(Security::Plaintext),
        (Some(username), Some(password)) => (username, password),
        (Some(_), None) => {
            return Err(ConfigError::Missing {
                variable: "REDPANDA_PASSWORD",
                form: "the password of REDPANDA_USERNAME",
            });
        }
        (None, Some(_)) => {
            return Err(ConfigError::Missing {
                variable: "REDPANDA_USERNAME",
                form: "the user REDPANDA_PASSWORD belongs to",
            });
        }
    };
    let mechanism = match get("REDPANDA_SASL_MECHANISM").as_deref() {
        None | Some("SCRAM-SHA-256") => Mechanism::ScramSha256,
        Some("SCRAM-SHA-512") => Mechanism::ScramSha512,
        Some(_) => {
            return Err(ConfigError::Invalid {
                variable: "REDPANDA_SASL_MECHANISM",
                form: "SCRAM-SHA-256 or SCRAM-SHA-512",
            });
        }
    };
    let ca_file = get("REDPANDA_CA_FILE").map(PathBuf::from);
    if ca_file.as_ref().is_some_and(|file| !file.is_file()) {
        return Err(ConfigError::Invalid {
            variable: "REDPANDA_CA_FILE",
            form: "the path of a PEM file that exists",
        });
    }
    Ok(Security::SaslTls {
        username,
        password,
        mechanism,
        ca_file,
    })
}

/// A number within `range`, where there is one.
pub(crate) fn number(
    value: Option<String>,
    variable: &'static str,
    form: &'static str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, ConfigError> {
    value
        .map(|text| {
            text.parse()
                .ok()
                .filter(|number| range.contains(number))
                .ok_or(ConfigError::Invalid { variable, form })
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<KafkaConfig, ConfigError> {
        let vars: BTreeMap<String, String> = vars
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        KafkaConfig::from_vars(|name| vars.get(name).cloned())
    }

    #[test]
    fn one_address_is_enough() {
        let config = read(&[
            ("REDPANDA_BROKERS", "localhost:9092"),
            ("REDPANDA_USERNAME", ""),
        ])
        .unwrap();
        assert_eq!(config, KafkaConfig::plaintext("localhost:9092"));
    }

    #[test]
    fn a_user_without_a_password_is_refused() {
        let error = read(&[("REDPANDA_BROKERS", "a:1"), ("REDPANDA_USERNAME", "u")]).unwrap_err();
        assert!(error.to_string().contains("REDPANDA_PASSWORD"), "{error}");
        let error = read(&[("REDPANDA_BROKERS", "a:1"), ("REDPANDA_PASSWORD", "p")]).unwrap_err();
        assert!(error.to_string().contains("REDPANDA_USERNAME"), "{error}");
    }

    #[test]
    fn errors_name_the_variable_and_never_its_value() {
        for (variable, value) in [
            ("REDPANDA_BROKERS", "localhost"),
            ("REDPANDA_BROKERS", "localhost:9092,"),
            ("BM_TOPIC_PREFIX", "a b"),
            ("BM_REPLICATION_FACTOR", "0"),
            ("BM_SESSION_TIMEOUT_MS", "soon"),
            ("REDPANDA_CA_FILE", "/no/such/file.pem"),
            ("REDPANDA_SASL_MECHANISM", "PLAIN-SECRET"),
        ] {
            let error = read(&[
                (
                    "REDPANDA_BROKERS",
                    if variable == "REDPANDA_BROKERS" {
                        value
                    } else {
                        "a:1"
                    },
                ),
                ("REDPANDA_USERNAME", "u"),
                ("REDPANDA_PASSWORD", "p"),
                (variable, value),
            ])
            .unwrap_err()
            .to_string();
            assert!(error.contains(variable), "{error}");
            assert!(!error.contains(value), "{error}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let config = read(&[
            ("REDPANDA_BROKERS", "a:1"),
            ("REDPANDA_USERNAME", "user"),
            ("REDPANDA_PASSWORD", "hunter2"),
            ("REDPANDA_SASL_MECHANISM", "SCRAM-SHA-512"),
        ])
        .unwrap();
        let shown = format!("{config:?}");
        assert!(
            shown.contains("user") && shown.contains("ScramSha512"),
            "{shown}"
        );
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(
            config.client().get("sasl.mechanisms"),
            Some("SCRAM-SHA-512")
        );
    }
}
