//! `brightmatter dead-letters list`: records that could not be used.

use std::collections::BTreeMap;
use std::process::ExitCode;

use bm_bootstrap::Context;
use bm_contracts::messages::DeadLetter;
use bm_contracts::{GameId, Timestamp, Topic};
use bm_kafka::LogReader;
use serde::Serialize;

use crate::error::CliError;
use crate::output::{self, plain};
use crate::repeats::Repeats;
use crate::topics;

/// A dead letter with the key of the record it is about.
#[derive(Debug, Clone, Serialize)]
struct Listed {
    key: String,
    #[serde(rename = "letter")]
    letter: DeadLetter,
}

/// The newest `limit` of what was offered, with bounded memory.
struct Newest {
    limit: usize,
    kept: BTreeMap<(Timestamp, i32, i64), Listed>,
}

impl Newest {
    fn offer(&mut self, place: (Timestamp, i32, i64), listed: Listed) {
        self.kept.insert(place, listed);
        if self.kept.len() > self.limit {
            self.kept.pop_first();
        }
    }
}

/// Prints the newest `limit` dead letters, of `game` if one is given.
pub(crate) async fn list(
    ctx: &Context,
    game: Option<&GameId>,
    limit: usize,
    json: bool,
) -> Result<ExitCode, CliError> {
    let config = topics::config(ctx)?;
    let mut snapshot = LogReader::snapshot(&config, Topic::DeadLetter).await?;
    let mut newest = Newest {
        limit,
        kept: BTreeMap::new(),
    };
    let mut unreadable = 0_usize;
    let mut repeats = Repeats::default();
    while let Some(record) = snapshot.next().await? {
        if repeats.has(Topic::DeadLetter, &record) {
            continue;
        }
        let key = String::from_utf8_lossy(&record.key).into_owned();
        if game.is_some_and(|game| game_of(&key) != Some(game.as_str())) {
            continue;
        }
        match serde_json::from_slice(&record.value) {
            Ok(letter) => {
                let place = (record.timestamp, record.partition, record.offset);
                newest.offer(place, Listed { key, letter });
            }
            Err(_) => unreadable += 1,
        }
    }
    for listed in newest.kept.values() {
        if json {
            // Text, numbers and lists always encode.
            output::line(serde_json::to_string(listed).unwrap_or_default())?;
        } else {
            output::line(line(&listed.key, &listed.letter))?;
        }
    }
    if newest.kept.is_empty() && !json {
        output::line("no dead letters")?;
    }
    if unreadable > 0 {
        tracing::warn!(records = unreadable, "records of dead.letter that are none");
    }
    Ok(ExitCode::SUCCESS)
}

/// The game of a key `gameId:userId` or `gameId:!kind:id`.
fn game_of(key: &str) -> Option<&str> {
    key.split_once(':').map(|(game, _)| game)
}

/// What a dead letter is about, where it was read, and what is wrong.
pub(crate) fn told(letter: &DeadLetter) -> String {
    let definition = letter
        .definition
        .as_ref()
        .map_or_else(String::new, |definition| format!(" for {definition}"));
    format!(
        "{}/{}@{} {}{definition}: {}: {}",
        letter.topic, letter.partition, letter.offset, letter.service, letter.code, letter.error,
    )
}

/// A dead letter in one line: when, whose, and what [`told`] says.
fn line(key: &str, letter: &DeadLetter) -> String {
    let correlation = letter
        .correlation_id
        .as_ref()
        .map_or_else(String::new, |id| format!(" (correlation id {id})"));
    plain(&format!(
        "{} {} {}{correlation}",
        letter.failed_at,
        if key.is_empty() { "-" } else { key },
        told(letter),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        serde_json::from_str(include_str!(
            "../../../crates/contracts/golden/dead_letter.json"
        ))
        .unwrap()
    }

    #[test]
    fn a_letter_is_one_line() {
        let mut letter = letter();
        letter.error = "bad\nvalue".to_owned();
        letter.definition = Some("quest_q".to_owned());
        assert_eq!(
            line("game:player", &letter),
            "2026-01-02T03:04:05.700Z game:player game.events/3@42 event-router for quest_q: \
             undecodable: bad\\u{a}value (correlation id c-1)"
        );
    }

    #[test]
    fn only_the_newest_are_kept() {
        let mut newest = Newest {
            limit: 2,
            kept: BTreeMap::new(),
        };
        for offset in [5, 1, 9, 3] {
            let place = (Timestamp::clamped(offset), 0, offset);
            let key = offset.to_string();
            let letter = letter();
            newest.offer(place, Listed { key, letter });
        }
        let kept: Vec<&str> = newest.kept.values().map(|l| l.key.as_str()).collect();
        assert_eq!(kept, ["5", "9"]);
    }

    #[test]
    fn the_game_of_a_key_is_what_stands_before_the_first_colon() {
        assert_eq!(game_of("g:p"), Some("g"));
        assert_eq!(game_of("g:!gate:x"), Some("g"));
        assert_eq!(game_of(""), None);
    }
}
