//! The gateway's configuration.

use std::time::Duration;

use bm_admission::{AdmissionConfig, AdmissionConfigError};
use bm_bootstrap::serve::ServeConfig;
use bm_bootstrap::vars::{Vars, VarsError};
use bm_kafka::{AppendConfig, ConfigError, KafkaConfig};
use bm_storage::StorageConfig;
use bm_storage::config::StorageConfigError;
use bm_studio_auth::{StudioAuthConfig, StudioAuthConfigError};

/// Database connections: each studio's games are asked for about once a minute.
const DEFAULT_POOL: u32 = 4;
/// Where a gateway listens unless told otherwise.
const DEFAULT_ADDRESS: &str = "0.0.0.0:8080";

/// Everything a gateway can be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `BM_LISTEN_ADDR` (`0.0.0.0:8080`): where it listens, `host:port`.
    pub address: String,
    /// `BM_HTTP_BODY_TIMEOUT_MS` (15000): how long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// `BM_HTTP_BODY_MEMORY_KBYTES` (262144): what bodies and events under way may take up, in bytes.
    pub body_memory: usize,
    /// `BM_OPS_ADDR`: where `/healthz`, `/readyz` and `/metrics` are, if not beside the other routes.
    pub ops_address: Option<String>,
    /// Patience with connections.
    pub serve: ServeConfig,
    /// The bus.
    pub kafka: KafkaConfig,
    /// Appending to it.
    pub append: AppendConfig,
    /// The database.
    pub storage: StorageConfig,
    /// Redis, and limits.
    pub admission: AdmissionConfig,
    /// Where studios come from.
    pub studios: StudioAuthConfig,
}

/// A variable is missing or not of its form. Names the variable, never its value.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// One of the server's.
    #[error(transparent)]
    Vars(#[from] VarsError),
    /// One of the bus's.
    #[error(transparent)]
    Kafka(#[from] ConfigError),
    /// One of the database's.
    #[error(transparent)]
    Storage(#[from] StorageConfigError),
    /// One of the limits'.
    #[error(transparent)]
    Admission(#[from] AdmissionConfigError),
    /// One of the studios'.
    #[error(transparent)]
    Studios(#[from] StudioAuthConfigError),
}

impl Settings {
    /// Reads all of them.
    pub fn from_vars(vars: &Vars) -> Result<Self, SettingsError> {
        const BODY_TIMEOUT: &str = "BM_HTTP_BODY_TIMEOUT_MS";
        const FORM: &str = "a number of milliseconds from 1 to 600000";
        const BODY_MEMORY: &str = "BM_HTTP_BODY_MEMORY_KBYTES";
        // The largest batch takes 1 MiB packed, 5 MiB unpacked, and something for each event.
        const MEMORY_FORM: &str = "a number of kilobytes from 8192 to 1000000000";
        let get = |name: &str| vars.get(name);
        let body_memory = vars.parsed(BODY_MEMORY, MEMORY_FORM, 262_144_usize)?;
        if !(8_192..=1_000_000_000).contains(&body_memory) {
            return Err(VarsError::Invalid {
                name: BODY_MEMORY.to_owned(),
                expected: MEMORY_FORM,
            }
            .into());
        }
        let body_timeout = vars.parsed(BODY_TIMEOUT, FORM, 15_000_u64)?;
        if !(1..=600_000).contains(&body_timeout) {
            return Err(VarsError::Invalid {
                name: BODY_TIMEOUT.to_owned(),
                expected: FORM,
            }
            .into());
        }
        Ok(Self {
            address: get("BM_LISTEN_ADDR").unwrap_or_else(|| DEFAULT_ADDRESS.to_owned()),
            body_timeout: Duration::from_millis(body_timeout),
            body_memory: body_memory * 1_024,
            ops_address: get("BM_OPS_ADDR"),
            serve: ServeConfig {
                timeout_body: || bm_web::error::standalone_body(bm_web::Code::Timeout),
                ..ServeConfig::from_vars(vars)?
            },
            kafka: KafkaConfig::from_vars(get)?,
            append: AppendConfig::from_vars(get)?,
            storage: StorageConfig::from_vars("gateway", DEFAULT_POOL, get)?,
            admission: AdmissionConfig::from_vars(get)?,
            studios: StudioAuthConfig::from_vars(get)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: [(&str, &str); 4] = [
        ("REDPANDA_BROKERS", "localhost:9092"),
        ("RDS_CONNECTION_STRING", "postgres://u@localhost/d"),
        ("REDIS_URL", "redis://localhost"),
        ("BM_STUDIOS_FILE", "studios.json"),
    ];

    #[test]
    fn four_variables_are_enough() {
        let settings = Settings::from_vars(&Vars::from_map(ENOUGH)).unwrap();
        assert_eq!(settings.address, DEFAULT_ADDRESS);
        assert_eq!(settings.body_timeout, Duration::from_secs(15));
        assert_eq!(settings.body_memory, 256 * 1024 * 1024);
        assert_eq!(settings.ops_address, None);
        assert!((settings.serve.timeout_body)().contains("correlationId"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (name, _) in ENOUGH {
            let vars = Vars::from_map(ENOUGH).with([(name, "")]);
            let error = Settings::from_vars(&vars).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        for (name, bad) in [
            ("BM_HTTP_BODY_TIMEOUT_MS", "0"),
            ("BM_HTTP_BODY_TIMEOUT_MS", "soon"),
            ("BM_HTTP_BODY_TIMEOUT_MS", "600001"),
            ("BM_HTTP_BODY_MEMORY_KBYTES", "8191"),
            ("BM_HTTP_BODY_MEMORY_KBYTES", "1000000001"),
        ] {
            let vars = Vars::from_map(ENOUGH).with([(name, bad)]);
            let error = Settings::from_vars(&vars).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} must be")), "{error}");
        }
    }
}
