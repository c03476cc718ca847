//! The oracle's own decimals: exact, to a thousandth.

use std::fmt;
use std::ops::AddAssign;

use serde_json::Value;

/// A number of thousandths, never negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thousandths(i64);

impl Thousandths {
    /// A whole number.
    pub const fn whole(number: i64) -> Self {
        Self(number * 1_000)
    }

    /// Whether a message shows it so, to the letter.
    pub fn is(self, shown: &Value) -> bool {
        matches!(shown, Value::Number(number) if number.as_str() == self.to_string())
    }

    /// A JSON number with at most three decimal places and no exponent.
    pub fn read(value: &Value) -> Self {
        let text = match value {
            Value::Number(number) => number.to_string(),
            _ => panic!("the tests' values are numbers, this is not: {value}"),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        assert!(fraction.len() <= 3, "{text} is finer than a thousandth");
        let digits = format!("{whole}{fraction:0<3}");
        Self(digits.parse().expect("a plain number is digits"))
    }
}

impl AddAssign for Thousandths {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

/// Plainly and without needless zeros, as progress is told.
impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 1_000, self.0 % 1_000);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let fraction = format!("{fraction:03}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}
