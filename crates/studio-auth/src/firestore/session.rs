//! One connection to Firestore: listens to the collection from its beginning until something ends it.
//!
//! Every session begins without a resume token. A resumed stream tells of documents deleted
//! meanwhile only by a count that does not fit, and emulators leave even that out; the full set is
//! small and cannot miss a revocation.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::firestore::FirestoreDb;
use ::firestore::gcloud_sdk::google::firestore::v1::structured_query::CollectionSelector;
use ::firestore::gcloud_sdk::google::firestore::v1::{
    ListenRequest, StructuredQuery, Target, listen_request, target,
};
use ::firestore::gcloud_sdk::tonic::Request;
use arc_swap::ArcSwapOption;
use futures::channel::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::assembly::{self, Assembly, Step};
use super::{COLLECTION, connect};
use crate::config::FirestoreConfig;
use crate::shared::{Origin, Shared};

/// From the first packet to a client that can be used.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From asking for the collection to having it.
const FIRST_SET_TIMEOUT: Duration = Duration::from_secs(15);
/// The stream is asked this often whether it is alive: a dead one is silent, and so is one over a
/// collection that does not change. Together with the time it has to answer, a stream that would
/// keep a revocation back is noticed within 5 seconds. One read of Firestore each.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How long the stream may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The collection is this target of the stream; probes are the next ones.
const STUDIOS: i32 = assembly::STUDIOS;

/// Connects, mirrors, and returns why the connection is of no more use. While it can be used,
/// `client` holds it.
pub(super) async fn run(
    config: &FirestoreConfig,
    shared: &Shared,
    client: &ArcSwapOption<FirestoreDb>,
) -> String {
    match timeout(CONNECT_TIMEOUT, connect::connect(config)).await {
        Err(_) => "no connection in time".to_owned(),
        Ok(Err(error)) => connect::sentence(&error),
        Ok(Ok(db)) => {
            client.store(Some(Arc::new(db.clone())));
            let _connection = Connection { client, shared };
            let Err(error) = read_stream(&db, shared).await;
            error
        }
    }
}

/// Mirrors the collection from one stream until it fails.
///
/// What confirms the mirror is the stream itself. An idle one says nothing for minutes, so it is given
/// another target now and then, a document that is not there. By its contract the stream then reaches
/// a snapshot of *all* its targets not older than the adding: when that has come, nothing that was
/// committed before is still on its way. What remains: it has come from a server that believes its own
/// view; and between a stream's death and the next whole set lie up to 5 seconds and a connection.
async fn read_stream(db: &FirestoreDb, shared: &Shared) -> Result<Infallible, String> {
    // The request stays open as long as the sender lives, and ends with it: the transport would hold
    // on to a request that never ends.
    let (mut requests, outgoing) = mpsc::channel(8);
    let mut send = |request| {
        requests
            .try_send(request)
            .map_err(|_| "the stream takes no requests".to_owned())
    };
    send(add_target(db, STUDIOS, studios(db)))?;
    let mut client = db.client().get();
    let opened = timeout(FIRST_SET_TIMEOUT, client.listen(Request::new(outgoing))).await;
    let opened = opened.map_err(|_| "no answer to a listener in time".to_owned())?;
    let mut messages = opened
        .map_err(|status| connect::sentence(&status))?
        .into_inner();

    let mut assembly = Assembly::default();
    let mut told = false;
    // The probe under way, and when it is late; or when the next is due.
    let mut probe: Option<i32> = None;
    let mut last_probe = STUDIOS;
    let mut due = Instant::now() + FIRST_SET_TIMEOUT;
    loop {
        let message = tokio::select! {
            message = messages.message() => message.map_err(|status| connect::sentence(&status))?,
            () = sleep_until(due) => {
                if !told {
                    return Err("the studios did not come in time".to_owned());
                }
                if probe.is_some() {
                    return Err("no answer of the stream in time".to_owned());
                }
                last_probe += 1;
                send(add_target(db, last_probe, nothing(db)))?;
                probe = Some(last_probe);
                due = Instant::now() + PROBE_TIMEOUT;
                continue;
            }
        };
        let Some(message) = message else {
            return Err("Firestore closed the stream".to_owned());
        };
        let Some(message) = message.response_type else {
            continue;
        };
        match assembly.apply(message) {
            Step::Wait => {}
            Step::Restart(reason) => return Err(reason),
            Step::Take => {
                shared.publish(assembly.documents(), Origin::Source, shared.now());
                if !std::mem::replace(&mut told, true) {
                    shared.set_connected(true);
                    shared.report("Firestore is mirrored");
                    tracing::info!(
                        studios = assembly.documents().len(),
                        "mirroring the studios of Firestore"
                    );
                    due = Instant::now() + PROBE_EVERY;
                }
                if let Some(id) = probe.filter(|id| assembly.has_reached(*id)) {
                    send(remove_target(db, id))?;
                    probe = None;
                    due = Instant::now() + PROBE_EVERY;
                }
            }
        }
    }
}

fn studios(db: &FirestoreDb) -> target::TargetType {
    let query = StructuredQuery {
        from: vec![CollectionSelector {
            collection_id: COLLECTION.to_owned(),
            all_descendants: false,
        }],
        ..StructuredQuery::default()
    };
    target::TargetType::Query(target::QueryTarget {
        parent: db.get_documents_path().clone(),
        query_type: Some(target::query_target::QueryType::StructuredQuery(query)),
    })
}

/// A document that nobody writes.
fn nothing(db: &FirestoreDb) -> target::TargetType {
    target::TargetType::Documents(target::DocumentsTarget {
        documents: vec![format!("{}/-ping-/-ping-", db.get_documents_path())],
    })
}

fn add_target(db: &FirestoreDb, id: i32, what: target::TargetType) -> ListenRequest {
    request(
        db,
        listen_request::TargetChange::AddTarget(Target {
            target_id: id,
            target_type: Some(what),
            ..Target::default()
        }),
    )
}

fn remove_target(db: &FirestoreDb, id: i32) -> ListenRequest {
    request(db, listen_request::TargetChange::RemoveTarget(id))
}

fn request(db: &FirestoreDb, change: listen_request::TargetChange) -> ListenRequest {
    ListenRequest {
        database: db.get_database_path().clone(),
        target_change: Some(change),
        ..ListenRequest::default()
    }
}

/// A client that can be used, for as long as this lives: however the session ends.
struct Connection<'a> {
    client: &'a ArcSwapOption<FirestoreDb>,
    shared: &'a Shared,
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.client.store(None);
        self.shared.set_connected(false);
    }
}
