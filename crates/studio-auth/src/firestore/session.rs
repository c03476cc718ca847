//! One connection to Firestore: listens to the collection from its beginning until something ends it.
//!
//! Every session begins without a resume token. A resumed stream tells of documents deleted
//! meanwhile only by a count that does not fit, and emulators leave even that out; the full set is
//! small and cannot miss a revocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::firestore::FirestoreDb;
use ::firestore::gcloud_sdk::google::firestore::v1::structured_query::CollectionSelector;
use ::firestore::gcloud_sdk::google::firestore::v1::{
    ListenRequest, StructuredQuery, Target, listen_request, target,
};
use ::firestore::gcloud_sdk::tonic::Request;
use arc_swap::ArcSwapOption;
use futures::StreamExt;
use futures::stream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::assembly::{Assembly, Step};
use super::{COLLECTION, connect};
use crate::config::FirestoreConfig;
use crate::shared::{Origin, Shared};

/// From the first packet to a client that can be used.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From asking for the collection to having it.
const FIRST_SET_TIMEOUT: Duration = Duration::from_secs(15);
/// The connection is tried this often. A dead one is silent, and so is a listener of a collection
/// that does not change.
const PROBE_EVERY: Duration = Duration::from_secs(3);
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// A stream that said nothing for so long is begun again, in case only it is dead.
const LONGEST_SILENCE: Duration = Duration::from_mins(5);

/// Connects, mirrors, and returns why the connection is of no more use. While it can be used,
/// `client` holds it.
pub(super) async fn run(
    config: &FirestoreConfig,
    shared: &Shared,
    client: &ArcSwapOption<FirestoreDb>,
) -> String {
    let current = AtomicBool::new(false);
    match timeout(CONNECT_TIMEOUT, connect::connect(config)).await {
        Err(_) => "no connection in time".to_owned(),
        Ok(Err(error)) => connect::sentence(&error),
        Ok(Ok(db)) => {
            client.store(Some(Arc::new(db.clone())));
            tokio::select! {
                error = listen(&db, shared, &current) => error,
                error = probe(&db, shared, &current) => error,
            }
        }
    }
}

/// Returns an error when the server does not answer any more. As long as it does, on the
/// connection the stream is on, the mirror is as fresh as the stream.
async fn probe(db: &FirestoreDb, shared: &Shared, current: &AtomicBool) -> String {
    loop {
        sleep(PROBE_EVERY).await;
        match timeout(PROBE_TIMEOUT, db.ping()).await {
            Err(_) => return "no answer in time".to_owned(),
            Ok(Err(error)) => return connect::sentence(&error),
            Ok(Ok(())) if current.load(Ordering::SeqCst) => shared.confirm(shared.now()),
            Ok(Ok(())) => {}
        }
    }
}

/// Returns an error when there is no more stream to be had.
async fn listen(db: &FirestoreDb, shared: &Shared, current: &AtomicBool) -> String {
    let mut told = false;
    loop {
        let read = read_stream(db, shared, current, &mut told).await;
        current.store(false, Ordering::SeqCst);
        if let Err(error) = read {
            return error;
        }
    }
}

/// Mirrors the collection from one stream, until it fails or was silent for too long. Meanwhile
/// `current` says whether the set is whole; `told` whether the log has heard of it.
async fn read_stream(
    db: &FirestoreDb,
    shared: &Shared,
    current: &AtomicBool,
    told: &mut bool,
) -> Result<(), String> {
    // The request stays open as long as the answer is read, and ends with it: the transport
    // would hold on to a request that never ends.
    let (_open, closed) = oneshot::channel::<()>();
    let requests = stream::iter([add_target(db)])
        .chain(stream::pending())
        .take_until(closed);
    let mut client = db.client().get();
    let opened = timeout(FIRST_SET_TIMEOUT, client.listen(Request::new(requests))).await;
    let opened = opened.map_err(|_| "no answer to a listener in time".to_owned())?;
    let mut messages = opened
        .map_err(|status| connect::sentence(&status))?
        .into_inner();

    let mut assembly = Assembly::default();
    loop {
        let whole = assembly.is_current();
        current.store(whole, Ordering::SeqCst);
        let patience = if whole {
            LONGEST_SILENCE
        } else {
            FIRST_SET_TIMEOUT
        };
        let message = match timeout(patience, messages.message()).await {
            Err(_) if !whole => return Err("the studios did not come in time".to_owned()),
            Err(_) => return Ok(()),
            Ok(message) => message.map_err(|status| connect::sentence(&status))?,
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
                if !std::mem::replace(told, true) {
                    shared.report("Firestore is mirrored");
                    tracing::info!(
                        studios = assembly.documents().len(),
                        "mirroring the studios of Firestore"
                    );
                }
            }
        }
    }
}

fn add_target(db: &FirestoreDb) -> ListenRequest {
    let query = StructuredQuery {
        from: vec![CollectionSelector {
            collection_id: COLLECTION.to_owned(),
            all_descendants: false,
        }],
        ..StructuredQuery::default()
    };
    ListenRequest {
        database: db.get_database_path().clone(),
        target_change: Some(listen_request::TargetChange::AddTarget(Target {
            target_id: 1,
            target_type: Some(target::TargetType::Query(target::QueryTarget {
                parent: db.get_documents_path().clone(),
                query_type: Some(target::query_target::QueryType::StructuredQuery(query)),
            })),
            ..Target::default()
        })),
        ..ListenRequest::default()
    }
}
