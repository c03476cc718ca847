//! What processes hold on to: memory, open files, connections. After a storm it must be about what
//! it was before.

use std::collections::BTreeMap;
use std::fs;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fault::Instance;
use crate::Service;
use crate::fleet::Fleet;

/// Of one service, the most that one of its processes holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Resident memory.
    kilobytes: u64,
    /// Open files, sockets among them.
    files: usize,
}

/// What the fleet holds at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Usage {
    of: BTreeMap<Service, Held>,
    /// Connections to the database, by the names that clients give.
    postgres: BTreeMap<String, i64>,
    /// Clients of Redis.
    redis: u64,
}

/// States of a few hundred players are remembered, and an allocator keeps some of what backlogs took.
/// An event kept by mistake takes a kilobyte and more, and there are thousands a minute.
const MORE_KILOBYTES: u64 = 24 * 1024;
/// Brokers are reached and coordinators found anew: a few sockets each.
const MORE_FILES: usize = 16;
/// Pools grow to what they may have, and shrink when connections have rested for five minutes.
const MORE_CONNECTIONS: i64 = 8;
/// A gateway has one, and may be about to replace it.
const MORE_REDIS_CLIENTS: u64 = 2;

impl Usage {
    /// Asks the kernel and the servers.
    pub(super) async fn of(fleet: &mut Fleet) -> Self {
        let mut usage = Self::default();
        for Instance { service, place } in Instance::all() {
            let held = held(fleet.process(service, place).id());
            let most = usage.of.entry(service).or_default();
            most.kilobytes = most.kilobytes.max(held.kilobytes);
            most.files = most.files.max(held.files);
        }
        let connections: Vec<(String, i64)> = sqlx::query_as(
            "SELECT application_name, count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() GROUP BY 1",
        )
        .fetch_all(&fleet.pool)
        .await
        .expect("the server's sessions can be read");
        let services = Service::ALL.map(Service::name);
        usage.postgres = connections
            .into_iter()
            .filter(|(name, _)| services.contains(&name.as_str()))
            .collect();
        usage.redis = redis_clients(&fleet.redis.address()).await;
        usage
    }

    /// What is more than it was, by more than it may.
    pub(super) fn beyond(&self, before: &Self) -> Vec<String> {
        let mut beyond = Vec::new();
        let mut check = |what: String, now: u64, most: u64| {
            if now > most {
                beyond.push(format!("{what}: {now}, may be {most}"));
            }
        };
        for (service, now) in &self.of {
            let (name, was) = (service.name(), before.of[service]);
            let kilobytes = was.kilobytes + MORE_KILOBYTES;
            check(format!("memory of {name} in kB"), now.kilobytes, kilobytes);
            let files = (was.files + MORE_FILES) as u64;
            check(format!("open files of {name}"), now.files as u64, files);
        }
        for (name, now) in &self.postgres {
            let was = before.postgres.get(name).copied().unwrap_or(0);
            check(
                format!("connections of {name} to the database"),
                now.cast_unsigned(),
                (was + MORE_CONNECTIONS).cast_unsigned(),
            );
        }
        let clients = before.redis + MORE_REDIS_CLIENTS;
        check("clients of Redis".to_owned(), self.redis, clients);
        beyond
    }
}

fn held(process: u32) -> Held {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next())
        .and_then(|number| number.parse().ok());
    let files = fs::read_dir(format!("/proc/{process}/fd")).map(Iterator::count);
    Held {
        kilobytes: resident.expect("a running process has memory"),
        files: files.expect("a process of ours shows its files"),
    }
}

/// `connected_clients` but for the one who asks.
async fn redis_clients(address: &str) -> u64 {
    let mut said = Vec::new();
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"INFO clients\r\nQUIT\r\n").await?;
        stream.read_to_end(&mut said).await
    };
    exchange.await.expect("Redis answers");
    let said = String::from_utf8_lossy(&said);
    let count = said
        .lines()
        .find_map(|line| line.strip_prefix("connected_clients:")?.trim().parse().ok());
    let count: u64 = count.unwrap_or_else(|| panic!("Redis does not count its clients: {said}"));
    count - 1
}
