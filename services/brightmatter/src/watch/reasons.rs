//! Why events count or not, by the rules and the player's progress as they are in Postgres.

use std::collections::BTreeMap;
use std::time::Duration;

use bm_contracts::{GameEvent, hash};
use bm_domain::quest::{Decision, EventFacts, Explained, QuestRules};
use bm_engine::Record;
use bm_storage::{Storage, StoreError};
use tokio::time::Instant;
use uuid::Uuid;

use super::seen::{Known, Seen, Thing, Verdicts};

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
    /// rules are those of this moment: the router reads them a little earlier or later. What the
    /// services have not come to yet, such as the event before this one, is not taken into account.
    pub(super) async fn explain(&mut self, seen: &mut Seen, record: &Record) {
        let Thing::Event { event, verdicts } = &mut seen.thing else {
            return;
        };
        *verdicts = match self.judge(event, record).await {
            Ok(known) => Verdicts::Known(known),
            Err(problem) => Verdicts::Unknown(problem),
        };
    }

    async fn judge(&mut self, event: &GameEvent, record: &Record) -> Result<Known, String> {
        self.renew()
            .await
            .map_err(|problem| format!("rules cannot be read: {problem}"))?;
        let facts = EventFacts::new(event.clone(), record.timestamp);
        let explained = self.rules.explain(&facts, self.rules.seq());
        self.known(event, record, explained)
            .await
            .map_err(|e| format!("progress cannot be read: {e}"))
    }

    /// Beside it what the database knows of the event and the player.
    async fn known(
        &self,
        event: &GameEvent,
        record: &Record,
        explained: Vec<Explained>,
    ) -> Result<Known, StoreError> {
        let key = hash::event_key(
            &event.studio_id,
            &event.game_id,
            &event.user_id,
            &event.event_id,
        );
        let place = self.storage.event_place(&key, event.timestamp).await?;
        let wanting: Vec<Uuid> = explained
            .iter()
            .filter(|e| matches!(e.decision, Decision::Count(_)))
            .map(|e| e.quest)
            .collect();
        let completed = if wanting.is_empty() {
            BTreeMap::new()
        } else {
            let user = &event.user_id;
            self.storage.quests_completed(user, &wanting).await?
        };
        Ok(Known {
            explained,
            repeat_of: place.filter(|place| *place != (record.partition, record.offset)),
            // The event that completed a quest was before its completion, if not by much.
            completed: completed
                .into_iter()
                .filter(|(_, at)| *at < record.timestamp)
                .map(|(quest, _)| quest)
                .collect(),
        })
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
