//! An event as CEL sees it: converted once, looked at by every rule.

use std::collections::HashMap;

use bm_contracts::GameEvent;
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString,
};
use cel::common::value::Val;
use serde_json::Value;

use super::cost::Weight;
use crate::json::Decimal;

/// The value of the variable `event`.
pub struct CelEvent {
    value: Box<dyn Val>,
    weight: Weight,
}

impl CelEvent {
    /// Converts an event; `metadata` is its metadata, parsed.
    pub fn new(event: &GameEvent, metadata: Option<&Value>) -> Self {
        let mut weight = Weight::default();
        let mut fields: HashMap<CelMapKey<'static>, Box<dyn Val>> = HashMap::new();
        // Unknown fields first: what we know by that name stands.
        for (name, raw) in &event.extra {
            // Nested deeper than the parser goes: as good as not there.
            if let Ok(value) = serde_json::from_str::<Value>(raw.get()) {
                weight.add_text(name.len());
                fields.insert(name.clone().into(), convert(&value, &mut weight));
            }
        }
        let texts = [
            ("eventType", event.event_type.as_str().to_owned()),
            ("userId", event.user_id.as_str().to_owned()),
            ("gameId", event.game_id.as_str().to_owned()),
            ("eventId", event.event_id.as_str().to_owned()),
            ("timestamp", event.timestamp.to_string()),
        ];
        let name = event.event_name.clone().map(|name| ("eventName", name));
        for (field, text) in texts.into_iter().chain(name) {
            weight.add_value();
            weight.add_text(text.len());
            fields.insert(field.to_owned().into(), Box::new(CelString::from(text)));
        }
        let empty = Value::Object(serde_json::Map::new());
        fields.insert(
            "metadata".to_owned().into(),
            convert(metadata.unwrap_or(&empty), &mut weight),
        );
        weight.add_map(fields.len());
        weight.elements = weight.values;
        Self {
            value: Box::new(CelMap::from(fields)),
            weight,
        }
    }

    pub(super) fn value(&self) -> &dyn Val {
        self.value.as_ref()
    }

    /// How much there is of it; no part of it has more elements.
    pub(super) fn weight(&self) -> Weight {
        self.weight
    }
}

impl std::fmt::Debug for CelEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CelEvent")
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}

fn convert(value: &Value, weight: &mut Weight) -> Box<dyn Val> {
    weight.add_value();
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(bool) => Box::new(CelBool::from(*bool)),
        Value::Number(number) => convert_number(number.as_str()),
        Value::String(text) => {
            weight.add_text(text.len());
            Box::new(CelString::from(text.clone()))
        }
        Value::Array(list) => {
            let list: Vec<Box<dyn Val>> = list.iter().map(|v| convert(v, weight)).collect();
            Box::new(CelList::from(list))
        }
        Value::Object(map) => {
            weight.add_map(map.len());
            let map: HashMap<CelMapKey<'static>, Box<dyn Val>> = map
                .iter()
                .map(|(name, v)| {
                    weight.add_text(name.len());
                    (name.clone().into(), convert(v, weight))
                })
                .collect();
            Box::new(CelMap::from(map))
        }
    }
}

/// An `int` where JSONB would write the number without decimal places and it fits, else a `double`:
/// so an event gives the same value live and read back.
fn convert_number(text: &str) -> Box<dyn Val> {
    if let Some(int) = Decimal::parse(text).and_then(|n| n.to_i64()) {
        return Box::new(CelInt::from(int));
    }
    // JSONB knows no negative zero: adding 0 makes it the other one.
    Box::new(CelDouble::from(text.parse().unwrap_or(f64::INFINITY) + 0.0))
}
