//! Exact decimals for what quests count and add up: never negative, never rounded.

use std::fmt;
use std::str::FromStr;

/// Digits before and after the decimal point that an [`Amount`] holds.
const DIGITS: usize = 36;

/// 10^[`DIGITS`]
const ONE: u128 = 10u128.pow(DIGITS as u32);

/// A decimal from 0 to below 10^36 with at most 36 decimal places.
///
/// Written and read as a plain JSON number without exponent (`12.5`). Fixed-point, so that a sum
/// is exact whatever was added before: floating decimals lose low digits of large sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Amount {
    // The order of the fields makes the derived order the numeric one.
    whole: u128,
    /// In units of 10^-36; below 10^36.
    fraction: u128,
}

/// Why a number's text is no [`Amount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a JSON number.
    #[error("must be a number")]
    NotANumber,
    /// Below 0.
    #[error("must not be negative")]
    Negative,
    /// 10^36 or more.
    #[error("must have at most {DIGITS} digits before the decimal point")]
    TooLarge,
    /// Not a multiple of 10^-36.
    #[error("must have at most {DIGITS} decimal places")]
    TooFine,
}

impl Amount {
    /// 0
    pub const ZERO: Self = Self {
        whole: 0,
        fraction: 0,
    };
    /// 1
    pub const ONE: Self = Self {
        whole: 1,
        fraction: 0,
    };

    /// The sum; `None` when it is 10^36 or more.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let fraction = self.fraction + other.fraction;
        let whole = self.whole + other.whole + fraction / ONE;
        (whole < ONE).then_some(Self {
            whole,
            fraction: fraction % ONE,
        })
    }

    /// The number, when it is a whole one that fits.
    pub fn to_u64(self) -> Option<u64> {
        if self.fraction == 0 {
            self.whole.try_into().ok()
        } else {
            None
        }
    }

    /// As a JSON number.
    pub fn to_number(self) -> serde_json::Number {
        // With arbitrary_precision a number keeps its text; ours is always of JSON's form.
        serde_json::Number::from_string_unchecked(self.to_string())
    }
}

impl From<u64> for Amount {
    fn from(whole: u64) -> Self {
        Self {
            whole: whole.into(),
            fraction: 0,
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fraction == 0 {
            return write!(f, "{}", self.whole);
        }
        let fraction = format!("{:0DIGITS$}", self.fraction);
        write!(f, "{}.{}", self.whole, fraction.trim_end_matches('0'))
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    /// Reads a JSON number in any of its forms (`12.50`, `1.25e1`).
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let number = crate::json::Decimal::parse(text).ok_or(AmountError::NotANumber)?;
        if number.negative {
            return Err(AmountError::Negative);
        }
        // value = digits * 10^exponent, digits without zeros at either end
        let digits = number.digits.as_bytes();
        let places = i64::try_from(digits.len()).unwrap_or(i64::MAX);
        if places.saturating_add(number.exponent) > DIGITS as i64 {
            return Err(AmountError::TooLarge);
        }
        if number.exponent < -(DIGITS as i64) {
            return Err(AmountError::TooFine);
        }
        let mut amount = Self::ZERO;
        for (index, digit) in digits.iter().enumerate() {
            // In -36..36 by the two checks above.
            let power = number.exponent + (digits.len() - 1 - index) as i64;
            let digit = u128::from(digit - b'0');
            if power >= 0 {
                amount.whole += digit * 10u128.pow(power as u32);
            } else {
                amount.fraction += digit * 10u128.pow((DIGITS as i64 + power) as u32);
            }
        }
        Ok(amount)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_read_in_every_form_and_print_plainly() {
        for (text, printed) in [
            ("0", "0"),
            ("-0.0", "0"),
            ("12.50", "12.5"),
            ("1.25e1", "12.5"),
            ("5E-3", "0.005"),
            ("1e35", "100000000000000000000000000000000000"),
            ("1e-36", "0.000000000000000000000000000000000001"),
            ("0.30000000000000004", "0.30000000000000004"),
        ] {
            assert_eq!(amount(text).to_string(), printed);
            assert_eq!(amount(text).to_number().to_string(), printed);
        }
        for (text, error) in [
            ("-1", AmountError::Negative),
            ("1e36", AmountError::TooLarge),
            ("1e-37", AmountError::TooFine),
            (
                "1.0000000000000000000000000000000000001",
                AmountError::TooFine,
            ),
            ("x", AmountError::NotANumber),
        ] {
            assert_eq!(text.parse::<Amount>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_sum_too_large_is_none_and_a_small_part_is_never_lost() {
        let large = amount("999999999999999999999999999999999999");
        assert_eq!(large.checked_add(Amount::ONE), None);
        let sum = large.checked_add(amount("1e-36")).unwrap();
        assert_eq!(
            sum.to_string(),
            "999999999999999999999999999999999999.000000000000000000000000000000000001"
        );
        assert_eq!(amount(&sum.to_string()), sum);
    }

    proptest! {
        #[test]
        fn sums_and_order_are_those_of_whole_numbers_moved(
            a in 0u64..u64::MAX / 2, b in 0u64..u64::MAX / 2, places in 0usize..20,
        ) {
            let moved = |n: u64| amount(&format!("{n}e-{places}"));
            prop_assert_eq!(moved(a).checked_add(moved(b)), Some(moved(a + b)));
            prop_assert_eq!(moved(a).cmp(&moved(b)), a.cmp(&b));
            prop_assert_eq!(amount(&moved(a).to_string()), moved(a));
        }
    }
}
