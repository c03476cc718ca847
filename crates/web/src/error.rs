//! The one table of error codes, and the form in which a client sees an error.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::correlation::CorrelationId;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $status:ident, $sentence:literal;)*) => {
        /// A stable error code; each has one status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// Every code there is, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code as clients see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The status it is answered with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// What is said where there is nothing more particular to say.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

codes! {
    /// No `x-api-key`.
    MissingApiKey, "missing_api_key", UNAUTHORIZED, "Missing API key";
    /// A key nobody has.
    InvalidApiKey, "invalid_api_key", UNAUTHORIZED, "Invalid API key";
    /// The studio's subscription is neither active nor in trial.
    SubscriptionInactive, "subscription_inactive", UNAUTHORIZED, "Subscription inactive";
    /// The body cannot be read as what it should be.
    MalformedJson, "malformed_json", BAD_REQUEST, "Malformed JSON";
    /// A required field is not there.
    MissingField, "missing_field", BAD_REQUEST, "Missing required field";
    /// A field has the wrong type, form or size.
    InvalidField, "invalid_field", BAD_REQUEST, "Invalid field";
    /// `eventType` is none of the known ones.
    InvalidEventType, "invalid_event_type", BAD_REQUEST, "Invalid event type";
    /// No such route.
    NotFound, "not_found", NOT_FOUND, "Not found";
    /// No such game, or another studio's.
    UnknownGame, "unknown_game", NOT_FOUND, "Unknown game";
    /// The route exists for other methods.
    MethodNotAllowed, "method_not_allowed", METHOD_NOT_ALLOWED, "Method not allowed";
    /// The request did not arrive in time.
    Timeout, "timeout", REQUEST_TIMEOUT, "Timed out reading the request";
    /// The client went away before its request was complete; nobody sees this.
    ClientGone, "client_gone", REQUEST_TIMEOUT, "Request ended before it was complete";
    /// An event of that id is being accepted right now.
    InFlight, "in_flight", CONFLICT, "An event with this eventId is being processed";
    /// The body, or one thing in it, is larger than allowed.
    TooLarge, "too_large", PAYLOAD_TOO_LARGE, "Body too large";
    /// Not JSON, or an encoding other than gzip.
    UnsupportedMediaType, "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type";
    /// Too long ago, or too far ahead.
    TimestampOutOfRange, "timestamp_out_of_range", UNPROCESSABLE_ENTITY, "Timestamp out of range";
    /// The same eventId came with another body before.
    EventIdReused, "event_id_reused", UNPROCESSABLE_ENTITY, "This eventId was used for another event";
    /// The studio's limit.
    RateLimited, "rate_limited", TOO_MANY_REQUESTS, "Rate limit exceeded";
    /// The limit of one player.
    PlayerRateLimited, "player_rate_limited", TOO_MANY_REQUESTS, "Player rate limit exceeded";
    /// A fault of ours.
    Internal, "internal", INTERNAL_SERVER_ERROR, "Internal error";
    /// Something we need is away; trying again helps.
    Unavailable, "unavailable", SERVICE_UNAVAILABLE, "Service unavailable";
}

/// An error as a client sees it.
///
/// As a response it carries itself in the response's extensions, and [`crate::dress`] writes the
/// body, which holds the correlation id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    code: Code,
    sentence: Cow<'static, str>,
    event_id: Option<String>,
    retry_after: Option<u64>,
    cause: Option<Arc<str>>,
}

impl ApiError {
    /// An error that says its code's own sentence.
    pub const fn new(code: Code) -> Self {
        Self::saying(code, Cow::Borrowed(code.sentence()))
    }

    const fn saying(code: Code, sentence: Cow<'static, str>) -> Self {
        Self {
            code,
            sentence,
            event_id: None,
            retry_after: None,
            cause: None,
        }
    }

    /// An error with a sentence of its own. The sentence is shown to clients.
    pub fn with(code: Code, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::saying(code, sentence.into())
    }

    /// `Missing required field: …`
    pub fn missing_field(field: &str) -> Self {
        Self::with(
            Code::MissingField,
            format!("Missing required field: {field}"),
        )
    }

    /// `Invalid field …: must …`
    pub fn invalid_field(field: &str, why: impl std::fmt::Display) -> Self {
        Self::with(Code::InvalidField, format!("Invalid field {field}: {why}"))
    }

    /// The same, naming the event it is about, so that a retry can name it.
    #[must_use]
    pub fn about(mut self, event_id: impl Into<String>) -> Self {
        self.event_id = Some(event_id.into());
        self
    }

    /// The same, saying when to try again: whole seconds, at least one.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(whole_seconds(wait));
        self
    }

    /// The same with what is behind it, for our log: clients do not see it.
    #[must_use]
    pub fn because(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string().into());
        self
    }

    /// The stable code.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// What went wrong, for a person.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    /// The event it is about.
    pub fn event_id(&self) -> Option<&str> {
        self.event_id.as_deref()
    }

    /// `Retry-After`, in seconds.
    pub const fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after
    }

    /// What is behind it.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The body a client sees.
    pub fn body(&self, correlation: &CorrelationId) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            error: &'a str,
            code: &'static str,
            correlation_id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            event_id: Option<&'a str>,
        }
        let body = Body {
            error: &self.sentence,
            code: self.code.as_str(),
            correlation_id: correlation.as_str(),
            event_id: self.event_id.as_deref(),
        };
        // Strings always serialize.
        serde_json::to_string(&body).unwrap_or_default()
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.sentence)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("ApiKey"));
        }
        if self.code.status() == StatusCode::REQUEST_TIMEOUT {
            // The rest of the request may still come, and is no other request.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// A wait in whole seconds, rounded up, at least one: what `Retry-After` holds.
pub fn whole_seconds(wait: Duration) -> u64 {
    let up = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(up).max(1)
}

/// The body of an error that is answered outside any router, such as 408 for a slow head.
pub fn standalone_body(code: Code) -> String {
    let correlation = CorrelationId::make();
    tracing::info!(
        correlation.id = correlation.as_str(),
        http.status = code.status().as_u16(),
        error.code = code.as_str(),
        "request refused"
    );
    ApiError::new(code).body(&correlation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_all_are_errors() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        for (place, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, place);
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
    }

    #[test]
    fn the_body_has_the_documented_form() {
        let correlation = CorrelationId::parse("c-1").unwrap();
        let error = ApiError::new(Code::MissingApiKey);
        assert_eq!(
            error.body(&correlation),
            r#"{"error":"Missing API key","code":"missing_api_key","correlationId":"c-1"}"#
        );
        let error = ApiError::new(Code::InFlight).about("evt_1");
        assert!(error.body(&correlation).ends_with(r#","eventId":"evt_1"}"#));
    }

    #[test]
    fn waits_are_whole_seconds_and_never_none() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
        let answer = ApiError::new(Code::Unavailable)
            .retry_after(Duration::from_secs(2))
            .into_response();
        assert_eq!(answer.headers()[RETRY_AFTER], "2");
    }
}
