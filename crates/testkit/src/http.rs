//! The smallest HTTP client that can ask a server for its health.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer: its status, and all behind its head as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For example 200.
    pub status: u16,
    /// The body, with what is not UTF-8 replaced.
    pub body: String,
}

/// `GET path` from `address` (`host:port`) by HTTP/1.0; `None` when nobody answers in 5 s.
pub async fn get(address: &str, path: &str) -> Option<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut bytes = Vec::new();
        // Not every server closes when it has answered.
        while !is_complete(&bytes) && stream.read_buf(&mut bytes).await.ok()? > 0 {}
        parse(&bytes)
    };
    tokio::time::timeout(Duration::from_secs(5), exchange)
        .await
        .ok()
        .flatten()
}

/// Whether the head is there and as much of a body as it announces; without an announcement the
/// answer ends with the connection.
fn is_complete(bytes: &[u8]) -> bool {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let announced = String::from_utf8_lossy(&bytes[..head])
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.trim().parse::<usize>().ok());
    announced.is_some_and(|length| bytes.len() >= head + 4 + length)
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.split_ascii_whitespace();
    words
        .next()
        .filter(|version| version.starts_with("HTTP/"))?;
    Some(Answer {
        status: words.next()?.parse().ok()?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_announced_body() {
        assert!(!is_complete(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"));
        assert!(!is_complete(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nOk"
        ));
        assert!(is_complete(
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nOk\n"
        ));
        assert!(!is_complete(b"HTTP/1.0 200 OK\r\n\r\nto the end"));
    }

    #[test]
    fn status_and_body_are_taken_apart() {
        let answer = parse(b"HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\nnot\r\n\r\nready");
        assert_eq!(
            answer,
            Some(Answer {
                status: 503,
                body: "not\r\n\r\nready".to_owned()
            })
        );
        assert_eq!(parse(b"+PONG\r\n\r\n"), None);
    }
}
