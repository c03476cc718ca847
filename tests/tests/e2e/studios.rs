//! A gateway that reads its studios in Firestore: keys that come and go, and Firestore away.

use std::time::Duration;

use bm_testkit::{TcpProxy, TestEnv, eventually, until};
use bm_tests::firestore::Studios;
use bm_tests::traffic::Events;
use bm_tests::{Fleet, Service};
use serde_json::{Value, json};

/// A change must act within this time.
const SOON: Duration = Duration::from_secs(5);
/// For what has no promised time.
const LATER: Duration = Duration::from_secs(30);

/// Posts an event to gateways with any key, and says how it was answered.
struct Client {
    http: reqwest::Client,
    events: Events,
}

impl Client {
    fn new(fleet: &Fleet) -> Self {
        Self {
            http: reqwest::Client::new(),
            events: Events::new(fleet.game(), "s", 1),
        }
    }

    /// Status, and the code of an error.
    async fn post(&mut self, fleet: &Fleet, place: usize, key: &str) -> (u16, String) {
        let event = self.events.of("ada", "enemy_killed", &json!({}));
        let request = self
            .http
            .post(format!("http://{}/v1/events", fleet.gateways()[place]))
            .header("x-api-key", key)
            .timeout(LATER);
        let response = request.json(&event).send().await.unwrap();
        let status = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        let code = answer["code"].as_str().unwrap_or_default().to_owned();
        (status, code)
    }

    async fn accepted(&mut self, fleet: &Fleet, place: usize, key: &str) {
        let (status, code) = self.post(fleet, place, key).await;
        assert_eq!((status, code.as_str()), (200, ""), "{key} at {place}");
    }

    async fn refused(&mut self, fleet: &Fleet, place: usize, key: &str) {
        let (status, code) = self.post(fleet, place, key).await;
        assert_eq!(
            (status, code.as_str()),
            (401, "invalid_api_key"),
            "{key} at {place}"
        );
    }

    /// Waits until a key is answered with this status.
    async fn becomes(
        &mut self,
        fleet: &Fleet,
        place: usize,
        within: Duration,
        key: &str,
        status: u16,
    ) {
        let what = format!("{status} for {key} at {place}");
        until(within, &what, async || {
            let (told, _) = self.post(fleet, place, key).await;
            if told == status {
                Ok(())
            } else {
                Err(told.to_string())
            }
        })
        .await;
    }
}

/// What a gateway's `/readyz` says of Firestore.
async fn firestore_says(fleet: &mut Fleet, place: usize) -> Option<(bool, String)> {
    let gateway = fleet.process(Service::Gateway, place);
    let answer = gateway.get("/readyz").await?;
    let body: Value = serde_json::from_str(&answer.body).ok()?;
    let check = &body["checks"]["firestore"];
    Some((answer.status == 200, check["detail"].as_str()?.to_owned()))
}

async fn wait_until_firestore_is(fleet: &mut Fleet, place: usize, words: &str) {
    let what = format!("{words} of Firestore at {place}");
    let ready = until(LATER, &what, async || {
        match firestore_says(fleet, place).await {
            Some((ready, detail)) if detail.contains(words) => Ok(ready),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(ready, "a gateway is ready whatever Firestore does");
}

/// The studio's document: its first key plainly, others as the hashes that only the mirror knows of.
fn document(first: &str, more: &[&str]) -> Value {
    let keys: Vec<Value> = more
        .iter()
        .map(|key| {
            let hash = bm_contracts::hash::key_hash(key);
            json!({"hash": hash, "kind": "client", "name": "more"})
        })
        .collect();
    json!({
        "name": "A studio", "tier": "pro", "subscriptionStatus": "active", "apiKey": first,
        "keys": keys,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_follows_its_studios_in_firestore_and_goes_on_without_it() {
    let mut fleet = Fleet::new().await;
    let studio = fleet.studio().to_owned();
    let studios = Studios::new().await;
    studios.put(&studio, &document("first", &[])).await;
    studios.put("another", &document("another's", &[])).await;
    let proxy = TcpProxy::to(TestEnv::get().firestore.clone()).await;
    let address = proxy.address();
    let variables = [
        // Unset, as an empty value is.
        ("BM_STUDIOS_FILE", ""),
        ("FIRESTORE_PROJECT_ID", studios.project()),
        ("FIRESTORE_EMULATOR_HOST", address.as_str()),
    ];
    fleet.start_with(Service::Gateway, &variables);
    fleet.wait_ready().await;
    wait_until_firestore_is(&mut fleet, 0, "is mirrored").await;
    let mut client = Client::new(&fleet);

    // Known, unknown, and of a studio that the game does not belong to.
    client.accepted(&fleet, 0, "first").await;
    client.refused(&fleet, 0, "nobody's").await;
    client.refused(&fleet, 0, "second").await;
    let (status, code) = client.post(&fleet, 0, "another's").await;
    assert_eq!((status, code.as_str()), (404, "unknown_game"));

    // Added, though it was called unknown a moment ago.
    studios.put(&studio, &document("first", &["second"])).await;
    client.becomes(&fleet, 0, SOON, "second", 200).await;
    // A studio's first key changed: the old one is revoked.
    studios.put(&studio, &document("new", &["second"])).await;
    client.becomes(&fleet, 0, SOON, "first", 401).await;
    client.accepted(&fleet, 0, "new").await;
    // A whole studio is gone.
    studios.delete("another").await;
    client.becomes(&fleet, 0, SOON, "another's", 401).await;

    // What is known then is kept in the database.
    let pool = fleet.pool.clone();
    eventually(LATER, "the last-known copy", || async {
        let kept: Option<String> =
            sqlx::query_scalar("SELECT snapshot::text FROM studios_last_known")
                .fetch_optional(&pool)
                .await
                .unwrap();
        let kept = kept?;
        assert!(!kept.contains("second"), "a key is kept: {kept}");
        let documents: Value = serde_json::from_str(&kept).unwrap();
        let ids = documents["studios"].as_array()?.iter();
        let ids: Vec<&str> = ids.filter_map(|kept| kept["id"].as_str()).collect();
        (ids == [studio.as_str()]).then_some(())
    })
    .await;

    // Firestore is cut off: known keys go on, and what changes there is not seen.
    proxy.cut();
    wait_until_firestore_is(&mut fleet, 0, "Firestore:").await;
    studios.put(&studio, &document("new", &["third"])).await;
    client.accepted(&fleet, 0, "new").await;
    client.accepted(&fleet, 0, "second").await;
    client.refused(&fleet, 0, "third").await;

    // A gateway that starts now knows what was known.
    fleet.start_with(Service::Gateway, &variables);
    fleet.wait_ready().await;
    wait_until_firestore_is(&mut fleet, 1, "last-known").await;
    client.accepted(&fleet, 1, "new").await;
    client.accepted(&fleet, 1, "second").await;
    client.refused(&fleet, 1, "third").await;
    client.refused(&fleet, 1, "first").await;

    // It comes back: both see what they have missed, and then every change as before.
    proxy.pass();
    for place in [0, 1] {
        client.becomes(&fleet, place, LATER, "third", 200).await;
        client.refused(&fleet, place, "second").await;
        wait_until_firestore_is(&mut fleet, place, "is mirrored").await;
    }
    studios.put(&studio, &document("new", &[])).await;
    for place in [0, 1] {
        client.becomes(&fleet, place, SOON, "third", 401).await;
        client.accepted(&fleet, place, "new").await;
    }
    fleet.end().await;
}
