//! What was last known of all studios, so that gateways start and go on while Firestore is away.

use bm_contracts::Timestamp;
use serde_json::Value;

use crate::arrays::{SqlTime, from_sql, sql_time};
use crate::error::StoreError;
use crate::pool::Storage;
use crate::session::run;

impl Storage {
    /// Keeps `snapshot` as what is known at `now`; an older one never replaces a newer one.
    ///
    /// The database's own clock bounds what is newer: a copy is never kept as of a later time, and one
    /// that says so is replaced. A writer whose clock is ahead would keep all others out.
    ///
    /// It must hold hashes of keys only, never keys.
    pub async fn save_last_known_studios(
        &self,
        snapshot: &Value,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        const NAME: &str = "studios_save";
        let text = snapshot.to_string();
        run!(self, NAME, |connection| sqlx::query!(
            r#"
            INSERT INTO studios_last_known AS known (saved_at, snapshot) VALUES (LEAST($1, now()), $2::text::jsonb)
            ON CONFLICT (id) DO UPDATE SET saved_at = excluded.saved_at, snapshot = excluded.snapshot
            WHERE known.saved_at <= excluded.saved_at OR known.saved_at > now()
            "#,
            sql_time(now) as _,
            text,
        )
        .execute(connection))
        .map(|_| ())
        .map_err(|failure| failure.into_store_error(NAME))
    }

    /// What was last kept, and when; `None` when nothing ever was.
    pub async fn load_last_known_studios(&self) -> Result<Option<(Timestamp, Value)>, StoreError> {
        const NAME: &str = "studios_load";
        run!(self, NAME, |connection| sqlx::query!(
            r#"
            SELECT saved_at AS "saved_at: SqlTime", snapshot::text AS "snapshot!"
            FROM studios_last_known
            "#
        )
        .fetch_optional(connection))
        .map_err(|failure| failure.into_store_error(NAME))?
        .map(|row| {
            let snapshot =
                serde_json::from_str(&row.snapshot).map_err(|e| StoreError::Corrupt {
                    statement: NAME,
                    why: e.to_string(),
                })?;
            Ok((from_sql(row.saved_at), snapshot))
        })
        .transpose()
    }
}
