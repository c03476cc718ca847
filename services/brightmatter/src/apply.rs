//! `brightmatter apply`: games and quests from a file, all or nothing.

use std::path::Path;
use std::process::ExitCode;

use bm_bootstrap::Context;
use bm_domain::definition::{DefinitionFile, parse_file};
use bm_storage::Storage;
use bm_storage::definitions::Applied;

use crate::error::CliError;
use crate::{migrate, output, topics};

/// Saves the definitions of `file` and tells what changed.
pub(crate) async fn run(ctx: &Context, file: &Path) -> Result<ExitCode, CliError> {
    let bytes = std::fs::read(file).map_err(|source| CliError::File {
        action: "read",
        path: file.to_owned(),
        source,
    })?;
    let definitions = parse_file(&bytes).map_err(|faults| CliError::faults(file, &faults))?;
    // What is wrong with the settings shall be known before anything is saved.
    topics::config(ctx)?;
    let storage = migrate::checked(ctx).await?;
    let applied = storage
        .apply(&definitions)
        .await
        .map_err(|error| CliError::apply(file, error))?;
    for line in told(&definitions, &applied) {
        output::line(line)?;
    }
    publish(ctx, &storage).await?;
    storage.close().await;
    Ok(ExitCode::SUCCESS)
}

/// A line for each definition: what became of it.
pub(crate) fn told(file: &DefinitionFile, applied: &Applied) -> Vec<String> {
    let mut lines: Vec<String> = file
        .games
        .iter()
        .map(|game| {
            format!(
                "game   {} of studio {}: saved",
                game.game_id, game.studio_id
            )
        })
        .collect();
    for quest in &file.quests {
        let saved = applied
            .messages
            .iter()
            .find(|m| m.game_id == quest.game_id && m.id == quest.quest_id.as_str());
        let what = match saved {
            None => "unchanged".to_owned(),
            Some(message) if message.version == 1 => "created".to_owned(),
            Some(message) => format!("new version {}", message.version),
        };
        lines.push(format!(
            "quest  {}/{}: {what}",
            quest.game_id, quest.quest_id
        ));
    }
    if lines.is_empty() {
        lines.push("the file defines nothing".to_owned());
    }
    lines
}

/// Publishes every saved definition that waits to be, those of others too.
pub(crate) async fn publish(ctx: &Context, storage: &Storage) -> Result<(), CliError> {
    bm_event_router::config_outbox::publish(&topics::config(ctx)?, storage)
        .await
        .map(|_| ())
        .map_err(|error| CliError::NotPublished(error.to_string()))
}
