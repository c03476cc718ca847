//! Numbers as JSONB keeps them: live events and events read back from the archive must look the same.

use serde_json::Value;

/// Exponents beyond this are no numbers to us; PostgreSQL's numeric ends before it too.
const MAX_EXPONENT: i64 = 1_000_000;

/// Most decimal places PostgreSQL's numeric keeps.
pub(crate) const MAX_SCALE: i64 = 16_383;

/// Bytes of the text PostgreSQL gives back for a JSONB of this value: a space after each `,` and
/// `:`, and numbers without exponent.
pub(crate) fn jsonb_len(value: &Value) -> usize {
    let separators = |members: usize| 2 + 2 * members.saturating_sub(1);
    match value {
        Value::Number(number) => Decimal::parse(number.as_str()).map_or(0, |n| n.plain_len()),
        Value::Array(list) => separators(list.len()) + list.iter().map(jsonb_len).sum::<usize>(),
        Value::Object(map) => {
            let members = map.iter();
            let text = |text: &str| Value::from(text).to_string().len();
            let members = members.map(|(name, value)| text(name) + 2 + jsonb_len(value));
            separators(map.len()) + members.sum::<usize>()
        }
        plain => plain.to_string().len(),
    }
}

/// A JSON number by value: `digits * 10^exponent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    /// Never set for zero.
    pub(crate) negative: bool,
    /// Decimal digits without zeros at either end; empty for zero.
    pub(crate) digits: String,
    /// 0 for zero.
    pub(crate) exponent: i64,
    /// Decimal places that JSONB keeps: those written, moved by the exponent, at least 0.
    pub(crate) scale: i64,
}

impl Decimal {
    /// Reads a JSON number's text; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (unsigned, 0),
        };
        if exponent.abs() > MAX_EXPONENT {
            return None;
        }
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        if whole.is_empty() {
            return None;
        }
        let mut digits = String::with_capacity(mantissa.len());
        digits.push_str(whole);
        digits.push_str(fraction);
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let places = fraction.len() as i64 - exponent;
        let trimmed = digits.trim_end_matches('0');
        let dropped = (digits.len() - trimmed.len()) as i64;
        let digits = trimmed.trim_start_matches('0').to_owned();
        Some(Self {
            negative: negative && !digits.is_empty(),
            exponent: if digits.is_empty() {
                0
            } else {
                dropped - places
            },
            digits,
            scale: places.max(0),
        })
    }

    /// Whether both are the same number, however written (`1`, `1.0`, `1e0`).
    pub(crate) fn same_value(&self, other: &Self) -> bool {
        self.negative == other.negative
            && self.digits == other.digits
            && self.exponent == other.exponent
    }

    /// The number, when it is written without decimal places (as JSONB would give it back) and fits.
    pub(crate) fn to_i64(&self) -> Option<i64> {
        if self.scale > 0 || self.digits.len() as i64 + self.exponent > 19 {
            return None;
        }
        if self.digits.is_empty() {
            return Some(0);
        }
        let zeros = "0".repeat(usize::try_from(self.exponent).ok()?);
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}{}{zeros}", self.digits).parse().ok()
    }

    /// How long it is without exponent, with the decimal places that JSONB keeps.
    fn plain_len(&self) -> usize {
        let whole = (self.digits.len() as i64 + self.exponent).max(1);
        let fraction = if self.scale > 0 { 1 + self.scale } else { 0 };
        usize::from(self.negative).saturating_add_signed((whole + fraction) as isize)
    }

    /// One text per number, however written.
    pub(crate) fn canonical(&self) -> String {
        if self.digits.is_empty() {
            return "0".to_owned();
        }
        let sign = if self.negative { "-" } else { "" };
        let places = self.digits.len() as i64 + self.exponent;
        if self.exponent >= 0 && places <= 40 {
            let zeros = "0".repeat(self.exponent as usize);
            format!("{sign}{}{zeros}", self.digits)
        } else if self.exponent < 0 && places > 0 {
            // Digits are ASCII, and `places` lies inside them.
            let (whole, fraction) = self.digits.split_at(places as usize);
            format!("{sign}{whole}.{fraction}")
        } else if self.exponent < 0 && places > -40 {
            let zeros = "0".repeat(-places as usize);
            format!("{sign}0.{zeros}{}", self.digits)
        } else {
            format!("{sign}{}e{}", self.digits, self.exponent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn numbers_are_equal_by_value() {
        for (a, b) in [
            ("1", "1.0"),
            ("1", "1e0"),
            ("100", "1E+2"),
            ("0.5", "5e-1"),
            ("0", "-0.00"),
            ("12.50", "1.25e1"),
        ] {
            assert!(decimal(a).same_value(&decimal(b)), "{a} {b}");
            assert_eq!(decimal(a).canonical(), decimal(b).canonical());
        }
        assert!(!decimal("1").same_value(&decimal("-1")));
        assert!(!decimal("1").same_value(&decimal("10")));
    }

    #[test]
    fn a_number_is_whole_when_jsonb_would_write_it_so() {
        assert_eq!(decimal("1e2").to_i64(), Some(100));
        assert_eq!(decimal("1.5e1").to_i64(), Some(15));
        assert_eq!(decimal("-0").to_i64(), Some(0));
        assert_eq!(decimal("1.0").to_i64(), None);
        assert_eq!(decimal("1.00e1").to_i64(), None);
        assert_eq!(decimal("-9223372036854775808").to_i64(), Some(i64::MIN));
        assert_eq!(decimal("9223372036854775808").to_i64(), None);
    }

    #[test]
    fn canonical_texts_are_numbers_again() {
        for text in ["0", "-12.5", "0.001", "1e60", "-1e-60", "120", "1.5e39"] {
            let canonical = decimal(text).canonical();
            assert!(
                decimal(&canonical).same_value(&decimal(text)),
                "{text} {canonical}"
            );
        }
        assert_eq!(decimal("1200").canonical(), "1200");
        assert_eq!(decimal("0.0120").canonical(), "0.012");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "",
            "-",
            ".5",
            "5.",
            "1e",
            "0x1",
            "1 ",
            "NaN",
            "1e99999999999999999999",
        ] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }
}
