//! The tables, compared with what must be.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::PgPool;

use super::Faults;
use super::expected::{Expected, Grant, Who};
use crate::Quest;

/// The versions there are, and since when they count, are those that were saved.
pub(super) async fn compare_versions(pool: &PgPool, saved: &[(i64, Quest)], faults: &mut Faults) {
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT v.config_seq, q.quest_id
         FROM quest_versions AS v JOIN quests AS q ON q.id = v.quest_id",
    )
    .fetch_all(pool)
    .await
    .expect("quest_versions can be read");
    let found: BTreeSet<(i64, String)> = rows.into_iter().collect();
    let saved: BTreeSet<(i64, String)> = saved
        .iter()
        .map(|(config_seq, quest)| (*config_seq, quest.id().to_owned()))
        .collect();
    for version in found.symmetric_difference(&saved) {
        faults.add(format!(
            "either saved or there, and not both: version {version:?} of a quest"
        ));
    }
}

pub(super) async fn compare_progress(pool: &PgPool, expected: &Expected, faults: &mut Faults) {
    type Row = (String, String, String, String, Option<i64>, i64);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT p.user_id, q.quest_id, p.progress->>'current', p.progress->>'target',
                round(extract(epoch FROM p.completed_at) * 1000)::bigint, p.version
         FROM quest_progress AS p JOIN quests AS q ON q.id = p.quest_id",
    )
    .fetch_all(pool)
    .await
    .expect("quest_progress can be read");
    let mut found: BTreeMap<Who, _> = rows
        .into_iter()
        .map(|row| ((row.0, row.1), (row.2, row.3, row.4, row.5)))
        .collect();
    for (who, history) in &expected.progress {
        let Some(last) = history.last() else { continue };
        let wanted = (
            last.current.to_string(),
            last.target.to_string(),
            last.completed_at,
            last.version,
        );
        let found = found.remove(who);
        faults.unless(found.as_ref() == Some(&wanted), || {
            format!("progress of {who:?} (current, target, completed, version) must be {wanted:?}, is {found:?}")
        });
    }
    for (who, row) in found {
        faults.add(format!(
            "there is progress of {who:?} without cause: {row:?}"
        ));
    }
}

pub(super) async fn compare_ledger(pool: &PgPool, expected: &Expected, faults: &mut Faults) {
    type Row = (String, String, String, String, String, String, i64, String);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT grant_id, studio_id, game_id, user_id, source, reward::text,
                round(extract(epoch FROM earned_at) * 1000)::bigint, status
         FROM reward_grants",
    )
    .fetch_all(pool)
    .await
    .expect("reward_grants can be read");
    let mut missing = expected.grants.clone();
    for (id, studio, game, user, source, reward, at, status) in rows {
        faults.unless(status == "pending", || format!("grant {id} is {status}"));
        let reward: Value = serde_json::from_str(&reward).expect("PostgreSQL writes JSON");
        let found = Grant {
            studio,
            game,
            user,
            source,
            reward,
            at,
        };
        let wanted = missing.remove(&id);
        faults.unless(wanted.as_ref() == Some(&found), || {
            format!("the ledger's grant {id} must be {wanted:?}, is {found:?}")
        });
    }
    for (id, grant) in missing {
        faults.add(format!("the ledger does not hold {id}: {grant:?}"));
    }
}
