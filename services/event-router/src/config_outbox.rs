//! Saved definitions on their way to the `config.*` topics: published until the broker has them.

use std::time::Duration;

use bm_kafka::{AppendConfig, AppendError, EventProducer, KafkaConfig, KafkaError};
use bm_storage::{Storage, StoreError};
use tokio::time::Instant;

/// How long one message may take; claims of the outbox last 30 s.
const PUBLISH: Duration = Duration::from_secs(10);
/// How long another publisher is waited for: longer than its claim lasts, should it be gone.
const OTHERS: Duration = Duration::from_secs(40);
/// Between two looks at what another publisher has left.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Definitions are saved, and not all of them are published; a later call does it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigOutboxError {
    /// The outbox could not be read, or what was published not be taken out.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No producer.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The broker did not take a message.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Somebody else has the messages, and is not done with them.
    #[error("another publisher has had them for more than {} s", OTHERS.as_secs())]
    Claimed,
}

/// Publishes every saved definition that waits to be, those of others too; gives how many.
///
/// Any number may do so at once: messages are claimed, and go out in the order they were saved. So
/// 0 may also mean that another has them; see [`publish_all`].
pub async fn publish(kafka: &KafkaConfig, storage: &Storage) -> Result<usize, ConfigOutboxError> {
    let append = AppendConfig {
        timeout: PUBLISH,
        ..AppendConfig::default()
    };
    let mut producer = None;
    let mut published = 0;
    loop {
        let pending = storage.pending_config_messages().await?;
        if pending.is_empty() {
            return Ok(published);
        }
        let producer = match &producer {
            Some(made) => made,
            None => producer.insert(EventProducer::new(kafka, &append, "config-outbox")?),
        };
        let appends = pending
            .iter()
            .map(|m| producer.append(m.topic, None, &m.key, &[], &m.value))
            .collect::<Result<Vec<_>, _>>()?;
        for append in appends {
            append.await?;
        }
        let ids: Vec<i64> = pending.iter().map(|message| message.id).collect();
        storage.config_messages_published(&ids).await?;
        published += ids.len();
    }
}

/// Publishes what [`publish`] does, and returns when all of it that was saved before the call is
/// published, be it by another who has claimed it: `others` is told once that it is waited for.
pub async fn publish_all(
    kafka: &KafkaConfig,
    storage: &Storage,
    others: impl FnOnce(),
) -> Result<(), ConfigOutboxError> {
    let Some(newest) = storage.newest_config_message().await? else {
        return Ok(());
    };
    let deadline = Instant::now() + OTHERS;
    let mut others = Some(others);
    loop {
        publish(kafka, storage).await?;
        if !storage.config_messages_wait(newest).await? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ConfigOutboxError::Claimed);
        }
        if let Some(others) = others.take() {
            others();
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
