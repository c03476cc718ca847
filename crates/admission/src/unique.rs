//! Names nobody else has, for attempts, gateways and incarnations of Redis. Not secrets.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
static COUNT: AtomicU64 = AtomicU64::new(0);

/// 16 bytes: 8 random ones per process, 8 counted in it.
pub(crate) fn bytes() -> [u8; 16] {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&PROCESS.to_be_bytes());
    bytes[8..].copy_from_slice(&count.to_be_bytes());
    bytes
}

/// The same as 32 hex digits.
pub(crate) fn text() -> String {
    hex::encode(bytes())
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_name_is_given_twice() {
        assert_ne!(super::bytes(), super::bytes());
        assert_eq!(super::text().len(), 32);
    }
}
