//! The file `brightmatter apply` takes: games and quests, all or nothing.

use std::collections::BTreeSet;

use bm_contracts::{GameId, StudioId};
use serde_json::Value;

use super::fault::{Fault, Faults, member};
use super::quest::{MAX_NAME_CHARS, id, object, read_quest, text};
use super::{DefinitionFile, GameDefinition, document};
use crate::cel;

/// What studios will be able to configure, so that they are told it is not a typing error.
const NOT_YET: [&str; 3] = ["leaderboards", "tournaments", "battlepasses"];

/// Parses `{"games": […], "quests": […]}` and validates all of it.
///
/// On `Err` there is at least one fault, and every fault there is.
pub fn parse_file(json: &[u8]) -> Result<DefinitionFile, Vec<Fault>> {
    let mut faults = Faults::default();
    let file = document::read(json, &mut faults).and_then(|value| {
        let read = cel::with_compiler(|compiler| read_file(&value, compiler, &mut faults));
        read.unwrap_or_else(|e| {
            faults.add("$", format!("cannot be checked now, try again: {e}"));
            None
        })
    });
    match (file, faults.into_list()) {
        (Some(file), faults) if faults.is_empty() => Ok(file),
        (_, faults) => Err(faults),
    }
}

/// The games a file names, each with its place; see [`named_games`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedGames {
    /// Place in `games`, and whose the game shall be.
    pub games: Vec<(usize, GameId, StudioId)>,
    /// Place in `quests`.
    pub quests: Vec<(usize, GameId)>,
}

impl NamedGames {
    /// Those of a file without fault.
    pub fn of(file: &DefinitionFile) -> Self {
        let games = file.games.iter().enumerate();
        let quests = file.quests.iter().enumerate();
        Self {
            games: games
                .map(|(index, game)| (index, game.game_id.clone(), game.studio_id.clone()))
                .collect(),
            quests: quests
                .map(|(index, quest)| (index, quest.game_id.clone()))
                .collect(),
        }
    }
}

/// The games that a file names, as far as it can be read: for whoever wants to tell, together with
/// the faults of [`parse_file`], which of them are unknown.
pub fn named_games(json: &[u8]) -> NamedGames {
    let file: Value = serde_json::from_slice(json).unwrap_or_default();
    let listed = |name: &str| {
        file.get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    let game_id = |value: &Value| GameId::new(text(value, "gameId")?).ok();
    let games = listed("games").enumerate();
    let quests = listed("quests").enumerate();
    NamedGames {
        games: games
            .filter_map(|(index, game)| {
                let studio = StudioId::new(text(game, "studioId")?).ok()?;
                Some((index, game_id(game)?, studio))
            })
            .collect(),
        quests: quests
            .filter_map(|(index, quest)| Some((index, game_id(quest)?)))
            .collect(),
    }
}

fn read_file(
    value: &Value,
    compiler: &cel::Compiler,
    faults: &mut Faults,
) -> Option<DefinitionFile> {
    let map = object(value, "$", &["games", "quests"], &NOT_YET, faults)?;
    let mut file = DefinitionFile::default();
    let mut seen = BTreeSet::new();
    for (value, path) in list(map.get("games"), "$.games", faults) {
        // Ids are looked at even where the rest cannot be read: every fault is told at once.
        if let Some(game) = named(value, "gameId")
            && !seen.insert(game)
        {
            faults.add(member(&path, "gameId"), format!("{game} stands twice"));
        }
        file.games.extend(read_game(value, &path, faults));
    }
    let mut seen = BTreeSet::new();
    for (value, path) in list(map.get("quests"), "$.quests", faults) {
        if let (Some(game), Some(quest)) = (named(value, "gameId"), named(value, "questId"))
            && !seen.insert((game, quest))
        {
            faults.add(
                member(&path, "questId"),
                format!("{quest} stands twice for game {game}"),
            );
        }
        file.quests.extend(read_quest(value, &path, faults));
        // An expression, too.
        if let Some(when) = value.pointer("/conditions/when").and_then(Value::as_str)
            && let Err(fault) = compiler.compile(when)
        {
            faults.push(Fault {
                path: format!("{path}.conditions.when"),
                message: fault.message,
                position: Some(fault.position),
            });
        }
    }
    Some(file)
}

/// The id of that name, well-formed or not.
fn named<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    value.get(field).and_then(Value::as_str)
}

fn read_game(value: &Value, path: &str, faults: &mut Faults) -> Option<GameDefinition> {
    let map = object(
        value,
        path,
        &["gameId", "studioId", "name"],
        &["webhookUrl", "webhookSecret", "metadata"],
        faults,
    )?;
    let game_id = id(map, path, "gameId", GameId::new, faults);
    let studio_id = id(map, path, "studioId", StudioId::new, faults);
    let name = text(map, path, "name", MAX_NAME_CHARS, true, faults);
    Some(GameDefinition {
        game_id: game_id?,
        studio_id: studio_id?,
        name: name?,
    })
}

/// The elements of an optional array, each with its path.
fn list<'v>(value: Option<&'v Value>, path: &str, faults: &mut Faults) -> Vec<(&'v Value, String)> {
    match value {
        None => Vec::new(),
        Some(Value::Array(list)) => list
            .iter()
            .enumerate()
            .map(|(index, value)| (value, format!("{path}[{index}]")))
            .collect(),
        Some(_) => {
            faults.add(path, "must be an array");
            Vec::new()
        }
    }
}
