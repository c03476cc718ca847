//! A TCP proxy that misbehaves on request, to stand between a service and its server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the proxy does with what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Pass,
    Cut,
    Silent,
    Delay(Duration),
    /// Close a connection when the server begins to answer; with a pattern only the answer to a
    /// request that holds these bytes.
    CloseBeforeReply(Option<Arc<[u8]>>),
}

/// A proxy on a loopback port; it ends when dropped.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    mode: watch::Sender<Mode>,
    lost_replies: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl TcpProxy {
    /// A proxy that passes everything to `target` (`host:port`) and back.
    pub async fn to(target: impl Into<String>) -> Self {
        Self::on_port(crate::free_port(), target).await
    }

    /// The same on a port chosen before, for targets that must know their proxy.
    pub async fn on_port(port: u16, target: impl Into<String>) -> Self {
        let (mode, modes) = watch::channel(Mode::Pass);
        let lost_replies = Arc::new(AtomicU64::new(0));
        let listener = listen(port).await;
        let serving = serve(
            listener,
            port,
            target.into(),
            modes,
            Arc::clone(&lost_replies),
        );
        Self {
            port,
            mode,
            lost_replies,
            task: tokio::spawn(serving),
        }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Forwards everything again; what silence held back is delivered.
    pub fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    /// Closes all connections and refuses new ones.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Takes connections and forwards nothing, in either direction, on old ones too.
    pub fn silent(&self) {
        self.mode.send_replace(Mode::Silent);
    }

    /// Forwards every piece this much later.
    pub fn delay(&self, by: Duration) {
        self.mode.send_replace(Mode::Delay(by));
    }

    /// Forwards requests, and closes a connection as soon as the server begins to answer: the
    /// work is done, the reply is lost. Holds until another mode is chosen.
    pub fn close_before_reply(&self) {
        self.mode.send_replace(Mode::CloseBeforeReply(None));
    }

    /// The same for requests that hold `pattern` in one piece as it came from the network.
    pub fn close_before_reply_to(&self, pattern: &[u8]) {
        self.mode
            .send_replace(Mode::CloseBeforeReply(Some(Arc::from(pattern))));
    }

    /// How many replies the proxy has lost on purpose.
    pub fn lost_replies(&self) -> u64 {
        self.lost_replies.load(Ordering::SeqCst)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on `port`, which connections that were just closed may hold for a moment.
async fn listen(port: u16) -> TcpListener {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    crate::eventually(
        Duration::from_secs(5),
        "the proxy's own port",
        || async move { TcpListener::bind(address).await.ok() },
    )
    .await
}

async fn serve(
    listener: TcpListener,
    port: u16,
    target: String,
    mut modes: watch::Receiver<Mode>,
    lost_replies: Arc<AtomicU64>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let cut = *modes.borrow_and_update() == Mode::Cut;
        if cut {
            listener = None;
            connections.shutdown().await;
        } else if listener.is_none() {
            listener = Some(listen(port).await);
        }
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accept => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(
                        client,
                        target.clone(),
                        modes.clone(),
                        Arc::clone(&lost_replies),
                    ));
                }
            }
            changed = modes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    client: TcpStream,
    target: String,
    modes: watch::Receiver<Mode>,
    lost_replies: Arc<AtomicU64>,
) {
    let Some(mode) = speaking(&mut modes.clone()).await else {
        return;
    };
    if let Mode::Delay(by) = mode {
        tokio::time::sleep(by).await;
    }
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    let _slower_without = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let armed = Arc::new(AtomicBool::new(false));
    let requests = pump_requests(from_client, to_server, modes.clone(), Arc::clone(&armed));
    let replies = pump_replies(from_server, to_client, modes, armed, lost_replies);
    tokio::pin!(requests, replies);
    // A client that has said all it has to say may still wait for its answer.
    tokio::select! {
        outcome = &mut requests => {
            if outcome.is_ok() {
                let _closed = replies.await;
            }
        }
        _closed = &mut replies => {}
    }
}

/// The mode, once it is another than silence; `None` when the proxy is gone.
async fn speaking(modes: &mut watch::Receiver<Mode>) -> Option<Mode> {
    let mode = modes.wait_for(|mode| *mode != Mode::Silent).await.ok()?;
    Some(mode.clone())
}

async fn pump_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
    armed: Arc<AtomicBool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let Some(mode) = speaking(&mut modes).await else {
            return Err(io::ErrorKind::ConnectionAborted.into());
        };
        match mode {
            Mode::Delay(by) => tokio::time::sleep(by).await,
            Mode::CloseBeforeReply(Some(pattern)) if contains(&buffer[..length], &pattern) => {
                armed.store(true, Ordering::SeqCst);
            }
            _ => {}
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

async fn pump_replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
    armed: Arc<AtomicBool>,
    lost_replies: Arc<AtomicU64>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let Some(mode) = speaking(&mut modes).await else {
            return Err(io::ErrorKind::ConnectionAborted.into());
        };
        let lose = match &mode {
            Mode::CloseBeforeReply(None) => true,
            Mode::CloseBeforeReply(Some(_)) => armed.load(Ordering::SeqCst),
            _ => false,
        };
        if lose && length > 0 {
            lost_replies.fetch_add(1, Ordering::SeqCst);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if let Mode::Delay(by) = mode {
            tokio::time::sleep(by).await;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

fn contains(bytes: &[u8], pattern: &[u8]) -> bool {
    !pattern.is_empty() && bytes.windows(pattern.len()).any(|window| window == pattern)
}
