//! What a connection is waiting for, so that a slow client can be told from an idle one.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What a connection is waiting for, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first byte of its first request.
    Fresh(Instant),
    /// The rest of a request's head.
    Head(Instant),
    /// An answer of ours.
    Busy,
    /// The first byte of another request.
    Idle(Instant),
}

impl Phase {
    /// When its time is up; `None` while the client waits for us.
    pub(crate) fn deadline(self, head: Duration, idle: Duration) -> Option<Instant> {
        match self {
            Self::Fresh(since) | Self::Head(since) => Some(since + head),
            Self::Idle(since) => Some(since + idle),
            Self::Busy => None,
        }
    }
}

/// A phase shared by the stream, the service and the task that drive one connection.
#[derive(Debug, Clone)]
pub(crate) struct SharedPhase(Arc<Mutex<Phase>>);

impl SharedPhase {
    pub(crate) fn fresh() -> Self {
        Self(Arc::new(Mutex::new(Phase::Fresh(Instant::now()))))
    }

    pub(crate) fn get(&self) -> Phase {
        *self.lock()
    }

    pub(crate) fn set(&self, phase: Phase) {
        *self.lock() = phase;
    }

    fn bytes_came(&self) {
        let mut phase = self.lock();
        match *phase {
            // The head's time runs from the connection's beginning for the first one.
            Phase::Fresh(since) => *phase = Phase::Head(since),
            Phase::Idle(_) => *phase = Phase::Head(Instant::now()),
            Phase::Head(_) | Phase::Busy => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that notes when bytes come.
#[derive(Debug)]
pub(crate) struct WatchedStream {
    pub(crate) stream: TcpStream,
    pub(crate) phase: SharedPhase,
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.phase.bytes_came();
        }
        polled
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
