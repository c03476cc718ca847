//! Rewards: the ledger, one row per grant however often it is emitted.

use bm_contracts::headers::Kind;
use bm_contracts::messages::{GrantStatus, RewardEvent, RewardStatusChange};
use bm_contracts::partition::player_key;
use bm_contracts::{GameId, StudioId, Timestamp, Topic, UserId};
use bm_engine::domain::Emit;
use bm_engine::{ConfigDemand, Domain, Poison, Record, Scope};
use serde_json::value::RawValue;

use crate::record;

/// Names a row of the reward ledger: `grt_` + 32 lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(String);

impl GrantId {
    /// Takes `text` if it is a well-formed grant id.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let hex = text.strip_prefix("grt_")?;
        (hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .then_some(Self(text))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is known of a grant that is in the ledger.
///
/// Read by grant id before a batch; storage never writes it, since the [`GrantRow`] of the same
/// grant is the row it is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEntry {
    /// `status`
    pub status: GrantStatus,
}

/// A row to be added to the reward ledger.
#[derive(Debug, Clone)]
pub struct GrantRow {
    /// `grant_id`: primary key.
    pub grant_id: GrantId,
    /// `studio_id`
    pub studio_id: StudioId,
    /// `game_id`
    pub game_id: GameId,
    /// `user_id`
    pub user_id: UserId,
    /// `source`: `quest_<questId>` and the like; 1 to 150 characters.
    pub source: String,
    /// `reward` jsonb: an object with a `type`.
    pub reward: Box<RawValue>,
    /// `status`: pending.
    pub status: GrantStatus,
    /// `earned_at`: time of the event that earned it.
    pub earned_at: Timestamp,
    /// `correlation_id`
    pub correlation_id: Option<String>,
}

/// Folds `reward.events` into the reward ledger.
#[derive(Debug, Clone, Copy, Default)]
pub struct RewardDomain;

/// A record of `reward.events`, understood.
#[derive(Debug)]
pub struct RewardInput {
    grant_id: GrantId,
    event: RewardEvent,
}

/// Longest `source`, in characters.
const MAX_SOURCE_CHARS: usize = 150;

impl Domain for RewardDomain {
    const PROCESSOR: &'static str = "reward-processor";
    const INPUT: Topic = Topic::RewardEvents;
    // A grant is looked for when it comes, and hardly ever comes again.
    const CACHE_BYTES_PER_LANE: usize = 0;

    type Input = RewardInput;
    type Key = GrantId;
    type State = LedgerEntry;
    type Rules = ();
    type Row = GrantRow;

    fn decode(&self, record: &Record) -> Result<RewardInput, Poison> {
        record::expect_event(record)?;
        let undecodable = |why: String| Poison::new("undecodable", why);
        let event: RewardEvent =
            serde_json::from_slice(&record.value).map_err(|e| undecodable(e.to_string()))?;
        record::expect_key(record, &event.game_id, &event.user_id)?;
        let grant_id = GrantId::new(event.grant_id.as_str())
            .ok_or_else(|| undecodable("field grantId: must be grt_ and 32 hex".to_owned()))?;
        if event.source.is_empty() || event.source.chars().count() > MAX_SOURCE_CHARS {
            return Err(undecodable(format!(
                "field source: must be 1 to {MAX_SOURCE_CHARS} characters"
            )));
        }
        if !event.reward.get().starts_with('{') {
            return Err(undecodable("field reward: must be an object".to_owned()));
        }
        Ok(RewardInput { grant_id, event })
    }

    fn demand(&self, _input: &RewardInput) -> ConfigDemand {
        ConfigDemand::Any
    }

    fn keys(&self, (): &(), input: &RewardInput, keys: &mut Vec<GrantId>) {
        keys.push(input.grant_id.clone());
    }

    fn apply(
        &self,
        (): &(),
        record: &Record,
        input: &RewardInput,
        scope: &mut Scope<'_, Self>,
    ) -> Result<(), Poison> {
        if scope.state(&input.grant_id).is_some() {
            return Ok(());
        }
        let event = &input.event;
        let status = GrantStatus::Pending;
        scope.put(input.grant_id.clone(), LedgerEntry { status });
        scope.row(GrantRow {
            grant_id: input.grant_id.clone(),
            studio_id: event.studio_id.clone(),
            game_id: event.game_id.clone(),
            user_id: event.user_id.clone(),
            source: event.source.clone(),
            reward: event.reward.clone(),
            status,
            earned_at: event.timestamp,
            correlation_id: record.correlation_id().map(ToOwned::to_owned),
        });
        scope.emit(Emit {
            topic: Topic::RewardStatus,
            key: player_key(&event.game_id, &event.user_id),
            headers: vec![record::of_kind(Kind::Event)],
            value: record::encode(&RewardStatusChange {
                grant_id: event.grant_id.clone(),
                studio_id: event.studio_id.clone(),
                game_id: event.game_id.clone(),
                user_id: event.user_id.clone(),
                status,
                timestamp: event.timestamp,
            })?,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
