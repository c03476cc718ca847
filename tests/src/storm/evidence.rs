//! What a storm that failed leaves behind: logs of all processes and servers, the faults with their
//! times, and what stands in tables and topics.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bm_contracts::Topic;
use bm_testkit::TestRecord;
use bm_testkit::process::workspace;
use sqlx::AssertSqlSafe;

use super::fault::Shared;
use crate::fleet::Fleet;

/// A server that was killed in the storm may have to recover first.
const LIMIT: Duration = Duration::from_mins(1);

/// Writes all there is into a folder of its own; gives the folder. What cannot be had is left out,
/// with the reason on standard error: a failure must not hide behind another.
pub(super) async fn leave(fleet: &mut Fleet, seed: u64, chronicle: &[String]) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| workspace().join("target"), PathBuf::from);
    let folder = target.join("crash").join(format!("seed-{seed}"));
    // That of an earlier run with this seed.
    let _none = fs::remove_dir_all(&folder);
    if let Err(error) = fs::create_dir_all(folder.join("tables")) {
        eprintln!("{} cannot be made: {error}", folder.display());
        return folder;
    }
    put(&folder.join("faults.txt"), &chronicle.join("\n"));
    for (service, processes) in &fleet.processes {
        for (place, process) in processes.iter().enumerate() {
            let name = format!("{}-{place}.log", service.name());
            if let Err(error) = fs::copy(process.log_file(), folder.join(&name)) {
                eprintln!("{name} is not kept: {error}");
            }
        }
    }
    for what in [Shared::Broker, Shared::Postgres, Shared::Redis] {
        let name = format!("{what:?}.log").to_lowercase();
        put(&folder.join(name), &fleet.shared(what).log());
    }
    put(
        &folder.join("sent.txt"),
        &format!("{:#?}", fleet.book.sent()),
    );
    put(
        &folder.join("quests.txt"),
        &format!("{:#?}", fleet.book.quests()),
    );
    let standing = async {
        for what in [Shared::Postgres, Shared::Broker] {
            if !fleet.shared(what).runs() {
                fleet.shared(what).start_again().await;
            }
        }
        keep_tables(fleet, &folder.join("tables")).await;
        for topic in Topic::ALL {
            let name = topic.spec().name;
            let records = fleet.topics.read_all(name).await;
            let lines: Vec<String> = records.iter().map(line).collect();
            put(&folder.join(format!("topic-{name}.txt")), &lines.join("\n"));
        }
    };
    if tokio::time::timeout(LIMIT, standing).await.is_err() {
        eprintln!("tables and topics are not kept, or not all: no end within {LIMIT:?}");
    }
    folder
}

/// A record as it is told.
fn line(record: &TestRecord) -> String {
    format!(
        "{}/{} {} {} {}",
        record.partition,
        record.offset,
        record.header("bm-source").unwrap_or("-"),
        record.header("bm-seq").unwrap_or("-"),
        record.value_text(),
    )
}

/// A file per table, a row a line as JSON.
async fn keep_tables(fleet: &Fleet, folder: &Path) {
    let tables: Result<Vec<String>, _> = sqlx::query_scalar(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
         AND relkind IN ('r', 'p') AND NOT relispartition",
    )
    .fetch_all(&fleet.pool)
    .await;
    match tables {
        Ok(tables) => {
            for table in tables {
                let statement = format!("SELECT to_jsonb(t)::text FROM \"{table}\" AS t");
                let rows: Result<Vec<String>, _> = sqlx::query_scalar(AssertSqlSafe(statement))
                    .fetch_all(&fleet.pool)
                    .await;
                match rows {
                    Ok(rows) => put(&folder.join(format!("{table}.jsonl")), &rows.join("\n")),
                    Err(error) => eprintln!("table {table} is not kept: {error}"),
                }
            }
        }
        Err(error) => eprintln!("no table is kept: {error}"),
    }
}

fn put(file: &Path, text: &str) {
    let written = fs::File::create(file).and_then(|mut file| writeln!(file, "{text}"));
    if let Err(error) = written {
        eprintln!("{} is not kept: {error}", file.display());
    }
}
