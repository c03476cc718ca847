//! The quest processor: folds events into players' progress, and grants what completion earns.

use bm_contracts::headers::{self, Kind};
use bm_contracts::messages::{Progress, QuestProgressUpdate, RewardEvent, UiUpdate};
use bm_contracts::partition::player_key;
use bm_contracts::{GameEvent, Topic, UserId, hash};
use bm_engine::domain::Emit;
use bm_engine::{ConfigDemand, Domain, Poison, Record, Scope};

use super::decision::{Advance, Decision, advance, decide};
use super::facts::EventFacts;
use super::rules::{QuestRule, QuestRules};
use super::{QuestKey, QuestState};
use crate::record::{self, encode};

/// Folds `quest.events` into `quest_progress`.
#[derive(Debug, Clone, Copy, Default)]
pub struct QuestDomain;

/// A record of `quest.events`, understood.
#[derive(Debug)]
pub struct QuestInput {
    facts: EventFacts,
    stamp: i64,
}

impl QuestInput {
    /// The event.
    pub fn facts(&self) -> &EventFacts {
        &self.facts
    }

    /// The config sequence the router stamped on it.
    pub fn stamp(&self) -> i64 {
        self.stamp
    }
}

/// A row that is never made: quests only have state.
#[derive(Debug, Clone, Copy)]
pub enum NoRow {}

impl Domain for QuestDomain {
    const PROCESSOR: &'static str = "quest-processor";
    const INPUT: Topic = Topic::QuestEvents;
    const CACHE_BYTES_PER_LANE: usize = 8 << 20;

    type Input = QuestInput;
    type Key = QuestKey;
    type State = QuestState;
    type Rules = QuestRules;
    type Row = NoRow;

    fn decode(&self, record: &Record) -> Result<QuestInput, Poison> {
        record::expect_event(record)?;
        let event = record::decode_event(record)?;
        record::expect_key(record, &player_key(&event.game_id, &event.user_id))?;
        let stamp = record
            .config_seq()
            .map_err(|e| Poison::new("bad_header", e.to_string()))?
            .ok_or_else(|| {
                let name = headers::CONFIG;
                Poison::new("missing_header", format!("header {name} is missing"))
            })?;
        let ingested_at = event
            .ingested_at
            .ok_or_else(|| Poison::new("undecodable", "field ingestedAt is missing"))?;
        let facts = EventFacts::new(event, ingested_at)
            .map_err(|e| Poison::new("undecodable", format!("field metadata: {e}")))?;
        Ok(QuestInput { facts, stamp })
    }

    fn demand(&self, input: &QuestInput) -> ConfigDemand {
        ConfigDemand::AtLeast(input.stamp)
    }

    fn keys(&self, rules: &QuestRules, input: &QuestInput, keys: &mut Vec<QuestKey>) {
        let event = input.facts.event();
        keys.extend(
            rules
                .candidates(event, input.stamp)
                .map(|rule| key(rule, &event.user_id)),
        );
    }

    fn heap_bytes(&self, key: &QuestKey, state: Option<&QuestState>) -> usize {
        key.user.as_str().len()
            + state.map_or(0, |state| {
                state.studio_id.as_str().len() + state.items.heap_bytes()
            })
    }

    fn apply(
        &self,
        rules: &QuestRules,
        _record: &Record,
        input: &QuestInput,
        scope: &mut Scope<'_, Self>,
    ) -> Result<(), Poison> {
        let facts = &input.facts;
        for rule in rules.candidates(facts.event(), input.stamp) {
            let key = key(rule, &facts.event().user_id);
            let state = scope.state(&key);
            // Most events of a finished player meet only finished quests: nothing more to ask.
            if state.is_some_and(|state| state.completed_at.is_some()) {
                continue;
            }
            let changed = match decide(rule, facts) {
                Decision::Ignore(_) => continue,
                Decision::Unusable(poison) => Err(poison),
                Decision::Count(step) => match advance(rule, state, step, facts.ingested_at()) {
                    Advance::Unchanged => continue,
                    Advance::Changed(state) => Ok(state),
                    Advance::TooLarge(poison) => Err(poison),
                },
            };
            match changed {
                Err(poison) => scope.dead_letter(poison, source(rule)),
                Ok(state) => {
                    let event = facts.event();
                    scope.emit_latest(key.clone(), progress(rule, event, &state)?);
                    if state.completed_at.is_some() {
                        for grant in grants(rule, facts) {
                            scope.emit(grant?);
                        }
                    }
                    scope.put(key, state);
                }
            }
        }
        Ok(())
    }
}

fn key(rule: &QuestRule, user: &UserId) -> QuestKey {
    QuestKey {
        quest: rule.id(),
        user: user.clone(),
    }
}

/// What grants, and what gives a record up: `quest_<questId>`.
fn source(rule: &QuestRule) -> String {
    format!("quest_{}", rule.quest_id())
}

fn progress(rule: &QuestRule, event: &GameEvent, state: &QuestState) -> Result<Emit, Poison> {
    let update = UiUpdate::QuestProgress(QuestProgressUpdate {
        game_id: event.game_id.clone(),
        user_id: event.user_id.clone(),
        quest_id: rule.quest_id().clone(),
        progress: Progress {
            current: state.current.to_number(),
            target: state.target.to_number(),
        },
        completed: state.completed_at.is_some(),
        version: state.version,
    });
    Ok(Emit {
        topic: Topic::UiUpdates,
        key: player_key(&event.game_id, &event.user_id),
        headers: Vec::new(),
        value: encode(&update)?,
    })
}

/// One message per reward, in the definition's order.
fn grants(rule: &QuestRule, facts: &EventFacts) -> impl Iterator<Item = Result<Emit, Poison>> {
    let event = facts.event();
    let source = source(rule);
    let rewards = rule.definition().rewards.iter().enumerate();
    rewards.map(move |(index, reward)| {
        let grant = RewardEvent {
            grant_id: hash::grant_id(
                rule.studio_id(),
                &event.game_id,
                &source,
                "",
                &event.user_id,
                index,
            ),
            studio_id: rule.studio_id().clone(),
            game_id: event.game_id.clone(),
            user_id: event.user_id.clone(),
            source: source.clone(),
            reward: reward.clone(),
            timestamp: facts.ingested_at(),
        };
        Ok(Emit {
            topic: Topic::RewardEvents,
            key: player_key(&event.game_id, &event.user_id),
            headers: vec![(headers::KIND.to_owned(), Kind::Event.as_str().to_owned())],
            value: encode(&grant)?,
        })
    })
}
