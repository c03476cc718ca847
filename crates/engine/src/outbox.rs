//! The messages of a lane's last batch, as they stand in its row and go to the broker.

use bm_contracts::headers::{self, Name};
use bm_contracts::{Timestamp, Topic};
use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use crate::record::Record;

/// A message to be appended, with the partition it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxMessage {
    /// Where to.
    pub topic: Topic,
    /// Chosen when the message was made; a later change of the partition count does not move it.
    pub partition: i32,
    /// Partition key.
    pub key: String,
    /// In order. Includes `bm-source` and `bm-seq`.
    pub headers: Vec<(Name, String)>,
    /// The message.
    pub value: Vec<u8>,
}

impl OutboxMessage {
    /// Bytes the broker counts against `max.message.bytes`, with some room for record framing.
    pub fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 8)
            .sum();
        self.key.len() + self.value.len() + headers + 128
    }

    /// The record that those who read its topic get.
    pub fn to_record(&self, offset: i64, timestamp: Timestamp) -> Record {
        Record {
            partition: self.partition,
            offset,
            timestamp,
            key: Bytes::from(self.key.clone()),
            value: Bytes::from(self.value.clone()),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), Bytes::from(value.clone())))
                .collect(),
        }
    }
}

/// The messages of one batch of one lane, in the order they are to be appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbox {
    /// In sequence order.
    pub messages: Vec<OutboxMessage>,
}

/// The bytes of a stored outbox cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Written by a newer version of the software.
    #[error("outbox has format {0}, this software reads up to {FORMAT}")]
    UnknownFormat(u8),
    /// More than could be read back.
    #[error("outbox of {0} bytes is more than may be kept")]
    TooLarge(usize),
    /// Compression or encoding is damaged.
    #[error("outbox is damaged: {0}")]
    Damaged(String),
    /// Names a topic that is not in the registry.
    #[error("outbox names the unknown topic {0}")]
    UnknownTopic(String),
}

/// First byte of a stored outbox; counts up when the encoding changes.
const FORMAT: u8 = 1;

/// Larger than any outbox a batch may give; a damaged length must not exhaust memory.
const MAX_UNPACKED: usize = 256 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    topic: &'a str,
    partition: i32,
    key: &'a str,
    #[serde(borrow)]
    headers: Vec<(&'a str, &'a str)>,
    #[serde(serialize_with = "at_once")]
    value: &'a [u8],
}

/// In the same form as byte by byte, which is how serde takes slices by itself.
fn at_once<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl Outbox {
    /// Whether there is nothing to append.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The bytes that go into the lane's row: format, then LZ4 of the messages. Empty for none.
    pub fn encode(&self) -> Result<Vec<u8>, OutboxError> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let stored: Vec<Stored<'_>> = self
            .messages
            .iter()
            .map(|m| Stored {
                topic: m.topic.name(),
                partition: m.partition,
                key: &m.key,
                headers: m
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_ref(), value.as_str()))
                    .collect(),
                value: &m.value,
            })
            .collect();
        let plain =
            postcard::to_allocvec(&stored).map_err(|e| OutboxError::Damaged(e.to_string()))?;
        if plain.len() > MAX_UNPACKED {
            return Err(OutboxError::TooLarge(plain.len()));
        }
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&lz4_flex::compress_prepend_size(&plain));
        Ok(bytes)
    }

    /// Reads what [`Outbox::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, OutboxError> {
        let Some((&format, packed)) = bytes.split_first() else {
            return Ok(Self::default());
        };
        if format != FORMAT {
            return Err(OutboxError::UnknownFormat(format));
        }
        let (size, packed) = lz4_flex::block::uncompressed_size(packed)
            .map_err(|e| OutboxError::Damaged(e.to_string()))?;
        if size > MAX_UNPACKED {
            return Err(OutboxError::Damaged(format!(
                "{size} bytes unpacked is more than any batch gives"
            )));
        }
        let plain =
            lz4_flex::decompress(packed, size).map_err(|e| OutboxError::Damaged(e.to_string()))?;
        let stored: Vec<Stored<'_>> =
            postcard::from_bytes(&plain).map_err(|e| OutboxError::Damaged(e.to_string()))?;
        let messages = stored
            .into_iter()
            .map(|m| {
                Ok(OutboxMessage {
                    topic: Topic::from_name(m.topic)
                        .ok_or_else(|| OutboxError::UnknownTopic(m.topic.to_owned()))?,
                    partition: m.partition,
                    key: m.key.to_owned(),
                    headers: m
                        .headers
                        .iter()
                        .map(|&(name, value)| (headers::name(name), value.to_owned()))
                        .collect(),
                    value: m.value.to_vec(),
                })
            })
            .collect::<Result<_, OutboxError>>()?;
        Ok(Self { messages })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = OutboxMessage> {
        (
            prop::sample::select(Topic::ALL.to_vec()),
            0..10i32,
            ".{0,20}",
            prop::collection::vec((".{0,5}".prop_map(Name::from), ".{0,5}"), 0..3),
            prop::collection::vec(any::<u8>(), 0..50),
        )
            .prop_map(|(topic, partition, key, headers, value)| OutboxMessage {
                topic,
                partition,
                key,
                headers,
                value,
            })
    }

    proptest! {
        #[test]
        fn an_outbox_reads_back_as_written(messages in prop::collection::vec(message(), 0..20)) {
            let outbox = Outbox { messages };
            prop_assert_eq!(Outbox::decode(&outbox.encode().unwrap()).unwrap(), outbox);
        }

        #[test]
        fn damaged_bytes_are_an_error_not_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Outbox::decode(&bytes);
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        assert!(matches!(
            Outbox::decode(&[99, 1, 2]),
            Err(OutboxError::UnknownFormat(99))
        ));
    }
}
