//! Where the servers are that a test run shares.

use std::sync::OnceLock;

/// Addresses of the shared test servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestEnv {
    /// `BM_TEST_POSTGRES`: URL of a superuser's connection to the database `postgres`.
    pub postgres: String,
    /// `BM_TEST_REDIS`: URL.
    pub redis: String,
    /// `BM_TEST_BROKERS`: `host:port`, plaintext.
    pub brokers: String,
    /// `BM_TEST_FIRESTORE`: `host:port` of the emulator.
    pub firestore: String,
}

impl TestEnv {
    /// The addresses from the environment.
    pub fn get() -> &'static Self {
        static ENV: OnceLock<TestEnv> = OnceLock::new();
        ENV.get_or_init(|| match Self::read(|name| std::env::var(name).ok()) {
            Ok(env) => env,
            Err(missing) => panic!(
                "this test needs servers, and {} is not set: run `make test`, or first `. <(scripts/test-env)`",
                missing.join(", "),
            ),
        })
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<&'static str>> {
        let mut missing = Vec::new();
        let mut take = |name: &'static str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .unwrap_or_else(|| {
                    missing.push(name);
                    String::new()
                })
        };
        let env = Self {
            postgres: take("BM_TEST_POSTGRES"),
            redis: take("BM_TEST_REDIS"),
            brokers: take("BM_TEST_BROKERS"),
            firestore: take("BM_TEST_FIRESTORE"),
        };
        if missing.is_empty() {
            Ok(env)
        } else {
            Err(missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_address_is_named() {
        let given = |name: &str| (name == "BM_TEST_REDIS").then(|| "redis://x".to_owned());
        assert_eq!(
            TestEnv::read(given),
            Err(vec![
                "BM_TEST_POSTGRES",
                "BM_TEST_BROKERS",
                "BM_TEST_FIRESTORE"
            ])
        );
    }

    #[test]
    fn an_empty_address_counts_as_missing() {
        let given = |name: &str| {
            Some(if name == "BM_TEST_BROKERS" {
                String::new()
            } else {
                name.to_lowercase()
            })
        };
        assert_eq!(TestEnv::read(given), Err(vec!["BM_TEST_BROKERS"]));
    }
}
