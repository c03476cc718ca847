//! A proxy that knows the frames of HTTP/2: it counts requests, and can make a stream dumb whose connection lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const DATA: u8 = 0;
const HEADERS: u8 = 1;

pub(crate) struct FrameProxy {
    pub(crate) address: String,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    connections: AtomicU64,
    /// Connections before this one say nothing more on their first stream.
    dumb_before: AtomicU64,
}

impl FrameProxy {
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(&target).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let counts = Arc::clone(&shared);
                tokio::spawn(async move {
                    frames(from_server, to_client, |stream, kind| {
                        let dumb = number < counts.dumb_before.load(Ordering::SeqCst);
                        !(dumb && stream == 1 && kind == DATA)
                    })
                    .await
                });
                let counts = Arc::clone(&shared);
                tokio::spawn(async move { requests(from_client, to_server, &counts).await });
            }
        });
        Self { address, counts }
    }

    /// Requests that clients have made.
    pub(crate) fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// The first streams of all connections there are say nothing more; all else goes on.
    pub(crate) fn make_listeners_dumb(&self) {
        let connections = self.counts.connections.load(Ordering::SeqCst);
        self.counts.dumb_before.store(connections, Ordering::SeqCst);
    }
}

async fn requests(
    mut from_client: OwnedReadHalf,
    mut to_server: OwnedWriteHalf,
    counts: &Counts,
) -> std::io::Result<()> {
    let mut preface = [0; 24];
    from_client.read_exact(&mut preface).await?;
    to_server.write_all(&preface).await?;
    frames(from_client, to_server, |_, kind| {
        if kind == HEADERS {
            counts.requests.fetch_add(1, Ordering::SeqCst);
        }
        true
    })
    .await
}

/// Hands on the frames that `pass` (by stream and type) lets through.
async fn frames(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    pass: impl Fn(u32, u8) -> bool,
) -> std::io::Result<()> {
    loop {
        let mut head = [0; 9];
        from.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let mut frame = vec![0; length];
        from.read_exact(&mut frame).await?;
        if pass(stream, head[3]) {
            to.write_all(&head).await?;
            to.write_all(&frame).await?;
        }
    }
}
