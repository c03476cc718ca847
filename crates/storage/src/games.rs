//! Which studio a game belongs to, and which games a studio has.

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

    /// The games of a studio, its oldest first, at most `limit` of them.
    pub async fn games_of(
        &self,
        studio: &StudioId,
        limit: usize,
    ) -> Result<Vec<GameId>, StoreError> {
        const NAME: &str = "studio_games";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let games = run!(self, NAME, |connection| sqlx::query_scalar!(
            r#"
            SELECT game_id FROM games WHERE studio_id = $1
            ORDER BY created_at, game_id LIMIT $2
            "#,
            studio.as_str(),
            limit
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        // What is no well-formed id cannot be named by an event.
        Ok(games
            .into_iter()
            .filter_map(|game| GameId::new(game).ok())
            .collect())
    }
}
