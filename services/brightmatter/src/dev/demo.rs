//! The demo studio and game.

use std::path::Path;

use bm_bootstrap::Context;
use bm_domain::definition::parse_file;
use bm_storage::Storage;

use crate::error::CliError;
use crate::studios_file::{self, NewStudio, StudioKeys};
use crate::{apply, starter};

/// The demo studio's id.
const STUDIO: &str = "demo-studio";
/// The demo game's id.
pub(super) const GAME: &str = "demo-game";

/// What there is to try.
pub(super) struct Demo(StudioKeys);

impl Demo {
    /// The demo studio's client key.
    pub(super) fn client_key(&self) -> Option<&str> {
        self.0.client.as_deref()
    }

    /// What scripts need to try it.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![
            ("BM_DEMO_STUDIO".to_owned(), STUDIO.to_owned()),
            ("BM_DEMO_GAME".to_owned(), GAME.to_owned()),
        ];
        for (name, key) in [
            ("BM_DEMO_CLIENT_KEY", &self.0.client),
            ("BM_DEMO_SECRET_KEY", &self.0.server),
        ] {
            if let Some(key) = key {
                variables.push((name.to_owned(), key.clone()));
            }
        }
        variables
    }
}

/// Adds the demo studio to the studios file and applies the demo game; both only if they are not
/// there: what somebody made of the game stays.
pub(super) async fn load(
    ctx: &Context,
    storage: &Storage,
    studios: &Path,
) -> Result<Demo, CliError> {
    let studio = NewStudio {
        id: STUDIO.to_owned(),
        name: "Demo studio".to_owned(),
        generous: true,
    };
    let keys = studios_file::ensure(studios, &studio)?;
    let here = Path::new("the demo game");
    let text = starter::definitions(STUDIO, GAME, "Demo game");
    let file = parse_file(text.as_bytes()).map_err(|faults| CliError::faults(here, &faults))?;
    if let Some(game) = file.games.first()
        && storage.studio_of(&game.game_id).await?.is_some()
    {
        return Ok(Demo(keys));
    }
    storage
        .apply(&file)
        .await
        .map_err(|error| CliError::apply(here, error))?;
    apply::publish(ctx, storage).await?;
    Ok(Demo(keys))
}
