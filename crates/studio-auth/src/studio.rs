//! A studio as the rest of the system sees it: who it is, what it pays for, what its limits are.

use std::sync::Arc;

use bm_contracts::StudioId;

/// What a studio pays for; decides its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// `ecosystem`
    Ecosystem,
    /// `pro`
    Pro,
    /// `enterprise`
    Enterprise,
}

impl Tier {
    /// The tier of this name, as studio documents spell it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "ecosystem" => Some(Self::Ecosystem),
            "pro" => Some(Self::Pro),
            "enterprise" => Some(Self::Enterprise),
            _ => None,
        }
    }

    /// The name on the wire (`studioTier`) and in studio documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ecosystem => "ecosystem",
            Self::Pro => "pro",
            Self::Enterprise => "enterprise",
        }
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `subscriptionStatus` of a studio document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// `active`
    Active,
    /// `trialing`
    Trialing,
    /// Anything else (`past_due`, `canceled`, …): the studio's keys are known, and refused.
    Other(String),
}

impl Subscription {
    /// From the text of `subscriptionStatus`.
    pub fn parse(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            "trialing" => Self::Trialing,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The text of `subscriptionStatus`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "active",
            Self::Trialing => "trialing",
            Self::Other(text) => text,
        }
    }

    /// Whether the studio's keys are taken.
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Active | Self::Trialing)
    }
}

/// Limits of a studio of its own; what is `None` is as its tier has it. All are at least 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// `requestsPerMinute`
    pub requests_per_minute: Option<u32>,
    /// `burst`: requests at once
    pub burst: Option<u32>,
    /// `eventsPerMinute`
    pub events_per_minute: Option<u32>,
    /// `eventsBurst`: events at once
    pub events_burst: Option<u32>,
    /// `playerEventsPerMinute`: of one player, per gateway
    pub player_events_per_minute: Option<u32>,
}

/// A customer, from its document in the `studios` collection. Holds no keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Studio {
    /// The document's id.
    pub id: StudioId,
    /// For people; the id when the document has none.
    pub name: String,
    /// What it pays for.
    pub tier: Tier,
    /// Whether it pays.
    pub subscription: Subscription,
    /// Names of features that are switched on, sorted.
    pub features: Vec<String>,
    /// Limits of its own.
    pub rate_limit: Option<RateLimit>,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// In the hands of players: ingest and read.
    Client,
    /// In the hands of the studio: everything.
    Server,
}

impl KeyKind {
    /// `client` or `server`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "client" => Some(Self::Client),
            "server" => Some(Self::Server),
            _ => None,
        }
    }

    /// `client` or `server`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Whose key it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// The studio the key belongs to.
    pub studio: Arc<Studio>,
    /// What the key may do.
    pub kind: KeyKind,
}

/// Why a key is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No studio has this key (any more).
    #[error("Invalid API key")]
    Unknown,
    /// The studio's subscription is neither active nor trialing.
    #[error("Subscription inactive")]
    Inactive,
    /// Nothing is known that could tell: no mirror, and no copy of it that is fresh enough.
    #[error("API keys cannot be checked at the moment")]
    Unavailable,
}
