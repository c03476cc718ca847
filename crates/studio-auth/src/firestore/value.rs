//! A Firestore document as JSON, so that there is one reader of studio documents.

use ::firestore::FirestoreDocument;
use ::firestore::gcloud_sdk::google::firestore::v1::Value as FirestoreValue;
use ::firestore::gcloud_sdk::google::firestore::v1::value::ValueType;
use bm_contracts::Timestamp;
use serde_json::{Map, Value};

/// The last part of a document's resource name.
pub(super) fn document_id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The fields of a document. Timestamps become milliseconds since the epoch; what JSON and a studio
/// document have no form for (bytes, places, references) becomes an empty object, which no field of
/// a studio document may be.
pub(super) fn document_json(document: &FirestoreDocument) -> Value {
    object(&document.fields)
}

fn object<'a>(fields: impl IntoIterator<Item = (&'a String, &'a FirestoreValue)>) -> Value {
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.clone(), json(value)));
    Value::Object(fields.collect())
}

fn json(value: &FirestoreValue) -> Value {
    match &value.value_type {
        None | Some(ValueType::NullValue(_)) => Value::Null,
        Some(ValueType::BooleanValue(value)) => (*value).into(),
        Some(ValueType::IntegerValue(value)) => (*value).into(),
        // Not a number and the infinities become null, which is as good as missing.
        Some(ValueType::DoubleValue(value)) => (*value).into(),
        Some(ValueType::StringValue(value)) => value.as_str().into(),
        Some(ValueType::TimestampValue(value)) => {
            let millis = value
                .seconds
                .saturating_mul(1000)
                .saturating_add(i64::from(value.nanos / 1_000_000));
            Timestamp::clamped(millis).as_millis().into()
        }
        Some(ValueType::ArrayValue(array)) => array.values.iter().map(json).collect(),
        Some(ValueType::MapValue(map)) => object(&map.fields),
        Some(_) => Value::Object(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ::firestore::gcloud_sdk::google::firestore::v1::{ArrayValue, MapValue};
    use ::firestore::gcloud_sdk::prost_types;
    use serde_json::json;

    use super::*;
    use crate::document::{KeyHash, StudioDocument};
    use crate::studio::KeyKind;

    fn value(value: ValueType) -> FirestoreValue {
        FirestoreValue {
            value_type: Some(value),
        }
    }

    fn text(text: &str) -> FirestoreValue {
        value(ValueType::StringValue(text.to_owned()))
    }

    fn fields(fields: Vec<(&str, FirestoreValue)>) -> HashMap<String, FirestoreValue> {
        fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    #[test]
    fn a_firestore_document_reads_as_its_json() {
        let key = value(ValueType::MapValue(MapValue {
            fields: fields(vec![
                ("hash", text(&KeyHash::of("k").to_hex())),
                ("kind", text("server")),
                (
                    "expiresAt",
                    value(ValueType::TimestampValue(prost_types::Timestamp {
                        seconds: 12,
                        nanos: 345_678_901,
                    })),
                ),
            ]),
        }));
        let document = FirestoreDocument {
            name: "projects/p/databases/(default)/documents/studios/forest".to_owned(),
            fields: fields(vec![
                ("tier", text("pro")),
                ("subscriptionStatus", text("trialing")),
                ("apiKey", value(ValueType::BytesValue(vec![1]))),
                ("cell", value(ValueType::NullValue(0))),
                ("rateLimit", value(ValueType::IntegerValue(60))),
                (
                    "keys",
                    value(ValueType::ArrayValue(ArrayValue { values: vec![key] })),
                ),
            ]),
            ..FirestoreDocument::default()
        };
        assert_eq!(document_id(&document.name), "forest");
        let json = document_json(&document);
        assert_eq!(json["rateLimit"], json!(60));
        let read = StudioDocument::from_json("forest", &json).unwrap();
        assert_eq!(read.faults.len(), 1, "bytes are no key");
        assert_eq!(read.keys.len(), 1);
        assert_eq!(read.keys[0].kind, KeyKind::Server);
        assert_eq!(read.keys[0].expires_at, Some(Timestamp::clamped(12_345)));
    }
}
