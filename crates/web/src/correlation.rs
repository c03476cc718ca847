//! The id that ties a request, its answer, its log lines and its records together.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header it comes and goes in.
pub const HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

const MAX_CHARS: usize = 128;

/// A correlation id: 1 to 128 visible ASCII characters. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorrelationId(Arc<str>);

impl CorrelationId {
    /// A new one.
    pub fn make() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }

    /// The client's, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=MAX_CHARS).contains(&text.len());
        (fits && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Self(text.into()))
    }

    /// The request's, or a new one where it has none or one we cannot take.
    pub fn of(headers: &HeaderMap) -> Self {
        headers
            .get(HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(Self::parse)
            .unwrap_or_else(Self::make)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a header's value.
    pub fn header_value(&self) -> HeaderValue {
        // Visible ASCII always is one.
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

impl std::fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<S: Sync> FromRequestParts<S> for CorrelationId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts
            .extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_else(|| Self::of(&parts.headers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_ascii_up_to_128_is_taken_and_anything_else_replaced() {
        let long = "x".repeat(128);
        for good in ["a", "req-1/2:3", long.as_str()] {
            assert_eq!(CorrelationId::parse(good).unwrap().as_str(), good);
        }
        let too_long = "x".repeat(129);
        for bad in ["", "a b", "é", "a\tb", too_long.as_str()] {
            assert_eq!(CorrelationId::parse(bad), None, "{bad}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_static("a b"));
        assert_ne!(CorrelationId::of(&headers).as_str(), "a b");
        headers.insert(HEADER, HeaderValue::from_static("mine"));
        assert_eq!(CorrelationId::of(&headers).as_str(), "mine");
    }
}
