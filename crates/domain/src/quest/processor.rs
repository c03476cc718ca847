//! The quest processor: folds events into players' progress, and grants what completion earns.

use bm_contracts::headers::{self, Kind};
use bm_contracts::messages::{Progress, QuestProgressUpdate, RewardEvent, UiUpdate};
use bm_contracts::partition::player_key;
use bm_contracts::{GameEvent, Topic, hash};
use bm_engine::domain::Emit;
use bm_engine::{ConfigDemand, Domain, Poison, Record, Scope};
use uuid::Uuid;

use super::decision::{Advance, Decision, advance, judge};
use super::facts::EventFacts;
use super::rules::QuestRules;
use super::version::{QuestRule, QuestVersion};
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
    const CACHE_BYTES_PER_LANE: usize = 12 << 20;

    type Input = QuestInput;
    type Key = QuestKey;
    type State = QuestState;
    type Rules = QuestRules;
    type Row = NoRow;

    fn decode(&self, record: &Record) -> Result<QuestInput, Poison> {
        record::expect_event(record)?;
        let event = record::decode_event(record)?;
        record::expect_key(record, &event.game_id, &event.user_id)?;
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
        let facts = EventFacts::new(event, ingested_at);
        Ok(QuestInput { facts, stamp })
    }

    fn demand(&self, input: &QuestInput) -> ConfigDemand {
        ConfigDemand::AtLeast(input.stamp)
    }

    fn keys(&self, rules: &QuestRules, input: &QuestInput, keys: &mut Vec<QuestKey>) {
        let user = &input.facts.event().user_id;
        keys.extend(
            rules
                .candidates(&input.facts, input.stamp)
                .map(|version| QuestKey {
                    quest: version.id(),
                    user: user.clone(),
                }),
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
        let mut key = QuestKey {
            quest: Uuid::nil(),
            user: facts.event().user_id.clone(),
        };
        for version in rules.candidates(facts, input.stamp) {
            key.quest = version.id();
            // Most events of a finished player meet only finished quests: nothing more to ask.
            if (scope.state(&key)).is_some_and(|state| state.completed_at.is_some()) {
                continue;
            }
            if let Err(poison) = apply_one(version, facts, &key, scope) {
                scope.dead_letter(poison, source(version));
            }
        }
        Ok(())
    }
}

/// Applies an event to one quest that it may count for. `Err` is a dead letter for this quest, for
/// which nothing is changed or sent then.
fn apply_one(
    version: &QuestVersion,
    facts: &EventFacts,
    key: &QuestKey,
    scope: &mut Scope<'_, QuestDomain>,
) -> Result<(), Poison> {
    let step = match judge(version, facts) {
        Decision::Ignore(_) => return Ok(()),
        Decision::Unusable(poison) => return Err(poison),
        Decision::Count(step) => step,
    };
    let rule = version.rule()?;
    let (target, at) = (rule.definition().conditions.target, facts.ingested_at());
    let state = match advance(version.studio_id(), target, scope.state(key), step, at) {
        Advance::Unchanged => return Ok(()),
        Advance::TooLarge(poison) => return Err(poison),
        Advance::Changed(state) => state,
    };
    let shown = progress(version, facts.event(), &state)?;
    let grants: Vec<Emit> = if state.completed_at.is_some() {
        grants(version, rule, facts).collect::<Result<_, _>>()?
    } else {
        Vec::new()
    };
    scope.emit_latest(key.clone(), shown);
    for grant in grants {
        scope.emit(grant);
    }
    scope.put(key.clone(), state);
    Ok(())
}

/// What grants, and what gives a record up: `quest_<questId>`.
fn source(version: &QuestVersion) -> String {
    format!("quest_{}", version.quest_id())
}

fn progress(version: &QuestVersion, event: &GameEvent, state: &QuestState) -> Result<Emit, Poison> {
    let update = UiUpdate::QuestProgress(QuestProgressUpdate {
        game_id: event.game_id.clone(),
        user_id: event.user_id.clone(),
        quest_id: version.quest_id().clone(),
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
fn grants(
    version: &QuestVersion,
    rule: &QuestRule,
    facts: &EventFacts,
) -> impl Iterator<Item = Result<Emit, Poison>> {
    let event = facts.event();
    let source = source(version);
    let rewards = rule.definition().rewards.iter().enumerate();
    rewards.map(move |(index, reward)| {
        let grant = RewardEvent {
            grant_id: hash::grant_id(
                version.studio_id(),
                &event.game_id,
                &source,
                "",
                &event.user_id,
                index,
            ),
            studio_id: version.studio_id().clone(),
            game_id: event.game_id.clone(),
            user_id: event.user_id.clone(),
            source: source.clone(),
            reward: reward.clone(),
            timestamp: facts.ingested_at(),
        };
        Ok(Emit {
            topic: Topic::RewardEvents,
            key: player_key(&event.game_id, &event.user_id),
            headers: vec![record::of_kind(Kind::Event)],
            value: encode(&grant)?,
        })
    })
}
