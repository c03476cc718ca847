//! Takes apart what a request says before its events: key, forms, encodings, and the body itself.

use std::io;
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
use crate::memory::Held;

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

/// The header that names a single event.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

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
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
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
/// (413), within `patience` (408), as far as there is memory (503); `held` then holds what the
/// bytes take up.
pub async fn read(
    headers: &HeaderMap,
    mut body: Body,
    shape: &Shape,
    patience: Duration,
    held: &mut Held,
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
            discard_unread(headers, body).await;
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
                    let more = if wire.len() + data.len() > shape.wire {
                        Err(too_large(shape.wire))
                    } else {
                        // As it comes, so that announcing a body takes nothing from others.
                        held.grow(data.len())
                    };
                    if let Err(error) = more {
                        held.shrink_to(0);
                        drop(wire);
                        discard(body).await;
                        return Err(error);
                    }
                    wire.extend_from_slice(&data);
                }
            }
            Some(Err(error)) => return Err(broken_off(&error)),
        }
    }
    let wire = wire.freeze();
    if !gzip {
        return Ok((wire, form));
    }
    let limit = shape.unpacked;
    held.grow(limit)?;
    let unpacked = if wire.len() <= MAX_EVENT_BYTES && limit <= MAX_EVENT_BYTES {
        gunzip(&wire, limit)
    } else {
        // Milliseconds of work: not on a thread that serves other requests.
        tokio::task::spawn_blocking(move || gunzip(&wire, limit))
            .await
            .map_err(|_| ApiError::new(Code::Internal))?
    };
    let unpacked = unpacked?;
    held.shrink_to(unpacked.len());
    Ok((unpacked.into(), form))
}

/// Why a body ends in the middle: its client went away, or it breaks the rules of HTTP.
fn broken_off(error: &axum::Error) -> ApiError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref().map(io::Error::kind);
        if let Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) = kind {
            return ApiError::with(Code::MalformedJson, "Body is not sent as HTTP demands");
        }
        cause = error.source();
    }
    ApiError::new(Code::ClientGone).because(error)
}

/// As [`discard`], of a body that nobody has begun to read.
pub async fn discard_unread(headers: &HeaderMap, body: Body) {
    // Who asks first whether to send the body has not sent it.
    if !headers.contains_key(EXPECT) {
        discard(body).await;
    }
}

/// Reads what is left of a body and forgets it, within bounds: closing a connection that still
/// receives makes clients lose the answer.
async fn discard(mut body: Body) {
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::StreamExt;
    use http::HeaderValue;

    use super::*;
    use crate::memory::Memory;

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
        let mut held = Memory::of(1).hold();
        let read = read(&headers, body, &ONE, Duration::from_secs(15), &mut held);
        assert_eq!(read.await.unwrap_err().code(), Code::Timeout);
    }

    #[tokio::test]
    async fn a_body_is_bounded_whether_it_says_its_length_or_not() {
        let memory = Memory::of(1024 * 1024);
        let reading = async |headers: &HeaderMap, body: Body| {
            let mut held = memory.hold();
            let read = read(headers, body, &ONE, Duration::from_secs(15), &mut held).await;
            (read, memory.left())
        };
        let exactly = vec![b' '; ONE.wire];
        let (taken, left) = reading(&HeaderMap::new(), Body::from(exactly)).await;
        assert_eq!(taken.unwrap().0.len(), ONE.wire);
        assert_eq!(left, 1024 * 1024 - ONE.wire);
        let more = vec![b' '; ONE.wire + 1];
        let (error, _) = reading(&HeaderMap::new(), Body::from(more)).await;
        assert_eq!(error.unwrap_err().code(), Code::TooLarge);
        let announced = headers("content-length", "65537");
        let (error, _) = reading(&announced, Body::empty()).await;
        assert_eq!(error.unwrap_err().code(), Code::TooLarge);
        assert_eq!(memory.left(), 1024 * 1024);
    }

    /// A body that is sent in two parts, the second when it is asked for.
    fn in_parts(size: usize, asked: &Arc<AtomicBool>) -> Body {
        let asked = Arc::clone(asked);
        let first = futures::stream::iter([Ok::<_, io::Error>(vec![b' '; size])]);
        let rest = futures::stream::once(async move {
            asked.store(true, Ordering::SeqCst);
            Ok(vec![b' '; 10])
        });
        Body::from_stream(first.chain(rest))
    }

    #[tokio::test]
    async fn what_is_left_of_a_refused_body_is_read_unless_it_was_never_sent() {
        let (expects, asked) = (headers("expect", "100-continue"), Arc::default());
        let patience = Duration::from_secs(15);
        // It has begun, so its client was told to go on.
        let mut held = Memory::of(1024 * 1024).hold();
        let body = in_parts(ONE.wire + 1, &asked);
        let error = read(&expects, body, &ONE, patience, &mut held).await;
        assert_eq!(error.unwrap_err().code(), Code::TooLarge);
        assert!(asked.swap(false, Ordering::SeqCst));
        // No memory for it: the same.
        let mut held = Memory::of(10).hold();
        let error = read(&expects, in_parts(11, &asked), &ONE, patience, &mut held).await;
        assert_eq!(error.unwrap_err().code(), Code::Unavailable);
        assert!(asked.swap(false, Ordering::SeqCst));
        discard_unread(&expects, in_parts(1, &asked)).await;
        assert!(!asked.load(Ordering::SeqCst));
        discard_unread(&HeaderMap::new(), in_parts(1, &asked)).await;
        assert!(asked.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_its_clients_going_or_its_clients_fault() {
        for (kind, code) in [
            (io::ErrorKind::UnexpectedEof, Code::ClientGone),
            (io::ErrorKind::ConnectionReset, Code::ClientGone),
            (io::ErrorKind::InvalidInput, Code::MalformedJson),
        ] {
            let broken = futures::stream::iter([Ok("{".to_owned()), Err(io::Error::from(kind))]);
            let (body, mut held) = (Body::from_stream(broken), Memory::of(10).hold());
            let patience = Duration::from_secs(15);
            let read = read(&HeaderMap::new(), body, &ONE, patience, &mut held).await;
            assert_eq!(read.unwrap_err().code(), code, "{kind:?}");
        }
    }
}
