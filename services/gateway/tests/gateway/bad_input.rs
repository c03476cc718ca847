//! What no client should send: none of it reaches the bus, none of it ends the gateway.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{DEADLINE, Running, Through, good, good_with, statuses};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn bodies_that_cannot_be_read_alike_everywhere_are_refused() {
    let gateway = Running::start().await;
    let base = good().to_string();
    let put = |text: &str| base.replacen('{', &format!("{{{text},"), 1).into_bytes();
    let deep = format!(
        r#""metadata":{{"a":{}{}}}"#,
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"hello".to_vec(),
        b"[]".to_vec(),
        b"null".to_vec(),
        b"\xff\xfe{}".to_vec(),
        [put(r#""x":"?""#), b" trailing".to_vec()].concat(),
        put("\"x\":\"\u{1}\""),
        put(r#""x":"\u0000""#),
        put(r#""x":"\ud800""#),
        put(r#""x":1e400"#),
        put(r#""x":9223372036854775808"#),
        put(r#""metadata":{"a":1,"a":2}"#),
        put(r#""userId":"v""#),
        put(r#""metadata":[]"#),
        put(&deep),
        put(&format!(r#""metadata":{{"a":"{}"}}"#, "x".repeat(17_000))),
        good_with("userId", "a:b").to_string().into_bytes(),
        good_with("userId", "a\nb").to_string().into_bytes(),
        good_with("gameId", "g\u{0}").to_string().into_bytes(),
        good_with("gameId", "!g").to_string().into_bytes(),
        good_with("eventId", "a\u{7}b").to_string().into_bytes(),
        good_with("eventName", "x".repeat(51))
            .to_string()
            .into_bytes(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let answer = gateway.post("/v1/events", body.clone()).await;
        assert_eq!(answer.status, 400, "{shown}: {answer:?}");
        assert!(answer.json["code"].is_string(), "{shown}: {answer:?}");
        // In a batch it is refused alone, or with the envelope it breaks.
        let batch = [b"[".to_vec(), body, b"]".to_vec()].concat();
        let answer = gateway.post("/v1/events/batch", batch).await;
        if answer.status == 200 {
            assert_eq!(statuses(&answer), ["rejected"], "{shown}: {answer:?}");
        } else {
            assert_eq!(answer.status, 400, "{shown}: {answer:?}");
        }
    }
    let large = good_with("x", "y".repeat(65_536)).to_string();
    gateway
        .post("/v1/events", large)
        .await
        .assert_error(413, "too_large");
    let large = vec![b' '; 3 * 1024 * 1024];
    gateway
        .post("/v1/events/batch", large)
        .await
        .assert_error(413, "too_large");
    assert_eq!(gateway.records().await, []);
    gateway.event(&good()).await.assert_status("accepted");
    gateway.stop().await;
}

#[tokio::test]
async fn gzip_is_unpacked_within_bounds() {
    let gateway = Running::start().await;
    let send = |path: &str, body: Vec<u8>| {
        let request = gateway.request("POST", path).header("x-api-key", "key");
        gateway.ask(request.header("content-encoding", "gzip").body(body))
    };
    let whole = gzip(good().to_string().as_bytes());
    send("/v1/events", whole.clone())
        .await
        .assert_status("accepted");
    let cut = whole[..whole.len() - 4].to_vec();
    send("/v1/events", cut)
        .await
        .assert_error(400, "malformed_json");
    send("/v1/events", b"{}".to_vec())
        .await
        .assert_error(400, "malformed_json");
    let bomb = gzip(&vec![b' '; 100 * 1024 * 1024]);
    assert!(bomb.len() < 1024 * 1024);
    send("/v1/events/batch", bomb.clone())
        .await
        .assert_error(413, "too_large");
    send("/v1/events", bomb)
        .await
        .assert_error(413, "too_large");
    let events: Vec<_> = (0..500)
        .map(|n| good_with("metadata", json!({"text": format!("{n}").repeat(1_000)})))
        .collect();
    let batch = json!(events).to_string();
    assert!(batch.len() > 1024 * 1024);
    let answer = send("/v1/events/batch", gzip(batch.as_bytes())).await;
    assert_eq!(answer.json["accepted"], 500, "{answer:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn slow_heads_and_bodies_are_408_and_the_connection_is_closed() {
    let vars = [
        ("BM_HTTP_HEADER_TIMEOUT_MS", "300"),
        ("BM_HTTP_BODY_TIMEOUT_MS", "300"),
    ];
    let gateway = Running::start_with(Through {
        vars: &vars,
        ..Through::default()
    })
    .await;
    let head = b"POST /v1/events HTTP/1.1\r\nhost: x\r\n";
    let answer = gateway.raw(head).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.contains(r#""code":"timeout","correlationId":""#),
        "{answer}"
    );
    let body = b"POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: key\r\ncontent-length: 100\r\n\r\n{\"event";
    let answer = gateway.raw(body).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains(r#""code":"timeout""#), "{answer}");
    // A trickle does not help.
    let mut trickle = TcpStream::connect(gateway.address).await.unwrap();
    trickle.write_all(&body[..]).await.unwrap();
    let mut answer = Vec::new();
    let trickling = async {
        let (mut reading, mut writing) = trickle.split();
        let drip = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if writing.write_all(b" ").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            _read = reading.read_to_end(&mut answer) => {}
            () = drip => {}
        }
    };
    tokio::time::timeout(DEADLINE, trickling)
        .await
        .expect("the connection is closed");
    assert!(
        answer.starts_with(b"HTTP/1.1 408 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    gateway.event(&good()).await.assert_status("accepted");
    gateway.stop().await;
}
