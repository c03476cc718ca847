//! Reads a definition file as JSON, and finds what `serde_json::Value` would hide or the database refuse.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::fault::{Fault, Faults, Position, member};
use crate::json::{Decimal, MAX_SCALE};

/// Deeper documents are refused.
const MAX_DEPTH: usize = 32;

/// Reads `json`, adding a fault for every key that stands twice, every NUL character, and every
/// number beyond a 64-bit integer or float. `None` when it is not JSON at all.
pub(super) fn read(json: &[u8], faults: &mut Faults) -> Option<Value> {
    let value: Value = match serde_json::from_slice(json) {
        Ok(value) => value,
        Err(e) => {
            faults.push(Fault {
                path: "$".to_owned(),
                message: format!("is not JSON: {e}"),
                position: Some(Position {
                    line: e.line(),
                    column: e.column(),
                }),
            });
            return None;
        }
    };
    // The text is JSON, so it is a raw value too.
    let raw: &RawValue = serde_json::from_slice(json).ok()?;
    check(raw, "$", 0, faults);
    Some(value)
}

fn check(raw: &RawValue, path: &str, depth: usize, faults: &mut Faults) {
    if depth > MAX_DEPTH {
        faults.add(path, format!("is nested more than {MAX_DEPTH} deep"));
        return;
    }
    let mut json = serde_json::Deserializer::from_str(raw.get());
    let members = match raw.get().as_bytes().first() {
        Some(b'{' | b'[') => Members.deserialize(&mut json),
        Some(b'"') => {
            check_text(raw.get(), path, faults);
            return;
        }
        Some(b'-' | b'0'..=b'9') => {
            check_number(raw.get(), path, faults);
            return;
        }
        _ => return,
    };
    let mut seen = HashSet::new();
    for (index, (name, raw)) in members.unwrap_or_default().into_iter().enumerate() {
        match name {
            None => check(raw, &format!("{path}[{index}]"), depth + 1, faults),
            Some(name) => {
                let path = member(path, &name);
                if name.contains('\0') {
                    faults.add(&path, "is a name with a NUL character");
                }
                check(raw, &path, depth + 1, faults);
                if !seen.insert(name) {
                    faults.add(path, "stands twice");
                }
            }
        }
    }
}

fn check_text(raw: &str, path: &str, faults: &mut Faults) {
    if serde_json::from_str::<String>(raw).is_ok_and(|text| text.contains('\0')) {
        faults.add(path, "must not contain NUL characters");
    }
}

fn check_number(raw: &str, path: &str, faults: &mut Faults) {
    let number = Decimal::parse(raw);
    if number.as_ref().is_some_and(|n| n.scale > MAX_SCALE) {
        faults.add(path, format!("has more than {MAX_SCALE} decimal places"));
        return;
    }
    let fits = match number {
        Some(number) if number.scale == 0 && !raw.contains(['e', 'E']) => number.to_i64().is_some(),
        Some(_) => raw.parse::<f64>().is_ok_and(f64::is_finite),
        None => false,
    };
    if !fits {
        faults.add(path, "is a number beyond what 64 bits hold");
    }
}

/// The members of an object (named, each as often as it stands there) or of an array.
struct Members;

type MemberList<'de> = Vec<(Option<String>, &'de RawValue)>;

impl<'de> DeserializeSeed<'de> for Members {
    type Value = MemberList<'de>;
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<MemberList<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = MemberList<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MemberList<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            members.push((Some(name), map.next_value()?));
        }
        Ok(members)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<MemberList<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(raw) = list.next_element()? {
            members.push((None, raw));
        }
        Ok(members)
    }
}
