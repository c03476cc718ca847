//! The two scripts of the limits as calls: what goes to Redis and what comes back.

use std::sync::LazyLock;

use redis::aio::ConnectionManager;
use redis::{ErrorKind, RedisError, RedisResult, Script};

use super::pair::Pair;
use super::shared::{Grant, LeaseRequest};
use crate::redis_handle::run_scripts;

static LEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lease.lua")));
static HEARTBEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("heartbeat.lua")));

/// The keys all gateways share, and those of each studio.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
    born: String,
    gateways: String,
}

impl Keys {
    /// Under a prefix.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            born: format!("{prefix}{{bm:lim}}:born"),
            gateways: format!("{prefix}{{bm:lim}}:gateways"),
        }
    }

    /// The state of a studio.
    pub fn studio(&self, studio: &str) -> String {
        format!("{}{{bm:lim:{studio}}}", self.prefix)
    }
}

/// Asks for a lease, and which incarnation of Redis granted it. Its name is the one that is found
/// there, or else `candidate`, which then becomes it, together with the server's run.
///
/// The name that lies there is lost with the data, and the run changes when a server reads old data
/// back from its disk or another takes over. The name is asked for after the script ran, so that a
/// name that is still the old one proves that nothing was lost before.
pub async fn lease(
    mut connection: ConnectionManager,
    keys: Keys,
    studio_key: String,
    now: u64,
    ttl: u64,
    ask: LeaseRequest,
    candidate: String,
) -> RedisResult<(Grant, String)> {
    let mut invocation = LEASE.key(studio_key);
    invocation.arg(now).arg(ttl);
    let limits = ask.limits;
    for (limit, need, want, fresh) in [
        (
            limits.requests,
            ask.need.requests,
            ask.want.requests,
            ask.fresh.requests,
        ),
        (
            limits.events,
            ask.need.events,
            ask.want.events,
            ask.fresh.events,
        ),
    ] {
        invocation
            .arg(limit.per_minute)
            .arg(limit.burst)
            .arg(need)
            .arg(want)
            .arg(fresh);
    }
    invocation.arg(ask.closings.len());
    for closing in &ask.closings {
        invocation
            .arg(closing.birth)
            .arg(closing.bucket)
            .arg(closing.used.requests)
            .arg(closing.used.events)
            .arg(closing.unused.requests)
            .arg(closing.unused.events)
            .arg(closing.age_ms);
    }
    invocation.arg(ask.seeds.len());
    for seed in &ask.seeds {
        invocation
            .arg(seed.age_ms)
            .arg(seed.units.requests)
            .arg(seed.units.events);
    }
    let mut pipeline = redis::pipe();
    pipeline.invoke_script(&invocation);
    name_incarnation(&mut pipeline, &keys, &candidate);
    let ((run, grant), born): ((String, Vec<i64>), Option<String>) =
        run_scripts(&mut connection, &pipeline, &[&LEASE]).await?;
    Ok((read_grant(&grant)?, born.unwrap_or(candidate) + &run))
}

/// Says that this gateway lives; returns how many do, and the incarnation as in [`lease`].
pub(crate) async fn heartbeat(
    mut connection: ConnectionManager,
    keys: Keys,
    gateway: String,
    forget_ms: u64,
    candidate: String,
) -> RedisResult<(u32, String)> {
    let mut invocation = HEARTBEAT.key(&keys.gateways);
    invocation.arg(gateway).arg(forget_ms);
    let mut pipeline = redis::pipe();
    pipeline.invoke_script(&invocation);
    name_incarnation(&mut pipeline, &keys, &candidate);
    let ((run, gateways), born): ((String, u32), Option<String>) =
        run_scripts(&mut connection, &pipeline, &[&HEARTBEAT]).await?;
    Ok((gateways, born.unwrap_or(candidate) + &run))
}

/// The births of states; `None` where there is none.
pub(crate) async fn births(
    mut connection: ConnectionManager,
    studio_keys: Vec<String>,
) -> RedisResult<Vec<Option<u64>>> {
    let mut pipeline = redis::pipe();
    for key in studio_keys {
        pipeline.cmd("HGET").arg(key).arg("birth");
    }
    pipeline.query_async(&mut connection).await
}

/// Takes this gateway off the list of the living.
pub(crate) async fn farewell(
    mut connection: ConnectionManager,
    keys: Keys,
    gateway: String,
) -> RedisResult<()> {
    redis::cmd("ZREM")
        .arg(&keys.gateways)
        .arg(gateway)
        .query_async(&mut connection)
        .await
}

fn name_incarnation(pipeline: &mut redis::Pipeline, keys: &Keys, candidate: &str) {
    pipeline
        .cmd("SET")
        .arg(&keys.born)
        .arg(candidate)
        .arg("NX")
        .arg("GET");
}

fn read_grant(reply: &[i64]) -> RedisResult<Grant> {
    let strange =
        || RedisError::from((ErrorKind::UnexpectedReturnType, "not the answer of a lease"));
    let numbers: [i64; 8] = reply.try_into().map_err(|_| strange())?;
    let [birth, bucket, r, e, room_r, room_e, wait_r, wait_e] = numbers;
    let units = |n: i64| u32::try_from(n).map_err(|_| strange());
    let time = |n: i64| u64::try_from(n).map_err(|_| strange());
    Ok(Grant {
        birth: time(birth)?,
        bucket: time(bucket)?,
        units: Pair::new(units(r)?, units(e)?),
        room: Pair::new(units(room_r)?, units(room_e)?),
        wait_ms: Pair::new(time(wait_r)?, time(wait_e)?),
    })
}
