//! What the mirror does not know is asked for, once and rarely.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bm_studio_auth::{AuthError, KeyHash};
use bm_testkit::TestEnv;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Studios, start, studio};

#[tokio::test]
async fn a_key_is_known_as_soon_as_it_is_written_in_whichever_field() {
    let studios = Studios::new().await;
    let subject = start(&studios.config(), None).await.mirrored().await;
    for field in ["apiKey", "secretKey", "apiKeyHash", "secretKeyHash"] {
        // The mirror may be quicker than the question, but not every time.
        let before = subject.directory.questions().asked;
        for i in 0.. {
            let key = format!("{field}-{i}");
            let stored = if field.ends_with("Hash") {
                KeyHash::of(&key).to_hex()
            } else {
                key.clone()
            };
            let document = json!({ "tier": "pro", "subscriptionStatus": "active", field: stored });
            studios.put(&key, document).await;
            let found = subject.ask(&key).await;
            assert_eq!(found.map(|found| found.studio.id.to_string()), Ok(key));
            if subject.directory.questions().asked > before {
                break;
            }
            assert!(i < 100, "{field} was never asked for");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_unknown_keys_reach_firestore_twenty_times_a_second() {
    let studios = Studios::new().await;
    studios.put("a", studio("a-key")).await;
    let (address, requests) = counting_proxy(TestEnv::get().firestore.clone()).await;
    let subject = start(&studios.config_at(&address), None)
        .await
        .mirrored()
        .await;
    let subject = Arc::new(subject);

    let before = requests.load(Ordering::SeqCst);
    let started = Instant::now();
    let clients = (0..50).map(|client| {
        let subject = Arc::clone(&subject);
        tokio::spawn(async move {
            // Spread over some seconds, so that the limit is met more than once.
            let mut pace = tokio::time::interval(Duration::from_millis(15));
            for i in 0..200 {
                pace.tick().await;
                let key = format!("wrong-{client}-{i}");
                // Twice: the second time it is remembered, or refused without asking.
                for _ in 0..2 {
                    assert_eq!(subject.ask(&key).await, Err(AuthError::Unknown));
                }
                assert!(subject.ask("a-key").await.is_ok());
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let seconds = started.elapsed().as_secs();
    let on_the_wire = requests.load(Ordering::SeqCst) - before;
    let counts = subject.directory.questions();
    assert!(
        seconds >= 2 && counts.asked >= 40,
        "{counts:?} in {seconds} s"
    );
    assert!(
        counts.asked <= 20 * (seconds + 1),
        "{counts:?} in {seconds} s"
    );
    assert!(counts.suppressed > 0, "{counts:?}");
    // Besides the questions only the probes of the connection, one in 3 s.
    assert!(
        (counts.asked..=counts.asked + seconds / 3 + 1).contains(&on_the_wire),
        "{on_the_wire} requests, {counts:?} in {seconds} s"
    );
}

/// A proxy that counts the requests its clients make: HTTP/2 frames of the type HEADERS.
async fn counting_proxy(target: String) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut preface = [0; 24];
                from_client.read_exact(&mut preface).await?;
                to_server.write_all(&preface).await?;
                loop {
                    let mut head = [0; 9];
                    from_client.read_exact(&mut head).await?;
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    let mut frame = vec![0; length];
                    from_client.read_exact(&mut frame).await?;
                    if head[3] == 1 {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    to_server.write_all(&head).await?;
                    to_server.write_all(&frame).await?;
                }
                #[expect(unreachable_code, reason = "names the type that `?` returns")]
                std::io::Result::Ok(())
            });
        }
    });
    (address, requests)
}
