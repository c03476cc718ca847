//! Quest definitions compiled and indexed: which quests an event may count for, by its stamp.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bm_contracts::{EventType, GameId, QuestId};
use uuid::Uuid;

use super::decision::{Decision, Ignored, decide, mismatch};
use super::facts::EventFacts;
use super::version::{Expressions, QuestVersion};
use super::{QuestStatus, StoredQuest};
use crate::cel::{self, Compiler, NoCompiler};

/// Rules cannot be made of these versions, whatever they say.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Changes are older than what they should change.
    #[error("changes up to config sequence {to} cannot follow rules of {from}")]
    Backwards {
        /// What the rules hold.
        from: i64,
        /// What the changes lead to.
        to: i64,
    },
    /// The same may succeed later.
    #[error(transparent)]
    NoCompiler(#[from] NoCompiler),
}

/// All versions of one quest, oldest first.
#[derive(Debug, Clone, Default)]
struct Versions(Vec<Arc<QuestVersion>>);

impl Versions {
    /// Puts a version in its place; one that is there already is replaced.
    fn insert(&mut self, version: QuestVersion) {
        let version = Arc::new(version);
        let key = |version: &QuestVersion| (version.config_seq(), version.version());
        match self
            .0
            .binary_search_by_key(&key(&version), |known| key(known))
        {
            Ok(at) => self.0[at] = version,
            Err(at) => self.0.insert(at, version),
        }
    }

    /// The newest version not above the stamp.
    fn in_force(&self, stamp: i64) -> Option<&Arc<QuestVersion>> {
        let newer = self.0.partition_point(|v| v.config_seq() <= stamp);
        self.0[..newer].last()
    }
}

/// The events a version is listed under: its type, and its name or any.
type Bucket = (EventType, Option<String>);

fn bucket(version: &QuestVersion) -> Option<Bucket> {
    let (event_type, name) = version.events()?;
    Some((event_type, name.map(ToOwned::to_owned)))
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
                .filter(|version| version.status() == QuestStatus::Active)
                .filter_map(|version| bucket(version))
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

    fn insert(&mut self, quest: StoredQuest, compiler: &Compiler, known: &mut Expressions) {
        let key = (quest.quest_id.clone(), quest.id);
        let versions = self.quests.entry(key).or_default();
        Arc::make_mut(versions).insert(QuestVersion::compile(quest, compiler, known));
    }

    fn versions(&self) -> impl Iterator<Item = &Arc<QuestVersion>> {
        self.quests.values().flat_map(|versions| &versions.0)
    }

    /// The versions in force that want events of this type and name.
    fn listed(
        &self,
        event_type: EventType,
        name: Option<&str>,
        stamp: i64,
    ) -> impl Iterator<Item = &Arc<QuestVersion>> {
        let by_name = self.index.get(&event_type);
        let named = by_name
            .and_then(|b| b.named.get(name?))
            .into_iter()
            .flatten()
            .map(move |versions| (versions, name));
        let any = by_name
            .into_iter()
            .flat_map(|b| &b.any)
            .map(|versions| (versions, None));
        named.chain(any).filter_map(move |(versions, listed)| {
            let version = versions.in_force(stamp)?;
            // Listed under the names of all versions, each counts under its own.
            (version.events() == Some((event_type, listed))).then_some(version)
        })
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
    /// Rules that hold every version saved up to `seq`, given all of them in any order. One that no
    /// rule can be made of is held as broken: see [`QuestRules::broken_since`].
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
        if by_game.is_empty() {
            let games = self.games.clone();
            return Ok(Self { seq, games });
        }
        // One thread for all there is to compile.
        let games = cel::with_compiler(|compiler| self.changed(by_game, compiler))?;
        Ok(Self { seq, games })
    }

    fn changed(
        &self,
        by_game: BTreeMap<GameId, Vec<StoredQuest>>,
        compiler: &Compiler,
    ) -> HashMap<GameId, Arc<GameRules>> {
        let mut games = self.games.clone();
        let mut known = Expressions::new();
        for (game, changed) in by_game {
            let mut rules = games
                .get(&game)
                .map(|rules| GameRules::clone(rules))
                .unwrap_or_default();
            for version in rules.versions() {
                version.share(&mut known);
            }
            for quest in changed {
                rules.insert(quest, compiler, &mut known);
            }
            rules.reindex();
            games.insert(game, Arc::new(rules));
        }
        games
    }

    /// The config sequence these rules hold: every version saved up to it is in them.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// The versions saved after `since` that no rule can be made of, in no particular order. Events
    /// that reach one become dead letters for it alone; whoever loads rules says so in the log.
    pub fn broken_since(&self, since: i64) -> impl Iterator<Item = &QuestVersion> {
        let games = self.games.values();
        games
            .flat_map(|game| game.versions())
            .map(Arc::as_ref)
            .filter(move |version| version.config_seq() > since && version.broken().is_some())
    }

    /// The versions in force at `stamp` for which the event may count, in a fixed order: of its
    /// studio, game, type and name, within their dates, and with their filters met. Evaluates nothing
    /// and asks for nobody's progress.
    pub fn candidates<'a>(
        &'a self,
        facts: &'a EventFacts,
        stamp: i64,
    ) -> impl Iterator<Item = &'a Arc<QuestVersion>> {
        let event = facts.event();
        self.games
            .get(&event.game_id)
            .into_iter()
            .flat_map(move |game| game.listed(event.event_type, event.event_name.as_deref(), stamp))
            .filter(|version| mismatch(version, facts).is_none())
    }

    /// Whether the event may count for any version in force at `stamp`.
    pub fn wants(&self, facts: &EventFacts, stamp: i64) -> bool {
        self.candidates(facts, stamp).next().is_some()
    }

    /// What each quest of the event's game makes of it, with the reason, in order of quest id:
    /// every quest that is active or was defined later than `stamp`.
    pub fn explain(&self, facts: &EventFacts, stamp: i64) -> Vec<Explained> {
        let game = self.games.get(&facts.event().game_id);
        let quests = game.into_iter().flat_map(|game| game.quests.iter());
        quests
            .map(|((quest_id, id), versions)| {
                let version = versions.in_force(stamp);
                Explained {
                    quest_id: quest_id.clone(),
                    quest: *id,
                    version: version.map(|version| version.version()),
                    decision: version.map_or(Decision::Ignore(Ignored::NotDefined), |version| {
                        decide(version, facts)
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
