//! The server against real connections: patience, drain, bounds.

use axum::routing::{get, post};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<usize>,
}

async fn start(router: Router, config: ServeConfig) -> Running {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(listener, router, config, stop.clone()));
    Running {
        address,
        stop,
        served,
    }
}

fn router() -> Router {
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/echo", post(|body: String| async move { body }))
}

fn impatient() -> ServeConfig {
    ServeConfig {
        header_timeout: Duration::from_millis(80),
        idle_timeout: Duration::from_secs(30),
        drain_timeout: Duration::from_millis(200),
        ..ServeConfig::default()
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut text))
        .await
        .expect("the server closes")
        .unwrap();
    text
}

/// Reads one answer with a `content-length`.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap();
            if body.len() >= length.parse().unwrap() {
                return text.into_owned();
            }
        }
        let mut chunk = [0; 1_024];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut chunk));
        let read = read.await.expect("an answer").unwrap();
        assert!(
            read > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&bytes)
        );
        bytes.extend_from_slice(&chunk[..read]);
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_answered_408() {
    let server = start(router(), impatient()).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    let answer = read_to_end(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains(r#""code":"timeout""#), "{answer}");
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(read_to_end(&mut silent).await, "");
}

#[tokio::test]
async fn a_connection_may_wait_longer_for_its_next_request_than_a_head_may_take() {
    let server = start(router(), impatient()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        assert!(read_answer(&mut stream).await.ends_with("hello"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stream.write_all(b"GET /slow").await.unwrap();
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_request_under_way_ends_and_no_new_one_is_taken() {
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let router = Router::new().route(
        "/",
        get({
            let (entered, go_on) = (Arc::clone(&entered), Arc::clone(&go_on));
            move || async move {
                entered.notify_one();
                go_on.notified().await;
                "done"
            }
        }),
    );
    let config = ServeConfig {
        drain_timeout: Duration::from_secs(20),
        ..ServeConfig::default()
    };
    let server = start(router, config).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    entered.notified().await;
    server.stop.cancel();
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(TcpStream::connect(server.address).await.is_err());
    go_on.notify_one();
    assert!(read_to_end(&mut busy).await.ends_with("done"));
    assert_eq!(server.served.await.unwrap(), 0);
}

/// More than the sockets of both ends hold.
const LARGE: usize = 48 << 20;

fn large() -> Router {
    Router::new().route("/", get(|| async { vec![b'x'; LARGE] }))
}

/// A connection that has taken the first bytes of a large answer.
async fn slow_reader(server: &Running) -> (TcpStream, usize) {
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 64];
    slow.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200 OK"));
    (slow, first.len())
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_its_answer_during_the_drain() {
    let server = start(large(), ServeConfig::default()).await;
    let mut fresh = TcpStream::connect(server.address).await.unwrap();
    let (mut slow, begun) = slow_reader(&server).await;
    server.stop.cancel();
    // Closed by the same tick that would close the slow one.
    assert_eq!(read_to_end(&mut fresh).await, "");
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_mins(1), slow.read_to_end(&mut rest))
        .await
        .expect("the server closes")
        .unwrap();
    let head = rest.windows(4).position(|at| at == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(rest.len() - head, LARGE, "of the answer ({begun} before)");
    assert_eq!(server.served.await.unwrap(), 0);
}

#[tokio::test]
async fn a_reader_that_stops_reading_is_cut_off_when_the_drain_ends() {
    let server = start(large(), impatient()).await;
    let (_slow, _) = slow_reader(&server).await;
    server.stop.cancel();
    assert_eq!(server.served.await.unwrap(), 1);
}

#[tokio::test]
async fn what_comes_on_a_kept_connection_during_the_drain_is_answered_or_not_taken() {
    const CONNECTIONS: usize = 200;
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let router = Router::new().route(
        "/",
        get(move || async move {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::task::yield_now().await;
            "answer"
        }),
    );
    let server = start(router, ServeConfig::default()).await;
    let mut kept = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        read_answer(&mut stream).await;
        kept.push(stream);
    }
    let mut answered = 0;
    for (n, mut stream) in kept.into_iter().enumerate() {
        // A few before it is told to stop, one with half a head, the others after.
        let half = n == CONNECTIONS / 10;
        let request: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let (first, second) = request.split_at(if half { 20 } else { request.len() });
        // Refused by a closed connection: nothing of it was taken.
        let sent = stream.write_all(first).await;
        if half {
            server.stop.cancel();
        }
        tokio::task::yield_now().await;
        let sent = sent.and(stream.write_all(second).await);
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        let read = if n < CONNECTIONS / 10 {
            text = read_answer(&mut stream).await;
            Ok(text.len())
        } else {
            let read = tokio::time::timeout(Duration::from_secs(5), read);
            read.await.expect("an answer or the end")
        };
        if sent.is_ok() && read.is_ok() && !text.is_empty() {
            assert!(text.ends_with("answer"), "{text}");
            answered += 1;
        }
    }
    let taken = taken.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(taken - CONNECTIONS, answered, "taken and answered");
    assert!(answered >= CONNECTIONS / 10);
    assert_eq!(server.served.await.unwrap(), 0);
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off() {
    let entered = Arc::new(Notify::new());
    let inner = Arc::clone(&entered);
    let router = Router::new().route(
        "/",
        get(move || async move {
            inner.notify_one();
            std::future::pending::<&str>().await
        }),
    );
    let server = start(router, impatient()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    entered.notified().await;
    server.stop.cancel();
    assert_eq!(server.served.await.unwrap(), 1);
}

#[tokio::test]
async fn a_connection_over_the_limit_waits_for_a_place() {
    let config = ServeConfig {
        max_connections: 1,
        ..ServeConfig::default()
    };
    let server = start(router(), config).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_answer(&mut first).await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(100), second.read(&mut byte));
    assert!(early.await.is_err(), "answered over the limit");
    drop(first);
    assert!(read_answer(&mut second).await.ends_with("hello"));
}

#[test]
fn a_setting_that_makes_no_sense_names_its_variable() {
    for name in ["BM_HTTP_HEADER_TIMEOUT_MS", "BM_HTTP_MAX_CONNECTIONS"] {
        let error = ServeConfig::from_vars(&Vars::from_map([(name, "0")])).unwrap_err();
        assert!(error.to_string().starts_with(name), "{error}");
    }
}
