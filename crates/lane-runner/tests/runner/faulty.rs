//! A reward store that fails as told, around the real one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bm_domain::reward::{GrantId, GrantRow, LedgerEntry, RewardDomain};
use bm_engine::ConfigDemand;
use bm_engine::lane::LaneMove;
use bm_storage::{CommitError, LaneStore, RewardStore, StoreError};
use tokio::sync::Notify;

/// What goes wrong with a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It happens, and nobody hears of it.
    LoseReplyAfter,
    /// It does not happen, and nobody hears of that.
    LoseReplyBefore,
    /// The database calls a value bad.
    Data,
    /// The database refuses for a reason that is not the data's.
    NoPartition,
    /// The database does not get through in the time there is.
    TooSlow,
    /// The database is silent until [`Faulty::relent`], and then does it.
    Silent,
    /// A bug ends the batch.
    Panic,
}

#[derive(Debug, Default)]
struct Plan {
    next: Option<Fault>,
    players: Vec<(String, Fault)>,
    most_rows: Option<usize>,
    unreadable: Option<String>,
    done: usize,
    refused: usize,
    given_up: usize,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Faulty {
    inner: RewardStore,
    plan: Arc<Mutex<Plan>>,
    relented: Arc<Notify>,
}

impl Faulty {
    pub(crate) fn around(inner: RewardStore) -> Self {
        Self {
            inner,
            plan: Arc::default(),
            relented: Arc::default(),
        }
    }

    /// The next commit fails so.
    pub(crate) fn next(&self, fault: Fault) {
        self.plan.lock().unwrap().next = Some(fault);
    }

    /// Every commit with a grant of this player fails so.
    pub(crate) fn refuse_player(&self, user: &str, fault: Fault) {
        let mut plan = self.plan.lock().unwrap();
        plan.players.push((user.to_owned(), fault));
    }

    /// Every commit of more rows than this is too slow.
    pub(crate) fn slow_above(&self, rows: usize) {
        self.plan.lock().unwrap().most_rows = Some(rows);
    }

    /// The row of this grant cannot be understood when it is loaded.
    pub(crate) fn corrupt(&self, grant_id: &str) {
        self.plan.lock().unwrap().unreadable = Some(grant_id.to_owned());
    }

    /// Nothing fails from now on.
    pub(crate) fn relent(&self) {
        *self.plan.lock().unwrap() = Plan::default();
        self.relented.notify_waiters();
    }

    /// How many commits have failed as told by [`Faulty::next`] or [`Faulty::slow_above`].
    pub(crate) fn faults_done(&self) -> usize {
        self.plan.lock().unwrap().done
    }

    /// How many commits have failed as told by [`Faulty::refuse_player`].
    pub(crate) fn refusals(&self) -> usize {
        self.plan.lock().unwrap().refused
    }

    /// How many commits were given up while the database was silent.
    pub(crate) fn given_up(&self) -> usize {
        self.plan.lock().unwrap().given_up
    }

    fn fault(&self, rows: &[GrantRow]) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        if let Some(fault) = plan.next.take() {
            plan.done += 1;
            return Some(fault);
        }
        if plan.most_rows.is_some_and(|most| rows.len() > most) {
            plan.done += 1;
            return Some(Fault::TooSlow);
        }
        let refused = |player: &str| rows.iter().any(|row| row.user_id.as_str() == player);
        let told = plan.players.iter().find(|(player, _)| refused(player));
        let fault = told?.1;
        plan.refused += 1;
        Some(fault)
    }
}

/// A commit that gets no answer.
struct Waits<'a> {
    store: &'a Faulty,
    over: bool,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.store.plan.lock().unwrap().given_up += 1;
        }
    }
}

impl LaneStore<RewardDomain> for Faulty {
    async fn rules(
        &self,
        held: Option<Arc<()>>,
        demand: ConfigDemand,
    ) -> Result<Arc<()>, StoreError> {
        LaneStore::<RewardDomain>::rules(&self.inner, held, demand).await
    }

    async fn load(&self, keys: &[GrantId]) -> Result<Vec<(GrantId, LedgerEntry)>, StoreError> {
        let unreadable = self.plan.lock().unwrap().unreadable.clone();
        if unreadable.is_some_and(|bad| keys.iter().any(|key| key.as_str() == bad)) {
            return Err(StoreError::Corrupt {
                statement: "grants_load",
                why: "as told".to_owned(),
            });
        }
        LaneStore::<RewardDomain>::load(&self.inner, keys).await
    }

    async fn commit(
        &self,
        lanes: &[LaneMove],
        states: &BTreeMap<GrantId, LedgerEntry>,
        rows: &[GrantRow],
    ) -> Result<(), CommitError> {
        let inner = LaneStore::<RewardDomain>::commit(&self.inner, lanes, states, rows);
        let lost = || CommitError::ReplyLost("as told".to_owned());
        // Before the plan is looked at, or the end of the silence could be missed.
        let relented = self.relented.notified();
        match self.fault(rows) {
            None => inner.await,
            Some(Fault::Silent) => {
                let mut waits = Waits {
                    store: self,
                    over: false,
                };
                relented.await;
                waits.over = true;
                inner.await
            }
            Some(Fault::LoseReplyAfter) => {
                inner.await?;
                Err(lost())
            }
            Some(Fault::LoseReplyBefore) => Err(lost()),
            Some(Fault::Panic) => panic!("as told"),
            Some(Fault::Data) => Err(CommitError::Data {
                sqlstate: "22P05".to_owned(),
                message: "untranslatable character".to_owned(),
            }),
            Some(Fault::NoPartition) => Err(CommitError::Undone {
                transient: false,
                sqlstate: "23514".to_owned(),
                message: "no partition of relation found for row".to_owned(),
            }),
            Some(Fault::TooSlow) => Err(CommitError::Undone {
                transient: true,
                sqlstate: "57014".to_owned(),
                message: "canceling statement due to statement timeout".to_owned(),
            }),
        }
    }
}
