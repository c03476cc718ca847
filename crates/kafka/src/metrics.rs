//! What the metrics of this crate mean.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Outboxes given to a publisher and not acknowledged.
pub(crate) const OUTBOXES_WAITING: &str = "bm_kafka_outboxes_waiting";
/// How long the oldest of them has waited.
pub(crate) const OUTBOX_OLDEST: &str = "bm_kafka_outbox_oldest_seconds";
/// Records missing before one that was read.
pub(crate) const GAPS: &str = "bm_kafka_gaps_total";

/// Describes the lanes' producer's.
pub(crate) fn describe_publisher() {
    describe_gauge!(
        OUTBOXES_WAITING,
        "Outboxes of the lanes that the broker has not wholly acknowledged; their lanes commit nothing meanwhile."
    );
    describe_gauge!(
        OUTBOX_OLDEST,
        Unit::Seconds,
        "How long the oldest outbox has waited for its acknowledgement; 0 when none waits. More than a minute needs somebody to look."
    );
    describe_histogram!(
        "bm_kafka_outbox_ack_seconds",
        Unit::Seconds,
        "From the hand-over of an outbox to its last acknowledgement."
    );
    describe_counter!(
        "bm_kafka_outbox_messages_total",
        "Messages of outboxes sent, those sent again included."
    );
    describe_counter!(
        "bm_kafka_outbox_bytes_total",
        Unit::Bytes,
        "Their values' size."
    );
    describe_counter!(
        "bm_kafka_outbox_generations_total",
        "Producers of the lanes that failed and were replaced."
    );
}

/// Describes the readers'.
pub(crate) fn describe_fetcher() {
    describe_counter!(
        GAPS,
        "Times that offsets were missing before a record read: an input topic should have no gaps."
    );
}
