//! The gateway's one connection to Redis: short timeouts, knows whether Redis answers, never blocks a start.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind};
use tokio::sync::Notify;

/// How often a Redis that does not answer is tried.
const RETRY: Duration = Duration::from_millis(250);
/// How often one that does is checked, so that a quiet gateway notices its loss.
const CHECK: Duration = Duration::from_secs(1);
/// A connection may take longer than a command: names are resolved, TLS is agreed on.
const CONNECT: Duration = Duration::from_secs(2);
/// Refusals by the server are logged at most so often.
const COMPLAIN: Duration = Duration::from_secs(10);
/// What [`RedisHandle::connect`] gives the first answer.
const START: Duration = Duration::from_secs(2);

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
    /// When a refusal by the server was last logged: a full Redis refuses every call.
    complained: Mutex<Option<Instant>>,
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
            complained: Mutex::default(),
        });
        let first = tokio::time::timeout(START, inner.ping(START)).await;
        inner.set_up(matches!(first, Ok(true)));
        if !inner.up.load(Ordering::Acquire) {
            tracing::warn!("Redis does not answer; limits hold per gateway until it does");
        }
        tokio::spawn(watch(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Whether Redis answered last time. For the readiness report.
    pub fn redis_ok(&self) -> bool {
        self.inner.up.load(Ordering::Acquire)
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
            RedisFailure::Down => return,
            RedisFailure::Timeout(_) => {}
            RedisFailure::Redis(error) => match error.kind() {
                // After a failover the old connection may lead to what is now a replica.
                ErrorKind::Server(ServerErrorKind::ReadOnly) => self.reopen(),
                ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown)
                | ErrorKind::Io
                | ErrorKind::AuthenticationFailed
                | ErrorKind::Parse => {}
                _ => {
                    self.complain(call, failure);
                    return;
                }
            },
        }
        if self.set_up(false) {
            tracing::warn!(call, error = %failure, "lost Redis");
        }
        self.look.notify_one();
    }

    fn complain(&self, call: &'static str, failure: &RedisFailure) {
        let now = Instant::now();
        let mut complained = self
            .complained
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|last| now - last >= COMPLAIN) {
            *complained = Some(now);
            tracing::warn!(call, error = %failure, "Redis refuses calls");
        }
    }

    /// Whether that changed anything.
    fn set_up(&self, up: bool) -> bool {
        metrics::gauge!("bm_admission_redis_up").set(if up { 1.0 } else { 0.0 });
        self.up.swap(up, Ordering::AcqRel) != up
    }

    async fn ping(&self, limit: Duration) -> bool {
        let mut manager = self.manager();
        let ping = redis::cmd("PING");
        matches!(
            tokio::time::timeout(limit, ping.query_async::<()>(&mut manager)).await,
            Ok(Ok(()))
        )
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
        let up = handle.up.load(Ordering::Acquire);
        let pause = if up { CHECK } else { RETRY };
        // A loss is looked into at once, the first time: a single slow answer costs a moment only.
        let _either = tokio::time::timeout(pause, handle.look.notified()).await;
        let was_up = handle.up.load(Ordering::Acquire);
        // A connection has to be made first, perhaps, and that may take longer than a command.
        let limit = if was_up { handle.timeout } else { CONNECT };
        let answers = handle.ping(limit).await;
        if !answers && !was_up {
            handle.reopen();
        }
        if handle.set_up(answers) {
            if answers {
                tracing::info!("Redis answers again");
            } else {
                tracing::warn!("Redis does not answer");
            }
        }
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
