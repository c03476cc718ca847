//! Takes apart what a request says before its events: key, forms, encodings, and the body itself.

use std::time::Duration;

use axum::body::Body;
use bm_contracts::EventId;
use bm_web::{ApiError, Code};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::body::MAX_EVENT_BYTES;
use crate::envelope::Form;
use crate::inflate::{gunzip, too_large};

/// What a route takes.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes as they come over the wire, at most.
    pub wire: usize,
    /// Bytes after unpacking, at most.
    pub unpacked: usize,
    /// Whether NDJSON is taken beside JSON.
    pub ndjson: bool,
}

/// A single event.
pub const ONE: Shape = Shape {
    wire: MAX_EVENT_BYTES,
    unpacked: MAX_EVENT_BYTES,
    ndjson: false,
};

/// A batch of events.
pub const MANY: Shape = Shape {
    wire: 1024 * 1024,
    unpacked: 5 * 1024 * 1024,
    ndjson: true,
};

/// A refused body is read on so far, so that a client that is still writing gets to see its answer.
const DISCARD_BYTES: usize = 4 * 1024 * 1024;
/// … and so long.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// The key of a request.
pub fn api_key(headers: &HeaderMap) -> Result<&str, ApiError> {
    let key = headers.get("x-api-key").map(|value| value.to_str());
    match key {
        None | Some(Ok("")) => Err(ApiError::new(Code::MissingApiKey)),
        Some(Ok(key)) => Ok(key),
        Some(Err(_)) => Err(ApiError::new(Code::InvalidApiKey)),
    }
}

/// The event's id from the header `Idempotency-Key`: as it stands, or in double quotes as the IETF
/// draft has it.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<EventId>, ApiError> {
    let invalid = |why: &dyn std::fmt::Display| ApiError::invalid_field("Idempotency-Key", why);
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| invalid(&"must be UTF-8"))?;
    let bare = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    EventId::new(bare).map(Some).map_err(|why| invalid(&why))
}

/// Reads a request's body: its content type and encoding (415), its size on the wire and unpacked
/// (413), within `patience` (408).
pub async fn read(
    headers: &HeaderMap,
    mut body: Body,
    shape: &Shape,
    patience: Duration,
) -> Result<(Bytes, Form), ApiError> {
    let described = form(headers, shape).and_then(|form| {
        let gzip = is_gzip(headers)?;
        match announced(headers) {
            Some(length) if length > shape.wire as u64 => Err(too_large(shape.wire)),
            _ => Ok((form, gzip)),
        }
    });
    let (form, gzip) = match described {
        Ok(described) => described,
        Err(error) => {
            discard(headers, body).await;
            return Err(error);
        }
    };
    let deadline = Instant::now() + patience;
    let mut wire = BytesMut::new();
    loop {
        let frame = tokio::time::timeout_at(deadline, body.frame())
            .await
            .map_err(|_| ApiError::new(Code::Timeout))?;
        match frame {
            None => break,
            Some(Ok(frame)) => {
                // Trailers say nothing to us.
                if let Ok(data) = frame.into_data() {
                    if wire.len() + data.len() > shape.wire {
                        discard(headers, body).await;
                        return Err(too_large(shape.wire));
                    }
                    wire.extend_from_slice(&data);
                }
            }
            Some(Err(_)) => {
                let sentence = "Body ended before it was complete";
                return Err(ApiError::with(Code::MalformedJson, sentence));
            }
        }
    }
    let wire = wire.freeze();
    if !gzip {
        return Ok((wire, form));
    }
    let limit = shape.unpacked;
    let unpacked = if wire.len() <= MAX_EVENT_BYTES && limit <= MAX_EVENT_BYTES {
        gunzip(&wire, limit)
    } else {
        // Milliseconds of work: not on a thread that serves other requests.
        tokio::task::spawn_blocking(move || gunzip(&wire, limit))
            .await
            .map_err(|_| ApiError::new(Code::Internal))?
    };
    Ok((unpacked?.into(), form))
}

/// Reads what is left of a body and forgets it, within bounds: closing a connection that still
/// receives makes clients lose the answer.
pub async fn discard(headers: &HeaderMap, mut body: Body) {
    // Who asks first whether to send the body has not sent it.
    if headers.contains_key(EXPECT) {
        return;
    }
    let mut left = DISCARD_BYTES;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            if length > left {
                return;
            }
            left -= length;
        }
    };
    // However far it came, the answer is the same.
    let _enough = tokio::time::timeout(DISCARD_TIME, reading).await;
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn unsupported(sentence: &'static str) -> ApiError {
    ApiError::with(Code::UnsupportedMediaType, sentence)
}

fn form(headers: &HeaderMap, shape: &Shape) -> Result<Form, ApiError> {
    let error = || {
        unsupported(if shape.ndjson {
            "Content-Type must be application/json or application/x-ndjson, in UTF-8"
        } else {
            "Content-Type must be application/json, in UTF-8"
        })
    };
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(Form::Json);
    };
    let value = value.to_str().map_err(|_| error())?;
    let mut parts = value.split(';').map(str::trim);
    let form = match parts.next().map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "application/json") => Form::Json,
        Some("application/x-ndjson") if shape.ndjson => Form::Ndjson,
        Some(_) => return Err(error()),
    };
    for parameter in parts {
        if let Some((name, charset)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("charset")
        {
            let charset = charset.trim().trim_matches('"');
            let ours = ["utf-8", "utf8", "us-ascii"];
            if !ours.iter().any(|one| charset.eq_ignore_ascii_case(one)) {
                return Err(error());
            }
        }
    }
    Ok(form)
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, ApiError> {
    let error = || unsupported("Content-Encoding must be gzip or identity");
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = encodings.next() else {
        return Ok(false);
    };
    if encodings.next().is_some() {
        return Err(error());
    }
    let value = value.to_str().map_err(|_| error())?.trim();
    if value.is_empty() || value.eq_ignore_ascii_case("identity") {
        Ok(false)
    } else if value.eq_ignore_ascii_case("gzip") || value.eq_ignore_ascii_case("x-gzip") {
        Ok(true)
    } else {
        Err(error())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        headers
    }

    #[test]
    fn json_and_no_type_at_all_are_taken() {
        for good in ["application/json", "Application/JSON; charset=UTF-8", ""] {
            assert_eq!(
                form(&headers("content-type", good), &ONE).unwrap(),
                Form::Json
            );
        }
        assert_eq!(form(&HeaderMap::new(), &ONE).unwrap(), Form::Json);
        let ndjson = headers("content-type", "application/x-ndjson; charset=utf-8");
        assert_eq!(form(&ndjson, &MANY).unwrap(), Form::Ndjson);
        assert!(form(&ndjson, &ONE).is_err());
        for bad in [
            "text/plain",
            "application/jsonx",
            "application/json; charset=utf-16",
            "é",
        ] {
            assert!(form(&headers("content-type", bad), &MANY).is_err(), "{bad}");
        }
    }

    #[test]
    fn gzip_and_identity_are_the_encodings() {
        for (value, gzip) in [
            ("gzip", true),
            ("X-GZIP", true),
            ("identity", false),
            ("", false),
        ] {
            assert_eq!(is_gzip(&headers("content-encoding", value)).unwrap(), gzip);
        }
        for bad in ["br", "gzip, gzip", "deflate"] {
            assert!(is_gzip(&headers("content-encoding", bad)).is_err(), "{bad}");
        }
        let mut twice = headers("content-encoding", "gzip");
        twice.append("content-encoding", HeaderValue::from_static("gzip"));
        assert!(is_gzip(&twice).is_err());
    }

    #[test]
    fn an_idempotency_key_is_an_event_id_with_or_without_quotes() {
        let read = |value| idempotency_key(&headers("idempotency-key", value));
        for value in ["evt-1", "\"evt-1\""] {
            assert_eq!(read(value).unwrap().unwrap().as_str(), "evt-1");
        }
        assert_eq!(read("é").unwrap().unwrap().as_str(), "é");
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
        for bad in ["", "\"\"", "a:b", "!a"] {
            assert_eq!(read(bad).unwrap_err().code(), Code::InvalidField, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_408() {
        let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let (headers, body) = (HeaderMap::new(), Body::from_stream(never));
        let read = read(&headers, body, &ONE, Duration::from_secs(15));
        assert_eq!(read.await.unwrap_err().code(), Code::Timeout);
    }

    #[tokio::test]
    async fn a_body_is_bounded_whether_it_says_its_length_or_not() {
        let patience = Duration::from_secs(15);
        let exactly = vec![b' '; ONE.wire];
        let (taken, _) = read(&HeaderMap::new(), Body::from(exactly), &ONE, patience)
            .await
            .unwrap();
        assert_eq!(taken.len(), ONE.wire);
        let more = vec![b' '; ONE.wire + 1];
        let error = read(&HeaderMap::new(), Body::from(more), &ONE, patience).await;
        assert_eq!(error.unwrap_err().code(), Code::TooLarge);
        let announced = headers("content-length", "65537");
        let error = read(&announced, Body::empty(), &ONE, patience).await;
        assert_eq!(error.unwrap_err().code(), Code::TooLarge);
    }
}
