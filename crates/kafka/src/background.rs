//! Keeps what blocks inside librdkafka away from the runtime's threads.
//!
//! On plain threads and not the runtime's blocking ones: a runtime that shuts down waits for those, and a call to a
//! silent broker would hold it up.

use std::thread;

use tokio::sync::oneshot;

use crate::error::KafkaError;

/// Runs `work` where it may block. Rare calls only: each has a thread of its own.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, KafkaError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (sender, result) = oneshot::channel();
    let run = move || {
        // Whoever asked may have gone meanwhile.
        let _unheard = sender.send(work());
    };
    thread::Builder::new()
        .name("kafka-ask".to_owned())
        .spawn(run)
        .map_err(|error| KafkaError::client(&error))?;
    result.await.map_err(|_| KafkaError::Stopped)
}

/// Drops a client on a thread of its own: closing one waits for its threads, and for its group.
///
/// The receiver resolves when it is closed.
pub(crate) fn drop_in_background<T: Send + 'static>(client: T) -> oneshot::Receiver<()> {
    let (sender, closed) = oneshot::channel::<()>();
    let run = move || {
        drop(client);
        drop(sender);
    };
    if let Err(error) = thread::Builder::new()
        .name("kafka-close".to_owned())
        .spawn(run)
    {
        // The closure, and the client in it, was dropped here instead.
        tracing::debug!(error = %error, "no thread to close a Kafka client on");
    }
    closed
}
