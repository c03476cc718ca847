//! What must have come of the events: worked out from the log and `events_raw` by rules of its own,
//! and compared with every table and topic that shows it.

mod expected;
mod tables;
mod topics;

use std::time::Duration;

use bm_testkit::until;
use serde_json::Value;
use sqlx::PgPool;

use crate::fleet::Fleet;
use expected::Expected;

/// How long the last events may take to come through.
const SETTLES_WITHIN: Duration = Duration::from_mins(1);

/// A row of `events_raw`.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The event's id.
    pub event_id: String,
    /// Whose game it is.
    pub studio: String,
    /// The game.
    pub game: String,
    /// Whose it is.
    pub user: String,
    /// What happened.
    pub event_type: String,
    /// What a custom event is.
    pub event_name: Option<String>,
    /// The metadata; null for none.
    pub metadata: Value,
    /// Kept top-level fields; null for none.
    pub extra: Value,
    /// The event's own timestamp, in milliseconds.
    pub occurred_at: i64,
    /// Place in `game.events`.
    pub at: (i32, i64),
    /// The stamp.
    pub config_seq: i64,
    /// In milliseconds.
    pub ingested_at: i64,
}

impl Fleet {
    /// Waits until everything that was sent has come through, compares all there is with what must
    /// be, ends the processes in an orderly way, and compares again.
    ///
    /// `dead` is how many dead letters there must be.
    pub async fn verify(&mut self, dead: usize) {
        self.await_all(dead).await;
        self.end().await;
        // Whoever goes last may have taken lanes and published their outboxes again, to nobody.
        let faults = self.compare_with(dead, false).await;
        assert!(
            faults.is_empty(),
            "after the processes had ended:\n{}",
            faults.join("\n")
        );
    }

    /// The first half of [`Fleet::verify`].
    pub async fn await_all(&self, dead: usize) {
        until(SETTLES_WITHIN, "all as it must be", async || {
            let faults = self.compare(dead).await;
            if faults.is_empty() {
                Ok(())
            } else {
                Err(format!("\n{}", faults.join("\n")))
            }
        })
        .await;
    }

    /// Everything that is not as it must be; nothing when all is well and nothing is under way.
    pub async fn compare(&self, dead: usize) -> Vec<String> {
        self.compare_with(dead, true).await
    }

    /// The same; nothing needs to be at rest where the processes have ended.
    pub async fn compare_with(&self, dead: usize, at_rest: bool) -> Vec<String> {
        let kept = kept(&self.pool).await;
        let mut faults = Faults::default();
        self.compare_kept(&kept, &mut faults).await;
        let quests = self.book.quests();
        tables::compare_versions(&self.pool, &quests, &mut faults).await;
        let expected = Expected::of(&quests, &kept);
        tables::compare_progress(&self.pool, &expected, &mut faults).await;
        tables::compare_ledger(&self.pool, &expected, &mut faults).await;
        // Topics are slow to read; while tables differ there is no need.
        if faults.0.is_empty() {
            self.compare_topics(&kept, &expected, dead, &mut faults)
                .await;
        }
        if faults.0.is_empty() && at_rest {
            self.compare_cursors(&mut faults).await;
        }
        faults.0
    }

    /// Every event that was settled is kept once, and nothing is kept that was not sent.
    async fn compare_kept(&self, kept: &[Kept], faults: &mut Faults) {
        let counter: i64 = sqlx::query_scalar("SELECT value FROM config_counter")
            .fetch_one(&self.pool)
            .await
            .expect("the counter of saves can be read");
        let mut sent = self.book.sent();
        let mut last: Option<&Kept> = None;
        for row in kept {
            faults.unless(row.config_seq <= counter, || {
                format!("{row:?} is stamped newer than the last save {counter}")
            });
            // Rows are in the order of the log.
            if let Some(last) = last.filter(|last| last.at.0 == row.at.0) {
                faults.unless(row.config_seq >= last.config_seq, || {
                    format!("{row:?} is stamped older than {last:?}, which stands before it")
                });
            }
            last = Some(row);
            let Some(sent) = sent.remove(&row.event_id) else {
                faults.add(format!(
                    "events_raw holds {row:?} twice, or it was never sent"
                ));
                continue;
            };
            faults.unless(row.config_seq >= sent.config_seq, || {
                format!(
                    "{row:?} is stamped older than the save {} before it was sent",
                    sent.config_seq
                )
            });
        }
        for (id, sent) in sent {
            faults.unless(!sent.settled, || {
                format!("{id} was settled and is not kept")
            });
        }
    }
}

/// What is wrong, the first few of it.
#[derive(Debug, Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: String) {
        if self.0.len() < 20 {
            self.0.push(fault);
        }
    }

    fn unless(&mut self, well: bool, fault: impl FnOnce() -> String) {
        if !well {
            self.add(fault());
        }
    }
}

/// `events_raw` in the order of the log.
pub async fn kept(pool: &PgPool) -> Vec<Kept> {
    #[derive(sqlx::FromRow)]
    struct Row {
        event_id: String,
        studio_id: String,
        game_id: String,
        user_id: String,
        event_type: String,
        event_name: Option<String>,
        event_data: Option<String>,
        extra: Option<String>,
        occurred_at: i64,
        log_partition: i32,
        log_offset: i64,
        config_seq: i64,
        ingested_at: i64,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT event_id, studio_id, game_id, user_id, event_type, event_name,
                event_data::text AS event_data, extra::text AS extra,
                round(extract(epoch FROM occurred_at) * 1000)::bigint AS occurred_at,
                log_partition, log_offset, config_seq,
                round(extract(epoch FROM ingested_at) * 1000)::bigint AS ingested_at
         FROM events_raw ORDER BY log_partition, log_offset",
    )
    .fetch_all(pool)
    .await
    .expect("events_raw can be read");
    let json = |text: Option<String>| {
        text.map_or(Value::Null, |text| {
            serde_json::from_str(&text).expect("PostgreSQL writes JSON")
        })
    };
    rows.into_iter()
        .map(|row| Kept {
            event_id: row.event_id,
            studio: row.studio_id,
            game: row.game_id,
            user: row.user_id,
            event_type: row.event_type,
            event_name: row.event_name,
            metadata: json(row.event_data),
            extra: json(row.extra),
            occurred_at: row.occurred_at,
            at: (row.log_partition, row.log_offset),
            config_seq: row.config_seq,
            ingested_at: row.ingested_at,
        })
        .collect()
}
