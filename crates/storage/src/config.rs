//! Where the database is and how patiently it is talked to, from environment variables.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Settings of a [`crate::Storage`]. Its `Debug` shows no password.
#[derive(Clone)]
pub struct StorageConfig {
    pub(crate) options: PgConnectOptions,
    /// Most connections at once.
    pub pool: u32,
    /// How long a statement may run on the server, and how long a connection is waited for.
    pub timeout: Duration,
}

/// A variable is missing or not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageConfigError {
    /// `RDS_CONNECTION_STRING` is not set.
    #[error(
        "RDS_CONNECTION_STRING is not set: it must look like postgres://user:password@host:5432/database?sslmode=require"
    )]
    Missing,
    /// `RDS_CONNECTION_STRING` cannot be read. Holds nothing of its text, which has a password in it.
    #[error(
        "RDS_CONNECTION_STRING cannot be read ({0}): it must look like postgres://user:password@host:5432/database?sslmode=require, or host=… port=… dbname=… user=… password=… sslmode=…"
    )]
    ConnectionString(&'static str),
    /// `BM_DB_POOL` is no number from 1 to 1000.
    #[error("BM_DB_POOL must be a number of connections from 1 to 1000")]
    Pool,
    /// `BM_DB_TIMEOUT` is no duration from 100 ms to 60 s.
    #[error("BM_DB_TIMEOUT must be a duration from 100ms to 60s, such as 5s or 1500ms")]
    Timeout,
}

/// No transaction lives longer, unless configured: an old snapshot slows every lane down.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

impl StorageConfig {
    /// Reads `RDS_CONNECTION_STRING`, `BM_DB_POOL` (by default `default_pool`) and `BM_DB_TIMEOUT`
    /// (by default 5 s). `service` is the application's name in `pg_stat_activity`.
    pub fn from_vars(
        service: &str,
        default_pool: u32,
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, StorageConfigError> {
        let get = |name| get(name).filter(|value| !value.trim().is_empty());
        let url = get("RDS_CONNECTION_STRING").ok_or(StorageConfigError::Missing)?;
        let pool = match get("BM_DB_POOL") {
            None => default_pool,
            Some(text) => text
                .trim()
                .parse()
                .ok()
                .filter(|n| (1..=1000).contains(n))
                .ok_or(StorageConfigError::Pool)?,
        };
        let timeout = match get("BM_DB_TIMEOUT") {
            None => DEFAULT_TIMEOUT,
            Some(text) => duration(text.trim())
                .filter(|d| (Duration::from_millis(100)..=Duration::from_mins(1)).contains(d))
                .ok_or(StorageConfigError::Timeout)?,
        };
        Ok(Self {
            options: connect_options(url.trim())?.application_name(service),
            pool,
            timeout,
        })
    }

    /// Settings for one address, all else as by default.
    pub fn for_url(service: &str, url: &str, pool: u32) -> Result<Self, StorageConfigError> {
        Self::from_vars(service, pool, |name| {
            (name == "RDS_CONNECTION_STRING").then(|| url.to_owned())
        })
    }

    /// `host:port/database`, for messages.
    pub fn address(&self) -> String {
        format!(
            "{}:{}/{}",
            self.options.get_host(),
            self.options.get_port(),
            self.options
                .get_database()
                .unwrap_or(self.options.get_username())
        )
    }
}

impl fmt::Debug for StorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageConfig")
            .field("address", &self.address())
            .field("pool", &self.pool)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// `1500ms`, `5s`, or seconds without a unit.
fn duration(text: &str) -> Option<Duration> {
    if let Some(millis) = text.strip_suffix("ms") {
        millis.trim().parse().ok().map(Duration::from_millis)
    } else {
        let seconds = text.strip_suffix('s').unwrap_or(text);
        seconds.trim().parse().ok().map(Duration::from_secs)
    }
}

fn connect_options(text: &str) -> Result<PgConnectOptions, StorageConfigError> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return PgConnectOptions::from_str(text)
            .map_err(|_| StorageConfigError::ConnectionString("not a valid URL"));
    }
    let mut options = PgConnectOptions::new_without_pgpass();
    for (name, value) in key_values(text)? {
        options = match name.as_str() {
            "host" | "hostaddr" => options.host(&value),
            "port" => options.port(
                value
                    .parse()
                    .map_err(|_| StorageConfigError::ConnectionString("port is no port"))?,
            ),
            "dbname" => options.database(&value),
            "user" => options.username(&value),
            "password" => options.password(&value),
            "sslmode" => options.ssl_mode(PgSslMode::from_str(&value).map_err(|_| {
                StorageConfigError::ConnectionString(
                    "sslmode is none of disable, allow, prefer, require, verify-ca, verify-full",
                )
            })?),
            "sslrootcert" => options.ssl_root_cert(&value),
            "sslcert" => options.ssl_client_cert(&value),
            "sslkey" => options.ssl_client_key(&value),
            // What libpq knows besides (connect_timeout, keepalives, …) does not change where or as whom.
            _ => options,
        };
    }
    Ok(options)
}

/// Splits libpq's `name=value` pairs; a value with blanks stands in single quotes, `\` escapes.
fn key_values(text: &str) -> Result<Vec<(String, String)>, StorageConfigError> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut name = String::new();
        loop {
            match chars.next() {
                Some('=') => break,
                Some(c) if !c.is_whitespace() => name.push(c),
                // libpq lets blanks stand around the sign.
                Some(_) if chars.peek().is_some() => {}
                _ => {
                    return Err(StorageConfigError::ConnectionString(
                        "neither a URL nor name=value pairs",
                    ));
                }
            }
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if quoted || !c.is_whitespace() => value.push(c),
                None if quoted => {
                    return Err(StorageConfigError::ConnectionString(
                        "a quote is not closed",
                    ));
                }
                _ => break,
            }
        }
        pairs.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<StorageConfig, StorageConfigError> {
        StorageConfig::from_vars("test", 7, |name| {
            vars.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_url_and_libpq_pairs_say_the_same() {
        for text in [
            "postgres://me:p%20w@db.example:6000/things?sslmode=verify-full",
            "host=db.example port=6000 dbname=things user = me password='p w' sslmode=verify-full connect_timeout=3",
        ] {
            let config = config(&[("RDS_CONNECTION_STRING", text)]).unwrap();
            assert_eq!(config.address(), "db.example:6000/things");
            assert_eq!(config.options.get_username(), "me");
            assert!(matches!(
                config.options.get_ssl_mode(),
                PgSslMode::VerifyFull
            ));
            assert_eq!((config.pool, config.timeout), (7, DEFAULT_TIMEOUT));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_without_its_password() {
        assert_eq!(config(&[]).unwrap_err(), StorageConfigError::Missing);
        for bad in [
            "postgres://u:secret@h:notaport/d",
            "just words",
            "host=h password='secret",
            "host=h password=secret sslmode=maybe",
        ] {
            let error = config(&[("RDS_CONNECTION_STRING", bad)]).unwrap_err();
            assert!(matches!(error, StorageConfigError::ConnectionString(_)));
            assert!(!error.to_string().contains("secret"));
        }
        let with =
            |name, value| config(&[("RDS_CONNECTION_STRING", "postgres://h/d"), (name, value)]);
        assert_eq!(
            with("BM_DB_POOL", "0").unwrap_err(),
            StorageConfigError::Pool
        );
        assert_eq!(
            with("BM_DB_TIMEOUT", "soon").unwrap_err(),
            StorageConfigError::Timeout
        );
        assert_eq!(
            with("BM_DB_TIMEOUT", "1500ms").unwrap().timeout,
            Duration::from_millis(1500)
        );
    }

    #[test]
    fn a_printed_configuration_shows_no_password() {
        let config = config(&[("RDS_CONNECTION_STRING", "postgres://u:secret@h/d")]).unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }
}
