//! `brightmatter apply`: games and quests from a file, all or nothing.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bm_bootstrap::Context;
use bm_domain::definition::{DefinitionFile, Fault, NamedGames, named_games, parse_file};
use bm_domain::quest::QuestStatus;
use bm_storage::Storage;
use bm_storage::definitions::{Applied, ApplyFault};

use crate::error::CliError;
use crate::{migrate, output, topics};

/// How long the faults of a file wait for what the database can add to them.
const LOOK_UP: Duration = Duration::from_secs(3);

/// Saves the definitions of `file` and tells what changed.
pub(crate) async fn run(ctx: &Context, file: &Path) -> Result<ExitCode, CliError> {
    let bytes = std::fs::read(file).map_err(|source| CliError::File {
        action: "read",
        path: file.to_owned(),
        source,
    })?;
    let definitions = match parse_file(&bytes) {
        Ok(definitions) => definitions,
        Err(faults) => {
            let faults = with_games(ctx, &bytes, &faults).await;
            return Err(CliError::faults(file, &faults));
        }
    };
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

/// What is wrong with a file, and with the games it names as far as it can be read.
async fn with_games(ctx: &Context, bytes: &[u8], faults: &[Fault]) -> Vec<String> {
    let mut all: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let named = named_games(bytes);
    if named == NamedGames::default() {
        return all;
    }
    let games = tokio::time::timeout(LOOK_UP, faults_of_games(ctx, &named)).await;
    match games {
        Ok(Ok(faults)) => all.extend(faults.iter().map(ToString::to_string)),
        Ok(Err(error)) => all.push(format!("its games could not be looked up: {error}")),
        Err(_elapsed) => all.push("its games could not be looked up: no answer".to_owned()),
    }
    all
}

async fn faults_of_games(ctx: &Context, named: &NamedGames) -> Result<Vec<ApplyFault>, CliError> {
    let storage = migrate::checked(ctx).await?;
    let faults = storage.faults_of_games(named).await?;
    storage.close().await;
    Ok(faults)
}

/// A line for each definition: what became of it.
pub(crate) fn told(file: &DefinitionFile, applied: &Applied) -> Vec<String> {
    let mut lines: Vec<String> = file
        .games
        .iter()
        .map(|game| {
            let what = if applied.games_added.contains(&game.game_id) {
                "created"
            } else if applied.games_renamed.contains(&game.game_id) {
                "renamed"
            } else {
                "unchanged"
            };
            format!(
                "game   {} of studio {}: {what}",
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
        let status = match quest.status {
            QuestStatus::Active => "",
            QuestStatus::Archived => " (archived: no event counts)",
        };
        lines.push(format!(
            "quest  {}/{}: {what}{status}",
            quest.game_id, quest.quest_id
        ));
    }
    if lines.is_empty() {
        lines.push("the file defines nothing".to_owned());
    }
    lines
}

/// Publishes every saved definition that waits to be, those of others too, and returns when it is
/// done, by whomever.
pub(crate) async fn publish(ctx: &Context, storage: &Storage) -> Result<(), CliError> {
    let others = || eprintln!("  waiting for another publisher of saved definitions");
    bm_event_router::config_outbox::publish_all(&topics::config(ctx)?, storage, others)
        .await
        .map_err(|error| CliError::NotPublished(error.to_string()))
}
