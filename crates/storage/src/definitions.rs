//! Saving definitions: all or nothing, one step of the config counter for each that changed.

use bm_contracts::messages::ConfigMessage;
use bm_contracts::{GameId, QuestId, StudioId, Topic};
use bm_domain::definition::{DefinitionFile, NamedGames, QuestDefinition};
use serde_json::value::RawValue;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::arrays::{SqlTime, sql_time};
use crate::config_outbox::add_to_outbox;
use crate::error::{Failure, StoreError};
use crate::pool::Storage;
use crate::session::run;

/// What [`Storage::apply`] changed.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The config counter after it; a definition saved counts for every event stamped with this or more.
    pub config_seq: i64,
    /// One per definition that changed, in the order saved. They are in the outbox, too.
    pub messages: Vec<ConfigMessage>,
    /// Definitions that were there already, word for word.
    pub unchanged: usize,
    /// Games that were added, and games that were renamed. Neither counts as a definition.
    pub games_added: Vec<GameId>,
    /// See `games_added`.
    pub games_renamed: Vec<GameId>,
}

/// What only the database knows to be wrong with a file of definitions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyFault {
    /// The game is another studio's. The sentence does not name which.
    #[error("$.games[{index}].gameId: {game_id} belongs to another studio")]
    ForeignGame {
        /// Place in the file's `games`.
        index: usize,
        /// Which game.
        game_id: GameId,
    },
    /// The quest's game is neither in the file nor in the database.
    #[error("$.quests[{index}].gameId: {game_id} is not a known game")]
    UnknownGame {
        /// Place in the file's `quests`.
        index: usize,
        /// Which game.
        game_id: GameId,
    },
}

/// Nothing was saved.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The file is at fault; every fault there is.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<ApplyFault>),
    /// The database is. After [`StoreError::Unavailable`] it may be saved all the same: applying
    /// the file again saves only what is not there.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How often a transaction that lost a race is tried.
const ATTEMPTS: u32 = 3;

impl Storage {
    /// Saves games and quests, all or nothing. A quest that is there already in the same words gets
    /// no new version. The messages for `config.*` are written with it; see
    /// [`Storage::pending_config_messages`].
    pub async fn apply(&self, file: &DefinitionFile) -> Result<Applied, ApplyError> {
        const NAME: &str = "definitions_apply";
        let mut attempt = 1;
        loop {
            match run!(self, NAME, |connection| apply_within(connection, file)) {
                Ok(outcome) => return outcome.map_err(ApplyError::Faults),
                Err(Failure::Database(error))
                    if error.code().starts_with("40") && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(failure) => return Err(failure.into_store_error(NAME).into()),
            }
        }
    }
}

impl Storage {
    /// What is wrong with the games a file names, for a file that cannot be saved because of other
    /// faults: all of them are told together.
    pub async fn faults_of_games(&self, named: &NamedGames) -> Result<Vec<ApplyFault>, StoreError> {
        const NAME: &str = "definitions_games";
        let owners = run!(self, NAME, |connection| owners(connection, named))
            .map_err(|failure| failure.into_store_error(NAME))?;
        Ok(game_faults(named, &owners, true))
    }
}

type Outcome = Result<Applied, Vec<ApplyFault>>;

async fn apply_within(
    connection: &mut PgConnection,
    file: &DefinitionFile,
) -> Result<Outcome, sqlx::Error> {
    let mut tx = connection.begin().await?;
    // Held until the commit: saves commit in the order they count.
    let counter = sqlx::query_scalar!("SELECT value FROM config_counter FOR UPDATE")
        .fetch_one(&mut *tx)
        .await?;
    let (games_added, games_renamed) = save_games(&mut tx, file).await?;
    let studios = match studios_of(&mut tx, file).await? {
        Ok(studios) => studios,
        Err(faults) => {
            tx.rollback().await?;
            return Ok(Err(faults));
        }
    };
    let changes = changed_quests(&mut tx, file, &studios, counter).await?;
    let unchanged = file.quests.len() - changes.len();
    let mut applied = Applied {
        config_seq: counter,
        messages: Vec::new(),
        unchanged,
        games_added,
        games_renamed,
    };
    if let Some(last) = changes.last() {
        save_quests(&mut tx, &changes).await?;
        applied.messages = changes.iter().map(QuestChange::message).collect();
        add_to_outbox(&mut tx, Topic::ConfigQuests, &applied.messages).await?;
        applied.config_seq = last.config_seq;
        sqlx::query!("UPDATE config_counter SET value = $1", applied.config_seq)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(Ok(applied))
}

/// Adds games and renames those of the same studio, and says which; leaves another studio's as
/// they are.
async fn save_games(
    tx: &mut PgConnection,
    file: &DefinitionFile,
) -> Result<(Vec<GameId>, Vec<GameId>), sqlx::Error> {
    if file.games.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let studios: Vec<&str> = file.games.iter().map(|g| g.studio_id.as_str()).collect();
    let games: Vec<&str> = file.games.iter().map(|g| g.game_id.as_str()).collect();
    let names: Vec<&str> = file.games.iter().map(|g| g.name.as_str()).collect();
    // A row that was inserted, and not updated, has no older version to be cleared away: xmax is 0.
    let saved = sqlx::query!(
        r#"
        INSERT INTO games (studio_id, game_id, name)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
        ON CONFLICT (game_id) DO UPDATE SET name = excluded.name, updated_at = now()
        WHERE games.studio_id = excluded.studio_id AND games.name <> excluded.name
        RETURNING game_id, (xmax = 0) AS "added!"
        "#,
        &studios as _,
        &games as _,
        &names as _,
    )
    .fetch_all(tx)
    .await?;
    let was_added = |game: &GameId| {
        let row = saved.iter().find(|row| row.game_id == game.as_str());
        row.map(|row| row.added)
    };
    let of = |added: bool| {
        let games = file.games.iter().map(|game| &game.game_id);
        games
            .filter(|game| was_added(game) == Some(added))
            .cloned()
            .collect()
    };
    Ok((of(true), of(false)))
}

/// The studio of each quest's game, in the quests' order; or every fault. The file's own games are
/// saved by now.
async fn studios_of(
    tx: &mut PgConnection,
    file: &DefinitionFile,
) -> Result<Result<Vec<StudioId>, Vec<ApplyFault>>, sqlx::Error> {
    let named = NamedGames::of(file);
    let owners = owners(tx, &named).await?;
    let faults = game_faults(&named, &owners, false);
    if !faults.is_empty() {
        return Ok(Err(faults));
    }
    let studio = |(_, game): &(usize, GameId)| owners.get(game.as_str()).cloned();
    Ok(Ok(named.quests.iter().filter_map(studio).collect()))
}

type Owners = std::collections::BTreeMap<String, StudioId>;

/// The studios of those games that are there.
async fn owners(tx: &mut PgConnection, named: &NamedGames) -> Result<Owners, sqlx::Error> {
    let games = named.games.iter().map(|(_, game, _)| game.as_str());
    let games: Vec<&str> = games
        .chain(named.quests.iter().map(|(_, game)| game.as_str()))
        .collect();
    sqlx::query!(
        "SELECT game_id, studio_id FROM games WHERE game_id = ANY ($1::text[])",
        &games as _,
    )
    .fetch_all(tx)
    .await?
    .into_iter()
    .map(|row| {
        let studio = StudioId::new(row.studio_id).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
        Ok((row.game_id, studio))
    })
    .collect()
}

/// What is wrong with the games a file names. With `would_add`, its own games are not saved yet,
/// and those that nobody has will be the file's.
fn game_faults(named: &NamedGames, owners: &Owners, would_add: bool) -> Vec<ApplyFault> {
    let mut faults = Vec::new();
    for (index, game_id, studio) in &named.games {
        let owner = owners.get(game_id.as_str());
        if owner.map_or(!would_add, |owner| owner != studio) {
            faults.push(ApplyFault::ForeignGame {
                index: *index,
                game_id: game_id.clone(),
            });
        }
    }
    for (index, game_id) in &named.quests {
        let will_be = || would_add && named.games.iter().any(|(_, game, _)| game == game_id);
        let known = owners.contains_key(game_id.as_str()) || will_be();
        if !known {
            faults.push(ApplyFault::UnknownGame {
                index: *index,
                game_id: game_id.clone(),
            });
        }
    }
    faults
}

/// A quest that gets a new version.
struct QuestChange<'a> {
    quest: &'a QuestDefinition,
    studio_id: StudioId,
    /// The quest's row, when there is one.
    id: Option<Uuid>,
    version: i32,
    config_seq: i64,
    definition: Box<RawValue>,
}

impl QuestChange<'_> {
    fn message(&self) -> ConfigMessage {
        ConfigMessage {
            studio_id: self.studio_id.clone(),
            game_id: self.quest.game_id.clone(),
            id: self.quest.quest_id.as_str().to_owned(),
            version: self.version,
            config_seq: self.config_seq,
            status: self.quest.status.as_str().to_owned(),
            definition: self.definition.clone(),
        }
    }
}

async fn changed_quests<'a>(
    tx: &mut PgConnection,
    file: &'a DefinitionFile,
    studios: &[StudioId],
    counter: i64,
) -> Result<Vec<QuestChange<'a>>, sqlx::Error> {
    let games: Vec<&str> = file.quests.iter().map(|q| q.game_id.as_str()).collect();
    let quests: Vec<&str> = file.quests.iter().map(|q| q.quest_id.as_str()).collect();
    let definitions: Vec<String> = file.quests.iter().map(QuestDefinition::to_stored).collect();
    let statuses: Vec<&str> = file.quests.iter().map(|q| q.status.as_str()).collect();
    let rows = sqlx::query!(
        r#"
        SELECT q.id AS "id?", q.version AS "version?",
               (v.definition IS NOT DISTINCT FROM u.definition::jsonb
                AND v.status IS NOT DISTINCT FROM u.status) AS "same!"
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY
            AS u (game_id, quest_id, definition, status, place)
        LEFT JOIN quests AS q ON q.game_id = u.game_id AND q.quest_id = u.quest_id
        LEFT JOIN quest_versions AS v ON v.quest_id = q.id AND v.version = q.version
        ORDER BY u.place
        "#,
        &games as _,
        &quests as _,
        &definitions,
        &statuses as _,
    )
    .fetch_all(tx)
    .await?;
    let mut changes = Vec::new();
    for (((quest, studio_id), definition), row) in
        file.quests.iter().zip(studios).zip(definitions).zip(rows)
    {
        if row.id.is_some() && row.same {
            continue;
        }
        changes.push(QuestChange {
            quest,
            studio_id: studio_id.clone(),
            id: row.id,
            version: row.version.unwrap_or(0) + 1,
            config_seq: counter + 1 + changes.len() as i64,
            definition: RawValue::from_string(definition)
                .map_err(|e| sqlx::Error::Encode(Box::new(e)))?,
        });
    }
    Ok(changes)
}

/// Saves new versions and current rows, all in one statement: the counter is held meanwhile.
async fn save_quests(
    tx: &mut PgConnection,
    changes: &[QuestChange<'_>],
) -> Result<(), sqlx::Error> {
    let all = |text: fn(&QuestDefinition) -> &str| -> Vec<&str> {
        changes.iter().map(|change| text(change.quest)).collect()
    };
    let definitions: Vec<&str> = changes.iter().map(|c| c.definition.get()).collect();
    let ids: Vec<Option<Uuid>> = changes.iter().map(|change| change.id).collect();
    let studios: Vec<&str> = changes.iter().map(|c| c.studio_id.as_str()).collect();
    let descriptions: Vec<Option<&str>> = changes
        .iter()
        .map(|change| change.quest.description.as_deref())
        .collect();
    let times = |time: fn(&QuestDefinition) -> Option<bm_contracts::Timestamp>| {
        let times = changes
            .iter()
            .map(|change| time(change.quest).map(sql_time));
        times.collect::<Vec<Option<SqlTime>>>()
    };
    let versions: Vec<i32> = changes.iter().map(|change| change.version).collect();
    let seqs: Vec<i64> = changes.iter().map(|change| change.config_seq).collect();
    sqlx::query!(
        r#"
        WITH input AS (
            SELECT id, studio_id, game_id, quest_id, name, description, definition::jsonb,
                   start_date, end_date, status, version, config_seq
            FROM unnest(
                $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                $8::timestamptz[], $9::timestamptz[], $10::text[], $11::integer[], $12::bigint[]
            ) AS u (id, studio_id, game_id, quest_id, name, description, definition,
                    start_date, end_date, status, version, config_seq)
        ), saved AS (
            INSERT INTO quests (
                id, studio_id, game_id, quest_id, name, description, conditions, rewards,
                start_date, end_date, status, version, config_seq
            )
            SELECT coalesce(id, gen_random_uuid()), studio_id, game_id, quest_id, name, description,
                   definition -> 'conditions', definition -> 'rewards', start_date, end_date,
                   status, version, config_seq
            FROM input
            ON CONFLICT (game_id, quest_id) DO UPDATE
            SET name = excluded.name, description = excluded.description,
                conditions = excluded.conditions, rewards = excluded.rewards,
                start_date = excluded.start_date, end_date = excluded.end_date,
                status = excluded.status, version = excluded.version,
                config_seq = excluded.config_seq, updated_at = now()
            RETURNING id, game_id, quest_id
        )
        INSERT INTO quest_versions (quest_id, version, studio_id, config_seq, status, definition)
        SELECT saved.id, input.version, input.studio_id, input.config_seq, input.status,
               input.definition
        FROM saved JOIN input USING (game_id, quest_id)
        "#,
        &ids as _,
        &studios as _,
        &all(|quest| quest.game_id.as_str()) as _,
        &all(|quest| quest.quest_id.as_str()) as _,
        &all(|quest| &quest.name) as _,
        &descriptions as _,
        &definitions as _,
        &times(|quest| quest.start_date) as _,
        &times(|quest| quest.end_date) as _,
        &all(|quest| quest.status.as_str()) as _,
        &versions,
        &seqs,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// A quest's place in the database, for messages and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuestRow {
    /// `quests.id`
    pub id: Uuid,
    /// Whose.
    pub studio_id: StudioId,
    /// The current version.
    pub version: i32,
    /// Of the current version.
    pub config_seq: i64,
}

impl Storage {
    /// The row of a quest; `None` when there is none.
    pub async fn quest(
        &self,
        game: &GameId,
        quest: &QuestId,
    ) -> Result<Option<QuestRow>, StoreError> {
        const NAME: &str = "quest_row";
        run!(self, NAME, |connection| sqlx::query!(
            "SELECT id, studio_id, version, config_seq FROM quests WHERE game_id = $1 AND quest_id = $2",
            game.as_str(),
            quest.as_str(),
        )
        .fetch_optional(connection))
        .map_err(|failure| failure.into_store_error(NAME))?
        .map(|row| {
            Ok(QuestRow {
                id: row.id,
                studio_id: StudioId::new(row.studio_id).map_err(|e| StoreError::Corrupt {
                    statement: NAME,
                    why: format!("studio_id {e}"),
                })?,
                version: row.version,
                config_seq: row.config_seq,
            })
        })
        .transpose()
    }
}
