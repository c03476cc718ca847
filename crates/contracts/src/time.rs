//! One form of time everywhere: milliseconds since the epoch, RFC 3339 UTC with `Z` on the wire.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// The text is neither RFC 3339 nor within the years 0001 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an RFC 3339 date-time with an offset, or integer milliseconds since the epoch")]
pub struct TimestampError;

/// 0001-01-01T00:00:00Z
const MIN_MILLIS: i64 = -62_135_596_800_000;
/// 9999-12-30T00:00:00Z, within what jiff can print
const MAX_MILLIS: i64 = 253_402_128_000_000;

impl Timestamp {
    /// From milliseconds since the epoch; refused outside the years 0001 to 9999.
    pub fn from_millis(millis: i64) -> Result<Self, TimestampError> {
        if (MIN_MILLIS..=MAX_MILLIS).contains(&millis) {
            Ok(Self(millis))
        } else {
            Err(TimestampError)
        }
    }

    /// From milliseconds since the epoch, brought into the years 0001 to 9999.
    pub const fn clamped(millis: i64) -> Self {
        if millis < MIN_MILLIS {
            Self(MIN_MILLIS)
        } else if millis > MAX_MILLIS {
            Self(MAX_MILLIS)
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 (`2026-01-02T03:04:05.678Z`, any offset); finer than a millisecond is cut off.
    pub fn parse_rfc3339(text: &str) -> Result<Self, TimestampError> {
        let b = text.as_bytes();
        let shaped = b.len() >= 20
            && b[..4].iter().all(u8::is_ascii_digit)
            && b[4] == b'-'
            && b[7] == b'-'
            && matches!(b[10], b'T' | b't' | b' ')
            && b[13] == b':'
            && b[16] == b':'
            && !text.contains('[');
        if !shaped {
            return Err(TimestampError);
        }
        let parsed: jiff::Timestamp = text.parse().map_err(|_| TimestampError)?;
        // Floor, so that the text and its milliseconds never differ by sign of rounding.
        let millis = parsed.as_nanosecond().div_euclid(1_000_000);
        i64::try_from(millis)
            .map_err(|_| TimestampError)
            .and_then(Self::from_millis)
    }

    /// `self + millis`, staying within the years 0001 to 9999.
    #[must_use]
    pub const fn saturating_add_millis(self, millis: i64) -> Self {
        Self::clamped(self.0.saturating_add(millis))
    }

    /// The same instant as jiff's type.
    pub fn to_jiff(self) -> jiff::Timestamp {
        // In range by construction.
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(ts: jiff::Timestamp) -> Self {
        Self::clamped(ts.as_millisecond())
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.to_jiff())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an RFC 3339 date-time")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse_rfc3339(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_milliseconds_and_z() {
        let ts = Timestamp::parse_rfc3339("2026-01-02T05:04:05.6789+02:00").unwrap();
        assert_eq!(ts.to_string(), "2026-01-02T03:04:05.678Z");
        assert_eq!(
            Timestamp::from_millis(0).unwrap().to_string(),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn what_is_not_rfc_3339_is_refused() {
        for bad in [
            "",
            "2026-01-02",
            "2026-01-02T03:04:05",
            "20260102T030405Z",
            "yesterday",
            "2026-13-02T03:04:05Z",
        ] {
            assert!(Timestamp::parse_rfc3339(bad).is_err(), "{bad}");
        }
    }
}
