//! Which of a broker's answers do not pass by themselves, and what is to be done about them.

use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};

/// What somebody must do about `code`; `None` where it may pass by itself.
pub(crate) fn advice(code: RDKafkaErrorCode) -> Option<&'static str> {
    Some(match code {
        RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed
        | RDKafkaErrorCode::UnsupportedSASLMechanism => {
            "check REDPANDA_USERNAME, REDPANDA_PASSWORD and REDPANDA_SASL_MECHANISM"
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            "give REDPANDA_USERNAME the right to the topic (ACL)"
        }
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            "give REDPANDA_USERNAME the right to the consumer group (ACL)"
        }
        RDKafkaErrorCode::ClusterAuthorizationFailed => {
            "give REDPANDA_USERNAME the right to IdempotentWrite on the cluster (ACL)"
        }
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownPartition
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownTopicId
        | RDKafkaErrorCode::InvalidTopic => {
            "was the topic deleted, or BM_TOPIC_PREFIX changed? `brightmatter topics` shows what is there"
        }
        RDKafkaErrorCode::MessageSizeTooLarge
        | RDKafkaErrorCode::MessageBatchTooLarge
        | RDKafkaErrorCode::InvalidMessageSize => {
            "put the topic's max.message.bytes back to what `brightmatter topics` wants"
        }
        RDKafkaErrorCode::InvalidRecord
        | RDKafkaErrorCode::InvalidTimestamp
        | RDKafkaErrorCode::InvalidRequiredAcks
        | RDKafkaErrorCode::PolicyViolation
        | RDKafkaErrorCode::UnsupportedForMessageFormat
        | RDKafkaErrorCode::UnsupportedCompressionType => {
            "put the topic's settings back to what `brightmatter topics` wants"
        }
        _ => return None,
    })
}

/// `error` in words, with what is to be done about it where that is known; and whether it is.
pub(crate) fn explain(error: &ClientError) -> (String, bool) {
    match error.rdkafka_error_code().and_then(advice) {
        Some(advice) => (format!("{error}; {advice}"), true),
        None => (error.to_string(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leader_election_or_a_restart_answers_may_pass() {
        for code in [
            RDKafkaErrorCode::LeaderNotAvailable,
            RDKafkaErrorCode::NotLeaderForPartition,
            RDKafkaErrorCode::NotEnoughReplicas,
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::CoordinatorNotAvailable,
            RDKafkaErrorCode::OutOfOrderSequenceNumber,
            RDKafkaErrorCode::PurgeQueue,
        ] {
            assert_eq!(advice(code), None, "{code:?}");
        }
        assert!(advice(RDKafkaErrorCode::TopicAuthorizationFailed).is_some());
    }
}
