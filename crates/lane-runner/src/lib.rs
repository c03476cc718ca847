//! Runs a [`Domain`] exactly once: joins the engine's decisions to Kafka and Postgres.
//!
//! One coordinator task owns reading and group membership; one dispatcher task owns the process's
//! lanes, and lends those that have records to batches: each folds them in one transaction. See
//! ARCHITECTURE.md.

mod batches;
mod config;
mod coordinator;
mod dispatcher;
mod flow;
mod lanes;
mod memory;
mod metrics;
mod pace;
mod service;
mod slot;
mod status;
mod take;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bm_contracts::{Timestamp, Topic};
use bm_engine::Domain;
use bm_kafka::{Fetcher, KafkaConfig, KafkaError, Membership, OutboxPublisher, TopicAdmin};
use bm_storage::{LaneStore, LaneTable};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::{RunnerConfig, RunnerConfigError};
pub use service::{ProcessorError, run_processor};
pub use status::RunnerStatus;

/// Why a runner could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The broker, its topics or the group.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A topic this processor reads or writes is not there.
    #[error("topic {0} does not exist; run create-topics (or `brightmatter topics`)")]
    MissingTopic(Topic),
    /// A bug (a task of the runner panicked), or a client that cannot be used any more.
    #[error("the runner cannot go on: {0}")]
    CannotGoOn(String),
}

/// Everything a runner works with.
pub struct Runner<D: Domain, S: LaneStore<D>> {
    /// The behaviour.
    pub domain: Arc<D>,
    /// Its state.
    pub store: Arc<S>,
    /// The lanes' rows.
    pub lanes: LaneTable,
    /// The bus.
    pub kafka: KafkaConfig,
    /// Sizes and names.
    pub config: RunnerConfig,
    /// Wall time; only `failedAt` of dead letters shows it.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// What the outside may know.
    pub status: Arc<RunnerStatus>,
}

/// What all tasks of a runner share.
struct Shared<D: Domain, S> {
    domain: Arc<D>,
    store: Arc<S>,
    lanes: LaneTable,
    fetcher: Arc<Fetcher>,
    publisher: OutboxPublisher,
    partition_counts: BTreeMap<Topic, i32>,
    /// What all lanes hold that is read and not committed.
    intake: Arc<flow::Intake>,
    config: RunnerConfig,
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    status: Arc<RunnerStatus>,
    metrics: metrics::RunnerMetrics,
}

impl<D: Domain, S: LaneStore<D>> Runner<D, S> {
    /// Runs until `shutdown` is cancelled; then finishes the batches under way and leaves the group.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunnerError> {
        let partition_counts = self.topics(&shutdown).await?;
        let Some(partition_counts) = partition_counts else {
            return Ok(());
        };
        let name = D::PROCESSOR;
        let input_partitions = partition_counts.get(&D::INPUT).copied().unwrap_or(0);
        let fetcher = Arc::new(Fetcher::new(&self.kafka, name, D::INPUT)?);
        let publisher = OutboxPublisher::start(&self.kafka, name)?;
        self.status.publishes_with(publisher.clone());
        let (membership, events) = Membership::join(&self.kafka, &self.config.group, D::INPUT)?;
        let watched = publisher.clone();
        let intake = Arc::<flow::Intake>::default();
        let shared = Arc::new(Shared {
            domain: self.domain,
            store: self.store,
            lanes: self.lanes,
            fetcher: Arc::clone(&fetcher),
            publisher,
            partition_counts,
            intake: Arc::clone(&intake),
            config: self.config,
            now: self.now,
            status: Arc::clone(&self.status),
            metrics: metrics::RunnerMetrics::new(name),
        });
        let (commands, command_queue) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let (sender, inbox) = mpsc::unbounded_channel();
        let dispatcher =
            dispatcher::Dispatcher::new(Arc::clone(&shared), sender.clone(), inbox, commands);
        tasks.spawn(dispatcher.run());
        tracing::info!(processor = name, group = %shared.config.group, workers = shared.config.workers, "processor started");
        let coordinator = coordinator::Coordinator::new(
            fetcher,
            membership,
            events,
            command_queue,
            sender,
            self.status,
            name,
            input_partitions,
            intake,
        );
        coordinator.run(&shutdown, &mut tasks, &watched).await
    }

    /// Waits for the broker; gives the partition counts, or `None` when told to stop meanwhile.
    async fn topics(
        &self,
        shutdown: &CancellationToken,
    ) -> Result<Option<BTreeMap<Topic, i32>>, RunnerError> {
        let admin = TopicAdmin::connect(&self.kafka)?;
        let mut wait = Duration::from_millis(200);
        let counts = loop {
            match admin.partition_counts(&Topic::ALL).await {
                Ok(counts) => break counts,
                Err(e) => {
                    tracing::warn!(processor = D::PROCESSOR, error = %e, "the broker does not answer yet; trying again");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(5)),
            }
        };
        match Topic::ALL.iter().find(|topic| !counts.contains_key(topic)) {
            Some(&missing) => Err(RunnerError::MissingTopic(missing)),
            None => Ok(Some(counts)),
        }
    }
}
