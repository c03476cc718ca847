//! What the proxy does to a server that answers every line with the same line.

#![expect(clippy::unwrap_used, reason = "the echo server is part of the tests")]

use std::time::{Duration, Instant};

use bm_testkit::{TcpProxy, eventually, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_millis(80);

/// An echo server; gives its address and all it has received.
async fn echo() -> (String, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind(("127.0.0.1", free_port())).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (seen, received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    seen.send(buffer[..length].to_vec()).unwrap();
                    if stream.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, received)
}

async fn ask(stream: &mut TcpStream, question: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(question).await?;
    let mut answer = vec![0; question.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_passing_proxy_is_not_noticed() {
    let (target, _received) = echo().await;
    let proxy = TcpProxy::to(target).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut stream, b"hello").await.unwrap(), b"hello");
    assert_eq!(ask(&mut stream, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn a_cut_proxy_closes_and_refuses_until_it_passes_again() {
    let (target, _received) = echo().await;
    let proxy = TcpProxy::to(target).await;
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    ask(&mut old, b"hello").await.unwrap();

    proxy.cut();
    assert!(
        timeout(SOON, ask(&mut old, b"hello"))
            .await
            .unwrap()
            .is_err()
    );
    eventually(SOON, "a refusal", || async {
        TcpStream::connect(proxy.address()).await.err()
    })
    .await;

    proxy.pass();
    let mut new = eventually(SOON, "a connection", || async {
        TcpStream::connect(proxy.address()).await.ok()
    })
    .await;
    assert_eq!(ask(&mut new, b"hello").await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_silent_proxy_holds_back_what_it_delivers_later() {
    let (target, mut received) = echo().await;
    let proxy = TcpProxy::to(target).await;
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    ask(&mut old, b"hello").await.unwrap();
    assert_eq!(received.recv().await.unwrap(), b"hello");

    proxy.silent();
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    new.write_all(b"to nobody").await.unwrap();
    let mut asking = Box::pin(ask(&mut old, b"later"));
    assert!(timeout(A_WHILE, &mut asking).await.is_err());
    assert!(received.try_recv().is_err());

    proxy.pass();
    assert_eq!(timeout(SOON, asking).await.unwrap().unwrap(), b"later");
}

#[tokio::test]
async fn a_delaying_proxy_takes_its_time() {
    let (target, _received) = echo().await;
    let proxy = TcpProxy::to(target).await;
    proxy.delay(A_WHILE);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let started = Instant::now();
    ask(&mut stream, b"hello").await.unwrap();
    assert!(started.elapsed() >= 2 * A_WHILE);
}

#[tokio::test]
async fn a_lost_reply_is_to_a_request_the_server_has_had() {
    let (target, mut received) = echo().await;
    let proxy = TcpProxy::to(target).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    ask(&mut stream, b"hello").await.unwrap();
    received.recv().await.unwrap();

    proxy.close_before_reply();
    assert!(
        timeout(SOON, ask(&mut stream, b"commit"))
            .await
            .unwrap()
            .is_err()
    );
    assert_eq!(received.recv().await.unwrap(), b"commit");
    assert_eq!(proxy.lost_replies(), 1);
}

#[tokio::test]
async fn only_the_reply_to_a_matching_request_is_lost() {
    let (target, _received) = echo().await;
    let proxy = TcpProxy::to(target).await;
    proxy.close_before_reply_to(b"COMMIT");
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut stream, b"BEGIN").await.unwrap(), b"BEGIN");
    assert!(
        timeout(SOON, ask(&mut stream, b"Q COMMIT;"))
            .await
            .unwrap()
            .is_err()
    );
    assert_eq!(proxy.lost_replies(), 1);
}
