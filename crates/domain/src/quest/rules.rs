//! Quest definitions compiled and indexed: which quests an event may count for, by its stamp.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bm_contracts::{EventType, GameEvent, GameId, QuestId, StudioId};
use uuid::Uuid;

use super::decision::{Decision, Ignored, decide};
use super::facts::EventFacts;
use super::{QuestStatus, StoredQuest};
use crate::cel::{self, CelFault, CelRule};
use crate::definition::{QuestDefinition, StoredDefinitionError};

/// One version of a quest, compiled.
#[derive(Debug)]
pub struct QuestRule {
    id: Uuid,
    studio_id: StudioId,
    version: i32,
    config_seq: i64,
    status: QuestStatus,
    definition: QuestDefinition,
    when: Option<CelRule>,
}

impl QuestRule {
    /// `quests.id`.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whose quest.
    pub fn studio_id(&self) -> &StudioId {
        &self.studio_id
    }

    /// In which game.
    pub fn game_id(&self) -> &GameId {
        &self.definition.game_id
    }

    /// The studio's name of the quest.
    pub fn quest_id(&self) -> &QuestId {
        &self.definition.quest_id
    }

    /// From 1.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// Of this version.
    pub fn status(&self) -> QuestStatus {
        self.status
    }

    /// As the studio defined it.
    pub fn definition(&self) -> &QuestDefinition {
        &self.definition
    }

    /// `conditions.when`, compiled.
    pub fn when(&self) -> Option<&CelRule> {
        self.when.as_ref()
    }

    fn compile(stored: StoredQuest) -> Result<Self, RulesError> {
        let name = |quest: &StoredQuest| format!("{} version {}", quest.quest_id, quest.version);
        let definition = match QuestDefinition::from_stored(stored.definition.get()) {
            Ok(definition) => definition,
            Err(why) => {
                return Err(RulesError::Definition {
                    quest: name(&stored),
                    why,
                });
            }
        };
        if (&definition.game_id, &definition.quest_id) != (&stored.game_id, &stored.quest_id) {
            return Err(RulesError::Misfiled {
                quest: name(&stored),
            });
        }
        let when = match definition
            .conditions
            .when
            .as_deref()
            .map(|text| cel::with_compiler(|c| c.compile(text)).unwrap())
        {
            None => None,
            Some(Ok(rule)) => Some(rule),
            Some(Err(why)) => {
                return Err(RulesError::When {
                    quest: name(&stored),
                    why,
                });
            }
        };
        Ok(Self {
            id: stored.id,
            studio_id: stored.studio_id,
            version: stored.version,
            config_seq: stored.config_seq,
            status: stored.status,
            definition,
            when,
        })
    }
}

/// Stored definitions do not make rules: they were written by other software, or damaged.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A definition cannot be read.
    #[error("quest {quest}: {why}")]
    Definition {
        /// Quest and version.
        quest: String,
        /// What is wrong.
        why: StoredDefinitionError,
    },
    /// An expression cannot be compiled.
    #[error("quest {quest}: when: {why}")]
    When {
        /// Quest and version.
        quest: String,
        /// What is wrong.
        why: CelFault,
    },
    /// The definition names another game or quest than the row it stands in.
    #[error("quest {quest}: its definition names another quest or game")]
    Misfiled {
        /// Quest and version.
        quest: String,
    },
    /// Changes are older than what they should change.
    #[error("changes up to config sequence {to} cannot follow rules of {from}")]
    Backwards {
        /// What the rules hold.
        from: i64,
        /// What the changes lead to.
        to: i64,
    },
}

/// All versions of one quest, oldest first.
#[derive(Debug, Clone, Default)]
struct Versions(Vec<Arc<QuestRule>>);

impl Versions {
    /// Puts a version in its place; one that is there already is replaced.
    fn insert(&mut self, rule: QuestRule) {
        let rule = Arc::new(rule);
        let key = |rule: &QuestRule| (rule.config_seq, rule.version);
        match self.0.binary_search_by_key(&key(&rule), |known| key(known)) {
            Ok(at) => self.0[at] = rule,
            Err(at) => self.0.insert(at, rule),
        }
    }

    /// The newest version not above the stamp.
    fn in_force(&self, stamp: i64) -> Option<&Arc<QuestRule>> {
        let newer = self.0.partition_point(|rule| rule.config_seq <= stamp);
        self.0[..newer].last()
    }
}

/// The events a version is listed under: its type, and its name or any.
type Bucket = (EventType, Option<String>);

fn bucket(rule: &QuestRule) -> Bucket {
    let conditions = &rule.definition.conditions;
    (conditions.event_type, conditions.event_name.clone())
}

/// The quests of one game.
#[derive(Debug, Clone, Default)]
struct GameRules {
    quests: BTreeMap<(QuestId, Uuid), Arc<Versions>>,
    index: HashMap<EventType, ByName>,
}

/// Quests listed by the name their events have. A quest is listed under the names of all its
/// versions; which version is in force decides when asked.
#[derive(Debug, Clone, Default)]
struct ByName {
    any: Vec<Arc<Versions>>,
    named: HashMap<String, Vec<Arc<Versions>>>,
}

impl GameRules {
    fn reindex(&mut self) {
        self.index.clear();
        for versions in self.quests.values() {
            let mut listed: Vec<Bucket> = versions
                .0
                .iter()
                .filter(|rule| rule.status == QuestStatus::Active)
                .map(|rule| bucket(rule))
                .collect();
            listed.sort_unstable();
            listed.dedup();
            for (event_type, name) in listed {
                let by_name = self.index.entry(event_type).or_default();
                let list = match name {
                    None => &mut by_name.any,
                    Some(name) => by_name.named.entry(name).or_default(),
                };
                list.push(Arc::clone(versions));
            }
        }
    }

    fn candidates(
        &self,
        event_type: EventType,
        name: Option<&str>,
        stamp: i64,
    ) -> impl Iterator<Item = &Arc<QuestRule>> {
        let by_name = self.index.get(&event_type);
        let named = by_name
            .and_then(|b| b.named.get(name?))
            .into_iter()
            .flatten();
        let any = by_name.into_iter().flat_map(|b| &b.any);
        let in_force = move |wanted: Option<&str>, versions: &'_ Arc<Versions>| {
            let rule = versions.in_force(stamp)?;
            let conditions = &rule.definition.conditions;
            (rule.status == QuestStatus::Active
                && conditions.event_type == event_type
                && conditions.event_name.as_deref() == wanted)
                .then_some(())
        };
        named
            .filter(move |v| in_force(name, v).is_some())
            .chain(any.filter(move |v| in_force(None, v).is_some()))
            .filter_map(move |versions| versions.in_force(stamp))
    }
}

/// Every quest definition there is, up to a config sequence, compiled. Immutable; cheap to change a
/// few definitions of, because all else is shared.
#[derive(Debug, Clone, Default)]
pub struct QuestRules {
    seq: i64,
    games: HashMap<GameId, Arc<GameRules>>,
}

impl QuestRules {
    /// Rules that hold every version saved up to `seq`, given all of them in any order.
    pub fn build(
        seq: i64,
        quests: impl IntoIterator<Item = StoredQuest>,
    ) -> Result<Self, RulesError> {
        Self::default().with_changes(seq, quests)
    }

    /// These rules, and the versions saved after them up to `seq`. A version that is held already
    /// may be among them.
    pub fn with_changes(
        &self,
        seq: i64,
        changed: impl IntoIterator<Item = StoredQuest>,
    ) -> Result<Self, RulesError> {
        if seq < self.seq {
            return Err(RulesError::Backwards {
                from: self.seq,
                to: seq,
            });
        }
        let mut by_game: BTreeMap<GameId, Vec<StoredQuest>> = BTreeMap::new();
        for quest in changed {
            by_game
                .entry(quest.game_id.clone())
                .or_default()
                .push(quest);
        }
        let mut games = self.games.clone();
        for (game, changed) in by_game {
            let mut rules = games
                .get(&game)
                .map(|rules| GameRules::clone(rules))
                .unwrap_or_default();
            for quest in changed {
                let key = (quest.quest_id.clone(), quest.id);
                let versions = rules.quests.entry(key).or_default();
                Arc::make_mut(versions).insert(QuestRule::compile(quest)?);
            }
            rules.reindex();
            games.insert(game, Arc::new(rules));
        }
        Ok(Self { seq, games })
    }

    /// The config sequence these rules hold: every version saved up to it is in them.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// The rules in force at `stamp` that want events of this type and name, in a fixed order.
    /// Looks at no others.
    pub fn candidates<'a>(
        &'a self,
        event: &'a GameEvent,
        stamp: i64,
    ) -> impl Iterator<Item = &'a Arc<QuestRule>> {
        self.games
            .get(&event.game_id)
            .into_iter()
            .flat_map(move |game| {
                game.candidates(event.event_type, event.event_name.as_deref(), stamp)
            })
            .filter(|rule| rule.studio_id == event.studio_id)
    }

    /// Whether any rule in force at `stamp` wants the event.
    pub fn wants(&self, event: &GameEvent, stamp: i64) -> bool {
        self.candidates(event, stamp).next().is_some()
    }

    /// What each quest of the event's game makes of it, with the reason, in order of quest id:
    /// every quest that is active or was defined later than `stamp`.
    pub fn explain(&self, facts: &EventFacts, stamp: i64) -> Vec<Explained> {
        let game = self.games.get(&facts.event().game_id);
        let quests = game.into_iter().flat_map(|game| game.quests.iter());
        quests
            .map(|((quest_id, id), versions)| {
                let rule = versions.in_force(stamp);
                Explained {
                    quest_id: quest_id.clone(),
                    quest: *id,
                    version: rule.map(|rule| rule.version),
                    decision: rule.map_or(Decision::Ignore(Ignored::NotDefined), |rule| {
                        decide(rule, facts)
                    }),
                }
            })
            .filter(|e| !matches!(e.decision, Decision::Ignore(Ignored::Inactive(_))))
            .collect()
    }
}

/// What one quest makes of an event, whatever the player's progress.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The studio's name of the quest.
    pub quest_id: QuestId,
    /// `quests.id`.
    pub quest: Uuid,
    /// The version that counts for the event; `None` when the quest was not defined yet.
    pub version: Option<i32>,
    /// What it makes of the event.
    pub decision: Decision,
}
