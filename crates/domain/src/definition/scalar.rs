//! What a filter compares with.

use std::fmt;

use serde_json::Value;

use crate::json::Decimal;

/// A value a filter compares with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    /// `null`, which is there; not a place where nothing is.
    Null,
    /// `true`, `false`
    Bool(bool),
    /// Compared by value: 1 is 1.0 is 1e0.
    Number(FilterNumber),
    /// Compared exactly.
    Text(String),
}

impl Scalar {
    /// The scalar a JSON value is; `None` for objects and arrays.
    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(bool) => Some(Self::Bool(*bool)),
            Value::Number(number) => Some(Self::Number(FilterNumber::new(number.clone()))),
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Whether `value` is this scalar.
    pub fn matches(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(a), Value::Bool(b)) => a == b,
            (Self::Text(a), Value::String(b)) => a == b,
            (Self::Number(a), Value::Number(b)) => a.matches(b),
            _ => false,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Number(number) => Value::Number(number.written.clone()),
            Self::Text(text) => Value::String(text.clone()),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(bool) => bool.fmt(f),
            Self::Number(number) => f.write_str(number.written.as_str()),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A number as it was written, and read once. Equal by value.
#[derive(Debug, Clone)]
pub struct FilterNumber {
    written: serde_json::Number,
    value: Option<Decimal>,
}

impl FilterNumber {
    fn new(written: serde_json::Number) -> Self {
        Self {
            value: Decimal::parse(written.as_str()),
            written,
        }
    }

    fn matches(&self, number: &serde_json::Number) -> bool {
        let Some(value) = &self.value else {
            return false;
        };
        // Most are written the same way, and need not be read.
        self.written == *number
            || Decimal::parse(number.as_str()).is_some_and(|number| value.same_value(&number))
    }
}

impl PartialEq for FilterNumber {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.written)
    }
}

impl Eq for FilterNumber {}
