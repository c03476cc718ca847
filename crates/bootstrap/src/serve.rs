//! Serves an axum router over HTTP/1.1: bounded in connections, in patience and in how long it
//! takes to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::phase::{Phase, SharedPhase, WatchedStream};
use crate::vars::{Vars, VarsError};

/// How patient the server is.
#[derive(Debug, Clone, Copy)]
pub struct ServeConfig {
    /// From a connection's beginning, or from a later request's first byte, to the end of the
    /// request's head; then the answer is 408 and the connection is closed.
    pub header_timeout: Duration,
    /// How long a connection may wait for its next request. Longer than the load balancer keeps
    /// its own end, or the balancer will send requests into connections just closed.
    pub idle_timeout: Duration,
    /// How long requests under way may take once the server is to stop.
    pub drain_timeout: Duration,
    /// Connections at a time; more wait in the listener's backlog.
    pub max_connections: usize,
    /// Body of the answer 408 to a head that does not end, `application/json`.
    pub timeout_body: fn() -> String,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            drain_timeout: Duration::from_secs(25),
            max_connections: 10_000,
            timeout_body: || {
                r#"{"error":"Timed out reading the request","code":"timeout"}"#.to_owned()
            },
        }
    }
}

impl ServeConfig {
    /// From `BM_HTTP_HEADER_TIMEOUT_MS`, `BM_HTTP_IDLE_TIMEOUT_MS`, `BM_HTTP_DRAIN_TIMEOUT_MS` and
    /// `BM_HTTP_MAX_CONNECTIONS`.
    pub fn from_vars(vars: &Vars) -> Result<Self, VarsError> {
        let default = Self::default();
        let millis = |name, default: Duration| {
            let expected = "a number of milliseconds, 1 or more";
            let millis = vars.parsed(name, expected, default.as_millis() as u64)?;
            match millis {
                0 => Err(VarsError::Invalid {
                    name: name.to_owned(),
                    expected,
                }),
                millis => Ok(Duration::from_millis(millis)),
            }
        };
        let expected = "a number of connections from 1 to 1000000";
        let name = "BM_HTTP_MAX_CONNECTIONS";
        let max_connections = vars.parsed(name, expected, default.max_connections)?;
        if !(1..=1_000_000).contains(&max_connections) {
            return Err(VarsError::Invalid {
                name: name.to_owned(),
                expected,
            });
        }
        Ok(Self {
            header_timeout: millis("BM_HTTP_HEADER_TIMEOUT_MS", default.header_timeout)?,
            idle_timeout: millis("BM_HTTP_IDLE_TIMEOUT_MS", default.idle_timeout)?,
            drain_timeout: millis("BM_HTTP_DRAIN_TIMEOUT_MS", default.drain_timeout)?,
            max_connections,
            timeout_body: default.timeout_body,
        })
    }
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// As configured.
    pub address: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Listens on `address` (`host:port`; port 0 takes a free one).
pub async fn bind(address: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError {
            address: address.to_owned(),
            source,
        })
}

/// Serves until `stop` is cancelled; then takes no more connections, lets requests under way end
/// within the configured time, and returns how many connections had to be cut off.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: ServeConfig,
    stop: CancellationToken,
) -> usize {
    let slots = Arc::new(Semaphore::new(config.max_connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, peer, slot)) => {
                let router = router.clone();
                let stop = stop.clone();
                let counted = Counted::begin();
                connections.spawn(async move {
                    connection(stream, peer, router, config, stop).await;
                    drop((slot, counted));
                });
            }
            Err(e) if is_of_one_connection(&e) => {}
            Err(e) => {
                // Out of files or memory: what runs must end first.
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(config.drain_timeout, async {
        while connections.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        let cut = connections.len();
        tracing::warn!(
            connections = cut,
            "cut off connections that did not end in time"
        );
        connections.shutdown().await;
        return cut;
    }
    0
}

/// A connection among all that are open, of every server in the process.
struct Counted;

impl Counted {
    fn begin() -> Self {
        metrics::gauge!("bm_http_connections").increment(1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("bm_http_connections").decrement(1);
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    config: ServeConfig,
    stop: CancellationToken,
) {
    // Small answers must not wait for the client's delayed acks; failing that, they are just slower.
    let _slower = stream.set_nodelay(true);
    let phase = SharedPhase::fresh();
    let watched = WatchedStream {
        stream,
        phase: phase.clone(),
    };
    let in_service = phase.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        in_service.set(Phase::Busy);
        request.extensions_mut().insert(ConnectInfo(peer));
        let answering = router.clone().oneshot(request.map(Body::new));
        let phase = in_service.clone();
        async move {
            let answer = answering.await;
            phase.set(Phase::Idle(Instant::now()));
            answer
        }
    });
    // hyper's own header timeout would also close connections that merely wait for a next request.
    let mut connection = http1::Builder::new()
        .keep_alive(true)
        .header_read_timeout(None)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(watched), service);
    let patience = config.header_timeout.min(config.idle_timeout) / 8;
    let mut tick = tokio::time::interval(patience.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stopping = false;
    let slow_head = loop {
        tokio::select! {
            // Errors are the client's: it went away, or spoke no HTTP and was answered 400.
            _ended = &mut connection => return,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                tick = tokio::time::interval(Duration::from_millis(20));
                // The first tick of an interval is at once; bytes that are there shall be read before.
                tick.reset();
            }
            _ = tick.tick() => {
                let phase = phase.get();
                // hyper waits for a first request without end. Any other connection it closes itself:
                // at once between two requests, else after the answer, and only it knows whether all
                // of that is written. A client that takes no bytes is cut off when the drain ends.
                if stopping && matches!(phase, Phase::Fresh(_)) {
                    break false;
                }
                let deadline = phase.deadline(config.header_timeout, config.idle_timeout);
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    break matches!(phase, Phase::Head(_));
                }
            }
        }
    };
    if slow_head {
        metrics::counter!("bm_http_slow_heads_total").increment(1);
        let stream = connection.into_parts().io.into_inner().stream;
        answer_slow_head(stream, &(config.timeout_body)()).await;
    }
}

/// Says why before closing; a client that takes no bytes either is not waited for.
async fn answer_slow_head(mut stream: TcpStream, body: &str) {
    let answer = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len(),
    );
    let written = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    // Whether the client heard it makes no difference here.
    let _heard = tokio::time::timeout(Duration::from_secs(1), written).await;
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
