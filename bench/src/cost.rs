//! What processes cost: processor time and memory, of ours and of PostgreSQL's for them.

use bm_testkit::Process;

use crate::stage::Stage;

/// Of Linux, everywhere that matters here: ticks a second.
const TICKS: f64 = 100.0;

/// Seconds of processor time that a process has used; 0 when it is gone.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else {
        return 0.0;
    };
    // Behind the name, which may hold spaces: state is field 3, user and system time 14 and 15.
    let (_, fields) = stat.rsplit_once(')').expect("a process has a name");
    let fields: Vec<f64> = fields
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    (fields[11] + fields[12]) / TICKS
}

/// Seconds of processor time that PostgreSQL has used for the connections of a service, by its name.
///
/// Connections that have ended do not count any more, so what is compared must not close any.
pub(crate) async fn database_seconds(stage: &Stage, service: &str) -> f64 {
    let backends: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
    )
    .bind(service)
    .fetch_all(&stage.pool)
    .await
    .expect("the database says who is connected");
    let used = backends.into_iter().map(|pid| cpu_seconds(pid as u32));
    used.sum()
}

/// Memory that a process has in use.
pub(crate) fn resident_mib(process: &Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()));
    let status = status.expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .expect("a process has a resident size");
    kib / 1_024.0
}
