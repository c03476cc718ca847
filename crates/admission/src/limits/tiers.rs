//! What each studio may send: its tier's limits, changed by what its document overrides.

use serde::{Deserialize, Serialize};

use super::pair::Pair;

/// Events a burst always has room for: the largest batch.
pub const MIN_EVENTS_BURST: u32 = 500;
/// Events a player may send through one gateway in a minute, where the studio says nothing else.
pub const PLAYER_EVENTS_PER_MINUTE: u32 = 600;
/// No limit is above this, so that the arithmetic of limits fits a double exactly.
const MAX: u32 = 10_000_000;

/// How many units in any 60 seconds, and how many of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Units in any 60 seconds; at least 1. Also what the token bucket gains in 60 seconds.
    pub per_minute: u32,
    /// What the token bucket holds when full; at least 1.
    pub burst: u32,
}

impl Limit {
    /// Both numbers brought between 1 and 10,000,000.
    pub fn new(per_minute: u32, burst: u32) -> Self {
        Self {
            per_minute: per_minute.clamp(1, MAX),
            burst: burst.clamp(1, MAX),
        }
    }

    /// One of `parts` equal shares of this limit, rounded down, but never nothing.
    #[must_use]
    pub fn share(self, parts: u32) -> Self {
        let parts = parts.max(1);
        Self::new(self.per_minute / parts, self.burst / parts)
    }
}

/// A studio's tier (`tier` in its document).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tier {
    /// 1,000 requests a minute, 100 at once.
    #[default]
    Ecosystem,
    /// 5,000 requests a minute, 500 at once.
    Pro,
    /// 20,000 requests a minute, 2,000 at once.
    Enterprise,
}

impl Tier {
    /// The tier of that name; a name that is none of the three has the limits of the smallest.
    pub fn named(name: &str) -> Self {
        match name {
            "pro" => Self::Pro,
            "enterprise" => Self::Enterprise,
            _ => Self::Ecosystem,
        }
    }

    /// The limits of the tier.
    pub fn limits(self) -> TierLimits {
        let (per_minute, burst) = match self {
            Self::Ecosystem => (1_000, 100),
            Self::Pro => (5_000, 500),
            Self::Enterprise => (20_000, 2_000),
        };
        TierLimits {
            requests: Limit::new(per_minute, burst),
        }
    }
}

/// What a tier says; limits for events follow from those for requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierLimits {
    /// HTTP requests.
    pub requests: Limit,
}

/// `rateLimit` of a studio's document: whatever is absent follows from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RateLimitOverride {
    /// Instead of the tier's requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Requests at once; a tenth of a minute's requests by default, as in every tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Instead of ten times the requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_per_minute: Option<u32>,
    /// Instead of ten times the requests at once; never below 500, so that a batch fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_burst: Option<u32>,
    /// Events one player may send through one gateway in a minute; 600 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub player_events_per_minute: Option<u32>,
}

/// What one studio may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StudioLimits {
    /// Requests and events of the studio, over all gateways.
    pub limits: Pair<Limit>,
    /// Events of one player through one gateway in a minute, where the studio overrides it.
    pub player_events_per_minute: Option<u32>,
}

impl StudioLimits {
    /// The tier's limits with the studio's overrides.
    ///
    /// Events come at ten times the rate of requests, and at once ten times as many but at least
    /// 500. A studio that overrides its rate and not its burst keeps the tiers' proportion of 1 to 10.
    pub fn of(tier: Tier, over: &RateLimitOverride) -> Self {
        let tier = tier.limits().requests;
        let per_minute = over.requests_per_minute.unwrap_or(tier.per_minute);
        let burst = over.burst.unwrap_or(match over.requests_per_minute {
            Some(per_minute) => per_minute / 10,
            None => tier.burst,
        });
        let requests = Limit::new(per_minute, burst);
        let events_per_minute = over
            .events_per_minute
            .unwrap_or(requests.per_minute.saturating_mul(10));
        let events_burst = over
            .events_burst
            .unwrap_or(requests.burst.saturating_mul(10))
            .max(MIN_EVENTS_BURST);
        Self {
            limits: Pair::new(requests, Limit::new(events_per_minute, events_burst)),
            player_events_per_minute: over.player_events_per_minute.filter(|&n| n > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_have_their_limits_and_events_ten_times_them() {
        let none = RateLimitOverride::default();
        for (name, per_minute, burst, events_burst) in [
            ("ecosystem", 1_000, 100, 1_000),
            ("pro", 5_000, 500, 5_000),
            ("enterprise", 20_000, 2_000, 20_000),
            ("something new", 1_000, 100, 1_000),
        ] {
            let limits = StudioLimits::of(Tier::named(name), &none).limits;
            assert_eq!(limits.requests, Limit::new(per_minute, burst), "{name}");
            assert_eq!(
                limits.events,
                Limit::new(per_minute * 10, events_burst),
                "{name}"
            );
        }
    }

    #[test]
    fn an_override_replaces_what_it_names_and_the_rest_follows() {
        let over: RateLimitOverride =
            serde_json::from_str(r#"{"requestsPerMinute": 60, "other": true}"#).unwrap();
        let limits = StudioLimits::of(Tier::Pro, &over).limits;
        assert_eq!(limits.requests, Limit::new(60, 6));
        assert_eq!(limits.events, Limit::new(600, 500));

        let over: RateLimitOverride = serde_json::from_str(
            r#"{"burst": 7, "eventsPerMinute": 9, "eventsBurst": 3, "playerEventsPerMinute": 5}"#,
        )
        .unwrap();
        let limits = StudioLimits::of(Tier::Pro, &over);
        assert_eq!(limits.limits.requests, Limit::new(5_000, 7));
        assert_eq!(limits.limits.events, Limit::new(9, 500));
        assert_eq!(limits.player_events_per_minute, Some(5));
    }

    #[test]
    fn a_limit_of_nothing_is_a_limit_of_one() {
        let over = RateLimitOverride {
            requests_per_minute: Some(0),
            ..RateLimitOverride::default()
        };
        let limits = StudioLimits::of(Tier::Pro, &over).limits;
        assert_eq!(limits.requests, Limit::new(1, 1));
        assert_eq!(Limit::new(3, 2).share(4), Limit::new(1, 1));
    }
}
