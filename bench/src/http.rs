//! A closed loop over HTTP, lean enough to leave the machine to the server: requests rendered
//! beforehand, answers read only for their status and length.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bm_bench::ID;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Rates are counted from here on: connections and caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// A request, the same for all but for its id.
#[derive(Debug, Clone)]
pub(crate) struct Shot {
    bytes: Vec<u8>,
    id_at: Option<usize>,
}

impl Shot {
    /// `POST path` with these headers and body.
    pub(crate) fn post(path: &str, headers: &[(&str, &str)], body: &str) -> Self {
        let headers: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let headers = headers.concat();
        let length = body.len();
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        Self {
            id_at: text.find(ID),
            bytes: text.into_bytes(),
        }
    }

    fn name(&mut self, id: u128) {
        if let Some(at) = self.id_at {
            let id = format!("{id:0width$x}", width = ID.len());
            self.bytes[at..at + ID.len()].copy_from_slice(id.as_bytes());
        }
    }
}

/// What a closed loop came to.
#[derive(Debug, Clone)]
pub(crate) struct Rate {
    /// Answers 200 a second.
    pub(crate) per_second: f64,
    /// The first answer of another kind.
    pub(crate) refused: Option<String>,
}

/// Keeps `connections` busy for `seconds` after a warm-up; each goes through the shots in turn.
/// On a thread and a runtime of its own.
pub(crate) fn hammer(
    address: SocketAddr,
    connections: usize,
    seconds: f64,
    shots: &[Shot],
) -> Rate {
    let shots = shots.to_vec();
    let loops = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        runtime.block_on(run(address, connections, seconds, shots))
    };
    std::thread::spawn(loops)
        .join()
        .expect("the loop does not panic")
}

async fn run(address: SocketAddr, connections: usize, seconds: f64, shots: Vec<Shot>) -> Rate {
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for connection in 0..connections {
        let mut shots = shots.clone();
        // Others begin elsewhere, so that not all send the same at once.
        let turn = connection % shots.len().max(1);
        shots.rotate_left(turn);
        tasks.spawn(keep_busy(address, shots, begin, end));
    }
    let (mut good, mut refused) = (0, None);
    while let Some(done) = tasks.join_next().await {
        let (ok, other) = done.expect("a connection's loop does not panic");
        good += ok;
        refused = refused.or(other);
    }
    Rate {
        per_second: good as f64 / seconds,
        refused,
    }
}

/// Sends each of the shots once, over so many connections; panics when one is refused.
pub(crate) async fn send_all(address: SocketAddr, connections: usize, shots: Vec<Shot>) {
    let shots = Arc::new(Mutex::new(shots));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let shots = Arc::clone(&shots);
        tasks.spawn(async move {
            let mut stream = connect(address).await;
            let mut buffer = vec![0; 64 * 1024];
            let next = || shots.lock().expect("nobody panics in here").pop();
            while let Some(shot) = next() {
                let sent = stream.write_all(&shot.bytes).await;
                sent.expect("the server reads");
                let taken = answer(&mut stream, &mut buffer).await;
                taken.unwrap_or_else(|answer| panic!("refused: {answer}"));
            }
        });
    }
    tasks.join_all().await;
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await;
    let stream = stream.expect("the server listens");
    stream.set_nodelay(true).expect("a socket of TCP");
    stream
}

async fn keep_busy(
    address: SocketAddr,
    mut shots: Vec<Shot>,
    begin: Instant,
    end: Instant,
) -> (u64, Option<String>) {
    let mut stream = connect(address).await;
    let mut next_id: u128 = rand::random::<u64>().into();
    next_id <<= 32;
    let (mut good, mut refused) = (0, None);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        for shot in &mut shots {
            next_id += 1;
            shot.name(next_id);
            stream
                .write_all(&shot.bytes)
                .await
                .expect("the server reads");
            let ok = answer(&mut stream, &mut buffer).await;
            let now = Instant::now();
            if now >= end {
                return (good, refused);
            }
            match ok {
                Err(answer) => refused = refused.or(Some(answer)),
                Ok(()) if now >= begin => good += 1,
                Ok(()) => {}
            }
        }
    }
}

/// Reads one whole answer; what it says if it is no 200.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(), String> {
    let mut filled = 0;
    let head = loop {
        let read = stream
            .read(&mut buffer[filled..])
            .await
            .expect("the server answers");
        assert!(read > 0, "the server hung up");
        filled += read;
        if let Some(at) = find(&buffer[..filled], b"\r\n\r\n") {
            break at + 4;
        }
    };
    let length = content_length(&buffer[..head]);
    while filled < head + length {
        let read = stream
            .read(&mut buffer[filled..])
            .await
            .expect("the server answers");
        assert!(read > 0, "the server hung up");
        filled += read;
    }
    if buffer[..filled].starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&buffer[..filled]).into_owned())
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn content_length(head: &[u8]) -> usize {
    head.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok()?.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .expect("an answer says its length")
}
