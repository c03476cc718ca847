//! Takes a batch apart into its events' bytes, without building anything of them.

use std::fmt;

use bm_web::{ApiError, Code};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::body::MAX_EVENT_BYTES;

/// The most events one batch may hold.
pub const MAX_EVENTS: usize = 500;

/// How a body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Ndjson,
}

/// The events of a batch in their order, 1 to 500: the elements of an array or of
/// `{"events":[…]}`, or the lines of NDJSON that are not blank.
///
/// An event may still be anything; of NDJSON not even its JSON is checked. The parts share the body's
/// memory.
pub async fn split(body: Bytes, form: Form) -> Result<Vec<Bytes>, ApiError> {
    let small = body.len() <= MAX_EVENT_BYTES;
    let splitting = move || {
        let parts = parts(&body, form)?;
        Ok(parts.into_iter().map(|part| body.slice_ref(part)).collect())
    };
    if small {
        return splitting();
    }
    // Milliseconds of work: not on a thread that serves other requests.
    tokio::task::spawn_blocking(splitting)
        .await
        .map_err(|_| ApiError::new(Code::Internal))?
}

fn parts(body: &[u8], form: Form) -> Result<Vec<&[u8]>, ApiError> {
    let events = match form {
        Form::Ndjson => lines(body)?,
        Form::Json => values(body)?,
    };
    if events.is_empty() {
        let sentence = "Batch must hold at least one event";
        return Err(ApiError::with(Code::InvalidField, sentence));
    }
    Ok(events)
}

fn too_many() -> ApiError {
    let sentence = format!("Batch must hold at most {MAX_EVENTS} events");
    ApiError::with(Code::TooLarge, sentence)
}

fn lines(body: &[u8]) -> Result<Vec<&[u8]>, ApiError> {
    let mut events = Vec::new();
    for line in body.split(|&byte| byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if events.len() == MAX_EVENTS {
            return Err(too_many());
        }
        events.push(line);
    }
    Ok(events)
}

fn values(body: &[u8]) -> Result<Vec<&[u8]>, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| ApiError::with(Code::MalformedJson, "Malformed JSON: body is not UTF-8"))?;
    let mut json = serde_json::Deserializer::from_str(text);
    // Asking for either kind by name: left to itself our library shows numbers as objects.
    let read = if text.trim_start().starts_with('[') {
        json.deserialize_seq(EventsVisitor).map(Some)
    } else {
        json.deserialize_map(EnvelopeVisitor)
    };
    match read.and_then(|events| json.end().map(|()| events)) {
        Ok(Some(events)) => Ok(events),
        // Counting stops at the limit, and what follows is not read.
        Err(error) if error.to_string().starts_with(TOO_MANY) => Err(too_many()),
        Ok(None) => Err(ApiError::missing_field("events")),
        Err(error) => Err(crate::body::malformed(&error)),
    }
}

const TOO_MANY: &str = "too many events in the batch";

/// Finds `events` in an object.
struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Option<Vec<&'de [u8]>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events or an object with the field `events`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut events = None;
        while let Some(name) = map.next_key::<String>()? {
            if name != "events" {
                map.next_value::<IgnoredAny>()?;
            } else if events.is_some() {
                return Err(A::Error::custom("duplicate field `events`"));
            } else {
                events = Some(map.next_value_seed(EventsVisitor)?);
            }
        }
        Ok(events)
    }
}

struct EventsVisitor;

impl<'de> DeserializeSeed<'de> for EventsVisitor {
    type Value = Vec<&'de [u8]>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EventsVisitor {
    type Value = Vec<&'de [u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while let Some(event) = seq.next_element::<&'de RawValue>()? {
            if events.len() == MAX_EVENTS {
                return Err(A::Error::custom(TOO_MANY));
            }
            events.push(event.get().as_bytes());
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(body: &str) -> Result<Vec<&str>, Code> {
        texts(parts(body.as_bytes(), Form::Json))
    }

    fn ndjson(body: &str) -> Result<Vec<&str>, Code> {
        texts(parts(body.as_bytes(), Form::Ndjson))
    }

    fn texts(split: Result<Vec<&[u8]>, ApiError>) -> Result<Vec<&str>, Code> {
        let events = split.map_err(|error| error.code())?;
        let texts = events.into_iter().map(std::str::from_utf8);
        Ok(texts.map(Result::unwrap).collect())
    }

    #[test]
    fn an_array_and_an_object_with_events_are_split_alike() {
        let expected = vec![r#"{"a": 1}"#, "2", "[{}]"];
        assert_eq!(json(r#" [{"a": 1} , 2,[{}]] "#).unwrap(), expected);
        assert_eq!(
            json(r#"{"sdk":{"v":[1]},"events":[{"a": 1},2,[{}]],"x":1.5}"#).unwrap(),
            expected
        );
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bad in [
            "",
            "[",
            "[1,]",
            "[1] x",
            "1",
            "\"a\"",
            "null",
            r#"{"events":{}}"#,
            r#"{"events":1}"#,
            r#"{"events":[],"events":[]}"#,
            r#"{"events":[1]"#,
        ] {
            assert_eq!(json(bad), Err(Code::MalformedJson), "{bad}");
        }
        assert_eq!(json(r#"{"eventType":"custom"}"#), Err(Code::MissingField));
        let not_utf8 = parts(b"[\"\xff\"]", Form::Json);
        assert_eq!(not_utf8.unwrap_err().code(), Code::MalformedJson);
    }

    #[tokio::test]
    async fn a_large_body_is_split_as_a_small_one_is_and_without_copying() {
        for length in [10, MAX_EVENT_BYTES] {
            let text = format!("[1, \"{}\"]", "x".repeat(length));
            let body = Bytes::from(text);
            let events = split(body.clone(), Form::Json).await.unwrap();
            assert_eq!(events[0], "1");
            assert_eq!(events[1], body[4..body.len() - 1]);
            assert_eq!(events[1].as_ptr(), body[4..].as_ptr());
        }
    }

    #[test]
    fn lines_are_split_and_blank_ones_do_not_count() {
        assert_eq!(
            ndjson("{\"a\":1}\r\n\n  \nbroken\n{\"b\":2}").unwrap(),
            ["{\"a\":1}", "broken", "{\"b\":2}"]
        );
    }

    #[test]
    fn a_batch_holds_1_to_500_events() {
        for empty in ["[]", r#"{"events":[]}"#] {
            assert_eq!(json(empty), Err(Code::InvalidField));
        }
        assert_eq!(ndjson("\n \n"), Err(Code::InvalidField));
        let array = |n: usize| format!("[{}]", vec!["1"; n].join(","));
        assert_eq!(json(&array(500)).unwrap().len(), 500);
        assert_eq!(json(&array(501)), Err(Code::TooLarge));
        assert_eq!(ndjson(&"1\n".repeat(500)).unwrap().len(), 500);
        assert_eq!(ndjson(&"1\n".repeat(501)), Err(Code::TooLarge));
    }
}
