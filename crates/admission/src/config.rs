//! What can be set about admission, and how it is read from variables.

use std::fmt;
use std::time::Duration;

use crate::limits::tiers::PLAYER_EVENTS_PER_MINUTE;

/// Settings of limits and idempotency.
#[derive(Clone, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// `REDIS_URL`: `redis://` or `rediss://`, may hold a password.
    pub redis_url: String,
    /// `BM_REDIS_TIMEOUT_MS` (75): for every call to Redis. A request waits for two of them at most.
    pub redis_timeout: Duration,
    /// `BM_REDIS_PREFIX` (nothing): before every key, for systems that share one Redis.
    pub redis_prefix: String,
    /// `BM_GATEWAYS` (1): at least so many gateways share the limits while Redis cannot say how many.
    pub gateways: u32,
    /// `BM_LIMIT_LEASE_MS` (100): a lease holds about as many units as were used in this time.
    pub lease: Duration,
    /// `BM_PLAYER_EVENTS_PER_MINUTE` (600): per player and gateway, where the studio says nothing.
    pub player_events_per_minute: u32,
}

impl fmt::Debug for AdmissionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionConfig")
            .field("redis_timeout", &self.redis_timeout)
            .field("redis_prefix", &self.redis_prefix)
            .field("gateways", &self.gateways)
            .field("lease", &self.lease)
            .field("player_events_per_minute", &self.player_events_per_minute)
            .finish_non_exhaustive()
    }
}

/// A variable that is missing or makes no sense. Names the variable, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionConfigError {
    /// Not set, or empty.
    #[error("{0} must be set: {1}")]
    Missing(&'static str, &'static str),
    /// Not of the form it must have.
    #[error("{0} must be {1}")]
    Invalid(&'static str, &'static str),
}

impl AdmissionConfig {
    /// The defaults, with a Redis.
    pub fn new(redis_url: impl Into<String>) -> Self {
        Self {
            redis_url: redis_url.into(),
            redis_timeout: Duration::from_millis(75),
            redis_prefix: String::new(),
            gateways: 1,
            lease: Duration::from_millis(100),
            player_events_per_minute: PLAYER_EVENTS_PER_MINUTE,
        }
    }

    /// Reads the variables named at the fields.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Result<Self, AdmissionConfigError> {
        const REDIS_URL: &str = "REDIS_URL";
        const FORM: &str =
            "a Redis URL such as redis://127.0.0.1:6379 or rediss://:password@host:6379";
        let url = get(REDIS_URL)
            .filter(|url| !url.is_empty())
            .ok_or(AdmissionConfigError::Missing(REDIS_URL, FORM))?;
        if redis::Client::open(url.as_str()).is_err() {
            return Err(AdmissionConfigError::Invalid(REDIS_URL, FORM));
        }
        let number = |name, form, from: u32, to: u32, default: u32| match get(name)
            .filter(|value| !value.is_empty())
        {
            None => Ok(default),
            Some(value) => value
                .trim()
                .parse()
                .ok()
                .filter(|value| (from..=to).contains(value))
                .ok_or(AdmissionConfigError::Invalid(name, form)),
        };
        let defaults = Self::new(url);
        Ok(Self {
            redis_timeout: Duration::from_millis(
                number(
                    "BM_REDIS_TIMEOUT_MS",
                    "a number of milliseconds from 5 to 5000",
                    5,
                    5_000,
                    75,
                )?
                .into(),
            ),
            redis_prefix: get("BM_REDIS_PREFIX").unwrap_or_default(),
            gateways: number("BM_GATEWAYS", "a number from 1 to 10000", 1, 10_000, 1)?,
            lease: Duration::from_millis(
                number(
                    "BM_LIMIT_LEASE_MS",
                    "a number of milliseconds from 1 to 1000",
                    1,
                    1_000,
                    100,
                )?
                .into(),
            ),
            player_events_per_minute: number(
                "BM_PLAYER_EVENTS_PER_MINUTE",
                "a number from 1 to 10000000",
                1,
                10_000_000,
                PLAYER_EVENTS_PER_MINUTE,
            )?,
            ..defaults
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<AdmissionConfig, AdmissionConfigError> {
        AdmissionConfig::from_vars(|name| {
            let found = vars.iter().find(|var| var.0 == name)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn only_the_address_of_redis_has_no_default() {
        let config = read(&[("REDIS_URL", "redis://h:1"), ("BM_GATEWAYS", "")]).unwrap();
        assert_eq!(config, AdmissionConfig::new("redis://h:1"));
        let error = read(&[]).unwrap_err().to_string();
        assert!(error.starts_with("REDIS_URL must be set"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_named_with_what_it_must_be() {
        for (name, value) in [
            ("REDIS_URL", "http://h"),
            ("BM_REDIS_TIMEOUT_MS", "0"),
            ("BM_GATEWAYS", "-1"),
            ("BM_LIMIT_LEASE_MS", "soon"),
            ("BM_PLAYER_EVENTS_PER_MINUTE", "1e3"),
        ] {
            let error = read(&[(name, value), ("REDIS_URL", "redis://h")]);
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} must be a")), "{error}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let config = read(&[("REDIS_URL", "redis://:hunter2@h")]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
