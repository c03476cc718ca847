//! What a processor is to the engine: pure functions from records and state to effects.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;

use bm_contracts::Topic;
use bm_contracts::headers::Name;

use crate::record::Record;

/// A processor's behaviour. Pure: no clock, no randomness, no I/O; the same inputs give the same effects.
///
/// A lane is the only writer of its keys' rows, so what [`Domain::apply`] sees is what is stored.
pub trait Domain: Send + Sync + 'static {
    /// Name in lane rows and in `bm-source`; never changes once it has run in production.
    const PROCESSOR: &'static str;
    /// The one topic it reads.
    const INPUT: Topic;
    /// How many bytes of states a lane may keep in memory between batches; 0 where they are never
    /// read again.
    const CACHE_BYTES_PER_LANE: usize;

    /// A record's value, understood.
    type Input: Send + Sync;
    /// Names a row of state.
    type Key: Clone + Eq + Hash + Ord + Debug + Send + Sync;
    /// A row of state.
    type State: Clone + Send + Sync;
    /// Compiled definitions; an immutable snapshot.
    type Rules: Send + Sync;
    /// A row that is only ever added.
    type Row: Send + Sync;

    /// Understands a record, or says why nobody can.
    fn decode(&self, record: &Record) -> Result<Self::Input, Poison>;

    /// How new the rules must be for this input.
    fn demand(&self, input: &Self::Input) -> ConfigDemand;

    /// The states that [`Domain::apply`] will look at for this input. It may name too many, never too few.
    fn keys(&self, rules: &Self::Rules, input: &Self::Input, keys: &mut Vec<Self::Key>);

    /// About how many bytes of memory a state takes beyond its own type: what its key and it point to.
    fn heap_bytes(&self, _key: &Self::Key, _state: Option<&Self::State>) -> usize {
        0
    }

    /// Applies one record. On `Err` nothing it did counts, and the record becomes a dead letter.
    fn apply(
        &self,
        rules: &Self::Rules,
        record: &Record,
        input: &Self::Input,
        scope: &mut Scope<'_, Self>,
    ) -> Result<(), Poison>
    where
        Self: Sized;
}

/// How new the rules must be to apply an input; the greatest of a batch counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigDemand {
    /// Any rules will do.
    Any,
    /// Those that hold this config sequence, or newer.
    AtLeast(i64),
    /// Those in force now, read after the batch was closed.
    Latest,
}

/// Why a record, or one definition's share of it, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {error}")]
pub struct Poison {
    /// Stable code, e.g. `undecodable`.
    pub code: String,
    /// A sentence for whoever reads dead letters.
    pub error: String,
}

impl Poison {
    /// A code and a sentence.
    pub fn new(code: impl Into<String>, error: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            error: error.into(),
        }
    }
}

/// A message a domain wants appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emit {
    /// Where to.
    pub topic: Topic,
    /// Partition key.
    pub key: String,
    /// Besides those the engine sets (`bm-source`, `bm-seq`, and `bm-correlation-id` and
    /// `traceparent` of the record that caused it).
    pub headers: Vec<(Name, String)>,
    /// The message.
    pub value: Vec<u8>,
}

/// What one record wants done, until it is known that all of it can be. Its memory serves one record after
/// the other: it is cleared before each.
pub(crate) struct RecordEffects<D: Domain> {
    pub(crate) states: Vec<(D::Key, D::State)>,
    pub(crate) rows: Vec<D::Row>,
    pub(crate) emits: Vec<(Option<D::Key>, Emit)>,
    pub(crate) dead: Vec<(Poison, Option<String>)>,
}

impl<D: Domain> Default for RecordEffects<D> {
    fn default() -> Self {
        Self {
            states: Vec::new(),
            rows: Vec::new(),
            emits: Vec::new(),
            dead: Vec::new(),
        }
    }
}

impl<D: Domain> RecordEffects<D> {
    pub(crate) fn clear(&mut self) {
        self.states.clear();
        self.rows.clear();
        self.emits.clear();
        self.dead.clear();
    }
}

/// The states a batch looks at: what was loaded, under what the batch has changed so far.
pub(crate) struct States<'a, D: Domain> {
    pub(crate) loaded: &'a (dyn LoadedStates<D> + Sync),
    pub(crate) changed: BTreeMap<D::Key, D::State>,
}

/// Where a batch's states come from: one loaded map, or a cache with what it lacked beside it.
pub trait LoadedStates<D: Domain> {
    /// The stored state of `key`; `None` when there is no such row.
    fn get(&self, key: &D::Key) -> Option<&D::State>;
}

impl<D: Domain> LoadedStates<D> for BTreeMap<D::Key, D::State> {
    fn get(&self, key: &D::Key) -> Option<&D::State> {
        BTreeMap::get(self, key)
    }
}

impl<'a, D: Domain> States<'a, D> {
    /// Nothing changed yet.
    pub(crate) fn new(loaded: &'a (dyn LoadedStates<D> + Sync)) -> Self {
        Self {
            loaded,
            changed: BTreeMap::new(),
        }
    }

    fn get(&self, key: &D::Key) -> Option<&D::State> {
        self.changed.get(key).or_else(|| self.loaded.get(key))
    }
}

/// What a domain sees and does while it applies one record.
pub struct Scope<'a, D: Domain> {
    pub(crate) states: &'a States<'a, D>,
    pub(crate) effects: &'a mut RecordEffects<D>,
}

impl<D: Domain> Scope<'_, D> {
    /// The state of `key` as of now, this record's own changes included; `None` when there is none.
    pub fn state(&self, key: &D::Key) -> Option<&D::State> {
        self.effects
            .states
            .iter()
            .rev()
            .find(|(k, _)| k == key)
            .map(|(_, s)| s)
            .or_else(|| self.states.get(key))
    }

    /// Changes the state of `key`.
    pub fn put(&mut self, key: D::Key, state: D::State) {
        self.effects.states.push((key, state));
    }

    /// Adds a row.
    pub fn row(&mut self, row: D::Row) {
        self.effects.rows.push(row);
    }

    /// Appends a message.
    pub fn emit(&mut self, emit: Emit) {
        self.effects.emits.push((None, emit));
    }

    /// Appends a message of which only the last per `slot` and topic within a batch need be seen.
    pub fn emit_latest(&mut self, slot: D::Key, emit: Emit) {
        self.effects.emits.push((Some(slot), emit));
    }

    /// Gives the record up for one definition (`quest_<questId>`); the others count.
    pub fn dead_letter(&mut self, poison: Poison, definition: impl Into<String>) {
        self.effects.dead.push((poison, Some(definition.into())));
    }
}
