//! Which studio a game belongs to.

use bm_contracts::{GameId, StudioId};

use crate::error::StoreError;
use crate::pool::Storage;
use crate::session::run;

impl Storage {
    /// The studio of a game; `None` when there is no such game.
    pub async fn studio_of(&self, game: &GameId) -> Result<Option<StudioId>, StoreError> {
        const NAME: &str = "game_studio";
        run!(self, NAME, |connection| sqlx::query_scalar!(
            "SELECT studio_id FROM games WHERE game_id = $1",
            game.as_str()
        )
        .fetch_optional(connection))
        .map_err(|failure| failure.into_store_error(NAME))?
        .map(|studio| {
            StudioId::new(studio).map_err(|e| StoreError::Corrupt {
                statement: NAME,
                why: format!("studio_id of game {game} {e}"),
            })
        })
        .transpose()
    }
}
