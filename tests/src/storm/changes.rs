//! Quests changed while events flow: new ones, other targets, filters and rewards, an end and a new
//! beginning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bm_domain::definition::parse_file;
use bm_storage::definitions::ApplyError;
use bm_storage::{Storage, StoreError};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::fleet::Fleet;
use crate::{Book, Quest, Step};

/// A database that was killed is there again long before.
const SAVED_WITHIN: Duration = Duration::from_mins(2);
/// So many of them are added at most; every event is looked at by all.
const ADDED: usize = 12;

/// Draws what a studio changes next.
#[derive(Debug)]
pub(super) struct Changes {
    random: StdRng,
    quests: BTreeMap<String, Quest>,
    added: usize,
    made: u64,
}

impl Changes {
    /// Those of this seed, to these quests.
    pub(super) fn of(seed: u64, quests: impl IntoIterator<Item = Quest>) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            quests: quests
                .into_iter()
                .map(|quest| (quest.id().to_owned(), quest))
                .collect(),
            added: 0,
            made: 0,
        }
    }

    fn next(&mut self) -> Quest {
        self.made += 1;
        let mut quest = if self.added < ADDED && self.random.random_range(0..4) == 0 {
            self.added += 1;
            self.new_quest()
        } else {
            self.changed_quest()
        };
        if !quest.rewards().is_empty() {
            // No two versions are the same.
            quest = quest.rewards_only([json!({"type": "coins", "amount": self.made})]);
        }
        self.quests.insert(quest.id().to_owned(), quest.clone());
        quest
    }

    fn new_quest(&mut self) -> Quest {
        let id = format!("added-{}", self.added);
        let target = self.random.random_range(1..20);
        let quest = match self.random.random_range(0..3) {
            0 => Quest::new(&id, "enemy_killed", Step::Count, target),
            1 => {
                let damage = Step::Accumulate("damage".to_owned());
                Quest::new(&id, "enemy_killed", damage, target)
            }
            _ => {
                let item = Step::Unique("item".to_owned());
                Quest::new(&id, "item_collected", item, target.min(12))
            }
        };
        quest.reward(json!({}))
    }

    fn changed_quest(&mut self) -> Quest {
        let rewarding = self
            .quests
            .values()
            .filter(|quest| !quest.rewards().is_empty());
        let quest = rewarding.choose(&mut self.random).cloned();
        let quest = quest.expect("some quests give rewards");
        match self.random.random_range(0..6) {
            0 => quest.archived(true),
            1..3 => {
                let target = self.random.random_range(1..20);
                quest.until(target).archived(false)
            }
            3 if quest.is_of("enemy_killed") => {
                let map = ["forest", "desert", "sea"][self.random.random_range(0..3)];
                quest.filter("map", map)
            }
            _ => quest.archived(false),
        }
    }
}

/// A studio that changes its quests until it is told to stop.
#[derive(Debug)]
pub(super) struct Studio {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Changes>,
}

impl Studio {
    /// Begins to save `changes`, by `storage`.
    pub(super) fn start(storage: Storage, fleet: &Fleet, mut changes: Changes) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let book = Arc::clone(&fleet.book);
        let game = fleet.game().to_owned();
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                save(&storage, &book, &game, changes.next()).await;
                let pause = changes.random.random_range(200..2_500);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            changes
        });
        Self { stop, task }
    }

    /// Waits for the answer to the last save; gives back what goes on later.
    pub(super) async fn stop(self) -> Changes {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("a studio saves until it is stopped")
    }
}

/// Saves a quest until it is answered. Nobody else saves: a version whose answer was lost is the
/// newest still, and the next answer tells the sequence that it has.
async fn save(storage: &Storage, book: &Book, game: &str, quest: Quest) {
    let definitions = json!({"quests": [quest.definition(game)]});
    let file = parse_file(definitions.to_string().as_bytes())
        .unwrap_or_else(|faults| panic!("{definitions} is at fault: {faults:?}"));
    let started = Instant::now();
    let applied = loop {
        match storage.apply(&file).await {
            Ok(applied) => break applied,
            Err(ApplyError::Store(
                error @ (StoreError::Unavailable { .. }
                | StoreError::Refused {
                    transient: true, ..
                }),
            )) => assert!(
                started.elapsed() < SAVED_WITHIN,
                "not saved within {SAVED_WITHIN:?}: {definitions}; last: {error}"
            ),
            Err(error) => panic!("{definitions} cannot be saved: {error}"),
        }
        // As a studio waits before it tries again.
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    book.saved(applied.config_seq, quest);
}
