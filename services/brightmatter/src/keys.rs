//! Fresh API keys, from the operating system's randomness.

use rand::TryRngCore;
use rand::rngs::OsRng;

/// The keys of a new studio. Shown once to whoever made them; never logged.
#[derive(Clone)]
pub(crate) struct FreshKeys {
    /// In the hands of players.
    pub(crate) client: String,
    /// In the hands of the studio.
    pub(crate) server: String,
}

/// The operating system gives no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no randomness for keys")]
pub struct KeyError(#[from] rand::rand_core::OsError);

impl FreshKeys {
    /// Two keys of 192 random bits each.
    pub(crate) fn new() -> Result<Self, KeyError> {
        Ok(Self {
            client: key("bm_client_")?,
            server: key("bm_secret_")?,
        })
    }
}

fn key(prefix: &str) -> Result<String, KeyError> {
    let mut bytes = [0; 24];
    OsRng.try_fill_bytes(&mut bytes)?;
    Ok(format!("{prefix}{}", hex::encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_they_are_for_and_are_not_the_same_twice() {
        let (first, second) = (FreshKeys::new().unwrap(), FreshKeys::new().unwrap());
        assert!(first.client.starts_with("bm_client_"));
        assert!(first.server.starts_with("bm_secret_"));
        assert_eq!(first.client.len(), "bm_client_".len() + 48);
        assert_ne!(first.client, second.client);
        assert_ne!(first.client[10..], first.server[10..]);
    }
}
