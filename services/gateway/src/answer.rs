//! What is answered to events that could be read.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bm_contracts::{EventId, Timestamp};
use bm_web::{ApiError, Code};
use http::HeaderValue;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use serde::Serialize;

/// An event that is durably in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InLog {
    /// It was there before this request.
    pub duplicate: bool,
    /// When the broker appended it the first time.
    pub at: Timestamp,
}

impl InLog {
    /// `accepted` or `duplicate`.
    pub const fn status(self) -> Status {
        if self.duplicate {
            Status::Duplicate
        } else {
            Status::Accepted
        }
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is in the log.
    Accepted,
    /// It was in the log already.
    Duplicate,
    /// It will never be accepted as it is.
    Rejected,
    /// It may be accepted if sent again under the same eventId.
    Retry,
}

impl Status {
    /// What an error means for the event it is about.
    pub const fn of(code: Code) -> Self {
        match code {
            Code::InFlight
            | Code::RateLimited
            | Code::PlayerRateLimited
            | Code::Timeout
            | Code::ClientGone
            | Code::Unavailable
            | Code::Internal => Self::Retry,
            _ => Self::Rejected,
        }
    }
}

/// The answer to a single event in the log: 200 `{"eventId","status","timestamp"}`.
pub fn one(event_id: &EventId, in_log: InLog) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct One<'a> {
        event_id: &'a EventId,
        status: Status,
        timestamp: Timestamp,
    }
    json(&One {
        event_id,
        status: in_log.status(),
        timestamp: in_log.at,
    })
}

/// An answer with room for the headers that the layers around us add.
fn json(answer: &impl Serialize) -> Response {
    const HEADERS: usize = 10;
    let Ok(body) = serde_json::to_vec(answer) else {
        return ApiError::new(Code::Internal).into_response();
    };
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What became of one event of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<EventId>,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

/// The answer to a batch, in the order of its events.
#[derive(Debug, Default, Serialize)]
pub struct Many {
    results: Vec<Item>,
    accepted: usize,
    duplicate: usize,
    rejected: usize,
    retry: usize,
    #[serde(skip)]
    retry_after: u64,
}

impl Many {
    /// Adds what became of the next event.
    pub fn push(&mut self, event_id: Option<&EventId>, outcome: &Result<InLog, ApiError>) {
        let status = match outcome {
            Ok(in_log) => in_log.status(),
            Err(error) => Status::of(error.code()),
        };
        *match status {
            Status::Accepted => &mut self.accepted,
            Status::Duplicate => &mut self.duplicate,
            Status::Rejected => &mut self.rejected,
            Status::Retry => &mut self.retry,
        } += 1;
        let error = outcome.as_ref().err();
        if status == Status::Retry {
            let wait = error.and_then(ApiError::retry_after_seconds).unwrap_or(1);
            self.retry_after = self.retry_after.max(wait);
        }
        self.results.push(Item {
            index: self.results.len(),
            event_id: event_id.cloned(),
            status,
            error: error.map(|error| error.sentence().to_owned()),
            code: error.map(|error| error.code().as_str()),
        });
    }
}

impl IntoResponse for Many {
    fn into_response(self) -> Response {
        let retry_after = (self.retry > 0).then_some(self.retry_after);
        let mut response = json(&self);
        if let Some(seconds) = retry_after {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::to_bytes;

    use super::*;

    async fn text(response: Response) -> String {
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    fn in_log(duplicate: bool) -> InLog {
        let at = Timestamp::clamped(1);
        InLog { duplicate, at }
    }

    #[tokio::test]
    async fn one_event_is_answered_in_the_documented_form() {
        let id = EventId::new("e").unwrap();
        assert_eq!(
            text(one(&id, in_log(false))).await,
            r#"{"eventId":"e","status":"accepted","timestamp":"1970-01-01T00:00:00.001Z"}"#
        );
        assert!(
            text(one(&id, in_log(true)))
                .await
                .contains(r#""status":"duplicate""#)
        );
    }

    #[tokio::test]
    async fn a_batch_is_answered_item_by_item_and_waits_for_the_slowest() {
        let id = EventId::new("e").unwrap();
        let mut many = Many::default();
        many.push(Some(&id), &Ok(in_log(false)));
        many.push(Some(&id), &Ok(in_log(true)));
        many.push(None, &Err(ApiError::new(Code::MalformedJson)));
        let wait = |code, secs| ApiError::new(code).retry_after(Duration::from_secs(secs));
        many.push(Some(&id), &Err(wait(Code::RateLimited, 7)));
        many.push(Some(&id), &Err(wait(Code::Unavailable, 2)));
        let response = many.into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "7");
        assert_eq!(
            text(response).await,
            concat!(
                r#"{"results":[{"index":0,"eventId":"e","status":"accepted"},"#,
                r#"{"index":1,"eventId":"e","status":"duplicate"},"#,
                r#"{"index":2,"status":"rejected","error":"Malformed JSON","code":"malformed_json"},"#,
                r#"{"index":3,"eventId":"e","status":"retry","error":"Rate limit exceeded","code":"rate_limited"},"#,
                r#"{"index":4,"eventId":"e","status":"retry","error":"Service unavailable","code":"unavailable"}],"#,
                r#""accepted":1,"duplicate":1,"rejected":1,"retry":2}"#
            )
        );
    }

    #[tokio::test]
    async fn a_batch_with_nothing_to_retry_says_no_time() {
        let mut many = Many::default();
        many.push(None, &Ok(in_log(false)));
        assert!(!many.into_response().headers().contains_key(RETRY_AFTER));
    }
}
