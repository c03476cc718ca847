//! From the client library's message to the project's record.

use bm_contracts::{Timestamp, headers};
use bm_engine::Record;
use bytes::BytesMut;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers, Message};

/// An owned copy of `message`: the only one on the way from the client's buffer, which holds a whole fetch and must
/// not live as long as a record may. Its parts share one allocation.
pub(crate) fn record(message: &BorrowedMessage<'_>) -> Record {
    let key = message.key().unwrap_or_default();
    let value = message.payload().unwrap_or_default();
    let found = message.headers();
    let count = found.map_or(0, Headers::count);
    let of_headers = |found: &BorrowedHeaders| {
        let values = found
            .iter()
            .map(|header| header.value.map_or(0, <[u8]>::len));
        values.sum::<usize>()
    };
    let mut bytes = BytesMut::with_capacity(key.len() + value.len() + found.map_or(0, of_headers));
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    let mut headers = Vec::with_capacity(count);
    for header in found.into_iter().flat_map(Headers::iter) {
        bytes.extend_from_slice(header.value.unwrap_or_default());
    }
    let mut bytes = bytes.freeze();
    let (key, value) = (bytes.split_to(key.len()), bytes.split_to(value.len()));
    for header in found.into_iter().flat_map(Headers::iter) {
        let length = header.value.map_or(0, <[u8]>::len);
        headers.push((headers::name(header.key), bytes.split_to(length)));
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
