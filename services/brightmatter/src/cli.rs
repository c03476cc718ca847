//! The commands and their arguments.

use std::path::PathBuf;
use std::process::ExitCode;

use bm_bootstrap::{Context, telemetry};
use bm_contracts::{GameId, UserId};
use clap::{Parser, Subcommand};

use crate::error::CliError;
use crate::{apply, dead_letters, dev, doctor, hints, init, load, migrate, topics, watch};

/// BrightMatter on the command line. Configuration comes from environment variables and `.env`;
/// `.env.example` explains each.
#[derive(Debug, Parser)]
#[command(name = "brightmatter", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every service in this process, with a demo studio and a demo game.
    Dev,
    /// Bring the database schema up to this version, and make the days' partitions of events.
    Migrate,
    /// Create the topics that are missing and report those that differ; changes none that is there.
    ///
    /// Exit code: 0 all topics are as wanted; 1 something failed; 2 nothing failed, but topics differ
    /// (or, with --check, are missing). `create-topics` has the same.
    Topics {
        /// Replicas of each partition [default: BM_REPLICATION_FACTOR, else 1 or 3 by number of brokers].
        #[arg(long, value_parser = clap::value_parser!(i16).range(1..=9))]
        replication: Option<i16>,
        /// Only look.
        #[arg(long)]
        check: bool,
    },
    /// Save the games and quests of a file, all or nothing.
    Apply {
        /// {"games": [{gameId, studioId, name}], "quests": [{gameId, questId, name, conditions, …}]}
        file: PathBuf,
    },
    /// Make a studio with fresh keys, a game and a first quest, all called NAME.
    Init {
        /// Letters, digits, '-' and '_'.
        name: String,
    },
    /// Show what happens as it happens: events and why they count or not, progress, rewards, dead letters.
    Watch {
        /// Of this game only.
        #[arg(long, value_parser = game_id)]
        game: Option<GameId>,
        /// Of this player only (the events' userId).
        #[arg(long, value_parser = user_id)]
        player: Option<UserId>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Try everything that is needed, and say what is wrong and what to do.
    Doctor,
    /// Records that could not be used.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Send events at a steady rate and say how they were answered, and how soon.
    Load(Box<load::LoadArgs>),
}

#[derive(Debug, Subcommand)]
enum DeadLetters {
    /// Show the newest, the newest last.
    List {
        /// Of this game only.
        #[arg(long, value_parser = game_id)]
        game: Option<GameId>,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// One JSON object a line, with the record's value.
        #[arg(long)]
        json: bool,
    },
}

impl Cli {
    /// What is logged unless `BM_LOG` says otherwise. A command that ends tells what failed;
    /// one that goes on has nothing but the log.
    pub fn log(&self) -> telemetry::Defaults {
        telemetry::Defaults {
            filter: match self.command {
                Command::Dev | Command::Watch { .. } => "warn",
                _ => "error",
            },
            ..telemetry::Defaults::TOOL
        }
    }

    /// Does what was asked; the exit code is 0 when all is well.
    pub async fn run(self, ctx: Context) -> Result<ExitCode, CliError> {
        let vars = ctx.vars.clone();
        let outcome = match self.command {
            Command::Dev => dev::run(ctx).await,
            Command::Migrate => migrate::run(&ctx).await,
            Command::Topics { replication, check } => topics::run(&ctx, replication, check).await,
            Command::Apply { file } => apply::run(&ctx, &file).await,
            Command::Init { name } => init::run(&ctx, &name).await,
            Command::Watch { game, player, json } => {
                watch::run(&ctx, watch::Selection { game, player }, json).await
            }
            Command::Doctor => Box::pin(doctor::run(&ctx)).await,
            Command::DeadLetters(DeadLetters::List { game, limit, json }) => {
                dead_letters::list(&ctx, game.as_ref(), limit as usize, json).await
            }
            Command::Load(args) => Box::pin(load::run(&ctx, *args)).await,
        };
        match outcome {
            // Whoever read our output has had enough.
            Err(CliError::OutputClosed) => Ok(ExitCode::SUCCESS),
            outcome => outcome.map_err(|error| error.with_hint(|| hints::addresses(&vars))),
        }
    }
}

pub(crate) fn game_id(text: &str) -> Result<GameId, String> {
    GameId::new(text).map_err(|e| e.to_string())
}

fn user_id(text: &str) -> Result<UserId, String> {
    UserId::new(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_id_that_is_none_is_refused_with_the_reason() {
        let error = Cli::try_parse_from(["brightmatter", "watch", "--game", "a:b"]).unwrap_err();
        assert!(
            error.to_string().contains("must not contain ':'"),
            "{error}"
        );
        // None at all would look as if there were none.
        Cli::try_parse_from(["brightmatter", "dead-letters", "list", "--limit", "0"]).unwrap_err();
    }
}
