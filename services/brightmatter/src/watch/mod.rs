//! `brightmatter watch`: what happens, as it happens, a line each.

mod reasons;
mod seen;

use std::process::ExitCode;

use bm_bootstrap::Context;
use bm_contracts::{GameId, Topic, UserId};
use bm_kafka::LogReader;
use bm_kafka::log_reader::From;

use crate::error::CliError;
use crate::repeats::Repeats;
use crate::{migrate, output, topics};
use reasons::Reasons;
use seen::Seen;

/// What is watched.
const TOPICS: [Topic; 4] = [
    Topic::GameEvents,
    Topic::UiUpdates,
    Topic::RewardStatus,
    Topic::DeadLetter,
];

/// Of what to show things.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// Of this game only.
    pub(crate) game: Option<GameId>,
    /// Of this player only.
    pub(crate) player: Option<UserId>,
}

impl Selection {
    fn has(&self, seen: &Seen) -> bool {
        let game = self.game.as_ref().map(GameId::as_str);
        let player = self.player.as_ref().map(UserId::as_str);
        game.is_none_or(|game| seen.game == game)
            && player.is_none_or(|player| seen.player == player)
    }
}

/// Shows what happens from now on, until a signal comes.
pub(crate) async fn run(
    ctx: &Context,
    selection: Selection,
    json: bool,
) -> Result<ExitCode, CliError> {
    let config = topics::config(ctx)?;
    let mut reasons = Reasons::new(migrate::checked(ctx).await?);
    let mut reader = LogReader::from(&config, &TOPICS, From::End).await?;
    if !json {
        eprintln!("watching {} (Ctrl-C ends it)", config.brokers);
    }
    let mut repeats = Repeats::default();
    loop {
        let (topic, record) = tokio::select! {
            () = ctx.shutdown.tripped() => return Ok(ExitCode::SUCCESS),
            next = reader.next() => next?,
        };
        let mut seen = Seen::read(topic, &record);
        if repeats.has(topic, &record) || !selection.has(&seen) {
            continue;
        }
        reasons.explain(&mut seen, &record).await;
        if json {
            output::line(seen.json())?;
        } else {
            output::line(seen.line())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_of_the_game_and_the_player_asked_for() {
        let seen = Seen::of("g", "p");
        let selection = |game: Option<&str>, player: Option<&str>| Selection {
            game: game.map(|id| GameId::new(id).unwrap()),
            player: player.map(|id| UserId::new(id).unwrap()),
        };
        assert!(selection(None, None).has(&seen));
        assert!(selection(Some("g"), Some("p")).has(&seen));
        assert!(!selection(Some("h"), None).has(&seen));
        assert!(!selection(Some("g"), Some("q")).has(&seen));
    }
}
