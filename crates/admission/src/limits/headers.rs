//! The header fields that tell a client its limits (draft-ietf-httpapi-ratelimit-headers).

use super::ledger::Quota;
use super::pair::Pair;

/// Name of the field that says what the limits are.
pub const RATE_LIMIT_POLICY: &str = "ratelimit-policy";
/// Name of the field that says what is left.
pub const RATE_LIMIT: &str = "ratelimit";

/// Value of `RateLimit-Policy`: `"requests";q=1000;w=60, "events";q=10000;w=60`.
pub fn rate_limit_policy(quotas: &Pair<Quota>) -> String {
    format!(
        "\"requests\";q={};w=60, \"events\";q={};w=60",
        quotas.requests.limit, quotas.events.limit
    )
}

/// Value of `RateLimit`: `"requests";r=99;t=1, "events";r=500;t=12`.
///
/// `r` is what could be admitted now, `t` in how many seconds that is at its fullest again, or, where
/// `r` is 0, when there may be something.
pub fn rate_limit(quotas: &Pair<Quota>) -> String {
    let Pair { requests, events } = quotas;
    format!(
        "\"requests\";r={};t={}, \"events\";r={};t={}",
        requests.remaining, requests.reset_secs, events.remaining, events.reset_secs
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_structured_lists_of_named_items() {
        let quotas = Pair::new(
            Quota {
                limit: 1_000,
                remaining: 99,
                reset_secs: 1,
            },
            Quota {
                limit: 10_000,
                remaining: 0,
                reset_secs: 12,
            },
        );
        assert_eq!(
            rate_limit_policy(&quotas),
            r#""requests";q=1000;w=60, "events";q=10000;w=60"#
        );
        assert_eq!(
            rate_limit(&quotas),
            r#""requests";r=99;t=1, "events";r=0;t=12"#
        );
    }
}
