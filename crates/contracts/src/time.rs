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
/// 9999-12-31T23:59:59.999Z; jiff's own range ends some hours earlier.
const MAX_MILLIS: i64 = 253_402_300_799_999;

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
        match text.parse::<jiff::Timestamp>() {
            Ok(parsed) => floor_millis(parsed.as_nanosecond()),
            Err(_) => parse_beyond_jiff(text),
        }
        .ok_or(TimestampError)
        .and_then(Self::from_millis)
    }

    /// `self + millis`, staying within the years 0001 to 9999.
    #[must_use]
    pub const fn saturating_add_millis(self, millis: i64) -> Self {
        Self::clamped(self.0.saturating_add(millis))
    }

    /// The same instant as jiff's type; jiff's last one for the few hours of 9999 after it.
    pub fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX)
    }
}

/// Floor, so that a text and its milliseconds never differ by sign of rounding.
fn floor_millis(nanos: i128) -> Option<i64> {
    i64::try_from(nanos.div_euclid(1_000_000)).ok()
}

const EPOCH: jiff::civil::DateTime = jiff::civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// `9999-12-31T23:59:59Z`, which stands for "for ever", is beyond jiff's timestamps, but not beyond
/// its dates.
fn parse_beyond_jiff(text: &str) -> Option<i64> {
    let pieces = jiff::fmt::temporal::Pieces::parse(text).ok()?;
    let local = pieces.date().to_datetime(pieces.time()?);
    let offset = pieces.to_numeric_offset()?;
    let nanos =
        local.duration_since(EPOCH).as_nanos() - i128::from(offset.seconds()) * 1_000_000_000;
    floor_millis(nanos)
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(ts: jiff::Timestamp) -> Self {
        Self::clamped(floor_millis(ts.as_nanosecond()).unwrap_or(MAX_MILLIS))
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.to_jiff();
        if at < jiff::Timestamp::MAX {
            return write!(f, "{at:.3}");
        }
        let since = jiff::SignedDuration::from_millis(self.0);
        write!(f, "{:.3}Z", EPOCH.saturating_add(since))
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
            "9999-12-31T24:00:00Z",
            "9999-12-31T23:00:00-01:00",
            "9999-12-31T23:00:00",
            "0000-12-31T23:59:59Z",
        ] {
            assert!(Timestamp::parse_rfc3339(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_of_the_years_1_to_9999_can_be_said() {
        for (text, printed) in [
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000Z"),
            ("9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59.999Z"),
            ("9999-12-31T23:59:59-00:00", "9999-12-31T23:59:59.000Z"),
            ("9999-12-31T23:59:59+14:00", "9999-12-31T09:59:59.000Z"),
            ("9999-12-30T21:59:59.999Z", "9999-12-30T21:59:59.999Z"),
            ("9999-12-30T22:00:01Z", "9999-12-30T22:00:01.000Z"),
            ("9998-12-31t23:59:59z", "9998-12-31T23:59:59.000Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ] {
            let at = Timestamp::parse_rfc3339(text).unwrap();
            assert_eq!(at.to_string(), printed, "{text}");
            assert_eq!(Timestamp::parse_rfc3339(printed), Ok(at));
            assert_eq!(Timestamp::from_millis(at.as_millis()), Ok(at));
        }
        assert_eq!(
            Timestamp::clamped(i64::MAX).to_string(),
            "9999-12-31T23:59:59.999Z"
        );
        // What jiff cannot hold is its last instant.
        assert_eq!(Timestamp::clamped(i64::MAX).to_jiff(), jiff::Timestamp::MAX);
    }

    #[test]
    fn jiffs_instants_are_floored_as_texts_are() {
        for nanos in [-1, 1, -1_000_000, -1_000_001, 1_999_999] {
            let jiff = jiff::Timestamp::from_nanosecond(nanos).unwrap();
            let text = Timestamp::parse_rfc3339(&jiff.to_string()).unwrap();
            assert_eq!(Timestamp::from(jiff), text, "{nanos}");
        }
    }
}
