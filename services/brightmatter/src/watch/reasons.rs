//! Why events count or not, by the rules as they are in Postgres.

use std::time::Duration;

use bm_contracts::Timestamp;
use bm_domain::quest::{EventFacts, QuestRules};
use bm_storage::Storage;
use tokio::time::Instant;

use super::seen::{Seen, Thing, Verdicts};

/// Rules are looked at again for an event when the last look is older than this.
const FRESH: Duration = Duration::from_millis(100);

/// The rules, kept as new as the database has them.
pub(super) struct Reasons {
    storage: Storage,
    rules: QuestRules,
    looked: Option<Instant>,
}

impl Reasons {
    pub(super) fn new(storage: Storage) -> Self {
        Self {
            storage,
            rules: QuestRules::default(),
            looked: None,
        }
    }

    /// Adds to an event what each quest of its game makes of it; leaves all else as it is. The
    /// rules are those of this moment: the router reads them a little earlier or later.
    pub(super) async fn explain(&mut self, seen: &mut Seen, at: Timestamp) {
        let Thing::Event { event, verdicts } = &mut seen.thing else {
            return;
        };
        *verdicts = match self.renew().await {
            Err(problem) => Verdicts::Unknown(format!("rules cannot be read: {problem}")),
            Ok(()) => {
                let facts = EventFacts::new((**event).clone(), at);
                Verdicts::Known(self.rules.explain(&facts, self.rules.seq()))
            }
        };
    }

    async fn renew(&mut self) -> Result<(), String> {
        if self.looked.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let seq = self.storage.current_config_seq().await;
        if seq.map_err(|e| e.to_string())? != self.rules.seq() {
            let (seq, changes) = self
                .storage
                .quest_changes_since(self.rules.seq())
                .await
                .map_err(|e| e.to_string())?;
            self.rules = self
                .rules
                .with_changes(seq, changes)
                .map_err(|e| e.to_string())?;
        }
        self.looked = Some(Instant::now());
        Ok(())
    }
}
