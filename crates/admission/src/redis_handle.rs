//! The gateway's one connection to Redis: short timeouts, knows whether Redis does its work, never blocks a start.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bm_bootstrap::supervise;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind};
use tokio::sync::Notify;

/// How often a Redis that does not answer is tried.
const RETRY: Duration = Duration::from_millis(250);
/// How often one that does is checked, so that a quiet gateway notices its loss.
const CHECK: Duration = Duration::from_secs(1);
/// A connection may take longer than a command: names are resolved, TLS is agreed on.
const CONNECT: Duration = Duration::from_secs(2);
/// What is wrong with Redis is logged at most so often.
const COMPLAIN: Duration = Duration::from_secs(10);
/// What [`RedisHandle::connect`] gives the first answer.
const START: Duration = Duration::from_secs(2);

/// What the probe writes: a server that is full, cannot save, is a replica or forbids it answers PING
/// all the same, and is of no use. One hash by script as the limits do, one key as the event ids do.
static PROBE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('HSET', KEYS[1], 'alive', 1)
         return redis.call('PEXPIRE', KEYS[1], 10000)",
    )
});

/// Why Redis gave no answer. What was asked may have been done all the same.
#[derive(Debug, thiserror::Error)]
pub enum RedisFailure {
    /// It did not answer lately, so it was not asked.
    #[error("Redis is not reachable")]
    Down,
    /// No answer in time.
    #[error("Redis did not answer within {0:?}")]
    Timeout(Duration),
    /// The connection or the server refused.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
}

impl RedisFailure {
    fn kind(&self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Timeout(_) => "timeout",
            Self::Redis(error) if error.is_timeout() => "timeout",
            Self::Redis(error) if error.is_io_error() => "connection",
            Self::Redis(_) => "server",
        }
    }

    /// The server took the call, is at work, and would not do it.
    fn is_refusal(&self) -> bool {
        let Self::Redis(error) = self else {
            return false;
        };
        !error.is_io_error()
            && !matches!(
                error.kind(),
                ErrorKind::Server(
                    ServerErrorKind::ReadOnly
                        | ServerErrorKind::BusyLoading
                        | ServerErrorKind::MasterDown
                ) | ErrorKind::AuthenticationFailed
                    | ErrorKind::Parse
            )
    }
}

/// Shared by everything in the process that uses Redis; clones are the same connection.
#[derive(Debug, Clone)]
pub struct RedisHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    timeout: Duration,
    manager: Mutex<ConnectionManager>,
    up: AtomicBool,
    look: Notify,
    /// Before the keys that the probe writes, once anybody has said.
    prefix: OnceLock<String>,
    /// What is wrong, and whether the log has heard that Redis is lost.
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Why Redis is not used.
    why: Option<String>,
    /// When something was last logged: a full or slow Redis would fill the log.
    complained: Option<Instant>,
    /// The log has it that Redis is lost, and shall hear of its return.
    told: bool,
}

impl RedisHandle {
    /// Opens the connection and waits at most 2 seconds for the first answer; when there is none, goes
    /// on trying in the background. Needs a Tokio runtime.
    ///
    /// `timeout` is for every call. Errors only when `url` is not a Redis URL.
    pub async fn connect(url: &str, timeout: Duration) -> Result<Self, RedisError> {
        let client = Client::open(url)?;
        let inner = Arc::new(Inner {
            manager: Mutex::new(open(&client, timeout)?),
            client,
            timeout,
            up: AtomicBool::new(false),
            look: Notify::new(),
            prefix: OnceLock::new(),
            trouble: Mutex::default(),
        });
        match inner.probe(START).await {
            Ok(()) => _ = inner.set_up(true),
            Err(failure) => inner.lose("connect", &failure),
        }
        let weak = Arc::downgrade(&inner);
        supervise::spawn("redis-watch", move || watch(weak.clone()));
        Ok(Self { inner })
    }

    /// Whether Redis did what it was asked last time. For the readiness report.
    pub fn redis_ok(&self) -> bool {
        self.inner.up.load(Ordering::Acquire)
    }

    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    /// Why Redis is not used, while it is not: a sentence for people.
    pub fn trouble(&self) -> Option<String> {
        let why = self.inner.trouble().why.clone();
        why.filter(|_| !self.redis_ok())
    }

    /// From now on it is probed whether keys under this prefix can be written; the first to say so
    /// counts. Until then it is only asked whether it answers, since its rules may allow no other keys.
    pub(crate) fn probe_under(&self, prefix: &str) {
        self.inner.prefix.get_or_init(|| prefix.to_owned());
    }

    /// Makes a call named `call` (in metrics) under the timeout. Fails at once while Redis is down.
    pub async fn run<T, F>(
        &self,
        call: &'static str,
        ask: impl FnOnce(ConnectionManager) -> F,
    ) -> Result<T, RedisFailure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let result = if self.redis_ok() {
            let asked = ask(self.inner.manager());
            match tokio::time::timeout(self.inner.timeout, asked).await {
                Ok(answer) => answer.map_err(RedisFailure::Redis),
                Err(_) => Err(RedisFailure::Timeout(self.inner.timeout)),
            }
        } else {
            Err(RedisFailure::Down)
        };
        if let Err(failure) = &result {
            metrics::counter!("bm_admission_redis_errors_total", "call" => call, "kind" => failure.kind())
                .increment(1);
            self.inner.note(call, failure);
        }
        result
    }
}

impl Inner {
    fn manager(&self) -> ConnectionManager {
        self.manager
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces the connection: the name may lead elsewhere by now, and a peer that vanished without
    /// a word is not seen by the connection itself.
    fn reopen(&self) {
        match open(&self.client, self.timeout) {
            Ok(manager) => {
                *self.manager.lock().unwrap_or_else(PoisonError::into_inner) = manager;
            }
            Err(error) => tracing::error!(%error, "cannot prepare a connection to Redis"),
        }
    }

    fn note(&self, call: &'static str, failure: &RedisFailure) {
        match failure {
            RedisFailure::Down => {}
            // It may be the call that is wrong and not Redis; the probe tells. A refusal costs no time.
            failure if failure.is_refusal() => {
                self.complain(call, failure);
                self.look.notify_one();
            }
            failure => {
                self.lose(call, failure);
                self.look.notify_one();
            }
        }
    }

    /// Redis is not to be used until a probe succeeds.
    fn lose(&self, call: &'static str, failure: &RedisFailure) {
        let mut trouble = self.trouble();
        trouble.why = Some(failure.to_string());
        self.set_up(false);
        if trouble.may_complain() {
            trouble.told = true;
            tracing::warn!(call, error = %failure, "lost Redis; limits hold per gateway until it is back");
        }
    }

    fn find_again(&self) {
        if self.set_up(true) && std::mem::take(&mut self.trouble().told) {
            tracing::info!("Redis does its work again");
        }
    }

    fn complain(&self, call: &'static str, failure: &RedisFailure) {
        if self.trouble().may_complain() {
            tracing::warn!(call, error = %failure, "Redis refuses calls");
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that changed anything.
    fn set_up(&self, up: bool) -> bool {
        metrics::gauge!("bm_admission_redis_up").set(if up { 1.0 } else { 0.0 });
        self.up.swap(up, Ordering::AcqRel) != up
    }

    /// Whether Redis can be used.
    async fn probe(&self, limit: Duration) -> Result<(), RedisFailure> {
        let mut manager = self.manager();
        let probed = async {
            let Some(prefix) = self.prefix.get() else {
                return redis::cmd("PING").query_async(&mut manager).await;
            };
            let mut pipeline = redis::pipe();
            pipeline.invoke_script(&PROBE.key(format!("{prefix}{{bm:probe}}:hash")));
            let key = format!("{prefix}{{bm:probe}}");
            pipeline.cmd("SET").arg(key).arg(1).arg("PX").arg(10_000);
            let _done: (i64, String) = run_scripts(&mut manager, &pipeline, &[&PROBE]).await?;
            Ok(())
        };
        match tokio::time::timeout(limit, probed).await {
            Ok(probed) => probed.map_err(RedisFailure::Redis),
            Err(_) => Err(RedisFailure::Timeout(limit)),
        }
    }
}

impl Trouble {
    fn may_complain(&mut self) -> bool {
        let now = Instant::now();
        let may = self.complained.is_none_or(|last| now - last >= COMPLAIN);
        if may {
            self.complained = Some(now);
        }
        may
    }
}

fn open(client: &Client, timeout: Duration) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        // Trying again is the watcher's.
        .set_number_of_retries(0)
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(timeout))
        .set_pipeline_buffer_size(1_024);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

/// Finds out that Redis is gone or back, until the last handle is dropped.
async fn watch(inner: Weak<Inner>) {
    loop {
        let Some(handle) = inner.upgrade() else {
            return;
        };
        let began = Instant::now();
        let up = handle.up.load(Ordering::Acquire);
        let pause = if up { CHECK } else { RETRY };
        // A loss is looked into at once, the first time: a single slow answer costs a moment only.
        let _either = tokio::time::timeout(pause, handle.look.notified()).await;
        let was_up = handle.up.load(Ordering::Acquire);
        // A connection has to be made first, perhaps, and that may take longer than a command.
        let limit = if was_up { handle.timeout } else { CONNECT };
        match handle.probe(limit).await {
            Ok(()) => handle.find_again(),
            Err(failure) => {
                handle.lose("probe", &failure);
                // After a failover the old connection may lead to what is now a replica.
                if !was_up && !failure.is_refusal() {
                    handle.reopen();
                }
            }
        }
        drop(handle);
        // However many calls fail meanwhile: neither probes nor connections at their rate.
        tokio::time::sleep(RETRY.saturating_sub(began.elapsed())).await;
    }
}

/// Runs a pipeline that invokes `scripts`, loading them first where the server does not know them.
pub(crate) async fn run_scripts<T: redis::FromRedisValue>(
    connection: &mut ConnectionManager,
    pipeline: &redis::Pipeline,
    scripts: &[&Script],
) -> RedisResult<T> {
    match pipeline.query_async(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            for script in scripts {
                script.load_async(connection).await?;
            }
            pipeline.query_async(connection).await
        }
        answer => answer,
    }
}
