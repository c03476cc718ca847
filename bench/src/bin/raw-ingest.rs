//! The raw side of the ingest figures: an endpoint that parses the JSON and appends it, and nothing
//! else. `raw-ingest ADDRESS BROKERS TOPIC`.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: bm_bootstrap::Allocator = bm_bootstrap::Allocator;

#[derive(Clone)]
struct Ingest {
    producer: FutureProducer,
    topic: String,
}

#[tokio::main]
#[expect(clippy::expect_used, reason = "a bench's own tool fails by panicking")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().expect("raw-ingest ADDRESS BROKERS TOPIC");
    let (address, brokers, topic) = (argument(), argument(), argument());
    // As the gateway's producer is set, in all that costs time; the allocator is the same, too.
    let producer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "0")
        .set("compression.type", "snappy")
        .set("queue.buffering.max.messages", "100000")
        .create()
        .expect("a producer can be made");
    let router = Router::new()
        .route("/healthz", axum::routing::get(|| async { "ok" }))
        .route("/v1/events", post(ingest))
        .with_state(Ingest { producer, topic });
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .expect("the address is free");
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // As the gateway does; failing that, answers are just slower.
        let _slower = stream.set_nodelay(true);
    });
    axum::serve(listener, router)
        .await
        .expect("the server serves");
}

async fn ingest(State(ingest): State<Ingest>, body: Bytes) -> (StatusCode, &'static str) {
    let Ok(event) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, "");
    };
    let key = event
        .get("userId")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let record = FutureRecord::to(&ingest.topic).key(key).payload(&body[..]);
    match ingest.producer.send(record, Duration::ZERO).await {
        Ok(_) => (StatusCode::OK, "{\"status\":\"accepted\"}"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, ""),
    }
}
