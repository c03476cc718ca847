//! The only user of rdkafka: topics, group membership, readers and producers of the bus.
//!
//! | module | what for |
//! | --- | --- |
//! | [`config`] | where the brokers are, how to log in, what topics are called |
//! | [`admin`] | create, compare and list topics; say clearly why a broker cannot be used |
//! | [`membership`] | which partitions of a topic this process may work on |
//! | [`fetcher`] | reads partitions from exact offsets |
//! | [`publisher`] | sends lanes' outboxes, whole and in order, until the broker has them |
//! | [`event_producer`] | appends single messages and tells where and when they landed |
//! | [`log_reader`] | reads whole topics, for tools |

pub mod admin;
pub mod config;
pub mod error;
pub mod event_producer;
pub mod fetcher;
pub mod log_reader;
pub mod membership;
pub mod publisher;
pub mod report;

mod acks;
mod append_context;
mod background;
mod backlog;
mod convert;
mod ledger;
mod metrics;
mod observer;
mod outbox_task;
mod position;
mod refusal;
mod share;

pub use admin::TopicAdmin;
pub use config::{ConfigError, KafkaConfig, Mechanism, Security};
pub use error::KafkaError;
pub use event_producer::{
    AppendConfig, AppendError, AppendFuture, Appended, Appending, EventProducer, Outcomes,
};
pub use fetcher::{Fetched, Fetcher};
pub use log_reader::{LogReader, Snapshot};
pub use membership::{Membership, MembershipEvent};
pub use publisher::{OutboxPublisher, Publication};
pub use report::{Difference, ExistingTopic, TopicReport, TopicState};
