//! W3C trace context: takes a request's `traceparent`, or begins a trace.

use http::{HeaderMap, HeaderName};
use uuid::Uuid;

/// The header it comes in.
pub const HEADER: HeaderName = HeaderName::from_static("traceparent");

/// Length of `00-<32 hex>-<16 hex>-<2 hex>`.
const LENGTH: usize = 55;

/// A well-formed `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent(String);

impl TraceParent {
    /// The beginning of a new trace.
    pub fn make() -> Self {
        // A version 4 UUID is never zero, in either half.
        let trace = Uuid::new_v4().simple().to_string();
        let span = Uuid::new_v4().simple().to_string();
        Self(format!("00-{trace}-{}-01", &span[..16]))
    }

    /// Takes `text` if it is well-formed. Of a version later than 00 the part known to 00 is kept.
    pub fn parse(text: &str) -> Option<Self> {
        let known = text.get(..LENGTH)?;
        let mut parts = known.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let zero = |part: &str| part.bytes().all(|b| b == b'0');
        let well_formed = parts.next().is_none()
            && hex(version, 2)
            && hex(trace, 32)
            && hex(span, 16)
            && hex(flags, 2)
            && !zero(trace)
            && !zero(span);
        let rest = &text[LENGTH..];
        let ends = match version {
            "ff" => false,
            "00" => rest.is_empty(),
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        (well_formed && ends).then(|| Self(format!("00{}", &known[2..])))
    }

    /// The request's, or a new trace where it has none that is well-formed.
    pub fn of(headers: &HeaderMap) -> Self {
        headers
            .get(HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(Self::parse)
            .unwrap_or_else(Self::make)
    }

    /// The header's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_well_formed_parent_is_taken_as_it_is() {
        assert_eq!(TraceParent::parse(GOOD).unwrap().as_str(), GOOD);
        let later = GOOD.replacen("00", "cc", 1) + "-more";
        assert_eq!(TraceParent::parse(&later).unwrap().as_str(), GOOD);
        let made = TraceParent::make();
        assert_eq!(TraceParent::parse(made.as_str()), Some(made));
    }

    #[test]
    fn anything_else_begins_a_new_trace() {
        for bad in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-001",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0é",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
