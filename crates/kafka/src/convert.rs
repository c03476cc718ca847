//! From the client library's message to the project's record.

use bm_contracts::{Timestamp, headers};
use bm_engine::Record;
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers, Message};

/// An owned copy of `message`: the only one on the way from the client's buffer, which holds a whole fetch and must
/// not live as long as a record may.
pub(crate) fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (headers::name(header.key), copy(header.value)))
            .collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: Timestamp::clamped(message.timestamp().to_millis().unwrap_or(0)),
        key: copy(message.key()),
        value: copy(message.payload()),
        headers,
    }
}

fn copy(bytes: Option<&[u8]>) -> Bytes {
    bytes.map_or_else(Bytes::new, Bytes::copy_from_slice)
}
