//! What must have come of the events: worked out from `events_raw` by rules of its own, and
//! compared with every table and topic that shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bm_testkit::TestRecord;
use serde_json::Value;
use sqlx::PgPool;

use crate::fleet::Fleet;
use crate::quests::Reached;
use crate::reader::once;
use crate::{Quest, Service, lanes};

/// How long the last events may take to come through.
const SETTLES_WITHIN: Duration = Duration::from_mins(1);

/// A row of `events_raw`.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The event's id.
    pub event_id: String,
    /// Whose it is.
    pub user: String,
    /// What happened.
    pub event_type: String,
    /// The metadata; null for none.
    pub metadata: Value,
    /// Place in `game.events`.
    pub at: (i32, i64),
    /// The stamp.
    pub config_seq: i64,
    /// In milliseconds.
    pub ingested_at: i64,
}

/// A grant: player, source, reward as JSON text, and when it was earned.
type Grant = (String, String, String, i64);

/// Player and quest.
type Who = (String, String);

/// What must be.
#[derive(Debug, Default)]
struct Expected {
    /// Every state each player went through in each quest, oldest first.
    progress: BTreeMap<Who, Vec<Reached>>,
    grants: Vec<Grant>,
    /// Ids of events that some quest counts.
    wanted: BTreeSet<String>,
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
        let started = Instant::now();
        loop {
            let faults = self.compare(dead).await;
            if faults.is_empty() {
                return;
            }
            assert!(
                started.elapsed() < SETTLES_WITHIN,
                "still not as it must be after {SETTLES_WITHIN:?}:\n{}",
                faults.join("\n")
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Everything that is not as it must be; nothing when all is well and nothing is under way.
    pub async fn compare(&self, dead: usize) -> Vec<String> {
        self.compare_with(dead, true).await
    }

    async fn compare_with(&self, dead: usize, at_rest: bool) -> Vec<String> {
        let kept = kept(&self.pool).await;
        let mut faults = Faults::default();
        self.compare_kept(&kept, &mut faults);
        let expected = expect(&self.book.quests(), &kept);
        compare_progress(&self.pool, &expected, &mut faults).await;
        let ledger = compare_ledger(&self.pool, &expected, &mut faults).await;
        // Topics are slow to read; while tables differ there is no need.
        if faults.0.is_empty() {
            self.compare_topics(&kept, &expected, &ledger, dead, &mut faults)
                .await;
        }
        if faults.0.is_empty() && at_rest {
            for service in Service::PROCESSORS {
                self.compare_cursors(service, &mut faults).await;
            }
        }
        faults.0
    }

    /// Every event that was settled is kept once, and nothing is kept that was not sent.
    fn compare_kept(&self, kept: &[Kept], faults: &mut Faults) {
        let mut sent = self.book.sent();
        for row in kept {
            let Some(sent) = sent.remove(&row.event_id) else {
                faults.add(format!(
                    "events_raw holds {row:?} twice, or it was never sent"
                ));
                continue;
            };
            let event = &sent.event;
            let same = event["userId"] == row.user.as_str()
                && event["eventType"] == row.event_type.as_str()
                && event["metadata"] == row.metadata;
            faults.unless(same, || format!("{event} was sent, {row:?} was kept"));
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

    async fn compare_topics(
        &self,
        kept: &[Kept],
        expected: &Expected,
        ledger: &BTreeSet<String>,
        dead: usize,
        faults: &mut Faults,
    ) {
        let forwarded = once(self.topics.read_all("quest.events").await);
        compare_forwarded(&forwarded, kept, expected, faults);
        let grants = once(self.topics.read_all("reward.events").await);
        compare_grants("reward.events", &grants, ledger, faults);
        let statuses = once(self.topics.read_all("reward.status").await);
        compare_grants("reward.status", &statuses, ledger, faults);
        for status in &statuses {
            let told = status.json();
            faults.unless(told["status"] == "pending", || {
                format!("reward.status says {told}")
            });
        }
        let updates = self.topics.read_all("ui.updates").await;
        compare_updates(&updates, expected, faults);
        let letters = once(self.topics.read_all("dead.letter").await);
        faults.unless(letters.len() == dead, || {
            let letters: Vec<&str> = letters.iter().map(TestRecord::value_text).collect();
            format!("{dead} dead letters were to be, there are {letters:?}")
        });
    }

    /// Nothing is under way: every lane stands at the end of its partition.
    async fn compare_cursors(&self, service: Service, faults: &mut Faults) {
        let records = self.topics.read_all(service.input()).await;
        for (partition, row) in lanes::rows(&self.pool, service).await {
            let of_partition = records.iter().filter(|one| one.partition == partition);
            let end = of_partition.map(|one| one.offset + 1).max().unwrap_or(0);
            faults.unless(row.next_offset == end, || {
                format!(
                    "the lane {}/{partition} stands at {}, its log ends at {end}",
                    service.name(),
                    row.next_offset
                )
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
    type Row = (String, String, String, Option<String>, i32, i64, i64, i64);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT event_id, user_id, event_type, event_data::text, log_partition, log_offset, config_seq,
                round(extract(epoch FROM ingested_at) * 1000)::bigint
         FROM events_raw ORDER BY log_partition, log_offset",
    )
    .fetch_all(pool)
    .await
    .expect("events_raw can be read");
    rows.into_iter()
        .map(|row| Kept {
            event_id: row.0,
            user: row.1,
            event_type: row.2,
            metadata: row.3.map_or(Value::Null, |text| {
                serde_json::from_str(&text).expect("PostgreSQL writes JSON")
            }),
            at: (row.4, row.5),
            config_seq: row.6,
            ingested_at: row.7,
        })
        .collect()
}

/// Folds what was kept, the plain way: for each event every quest, in the newest version not above
/// the event's stamp.
fn expect(versions: &[(i64, Quest)], kept: &[Kept]) -> Expected {
    let mut expected = Expected::default();
    for row in kept {
        let mut in_force: BTreeMap<&str, &Quest> = BTreeMap::new();
        for (config_seq, quest) in versions {
            if *config_seq <= row.config_seq {
                in_force.insert(quest.id(), quest);
            }
        }
        for quest in in_force.into_values() {
            if !quest.wants(&row.event_type, &row.metadata) {
                continue;
            }
            expected.wanted.insert(row.event_id.clone());
            let who = (row.user.clone(), quest.id().to_owned());
            let history = expected.progress.entry(who).or_default();
            let before = history.last().cloned().unwrap_or_default();
            let Some(after) = quest.advance(&before, &row.metadata, row.ingested_at) else {
                continue;
            };
            if after.completed_at.is_some() {
                for reward in quest.rewards() {
                    expected.grants.push((
                        row.user.clone(),
                        format!("quest_{}", quest.id()),
                        reward.to_string(),
                        row.ingested_at,
                    ));
                }
            }
            history.push(after);
        }
    }
    // An event that is wanted and adds nothing leaves no trace.
    expected.progress.retain(|_, history| !history.is_empty());
    expected.grants.sort();
    expected
}

async fn compare_progress(pool: &PgPool, expected: &Expected, faults: &mut Faults) {
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

/// Gives the ids in the ledger.
async fn compare_ledger(
    pool: &PgPool,
    expected: &Expected,
    faults: &mut Faults,
) -> BTreeSet<String> {
    type Row = (String, String, String, String, i64, String);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT user_id, source, reward::text, grant_id,
                round(extract(epoch FROM earned_at) * 1000)::bigint, status
         FROM reward_grants",
    )
    .fetch_all(pool)
    .await
    .expect("reward_grants can be read");
    let mut found: Vec<Grant> = Vec::with_capacity(rows.len());
    let mut ids = BTreeSet::new();
    for (user, source, reward, grant_id, earned_at, status) in rows {
        faults.unless(status == "pending", || {
            format!("grant {grant_id} is {status}")
        });
        let reward: Value = serde_json::from_str(&reward).expect("PostgreSQL writes JSON");
        found.push((user, source, reward.to_string(), earned_at));
        ids.insert(grant_id);
    }
    found.sort();
    if found != expected.grants {
        let few = |left: &[Grant], right: &[Grant]| {
            let only = left.iter().filter(|grant| !right.contains(grant));
            only.take(5).cloned().collect::<Vec<_>>()
        };
        faults.add(format!(
            "{} grants must be in the ledger, {} are; missing {:?}, without cause {:?}",
            expected.grants.len(),
            found.len(),
            few(&expected.grants, &found),
            few(&found, &expected.grants),
        ));
    }
    ids
}

/// What the router forwarded: each wanted event once, nothing that was not kept, and each player's
/// in the order of the log.
fn compare_forwarded(
    records: &[TestRecord],
    kept: &[Kept],
    expected: &Expected,
    faults: &mut Faults,
) {
    let places: BTreeMap<&str, &Kept> = kept
        .iter()
        .map(|row| (row.event_id.as_str(), row))
        .collect();
    let mut wanted = expected.wanted.clone();
    let mut seen = BTreeSet::new();
    let mut last_of: BTreeMap<String, i64> = BTreeMap::new();
    // Records without a source were put there by a test.
    for record in records
        .iter()
        .filter(|one| one.header("bm-source").is_some())
    {
        let event = record.json();
        let id = event["eventId"].as_str().unwrap_or_default().to_owned();
        let Some(row) = places.get(id.as_str()) else {
            faults.add(format!("forwarded but not kept: {event}"));
            continue;
        };
        wanted.remove(&id);
        let last = last_of.insert(row.user.clone(), row.at.1);
        faults.unless(last.is_none_or(|last| last < row.at.1), || {
            format!("forwarded out of order: {event}")
        });
        faults.unless(seen.insert(id), || format!("forwarded twice: {event}"));
    }
    faults.unless(wanted.is_empty(), || {
        format!("wanted and not forwarded: {wanted:?}")
    });
}

/// Each grant in the ledger once, and no other.
fn compare_grants(
    topic: &str,
    records: &[TestRecord],
    ledger: &BTreeSet<String>,
    faults: &mut Faults,
) {
    let mut seen = BTreeSet::new();
    for record in records
        .iter()
        .filter(|one| one.header("bm-source").is_some())
    {
        let id = record.json()["grantId"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        faults.unless(ledger.contains(&id), || {
            format!("{topic} holds {id}, which the ledger does not know")
        });
        faults.unless(seen.insert(id), || {
            format!("{topic} holds a grant twice: {}", record.value_text())
        });
    }
    faults.unless(seen.len() == ledger.len(), || {
        format!(
            "{topic} holds {} grants, the ledger {}",
            seen.len(),
            ledger.len()
        )
    });
}

/// Every update shows a state that was, and the newest of each player and quest the last one.
fn compare_updates(records: &[TestRecord], expected: &Expected, faults: &mut Faults) {
    let mut newest: BTreeMap<Who, i64> = BTreeMap::new();
    for record in records {
        let update = record.json();
        let text = |name: &str| update[name].as_str().unwrap_or_default().to_owned();
        let who = (text("userId"), text("questId"));
        let version = update["version"].as_i64().unwrap_or(0);
        let history = expected.progress.get(&who);
        let state = usize::try_from(version - 1)
            .ok()
            .and_then(|index| history?.get(index));
        let well = state.is_some_and(|state| {
            update["type"] == "quest_progress"
                && update["progress"]["current"].as_i64() == Some(state.current)
                && update["progress"]["target"].as_i64() == Some(state.target)
                && update["completed"] == state.completed_at.is_some()
        });
        faults.unless(well, || {
            format!("ui.updates shows {update}, which must be {state:?}")
        });
        let newest = newest.entry(who).or_default();
        *newest = version.max(*newest);
    }
    for (who, history) in &expected.progress {
        let shown = newest.get(who).copied();
        let last = history.last().map(|state| state.version);
        faults.unless(shown == last, || {
            format!("the newest update of {who:?} is {shown:?}, must be {last:?}")
        });
    }
}
