//! From the client library's message to the project's record.

use bm_contracts::{Timestamp, headers};
use bm_engine::Record;
use bytes::BytesMut;
use rdkafka::message::{BorrowedMessage, Headers, Message};

/// An owned copy of `message`: the only one on the way from the client's buffer, which holds a whole fetch and must
/// not live as long as a record may. Its parts share one allocation.
pub(crate) fn record(message: &BorrowedMessage<'_>) -> Record {
    let found = message.headers();
    let key = message.key().unwrap_or_default();
    let value = message.payload().unwrap_or_default();
    let of_headers: usize = found
        .into_iter()
        .flat_map(Headers::iter)
        .map(|header| header.value.map_or(0, <[u8]>::len))
        .sum();
    let mut bytes = BytesMut::with_capacity(key.len() + value.len() + of_headers);
    let mut copied = |part: &[u8]| {
        bytes.extend_from_slice(part);
        bytes.split().freeze()
    };
    let (key, value) = (copied(key), copied(value));
    let mut headers = Vec::with_capacity(found.map_or(0, Headers::count));
    for header in found.into_iter().flat_map(Headers::iter) {
        let name = headers::name(header.key);
        headers.push((name, copied(header.value.unwrap_or_default())));
    }
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: Timestamp::clamped(message.timestamp().to_millis().unwrap_or(0)),
        key,
        value,
        headers,
    }
}
