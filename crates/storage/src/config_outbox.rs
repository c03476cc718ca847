//! Messages for `config.*` on their way to the broker: written with what they tell of, then claimed,
//! published and taken out.

use bm_contracts::Topic;
use bm_contracts::messages::ConfigMessage;
use sqlx::{Connection, PgConnection};

use crate::error::StoreError;
use crate::pool::Storage;
use crate::session::run;

/// Puts messages into the outbox, in their order.
pub(crate) async fn add_to_outbox(
    tx: &mut PgConnection,
    topic: Topic,
    messages: &[ConfigMessage],
) -> Result<(), sqlx::Error> {
    let studios: Vec<&str> = messages.iter().map(|m| m.studio_id.as_str()).collect();
    let keys: Vec<String> = messages
        .iter()
        .map(|message| format!("{}:{}", message.game_id, message.id))
        .collect();
    let values = messages
        .iter()
        .map(serde_json::to_vec)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| sqlx::Error::Encode(Box::new(e)))?;
    // Ids are given in the order in which the rows come.
    sqlx::query!(
        r#"
        INSERT INTO config_outbox (studio_id, topic, key, value)
        SELECT studio_id, $1, key, value
        FROM unnest($2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY
            AS u (studio_id, key, value, place)
        ORDER BY place
        "#,
        topic.name(),
        &studios as _,
        &keys,
        &values,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// A `config.*` message that is saved and not yet known to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingConfigMessage {
    /// Names it in [`Storage::config_messages_published`].
    pub id: i64,
    /// Where to.
    pub topic: Topic,
    /// `gameId:id`
    pub key: String,
    /// A [`ConfigMessage`] as JSON.
    pub value: Vec<u8>,
}

/// Held while messages are claimed, so that only one publisher has any.
const CLAIM_LOCK: i64 = 0x626d_636f_6e66_6967;

impl Storage {
    /// The oldest messages to be published (up to 500), in order; they are the caller's for 30 s,
    /// and until then nobody else gets any: two publishers could append an older version last.
    /// So give up an append that takes longer.
    pub async fn pending_config_messages(&self) -> Result<Vec<PendingConfigMessage>, StoreError> {
        const NAME: &str = "config_outbox_claim";
        let mut messages = run!(self, NAME, |connection| claim(connection))
            .map_err(|failure| failure.into_store_error(NAME))?
            .into_iter()
            .map(|(id, topic, key, value)| {
                let topic = Topic::from_name(&topic).ok_or_else(|| StoreError::Corrupt {
                    statement: NAME,
                    why: format!("message {id} is for the unknown topic {topic}"),
                })?;
                Ok(PendingConfigMessage {
                    id,
                    topic,
                    key,
                    value,
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        messages.sort_unstable_by_key(|message| message.id);
        Ok(messages)
    }

    /// The newest message that waits to be published, claimed or not; `None` when none does.
    pub async fn newest_config_message(&self) -> Result<Option<i64>, StoreError> {
        const NAME: &str = "config_outbox_newest";
        run!(self, NAME, |connection| sqlx::query_scalar!(
            "SELECT max(id) FROM config_outbox"
        )
        .fetch_one(connection))
        .map_err(|failure| failure.into_store_error(NAME))
    }

    /// Whether a message up to `newest` still waits to be published.
    pub async fn config_messages_wait(&self, newest: i64) -> Result<bool, StoreError> {
        const NAME: &str = "config_outbox_waiting";
        run!(self, NAME, |connection| sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM config_outbox WHERE id <= $1) AS "waits!""#,
            newest
        )
        .fetch_one(connection))
        .map_err(|failure| failure.into_store_error(NAME))
    }

    /// The broker has these: they need not be published again.
    pub async fn config_messages_published(&self, ids: &[i64]) -> Result<(), StoreError> {
        const NAME: &str = "config_outbox_done";
        run!(self, NAME, |connection| sqlx::query!(
            "DELETE FROM config_outbox WHERE id = ANY ($1)",
            ids
        )
        .execute(connection))
        .map(|_| ())
        .map_err(|failure| failure.into_store_error(NAME))
    }
}

async fn claim(
    connection: &mut PgConnection,
) -> Result<Vec<(i64, String, String, Vec<u8>)>, sqlx::Error> {
    let mut tx = connection.begin().await?;
    // A statement of its own: the next one then sees what the previous holder committed.
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", CLAIM_LOCK)
        .fetch_one(&mut *tx)
        .await?;
    let rows = sqlx::query!(
        r#"
        UPDATE config_outbox SET claimed_until = clock_timestamp() + interval '30 seconds'
        WHERE id IN (SELECT id FROM config_outbox ORDER BY id LIMIT 500)
          AND NOT EXISTS (SELECT FROM config_outbox WHERE claimed_until > clock_timestamp())
        RETURNING id, topic, key, value
        "#
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.id, row.topic, row.key, row.value))
        .collect())
}
