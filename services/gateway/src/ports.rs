//! What the gateway needs from outside, small enough to be played by tests.

use std::sync::Arc;

use bm_admission::{Attempt, Begin};
use bm_contracts::{GameId, StudioId, Timestamp};
use bm_kafka::{AppendError, Appended};
use futures::future::BoxFuture;

use crate::record::BusRecord;

/// The log of accepted events.
pub trait EventLog: Send + Sync + 'static {
    /// Hands records over without waiting; the future tells of each, in their order, that it is in
    /// the log for good, or that this is not known. Records of one key stay in their order.
    fn append(
        &self,
        records: &[&BusRecord],
    ) -> BoxFuture<'static, Vec<Result<Appended, AppendError>>>;
}

/// The registered games could not be asked. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("games cannot be looked up: {0}")]
pub struct GamesAway(pub Arc<str>);

/// The registered games.
pub trait Games: Send + Sync + 'static {
    /// The games of a studio, at most `limit` of them.
    fn of(
        &self,
        studio: StudioId,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<GameId>, GamesAway>>;
}

/// The memory of event ids.
pub trait EventIds: Send + Sync + 'static {
    /// Asks about events, `(event_key, body_hash)` each, and marks those that are fresh as under
    /// way. Answers are in the order asked.
    fn begin_many<'a>(&'a self, events: &'a [([u8; 16], [u8; 16])]) -> BoxFuture<'a, Vec<Begin>>;

    /// The event is in the log since `answer`. Not waited for.
    fn done(&self, attempt: Attempt, answer: Timestamp);

    /// The event was not accepted and may be tried again. Not waited for.
    fn clear(&self, attempt: Attempt);
}
