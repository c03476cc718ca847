//! What gateways refuse: over the limit however many they are, and counted and logged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bm_testkit::eventually;
use bm_tests::traffic::Events;
use bm_tests::{Fleet, Form, Service};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// How long a studio hammers at the gateways.
const HAMMERED: Duration = Duration::from_secs(5);
/// Clients of each gateway.
const CLIENTS: usize = 3;
/// What a studio with a small limit may send in any 60 seconds.
const REQUESTS: u64 = 120;
/// The same of events.
const EVENTS: u64 = 353;
/// At most so much of a limit may stand unused on a lease with one of the gateways.
const ON_LEASE: u64 = 60;

const WAIT: Duration = Duration::from_secs(20);

/// A studio with limits of its own, and a game of it.
async fn small_studio(fleet: &mut Fleet, name: &str, rate_limit: &Value) -> (String, String) {
    let (key, game) = (format!("{name}-key"), format!("{name}-game"));
    fleet.add_studio(json!({
        "id": name, "name": name, "tier": "pro", "subscriptionStatus": "active", "apiKey": key,
        "rateLimit": rate_limit,
    }));
    let games = json!({"games": [{"gameId": game, "studioId": name, "name": name}]});
    fleet.apply(&games).await;
    (key, game)
}

/// What came of hammering.
#[derive(Debug, Default)]
struct Counts {
    /// Requests answered 200.
    answered: AtomicU64,
    /// Events accepted.
    accepted: AtomicU64,
    /// Requests answered 429.
    refused: AtomicU64,
    /// Events answered `retry`.
    retry: AtomicU64,
}

/// Clients that send batches of `size` events to one gateway, again and again, for a while.
fn hammer(
    tasks: &mut JoinSet<()>,
    address: SocketAddr,
    key: &str,
    game: &str,
    size: usize,
    counts: &Arc<Counts>,
) {
    for client in 0..CLIENTS {
        let (key, counts) = (key.to_owned(), Arc::clone(counts));
        let stem = format!("{}-{client}", address.port());
        let mut events = Events::new(game, &stem, u64::from(address.port()));
        let player = format!("player-{stem}");
        tasks.spawn(async move {
            let http = reqwest::Client::new();
            let started = Instant::now();
            while started.elapsed() < HAMMERED {
                let batch: Vec<Value> = (0..size)
                    .map(|_| events.of(&player, "level_complete", &json!({})))
                    .collect();
                let batch: Vec<&Value> = batch.iter().collect();
                let (content_type, body) = Form::Array.write(&batch);
                let response = http
                    .post(format!("http://{address}/v1/events/batch"))
                    .header("x-api-key", &key)
                    .header("content-type", content_type)
                    .body(body)
                    .timeout(WAIT)
                    .send()
                    .await
                    .unwrap();
                let status = response.status().as_u16();
                let retry_after = response.headers().contains_key("retry-after");
                let answer: Value = response.json().await.unwrap();
                let count = |name: &str| answer[name].as_u64().unwrap();
                match status {
                    200 => {
                        counts.answered.fetch_add(1, Ordering::SeqCst);
                        counts
                            .accepted
                            .fetch_add(count("accepted"), Ordering::SeqCst);
                        counts.retry.fetch_add(count("retry"), Ordering::SeqCst);
                        assert_eq!(count("rejected"), 0, "{answer}");
                        assert_eq!(retry_after, count("retry") > 0, "{answer}");
                    }
                    429 => {
                        counts.refused.fetch_add(1, Ordering::SeqCst);
                        assert!(retry_after, "{answer}");
                    }
                    _ => panic!("{status} {answer}"),
                }
            }
        });
    }
}

/// One request that is refused, or not.
struct Case {
    name: &'static str,
    status: u16,
    code: &'static str,
    key: Option<String>,
    content_type: &'static str,
    body: String,
}

fn cases(fleet: &Fleet, limited: (String, String)) -> Vec<Case> {
    let mut events = Events::new(fleet.game(), "case", 1);
    let good = events.of("ada", "level_complete", &json!({}));
    let with = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        event.to_string()
    };
    let key = || Some(fleet.client_key().to_owned());
    let case = |name, status, code, key, body| Case {
        name,
        status,
        code,
        key,
        content_type: "application/json",
        body,
    };
    vec![
        case("c-200", 200, "", key(), good.to_string()),
        case("c-400", 400, "malformed_json", key(), "{".to_owned()),
        case(
            "c-401",
            401,
            "invalid_api_key",
            Some("x".to_owned()),
            good.to_string(),
        ),
        case(
            "c-404",
            404,
            "unknown_game",
            key(),
            with("gameId", json!("nowhere")),
        ),
        case(
            "c-413",
            413,
            "too_large",
            key(),
            with("note", json!("x".repeat(70_000))),
        ),
        Case {
            content_type: "text/plain",
            ..case(
                "c-415",
                415,
                "unsupported_media_type",
                key(),
                good.to_string(),
            )
        },
        case(
            "c-422",
            422,
            "timestamp_out_of_range",
            key(),
            with("timestamp", json!(0)),
        ),
        case(
            "c-429",
            429,
            "rate_limited",
            Some(limited.0),
            with("gameId", json!(limited.1)),
        ),
    ]
}

/// The line that a gateway logged of a request, by its correlation id.
fn line_of(log: &str, correlation: &str) -> Option<Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["correlation.id"] == correlation && !line["http.status"].is_null())
}

/// Every status is counted once more by its request, and its line in the log can be found.
async fn all_is_counted_and_logged(fleet: &mut Fleet, cases: &[Case]) {
    let series = |case: &Case| {
        format!(
            r#"bm_http_requests_total{{service="gateway",route="/v1/events",status="{}",code="{}"}}"#,
            case.status, case.code
        )
    };
    let mut before: BTreeMap<&str, f64> = BTreeMap::new();
    for case in cases {
        let value = fleet.metric(Service::Gateway, 0, &series(case)).await;
        before.insert(case.name, value.unwrap_or(0.0));
    }
    let http = reqwest::Client::new();
    let url = format!("http://{}/v1/events", fleet.gateways()[0]);
    for case in cases {
        let mut request = http
            .post(&url)
            .header("content-type", case.content_type)
            .header("x-correlation-id", case.name)
            .timeout(WAIT)
            .body(case.body.clone());
        if let Some(key) = &case.key {
            request = request.header("x-api-key", key);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), case.status, "{}", case.name);
        assert_eq!(response.headers()["x-correlation-id"], case.name);
        let answer: Value = response.json().await.unwrap();
        let code = answer["code"].as_str().unwrap_or_default();
        assert_eq!(code, case.code, "{answer}");
    }
    for case in cases {
        let after = fleet.metric(Service::Gateway, 0, &series(case)).await;
        assert_eq!(after, Some(before[case.name] + 1.0), "{}", series(case));
        let gateway = fleet.process(Service::Gateway, 0);
        let line = eventually(WAIT, "a line in the log", || async {
            line_of(&gateway.log(), case.name)
        })
        .await;
        assert_eq!(line["service"], "gateway", "{line}");
        assert_eq!(line["http.route"], "/v1/events", "{line}");
        assert_eq!(line["http.status"], case.status, "{line}");
        if !case.code.is_empty() {
            assert_eq!(line["error.code"], case.code, "{line}");
        }
    }
    let log = fleet.process(Service::Gateway, 0).log();
    for key in cases.iter().filter_map(|case| case.key.as_deref()) {
        assert!(
            key.len() < 5 || !log.contains(key),
            "a key was logged: {key}"
        );
    }
}

/// Sends the one request a minute that this studio has: the next is refused for certain, while of a
/// larger limit a lease that ran out may have given something back.
async fn use_up(fleet: &Fleet, (key, game): &(String, String)) {
    let event = Events::new(game, "only", 1).of("ada", "level_complete", &json!({}));
    let http = reqwest::Client::new();
    let url = format!("http://{}/v1/events", fleet.gateways()[0]);
    eventually(WAIT, "the only request there is", || async {
        let request = http
            .post(&url)
            .header("x-api-key", key)
            .header("content-type", "application/json")
            .timeout(WAIT)
            .body(event.to_string());
        let response = request.send().await.unwrap();
        (response.status().as_u16() == 200).then_some(())
    })
    .await;
}

/// All is over within a minute, so that all of it counts towards one limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_together_never_admit_more_than_the_limit_and_count_what_they_refuse() {
    let mut fleet = Fleet::new().await;
    // Buckets that could give twice the limit in a minute: what holds is the limit itself.
    let requests = json!({
        "requestsPerMinute": REQUESTS, "burst": REQUESTS, "eventsPerMinute": 1_000_000,
        "eventsBurst": 1_000_000, "playerEventsPerMinute": 1_000_000,
    });
    let events = json!({
        "requestsPerMinute": 1_000_000, "burst": 100_000, "eventsPerMinute": EVENTS,
        "eventsBurst": EVENTS, "playerEventsPerMinute": 1_000_000,
    });
    let of_requests = small_studio(&mut fleet, "few-requests", &requests).await;
    let of_events = small_studio(&mut fleet, "few-events", &events).await;
    let one = json!({
        "requestsPerMinute": 1, "burst": 1, "eventsPerMinute": 1_000_000,
        "eventsBurst": 1_000_000, "playerEventsPerMinute": 1_000_000,
    });
    let of_one = small_studio(&mut fleet, "one-request", &one).await;
    let log = [("BM_LOG", "info,bm_web=debug")];
    fleet.start_with(Service::Gateway, &log);
    fleet.start_with(Service::Gateway, &log);
    fleet.wait_ready().await;
    // They have heard of each other, and keep no longer to their shares, as who has just come does.
    for gateway in 0..2 {
        let service = Service::Gateway;
        fleet
            .wait_metric(service, gateway, "bm_admission_gateways", 2.0)
            .await;
        fleet
            .wait_metric_range(service, gateway, "bm_admission_fallback", ..0.5)
            .await;
    }

    let started = Instant::now();
    let (requests, events) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
    let mut tasks = JoinSet::new();
    for address in fleet.gateways() {
        hammer(
            &mut tasks,
            address,
            &of_requests.0,
            &of_requests.1,
            1,
            &requests,
        );
        hammer(&mut tasks, address, &of_events.0, &of_events.1, 7, &events);
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert!(
        started.elapsed() < Duration::from_mins(1),
        "too slow to tell"
    );
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    println!("requests: {requests:?}, events: {events:?}");
    let answered = count(&requests.answered);
    assert!(
        (REQUESTS - ON_LEASE..=REQUESTS).contains(&answered) && count(&requests.refused) > 0,
        "of {REQUESTS} requests: {requests:?}"
    );
    let accepted = count(&events.accepted);
    assert!(
        (EVENTS - ON_LEASE..=EVENTS).contains(&accepted)
            && count(&events.retry) + count(&events.refused) > 0,
        "of {EVENTS} events: {events:?}"
    );
    // What was answered is in the log, and what was not is not.
    let mut logged: BTreeMap<String, u64> = BTreeMap::new();
    for record in fleet.topics.read_all("game.events").await {
        let game = record.json()["gameId"].as_str().unwrap().to_owned();
        *logged.entry(game).or_default() += 1;
    }
    assert_eq!(logged[&of_requests.1], answered);
    assert_eq!(logged[&of_events.1], accepted);
    use_up(&fleet, &of_one).await;
    let cases = cases(&fleet, of_one);
    all_is_counted_and_logged(&mut fleet, &cases).await;
    fleet.end().await;
}
