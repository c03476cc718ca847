//! Saved definitions on their way to the `config.*` topics: published until the broker has them.

use std::time::Duration;

use bm_kafka::{AppendConfig, AppendError, EventProducer, KafkaConfig, KafkaError};
use bm_storage::{Storage, StoreError};

/// How long one message may take; claims of the outbox last 30 s.
const PUBLISH: Duration = Duration::from_secs(10);

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
}

/// Publishes every saved definition that waits to be, those of others too; gives how many.
///
/// Any number may do so at once: messages are claimed, and go out in the order they were saved.
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
