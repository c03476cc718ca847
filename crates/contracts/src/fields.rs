//! The top level of an event's JSON, split without building a tree: known fields, and the rest.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The bytes are not a JSON object with distinct keys.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FieldsError(#[from] serde_json::Error);

/// The top-level fields of an event, each still as the bytes sent.
#[derive(Debug, Default)]
pub struct EventFields<'a> {
    /// `eventType`
    pub event_type: Option<&'a RawValue>,
    /// `eventName`
    pub event_name: Option<&'a RawValue>,
    /// `userId`
    pub user_id: Option<&'a RawValue>,
    /// `gameId`
    pub game_id: Option<&'a RawValue>,
    /// `timestamp`
    pub timestamp: Option<&'a RawValue>,
    /// `eventId`
    pub event_id: Option<&'a RawValue>,
    /// `metadata`
    pub metadata: Option<&'a RawValue>,
    /// `studioId`; from a client never believed
    pub studio_id: Option<&'a RawValue>,
    /// `studioTier`; from a client never believed
    pub studio_tier: Option<&'a RawValue>,
    /// `ingestedAt`; from a client never believed
    pub ingested_at: Option<&'a RawValue>,
    /// `partitionKey`; from a client never believed
    pub partition_key: Option<&'a RawValue>,
    /// All others, in order.
    pub extra: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> EventFields<'a> {
    /// Splits `bytes`. A key that stands twice is refused; so is anything after the object.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FieldsError> {
        // Looked through once, or each piece would be.
        let text = std::str::from_utf8(bytes).map_err(serde_json::Error::custom)?;
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = json.deserialize_map(FieldsVisitor)?;
        json.end()?;
        Ok(fields)
    }
}

/// What a JSON string says, borrowed unless it holds escapes; `None` for any other JSON.
pub fn string(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// A key that borrows from the input unless it holds escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// Up to so many unknown names are compared one by one.
const FEW_NAMES: usize = 16;

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = EventFields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EventFields<'de>, A::Error> {
        let mut fields = EventFields::default();
        let mut names = HashSet::new();
        while let Some(Key(name)) = map.next_key()? {
            let raw: &'de RawValue = map.next_value()?;
            let slot = match name.as_ref() {
                "eventType" => &mut fields.event_type,
                "eventName" => &mut fields.event_name,
                "userId" => &mut fields.user_id,
                "gameId" => &mut fields.game_id,
                "timestamp" => &mut fields.timestamp,
                "eventId" => &mut fields.event_id,
                "metadata" => &mut fields.metadata,
                "studioId" => &mut fields.studio_id,
                "studioTier" => &mut fields.studio_tier,
                "ingestedAt" => &mut fields.ingested_at,
                "partitionKey" => &mut fields.partition_key,
                _ => {
                    // Few names are compared, many are looked up: a body of nothing but names must
                    // not cost the square of their number.
                    let twice = if fields.extra.len() < FEW_NAMES {
                        fields.extra.iter().any(|(known, _)| *known == name)
                    } else {
                        if names.is_empty() {
                            names.extend(fields.extra.iter().map(|(known, _)| known.clone()));
                        }
                        !names.insert(name.clone())
                    };
                    if twice {
                        return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    fields.extra.push((name, raw));
                    continue;
                }
            };
            if slot.replace(raw).is_some() {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_twice_is_refused_even_when_one_is_escaped() {
        assert!(EventFields::parse(br#"{"a":1,"a":2}"#).is_err());
        assert!(EventFields::parse(br#"{"userId":1,"user\u0049d":2}"#).is_err());
        assert!(EventFields::parse(br#"{"a":1} x"#).is_err());
        assert!(EventFields::parse(br"[1]").is_err());
    }

    #[test]
    fn a_key_twice_is_refused_among_many_too() {
        let names = |last: usize| {
            let fields: Vec<String> = (0..40)
                .chain([last])
                .map(|n| format!("\"k{n}\":{n}"))
                .collect();
            format!("{{{}}}", fields.join(","))
        };
        let all = names(40);
        assert_eq!(EventFields::parse(all.as_bytes()).unwrap().extra.len(), 41);
        for twice in [0, 15, 16, 39] {
            assert!(
                EventFields::parse(names(twice).as_bytes()).is_err(),
                "{twice}"
            );
        }
    }

    #[test]
    fn a_string_is_borrowed_unless_it_holds_escapes() {
        let fields = r#"{"a":"é","b":"\u00e9\"","c":"","d":1,"e":null,"f":["x"]}"#;
        let fields = EventFields::parse(fields.as_bytes()).unwrap();
        let strings: Vec<_> = fields
            .extra
            .iter()
            .map(|(_, raw)| string(raw.get()))
            .collect();
        let of = |text: &'static str| Some(Cow::Borrowed(text));
        assert_eq!(strings, [of("é"), of("é\""), of(""), None, None, None]);
        assert!(matches!(strings[0], Some(Cow::Borrowed(_))));
    }

    #[test]
    fn values_are_the_bytes_sent() {
        let fields = EventFields::parse(br#"{"metadata":{ "a" : 1.50 },"z":[1, 2]}"#).unwrap();
        assert_eq!(fields.metadata.unwrap().get(), r#"{ "a" : 1.50 }"#);
        assert_eq!(fields.extra[0].1.get(), "[1, 2]");
    }
}
