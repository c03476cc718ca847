//! Topics: create what is missing, compare what is there; and whether the brokers can be used at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bm_contracts::Topic;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{Producer, ThreadedProducer};
use tokio::time::Instant;

use crate::background::{blocking, drop_in_background};
use crate::config::{KafkaConfig, Security};
use crate::error::KafkaError;
use crate::observer::{FaultKind, Observer};
use crate::report::{ExistingTopic, TopicReport, TopicState, differences, wanted_settings};

/// How long a broker may take to answer a question about the cluster.
const ASK: Duration = Duration::from_secs(10);
/// Asking blocks a thread, and with it the end of the client, for no longer than this at a time.
const SLICE: Duration = Duration::from_secs(3);
/// How long closing the client may take.
const CLOSE: Duration = Duration::from_secs(5);
/// How long new topics may take to have leaders everywhere.
const SETTLE: Duration = Duration::from_secs(30);
/// Between two looks at a cluster that is still at work.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Looks at and creates topics.
pub struct TopicAdmin {
    config: KafkaConfig,
    observer: Observer,
    /// Polled by its own thread, so that the reason of a failed connection is heard.
    client: Option<Arc<ThreadedProducer<Observer>>>,
}

/// The cluster as its metadata tells it.
struct Cluster {
    brokers: usize,
    topics: BTreeMap<String, Shape>,
}

struct Shape {
    partitions: i32,
    replication: i16,
    has_leaders: bool,
}

impl From<&Metadata> for Cluster {
    fn from(metadata: &Metadata) -> Self {
        let topics = metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none())
            .map(|topic| {
                let partitions = topic.partitions();
                let replicas = partitions.iter().map(|p| p.replicas().len()).min();
                let shape = Shape {
                    partitions: partitions.len() as i32,
                    replication: replicas.unwrap_or(0) as i16,
                    has_leaders: partitions.iter().all(|p| p.leader() >= 0),
                };
                (topic.name().to_owned(), shape)
            })
            .collect();
        Self {
            brokers: metadata.brokers().len(),
            topics,
        }
    }
}

impl TopicAdmin {
    /// Makes the client. Whether the brokers answer is seen by [`TopicAdmin::ping`].
    pub fn connect(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let observer = Observer::new("admin");
        let client = config
            .client()
            // A broker that wants TLS hangs up on a client without, and says nothing else.
            .set("log.connection.close", "true")
            .create_with_context(observer.clone())
            .map_err(|error| KafkaError::client(&error))?;
        Ok(Self {
            config: config.clone(),
            observer,
            client: Some(Arc::new(client)),
        })
    }

    /// Whether a broker answers within `timeout`.
    ///
    /// A refused login and a failed TLS handshake are told at once; an unreachable broker after `timeout`.
    pub async fn ping(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.cluster(timeout).await.map(drop)
    }

    /// Partition counts of those of `topics` that exist.
    pub async fn partition_counts(
        &self,
        topics: &[Topic],
    ) -> Result<BTreeMap<Topic, i32>, KafkaError> {
        let cluster = self.cluster(ASK).await?;
        Ok(topics
            .iter()
            .filter_map(|&topic| {
                let shape = cluster.topics.get(&self.config.names.full(topic))?;
                Some((topic, shape.partitions))
            })
            .collect())
    }

    /// Creates the topics that are missing, compares those that were there, and changes nothing that exists.
    ///
    /// `replication`, else the configured factor, else 1 where the cluster has one broker and 3 where it has more.
    /// An error means that the cluster could not be asked; what befell single topics stands in the report.
    pub async fn reconcile(&self, replication: Option<i16>) -> Result<TopicReport, KafkaError> {
        self.compare(replication, true).await
    }

    /// Like [`TopicAdmin::reconcile`], but creates nothing.
    pub async fn inspect(&self, replication: Option<i16>) -> Result<TopicReport, KafkaError> {
        self.compare(replication, false).await
    }

    /// Closes the client, so that no thread of it is at work when the process ends. At most 5 s.
    pub async fn close(mut self) {
        if let Some(client) = self.client.take() {
            let closed = drop_in_background(client);
            if tokio::time::timeout(CLOSE, closed).await.is_err() {
                tracing::debug!("the admin client is still closing");
            }
        }
    }

    async fn compare(
        &self,
        replication: Option<i16>,
        create: bool,
    ) -> Result<TopicReport, KafkaError> {
        let names = &self.config.names;
        let mut cluster = self.cluster(ASK).await?;
        let replication = replication
            .or(self.config.replication)
            .unwrap_or(if cluster.brokers == 1 { 1 } else { 3 });
        let admin = self.admin_client()?;

        let missing: Vec<Topic> = Topic::ALL
            .into_iter()
            .filter(|&topic| !cluster.topics.contains_key(&names.full(topic)))
            .collect();
        let mut created = BTreeMap::new();
        if create && !missing.is_empty() {
            created = self.create(&admin, &missing, replication).await?;
            let expected: Vec<String> = missing
                .iter()
                .filter(|topic| !matches!(created.get(topic), Some(TopicState::Failed(_))))
                .map(|&topic| names.full(topic))
                .collect();
            cluster = self.settled(&expected).await?;
        }

        let present: Vec<String> = Topic::ALL
            .into_iter()
            .map(|topic| names.full(topic))
            .filter(|name| cluster.topics.contains_key(name))
            .collect();
        let mut settings = self.settings(&admin, &present, replication).await?;
        drop(admin);

        let existing: Vec<ExistingTopic> = cluster
            .topics
            .iter()
            .filter(|(name, _)| !name.starts_with("__") && name.starts_with(&self.prefix()))
            .map(|(name, shape)| ExistingTopic {
                name: name.clone(),
                partitions: shape.partitions,
                replication: shape.replication,
                settings: settings.remove(name).unwrap_or_default(),
            })
            .collect();
        let topics = Topic::ALL
            .into_iter()
            .map(|topic| {
                let name = names.full(topic);
                let state = match created.remove(&topic) {
                    Some(state) => state,
                    None => match existing.iter().find(|existing| existing.name == name) {
                        None => TopicState::Missing,
                        Some(existing) => match differences(topic, replication, existing) {
                            found if found.is_empty() => TopicState::AsWanted,
                            found => TopicState::Differs(found),
                        },
                    },
                };
                (name, state)
            })
            .collect();
        Ok(TopicReport {
            brokers: self.config.brokers.clone(),
            replication,
            topics,
            existing,
        })
    }

    /// Asks for `topics` to be created. A topic somebody else created meanwhile is not in the answer.
    async fn create(
        &self,
        admin: &ShortLived,
        topics: &[Topic],
        replication: i16,
    ) -> Result<BTreeMap<Topic, TopicState>, KafkaError> {
        let named: Vec<(String, Topic, BTreeMap<&'static str, String>)> = topics
            .iter()
            .map(|&topic| {
                (
                    self.config.names.full(topic),
                    topic,
                    wanted_settings(topic, replication),
                )
            })
            .collect();
        let new: Vec<NewTopic<'_>> = named
            .iter()
            .map(|(name, topic, settings)| {
                let new = NewTopic::new(
                    name,
                    topic.spec().partitions,
                    TopicReplication::Fixed(i32::from(replication)),
                );
                settings
                    .iter()
                    .fold(new, |new, (setting, value)| new.set(setting, value))
            })
            .collect();
        let options = AdminOptions::new()
            .operation_timeout(Some(SETTLE))
            .request_timeout(Some(SETTLE + ASK));
        let results = admin
            .client()?
            .create_topics(&new, &options)
            .await
            .map_err(|error| KafkaError::refused("creating topics", &error))?;
        let mut states = BTreeMap::new();
        for result in results {
            let (name, state) = match result {
                Ok(name) => (name, TopicState::Created),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => continue,
                Err((name, code)) => (name, TopicState::Failed(explain(code, replication))),
            };
            if let Some(topic) = self.config.names.parse(&name) {
                states.insert(topic, state);
            }
        }
        Ok(states)
    }

    /// The cluster once all of `expected` are there with their leaders: right after creation they may not be.
    async fn settled(&self, expected: &[String]) -> Result<Cluster, KafkaError> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let cluster = self.cluster(ASK).await?;
            let settled = expected.iter().all(|name| {
                cluster
                    .topics
                    .get(name)
                    .is_some_and(|shape| shape.has_leaders)
            });
            if settled {
                return Ok(cluster);
            }
            if Instant::now() >= deadline {
                return Err(KafkaError::TimedOut {
                    what: "electing leaders for the new topics",
                    after: SETTLE,
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// For each topic of `present`, by full name, its values of the settings the registry fixes.
    async fn settings(
        &self,
        admin: &ShortLived,
        present: &[String],
        replication: i16,
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, KafkaError> {
        if present.is_empty() {
            return Ok(BTreeMap::new());
        }
        let resources: Vec<ResourceSpecifier<'_>> = present
            .iter()
            .map(|name| ResourceSpecifier::Topic(name))
            .collect();
        let options = AdminOptions::new().request_timeout(Some(ASK));
        let deadline = Instant::now() + SETTLE;
        loop {
            let outcome = admin
                .client()?
                .describe_configs(&resources, &options)
                .await
                .and_then(|results| {
                    results
                        .into_iter()
                        .map(|result| result.map_err(ClientError::AdminOp))
                        .collect::<Result<Vec<_>, _>>()
                });
            match outcome {
                Ok(described) => {
                    return Ok(described
                        .into_iter()
                        .filter_map(|resource| {
                            let OwnedResourceSpecifier::Topic(name) = resource.specifier else {
                                return None;
                            };
                            let wanted =
                                wanted_settings(self.config.names.parse(&name)?, replication);
                            let values = resource
                                .entries
                                .into_iter()
                                .filter(|entry| wanted.contains_key(entry.name.as_str()))
                                .filter_map(|entry| Some((entry.name, entry.value?)))
                                .collect();
                            Some((name, values))
                        })
                        .collect());
                }
                Err(error) if is_passing(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(error) => return Err(KafkaError::refused("reading topic settings", &error)),
            }
        }
    }

    async fn cluster(&self, timeout: Duration) -> Result<Cluster, KafkaError> {
        let Some(client) = self.client.clone() else {
            return Err(KafkaError::Stopped);
        };
        // What was complained of before this call may have passed. It still explains a call that gets no answer,
        // because the client says the same thing again only after half a minute.
        let mut faults = self.observer.faults();
        // Nobody waits any more when this future is dropped or has given up.
        let still_asked = Arc::new(());
        let asking = Arc::downgrade(&still_asked);
        let asked = blocking(move || {
            let deadline = std::time::Instant::now() + timeout;
            loop {
                let left = deadline.saturating_duration_since(std::time::Instant::now());
                let answer = client.client().fetch_metadata(None, left.min(SLICE));
                if answer.is_ok() || left <= SLICE || asking.strong_count() == 0 {
                    return answer;
                }
            }
        });
        tokio::pin!(asked);
        loop {
            let answer = tokio::select! {
                biased;
                answer = &mut asked => answer?,
                Ok(()) = faults.changed() => {
                    // A login or a handshake that failed will fail again: nobody needs to wait for the deadline.
                    let hopeless = faults.borrow_and_update().clone().filter(|fault| {
                        matches!(fault.kind, FaultKind::Authentication | FaultKind::Tls)
                    });
                    match hopeless {
                        Some(fault) => return Err(fault.into_error(&self.config.brokers)),
                        None => continue,
                    }
                }
            };
            return match answer {
                Ok(metadata) => {
                    self.observer.forget_fault();
                    Ok(Cluster::from(&metadata))
                }
                Err(error) => {
                    let fault = faults.borrow().clone();
                    Err(fault.map_or_else(
                        || KafkaError::Unreachable {
                            brokers: self.config.brokers.clone(),
                            reason: self.unexplained(&error),
                        },
                        |fault| fault.into_error(&self.config.brokers),
                    ))
                }
            };
        }
    }

    /// The connection was taken, or there would have been a complaint, and nothing came of it.
    fn unexplained(&self, error: &ClientError) -> String {
        match self.config.security {
            Security::Plaintext => format!(
                "{error}; if it wants a login over TLS, set REDPANDA_USERNAME and REDPANDA_PASSWORD"
            ),
            Security::SaslTls { .. } => error.to_string(),
        }
    }

    /// Made for one errand: nobody polls its logs, so it must not live long.
    fn admin_client(&self) -> Result<ShortLived, KafkaError> {
        self.config
            .client()
            .create_with_context(self.observer.clone())
            .map(|client| ShortLived(Some(client)))
            .map_err(|error| KafkaError::client(&error))
    }

    fn prefix(&self) -> String {
        let full = self.config.names.full(Topic::GameEvents);
        full.strip_suffix(Topic::GameEvents.name())
            .unwrap_or_default()
            .to_owned()
    }
}

impl Drop for TopicAdmin {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(drop_in_background(client));
        }
    }
}

/// A client for one errand, closed in the background.
struct ShortLived(Option<AdminClient<Observer>>);

impl ShortLived {
    fn client(&self) -> Result<&AdminClient<Observer>, KafkaError> {
        self.0.as_ref().ok_or(KafkaError::Stopped)
    }
}

impl Drop for ShortLived {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(drop_in_background(client));
        }
    }
}

/// What a broker may say of a topic it has only just been told of.
fn is_passing(error: &ClientError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotController
                | RDKafkaErrorCode::BrokerTransportFailure
        )
    )
}

fn explain(code: RDKafkaErrorCode, replication: i16) -> String {
    match code {
        RDKafkaErrorCode::InvalidReplicationFactor => format!(
            "the cluster has too few brokers for replication factor {replication} (BM_REPLICATION_FACTOR)"
        ),
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed => {
            "the user may not create topics".to_owned()
        }
        code => code.to_string(),
    }
}
