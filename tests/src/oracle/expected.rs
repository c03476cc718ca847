//! What must be: a plain fold of what was kept, and ids by rules of the oracle's own.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Kept;
use crate::Quest;
use crate::quests::Reached;

/// Player and quest.
pub(super) type Who = (String, String);

/// A reward given to a player.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) studio: String,
    pub(super) game: String,
    pub(super) user: String,
    /// `quest_<questId>`
    pub(super) source: String,
    pub(super) reward: Value,
    /// When the event that earned it was ingested, in milliseconds.
    pub(super) at: i64,
}

/// What must be.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Every state each player went through in each quest, oldest first.
    pub(super) progress: BTreeMap<Who, Vec<Reached>>,
    /// By grant id.
    pub(super) grants: BTreeMap<String, Grant>,
    /// Ids of events that some quest counts.
    pub(super) wanted: BTreeSet<String>,
    /// Ids of events of a type and name that no quest in force is about.
    pub(super) unwanted: BTreeSet<String>,
}

impl Expected {
    /// Folds what was kept, the plain way: for each event every quest, in the newest version not
    /// above the event's stamp.
    pub(super) fn of(versions: &[(i64, Quest)], kept: &[Kept]) -> Self {
        let mut expected = Self::default();
        let mut by_stamp: BTreeMap<i64, BTreeMap<&str, &Quest>> = BTreeMap::new();
        for row in kept {
            let in_force = by_stamp.entry(row.config_seq).or_insert_with(|| {
                let saved = versions.iter().filter(|(seq, _)| *seq <= row.config_seq);
                saved.map(|(_, quest)| (quest.id(), quest)).collect()
            });
            if !in_force.values().any(|quest| quest.concerns(row)) {
                expected.unwanted.insert(row.event_id.clone());
            }
            for quest in in_force.values().filter(|quest| quest.wants(row)) {
                expected.wanted.insert(row.event_id.clone());
                expected.count(quest, row);
            }
        }
        // An event that is wanted and adds nothing leaves no trace.
        expected.progress.retain(|_, history| !history.is_empty());
        expected
    }

    fn count(&mut self, quest: &Quest, row: &Kept) {
        let who = (row.user.clone(), quest.id().to_owned());
        let history = self.progress.entry(who).or_default();
        let before = history.last().cloned().unwrap_or_default();
        let Some(after) = quest.advance(&before, row) else {
            return;
        };
        if after.completed_at.is_some() {
            for (index, reward) in quest.rewards().iter().enumerate() {
                let grant = Grant {
                    studio: row.studio.clone(),
                    game: row.game.clone(),
                    user: row.user.clone(),
                    source: format!("quest_{}", quest.id()),
                    reward: reward.clone(),
                    at: row.ingested_at,
                };
                self.grants.insert(grant_id(&grant, "", index), grant);
            }
        }
        history.push(after);
    }
}

/// `grt_` and 32 hex of SHA-256 over studio, game, source, instance, player and the reward's place,
/// each preceded by its length in bytes; lengths and the place are 64 bits, lowest byte first.
fn grant_id(grant: &Grant, instance: &str, index: usize) -> String {
    let mut bytes = Vec::new();
    let place = (index as u64).to_le_bytes();
    for part in [
        grant.studio.as_bytes(),
        grant.game.as_bytes(),
        grant.source.as_bytes(),
        instance.as_bytes(),
        grant.user.as_bytes(),
        &place[..],
    ] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let digits = Sha256::digest(&bytes)
        .iter()
        .take(16)
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect::<String>();
    format!("grt_{digits}")
}
