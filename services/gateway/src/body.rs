//! Reads one event strictly: what is taken here, every service behind the gateway can read and store.

use std::borrow::Cow;

use bm_contracts::event::{EVENT_NAME_MAX_CHARS, EventRef, timestamp};
use bm_contracts::fields::{EventFields, string};
use bm_contracts::ids::IdError;
use bm_contracts::time::TimestampError;
use bm_contracts::{EventId, EventType, GameId, StudioId, Timestamp, UserId};
use bm_web::{ApiError, Code};

use crate::json::{self, FaultKind};

/// The largest event, in bytes.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;
/// The largest `metadata`, in bytes as sent.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;
/// How deeply the value of a field may nest objects and arrays.
pub const MAX_DEPTH: usize = 16;

/// The longest piece of a client's own text that an error repeats.
const MAX_ECHO_CHARS: usize = 100;

/// An event's bytes, known to be a JSON object that everything behind the gateway can read and store.
#[derive(Debug, Default)]
pub struct Parsed<'a> {
    event_type: Option<&'a str>,
    event_name: Option<&'a str>,
    user_id: Option<&'a str>,
    game_id: Option<&'a str>,
    timestamp: Option<&'a str>,
    event_id: Option<&'a str>,
    metadata: Option<&'a str>,
    extra: Vec<(Cow<'a, str>, &'a str)>,
}

/// What a client says in an event, checked; ids are well-formed, everything else fits.
#[derive(Debug)]
pub struct Checked<'a> {
    event_type: EventType,
    event_name: Option<Cow<'a, str>>,
    /// The player.
    pub user_id: UserId,
    /// The game; whose it is, is not known here.
    pub game_id: GameId,
    /// The event's own time, not yet held against the clock.
    pub timestamp: Timestamp,
    /// The event's id, where the client named it.
    pub event_id: Option<EventId>,
    metadata: Option<&'a str>,
    extra: Vec<(Cow<'a, str>, &'a str)>,
}

/// Finds out whether `bytes` are a JSON object, strictly read, and splits it into its fields (400
/// `malformed_json`, or `invalid_field` for what JSON allows and we cannot store).
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, ApiError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| ApiError::with(Code::MalformedJson, "Malformed JSON: body is not UTF-8"))?;
    // The event itself is one level.
    let fields = json::check(text, MAX_DEPTH + 1);
    let is_object = text.trim_ascii_start().starts_with('{');
    if fields.is_err() || !is_object {
        // Our library says better what is wrong, if it says so at all.
        EventFields::parse(bytes).map_err(|error| malformed(&error))?;
    }
    let mut parsed = Parsed::default();
    for (name, json) in fields.map_err(refused)? {
        match name.as_ref() {
            "eventType" => parsed.event_type = Some(json),
            "eventName" => parsed.event_name = Some(json),
            "userId" => parsed.user_id = Some(json),
            "gameId" => parsed.game_id = Some(json),
            "timestamp" => parsed.timestamp = Some(json),
            "eventId" => parsed.event_id = Some(json),
            "metadata" => parsed.metadata = Some(json),
            // Ours to say.
            "studioId" | "studioTier" | "ingestedAt" | "partitionKey" => {}
            _ => parsed.extra.push((name, json)),
        }
    }
    Ok(parsed)
}

/// `malformed_json` with what our library says about it.
pub(crate) fn malformed(why: &impl std::fmt::Display) -> ApiError {
    let why = echo(&why.to_string()).into_owned();
    ApiError::with(Code::MalformedJson, format!("Malformed JSON: {why}"))
}

impl<'a> Parsed<'a> {
    /// The event's id, if there is a well-formed one: what an error names.
    pub fn event_id(&self) -> Option<EventId> {
        EventId::new(string(self.event_id?)?).ok()
    }

    /// Checks everything that needs neither a clock nor a database (400). `null` counts as absent.
    ///
    /// `header_id` is the event's id from outside the body, which must not contradict it.
    pub fn check(self, header_id: Option<EventId>) -> Result<Checked<'a>, ApiError> {
        let given = |json: Option<&'a str>| json.filter(|json| *json != "null");
        let required = |name: &str, json: Option<&'a str>| {
            given(json).ok_or_else(|| ApiError::missing_field(name))
        };
        let event_type = required("eventType", self.event_type)?;
        let user_id = required("userId", self.user_id)?;
        let game_id = required("gameId", self.game_id)?;
        let time = required("timestamp", self.timestamp)?;

        let event_type = text("eventType", event_type)?;
        let event_type = EventType::parse(&event_type).ok_or_else(|| {
            let sentence = format!("Invalid event type: {}", echo(&event_type));
            ApiError::with(Code::InvalidEventType, sentence)
        })?;
        let user_id = UserId::new(text("userId", user_id)?).map_err(bad_id("userId"))?;
        let game_id = GameId::new(text("gameId", game_id)?).map_err(bad_id("gameId"))?;
        let timestamp =
            timestamp(time).ok_or_else(|| ApiError::invalid_field("timestamp", TimestampError))?;
        let event_name = given(self.event_name).map(event_name).transpose()?;
        let body_id = match given(self.event_id) {
            None => None,
            Some(raw) => Some(EventId::new(text("eventId", raw)?).map_err(bad_id("eventId"))?),
        };
        let event_id = match (body_id, header_id) {
            (Some(body), Some(header)) if body != header => {
                let why = "must be the same as the header Idempotency-Key";
                return Err(ApiError::invalid_field("eventId", why));
            }
            (body, header) => body.or(header),
        };
        let metadata = given(self.metadata);
        if let Some(json) = metadata {
            if !json.starts_with('{') {
                return Err(ApiError::invalid_field("metadata", "must be an object"));
            }
            if json.len() > MAX_METADATA_BYTES {
                let why = format!("must be at most {} KiB", MAX_METADATA_BYTES / 1024);
                return Err(ApiError::invalid_field("metadata", why));
            }
        }
        Ok(Checked {
            event_type,
            event_name,
            user_id,
            game_id,
            timestamp,
            event_id,
            metadata,
            extra: self.extra,
        })
    }
}

impl Checked<'_> {
    /// The event as the bus carries it. `studioId`, `studioTier`, `ingestedAt` and `partitionKey`
    /// of the client are gone; the time of ingestion is the broker's to say.
    pub fn event<'a>(
        &'a self,
        studio_id: &'a StudioId,
        studio_tier: &'a str,
        event_id: &'a EventId,
    ) -> EventRef<'a> {
        EventRef {
            event_type: self.event_type,
            event_name: self.event_name.as_deref(),
            user_id: &self.user_id,
            game_id: &self.game_id,
            timestamp: self.timestamp,
            event_id,
            studio_id,
            studio_tier,
            ingested_at: None,
            metadata: self.metadata,
            extra: self
                .extra
                .iter()
                .map(|(name, json)| (name.as_ref(), *json))
                .collect(),
        }
    }
}

fn text<'a>(field: &str, json: &'a str) -> Result<Cow<'a, str>, ApiError> {
    string(json).ok_or_else(|| ApiError::invalid_field(field, "must be a string"))
}

fn bad_id(field: &str) -> impl Fn(IdError) -> ApiError {
    move |why| ApiError::invalid_field(field, why)
}

fn event_name(json: &str) -> Result<Cow<'_, str>, ApiError> {
    let name = text("eventName", json)?;
    let why = if name.is_empty() {
        IdError::Empty
    } else if name.len() > EVENT_NAME_MAX_CHARS && name.chars().count() > EVENT_NAME_MAX_CHARS {
        IdError::TooLong(EVENT_NAME_MAX_CHARS)
    } else if name.contains(char::is_control) {
        IdError::Control
    } else {
        return Ok(name);
    };
    Err(ApiError::invalid_field("eventName", why))
}

fn refused(fault: json::Fault) -> ApiError {
    let field = fault.field.as_deref().map_or("body".into(), echo);
    let invalid = |why: &str| ApiError::invalid_field(&field, why);
    match fault.kind {
        FaultKind::Syntax => ApiError::new(Code::MalformedJson),
        FaultKind::DuplicateKey(key) => {
            malformed(&format_args!("duplicate field `{}`", echo(&key)))
        }
        FaultKind::LoneSurrogate => malformed(&format_args!("lone surrogate in {field}")),
        FaultKind::Nul => invalid("must not contain NUL characters"),
        FaultKind::Number => {
            invalid("must not contain integers beyond 64 bits or numbers beyond a double")
        }
        FaultKind::TooDeep => invalid(&format!("must not be nested more than {MAX_DEPTH} deep")),
        FaultKind::ReservedKey => invalid("must not contain reserved names"),
    }
}

/// A client's text, cut short.
fn echo(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_ECHO_CHARS) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

#[cfg(test)]
mod tests {
    use bm_contracts::GameEvent;
    use bm_contracts::hash::body_hash;
    use serde_json::{Value, json};

    use super::*;

    fn event() -> Value {
        json!({"eventType": "custom", "userId": "u", "gameId": "g", "timestamp": 1_000})
    }

    fn read(body: &str) -> Result<GameEvent, ApiError> {
        read_as(body, None)
    }

    fn read_as(body: &str, header_id: Option<&str>) -> Result<GameEvent, ApiError> {
        let header_id = header_id.map(|id| EventId::new(id).unwrap());
        let checked = parse(body.as_bytes())?.check(header_id)?;
        let id = checked.event_id.clone();
        let id = id.unwrap_or_else(|| EventId::new("made").unwrap());
        let studio = StudioId::new("acme").unwrap();
        let (key, value) = checked.event(&studio, "pro", &id).to_record();
        let event = GameEvent::from_json(&value).unwrap();
        assert_eq!(event.to_record(), (key, value));
        assert_eq!(
            body_hash(&event.view()),
            body_hash(&checked.event(&studio, "pro", &id))
        );
        Ok(event)
    }

    fn with(field: &str, value: impl Into<Value>) -> String {
        let mut event = event();
        event[field] = value.into();
        event.to_string()
    }

    fn sentence(body: &str) -> (Code, String) {
        let error = read(body).unwrap_err();
        (error.code(), error.sentence().to_owned())
    }

    #[test]
    fn the_event_on_the_bus_is_the_clients_with_our_fields_and_reads_back() {
        let body = r#"{"studioId":"evil","studioTier":"enterprise","ingestedAt":1,"partitionKey":"x",
            "eventType":"enemy_killed","eventName":"boss","userId":"u","gameId":"g",
            "timestamp":"2026-01-02T05:04:05.678901+02:00","eventId":"e1",
            "metadata":{ "damage" : 12.50, "\u00e9":[1,{"x":null}] },"sessionId":"s-1","z":[1, 2]}"#;
        let event = read(body).unwrap();
        let bytes = event.to_json();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let expected: Value = serde_json::from_str(
            r#"{"eventType":"enemy_killed","eventName":"boss","userId":"u","gameId":"g",
            "timestamp":"2026-01-02T03:04:05.678Z","eventId":"e1","studioId":"acme","studioTier":"pro",
            "partitionKey":"g:u","metadata":{"damage":12.50,"é":[1,{"x":null}]},"sessionId":"s-1","z":[1,2]}"#,
        )
        .unwrap();
        assert_eq!(value, expected);
    }

    #[test]
    fn missing_fields_are_named_in_their_order() {
        let mut body = json!({});
        for (field, value) in [
            ("eventType", "custom"),
            ("userId", "u"),
            ("gameId", "g"),
            ("timestamp", ""),
        ] {
            let expected = format!("Missing required field: {field}");
            assert_eq!(
                sentence(&body.to_string()),
                (Code::MissingField, expected.clone())
            );
            assert_eq!(
                sentence(&with(field, Value::Null)),
                (Code::MissingField, expected)
            );
            body[field] = value.into();
        }
    }

    #[test]
    fn every_field_has_its_form() {
        assert_eq!(
            sentence(&with("eventType", "jump")),
            (
                Code::InvalidEventType,
                "Invalid event type: jump".to_owned()
            )
        );
        let long = "é".repeat(51);
        let cases: [(&str, Value, &str); 17] = [
            ("eventType", json!(1), "must be a string"),
            ("userId", json!(7), "must be a string"),
            ("userId", json!(""), "must not be empty"),
            ("userId", json!("a:b"), "must not contain ':'"),
            ("userId", json!("!a"), "must not begin with '!'"),
            (
                "gameId",
                json!("a\nb"),
                "must not contain control characters",
            ),
            (
                "gameId",
                json!("a\u{7f}"),
                "must not contain control characters",
            ),
            (
                "gameId",
                json!("x".repeat(101)),
                "must be at most 100 characters",
            ),
            (
                "userId",
                json!("x".repeat(256)),
                "must be at most 255 characters",
            ),
            ("eventId", json!(long), "must be at most 50 characters"),
            ("eventId", json!(5), "must be a string"),
            ("eventName", json!(long), "must be at most 50 characters"),
            ("eventName", json!(""), "must not be empty"),
            (
                "eventName",
                json!("a\tb"),
                "must not contain control characters",
            ),
            ("metadata", json!([1]), "must be an object"),
            ("metadata", json!("{}"), "must be an object"),
            (
                "metadata",
                json!({"x": "y".repeat(16_384)}),
                "must be at most 16 KiB",
            ),
        ];
        for (field, value, why) in cases {
            let expected = format!("Invalid field {field}: {why}");
            assert_eq!(
                sentence(&with(field, value)),
                (Code::InvalidField, expected)
            );
        }
        for time in [
            json!("yesterday"),
            json!(1.5),
            json!("2026-01-02"),
            json!(true),
            json!({}),
        ] {
            assert_eq!(sentence(&with("timestamp", time)).0, Code::InvalidField);
        }
    }

    #[test]
    fn lengths_are_in_characters_and_reach_their_limits() {
        for (field, chars) in [
            ("userId", 255),
            ("gameId", 100),
            ("eventId", 50),
            ("eventName", 50),
        ] {
            read(&with(field, "é".repeat(chars))).unwrap();
        }
        let metadata = json!({"x": "y".repeat(16_384 - 8)});
        assert_eq!(metadata.to_string().len(), 16_384);
        read(&with("metadata", metadata)).unwrap();
    }

    #[test]
    fn what_is_not_one_json_object_is_malformed() {
        for bad in ["", "{", "[]", "1", "\"x\"", "null", "{} {}", "{\"a\":tru}"] {
            assert_eq!(read(bad).unwrap_err().code(), Code::MalformedJson, "{bad}");
        }
        assert_eq!(
            parse(b"{\"a\":\"\xff\"}").unwrap_err().code(),
            Code::MalformedJson
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_or_not_stored_is_refused_wherever_it_is() {
        let put = |text: &str| event().to_string().replacen('{', &format!("{{{text},"), 1);
        for (text, code) in [
            (r#""userId":"v""#, Code::MalformedJson),
            (r#""metadata":{"a":1,"a":1}"#, Code::MalformedJson),
            (r#""x":[{"a":1,"\u0061":1}]"#, Code::MalformedJson),
            (r#""metadata":{"a":"\ud800"}"#, Code::MalformedJson),
            (r#""x":"\u0000""#, Code::InvalidField),
            (r#""a\u0000":1"#, Code::InvalidField),
            (r#""x":9223372036854775808"#, Code::InvalidField),
            (r#""metadata":{"a":[1e309]}"#, Code::InvalidField),
            (
                r#""x":{"$serde_json::private::RawValue":"1"}"#,
                Code::InvalidField,
            ),
        ] {
            assert_eq!(read(&put(text)).unwrap_err().code(), code, "{text}");
        }
        let nested = |depth: usize| {
            let inner = format!("{}1{}", "[".repeat(depth - 1), "]".repeat(depth - 1));
            put(&format!(r#""metadata":{{"a":{inner}}}"#))
        };
        read(&nested(16)).unwrap();
        assert_eq!(
            sentence(&nested(17)).1,
            "Invalid field metadata: must not be nested more than 16 deep"
        );
        assert_eq!(sentence(&nested(20_000)).0, Code::InvalidField);
    }

    #[test]
    fn the_header_may_name_the_event_but_not_contradict_the_body() {
        let plain = event().to_string();
        let named = with("eventId", "a");
        assert_eq!(read_as(&plain, Some("a")).unwrap().event_id.as_str(), "a");
        assert_eq!(read_as(&named, Some("a")).unwrap().event_id.as_str(), "a");
        let error = read_as(&named, Some("b")).unwrap_err();
        assert_eq!(error.code(), Code::InvalidField);
        read(&with("eventId", Value::Null)).unwrap();
    }

    #[test]
    fn an_error_does_not_repeat_all_of_a_long_text() {
        let (_, told) = sentence(&with("eventType", "x".repeat(60_000)));
        assert!(told.chars().count() < 130, "{told}");
        let (_, told) = sentence(&with("eventType", "é".repeat(99)));
        assert!(!told.ends_with('…'));
    }
}
