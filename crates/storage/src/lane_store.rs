//! What the lane runner asks of a processor's storage.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use bm_engine::Domain;
use bm_engine::domain::ConfigDemand;
use bm_engine::lane::LaneMove;

use crate::error::{CommitError, StoreError};

/// Keys with the state stored for each.
pub type StoredStates<D> = Vec<(<D as Domain>::Key, <D as Domain>::State)>;

/// A processor's rules, states and rows in the database.
pub trait LaneStore<D: Domain>: Send + Sync + 'static {
    /// Rules at least as new as demanded; `held` is returned when it is new enough.
    fn rules(
        &self,
        held: Option<Arc<D::Rules>>,
        demand: ConfigDemand,
    ) -> impl Future<Output = Result<Arc<D::Rules>, StoreError>> + Send;

    /// Stored states of those keys that have one, in no particular order. One query.
    fn load(
        &self,
        keys: &[D::Key],
    ) -> impl Future<Output = Result<StoredStates<D>, StoreError>> + Send;

    /// Moves the lanes and writes states and rows, all or nothing. One autocommitted statement.
    fn commit(
        &self,
        lanes: &[LaneMove],
        states: &BTreeMap<D::Key, D::State>,
        rows: &[D::Row],
    ) -> impl Future<Output = Result<(), CommitError>> + Send;
}
