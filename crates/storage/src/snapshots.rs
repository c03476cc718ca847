//! Who keeps old row versions: each commit of a lane leaves one behind, and the next reads past all
//! that somebody's snapshot still keeps.

use std::fmt;
use std::time::Duration;

use crate::error::StoreError;
use crate::pool::Storage;
use crate::session::run;

/// From this age on a snapshot slows the lanes down noticeably.
const HARMFUL_AGE: Duration = Duration::from_secs(30);
/// About as many commits as busy lanes make in that time, for holders of whom no time is known.
const HARMFUL_TRANSACTIONS: i64 = 25_000;
/// For those who keep versions of the database's own catalogs only, which change seldom.
const HARMFUL_CATALOG_TRANSACTIONS: i64 = 1_000_000;

/// What keeps a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderKind {
    /// A client's open transaction.
    Session,
    /// A standby with `hot_standby_feedback`, or another reader of the write-ahead log.
    Standby,
    /// A transaction prepared for two-phase commit.
    Prepared,
    /// A replication slot.
    Slot,
    /// A logical replication slot, which keeps versions of the catalogs only.
    SlotCatalog,
}

impl HolderKind {
    const ALL: [Self; 5] = [
        Self::Session,
        Self::Standby,
        Self::Prepared,
        Self::Slot,
        Self::SlotCatalog,
    ];

    /// Its label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Standby => "standby",
            Self::Prepared => "prepared",
            Self::Slot => "slot",
            Self::SlotCatalog => "slot_catalog",
        }
    }
}

/// Somebody who keeps a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHolder {
    /// What it is.
    pub kind: HolderKind,
    /// Its process id, the prepared transaction's id, or the slot's name.
    pub name: String,
    /// The session's `application_name`, the prepared transaction's owner, or the slot's plugin.
    pub application: String,
    /// Such as `idle in transaction`.
    pub state: String,
    /// For how long; `None` where the database does not know or tell.
    pub age: Option<Duration>,
    /// Transactions begun since.
    pub transactions: i64,
}

impl SnapshotHolder {
    /// Whether it is old enough to slow the lanes down.
    pub fn is_harmful(&self) -> bool {
        match (self.age, self.kind) {
            (Some(age), _) => age > HARMFUL_AGE,
            (None, HolderKind::SlotCatalog) => self.transactions > HARMFUL_CATALOG_TRANSACTIONS,
            (None, _) => self.transactions > HARMFUL_TRANSACTIONS,
        }
    }

    /// What whoever is on call can do about it.
    pub fn advice(&self) -> String {
        let name = &self.name;
        match self.kind {
            HolderKind::Session => format!("end it: SELECT pg_terminate_backend({name})"),
            HolderKind::Standby => {
                "end the long query on the standby, or set hot_standby_feedback = off there"
                    .to_owned()
            }
            HolderKind::Prepared => {
                format!("COMMIT PREPARED '{name}' or ROLLBACK PREPARED '{name}'")
            }
            HolderKind::Slot | HolderKind::SlotCatalog => format!(
                "let its reader catch up; if it has none any more: SELECT pg_drop_replication_slot('{name}')"
            ),
        }
    }
}

impl fmt::Display for SnapshotHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            application,
            state,
            transactions,
            ..
        } = self;
        match self.kind {
            HolderKind::Session => {
                write!(f, "session pid {name} of {application:?} ({state})")?;
            }
            HolderKind::Standby => write!(f, "standby pid {name} of {application:?} ({state})")?,
            HolderKind::Prepared => write!(f, "prepared transaction {name:?} of {application}")?,
            HolderKind::Slot | HolderKind::SlotCatalog => {
                write!(f, "replication slot {name:?} ({application}, {state})")?;
            }
        }
        if let Some(age) = self.age {
            write!(f, ", {} s old", age.as_secs())?;
        }
        write!(f, ", {transactions} transactions behind")
    }
}

impl Storage {
    /// Everybody who keeps row versions of this database, the oldest first. Reported as
    /// `bm_db_oldest_snapshot_seconds` and, by `holder`, `bm_db_oldest_snapshot_transactions`.
    pub async fn snapshot_holders(&self) -> Result<Vec<SnapshotHolder>, StoreError> {
        const NAME: &str = "snapshot_holders";
        // Of another role's session PostgreSQL shows little to who is not in `pg_monitor`: neither
        // kind nor age, but that it holds something. A transaction that has written keeps versions between its statements too, by its id.
        let rows = run!(self, NAME, |connection| sqlx::query!(
            r#"
            SELECT h.kind AS "kind!", h.name AS "name!", h.application AS "application!",
                   h.state AS "state!", h.transactions AS "transactions!",
                   extract(epoch FROM clock_timestamp() - h.since)::float8 AS "seconds?"
            FROM (
                SELECT CASE backend_type WHEN 'walsender' THEN 'standby' ELSE 'session' END AS kind,
                       pid::text AS name, coalesce(application_name, '') AS application,
                       coalesce(state, 'state not shown') AS state, xact_start AS since,
                       greatest(age(backend_xid), age(backend_xmin))::bigint AS transactions
                FROM pg_stat_activity
                WHERE (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
                  AND pid <> pg_backend_pid()
                  AND (backend_type = 'walsender'
                       OR coalesce(backend_type, 'client backend') = 'client backend'
                          AND datname = current_database())
                UNION ALL
                SELECT 'prepared', gid, owner::text, 'prepared', prepared, age(transaction)::bigint
                FROM pg_prepared_xacts WHERE database = current_database()
                UNION ALL
                SELECT 'slot', slot_name::text, coalesce(plugin::text, slot_type),
                       CASE WHEN active THEN 'being read' ELSE 'not being read' END, NULL,
                       age(xmin)::bigint
                FROM pg_replication_slots WHERE xmin IS NOT NULL
                UNION ALL
                SELECT 'slot_catalog', slot_name::text, coalesce(plugin::text, slot_type),
                       CASE WHEN active THEN 'being read' ELSE 'not being read' END, NULL,
                       age(catalog_xmin)::bigint
                FROM pg_replication_slots WHERE catalog_xmin IS NOT NULL
            ) AS h
            ORDER BY 6 DESC NULLS LAST, h.transactions DESC
            "#
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        let holders: Vec<_> = rows
            .into_iter()
            .filter_map(|row| {
                let kind = HolderKind::ALL
                    .into_iter()
                    .find(|k| k.as_str() == row.kind)?;
                Some(SnapshotHolder {
                    kind,
                    name: row.name,
                    application: row.application,
                    state: row.state,
                    age: row
                        .seconds
                        .map(|s| Duration::try_from_secs_f64(s).unwrap_or_default()),
                    transactions: row.transactions,
                })
            })
            .collect();
        let oldest = holders.iter().filter_map(|holder| holder.age).max();
        metrics::gauge!("bm_db_oldest_snapshot_seconds")
            .set(oldest.unwrap_or_default().as_secs_f64());
        for kind in HolderKind::ALL {
            let transactions = holders
                .iter()
                .filter(|holder| holder.kind == kind)
                .map(|holder| holder.transactions)
                .max();
            metrics::gauge!("bm_db_oldest_snapshot_transactions", "holder" => kind.as_str())
                .set(transactions.unwrap_or(0) as f64);
        }
        Ok(holders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(kind: HolderKind, age: Option<u64>, transactions: i64) -> SnapshotHolder {
        SnapshotHolder {
            kind,
            name: "17".to_owned(),
            application: "psql".to_owned(),
            state: "idle in transaction".to_owned(),
            age: age.map(Duration::from_secs),
            transactions,
        }
    }

    #[test]
    fn what_slows_lanes_down_is_harmful_by_age_or_else_by_transactions() {
        for (kind, age, transactions, harmful) in [
            (HolderKind::Session, Some(30), 1_000_000, false),
            (HolderKind::Session, Some(31), 0, true),
            (HolderKind::Session, None, 25_001, true),
            (HolderKind::Prepared, Some(31), 0, true),
            (HolderKind::Standby, None, 25_000, false),
            (HolderKind::Slot, None, 25_001, true),
            (HolderKind::SlotCatalog, None, 25_001, false),
            (HolderKind::SlotCatalog, None, 1_000_001, true),
        ] {
            let holder = holder(kind, age, transactions);
            assert_eq!(holder.is_harmful(), harmful, "{holder}");
        }
    }

    #[test]
    fn a_holder_is_named_with_what_to_do_about_it() {
        let session = holder(HolderKind::Session, Some(42), 7);
        assert_eq!(
            session.to_string(),
            "session pid 17 of \"psql\" (idle in transaction), 42 s old, 7 transactions behind"
        );
        assert_eq!(session.advice(), "end it: SELECT pg_terminate_backend(17)");
        let slot = holder(HolderKind::Slot, None, 7);
        assert!(slot.advice().contains("pg_drop_replication_slot('17')"));
    }
}
