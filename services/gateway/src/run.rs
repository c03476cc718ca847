//! A gateway's life: it is put together, serves, and ends without losing what it has taken.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bm_admission::{Idempotency, Limiter, LimiterConfig, Players, RedisHandle, SteadyClock};
use bm_bootstrap::serve::{self, BindError, ServeConfig};
use bm_bootstrap::{Context, ops};
use bm_kafka::{EventProducer, KafkaError};
use bm_storage::{Storage, StoreError};
use bm_studio_auth::StudioDirectory;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::games::GameCache;
use crate::gateway::Gateway;
use crate::memory::Memory;
use crate::routes;
use crate::settings::{Settings, SettingsError};
use crate::stats::EventStats;
use crate::wiring::{Database, StudiosInDatabase, register_health};

/// How long the broker is waited for before the first request is taken; a gateway without one
/// starts all the same, and is not ready.
const WARM_UP: Duration = Duration::from_secs(3);
/// What comes after the last request, beyond the time requests have to end: events whose clients
/// went away, and the producer's queue. Together with the default of `BM_HTTP_DRAIN_TIMEOUT_MS` and
/// the farewell it stays below the 30 s after which orchestrators kill.
const LAST_APPENDS: Duration = Duration::from_secs(3);
/// Farewells to Redis and to the database.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A variable is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Its address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The producer cannot be made.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The database's schema is older than this software knows.
    #[error(transparent)]
    Schema(#[from] StoreError),
    /// The server ended by itself, which it does not.
    #[error("the HTTP server ended unexpectedly")]
    Server,
}

/// Runs a gateway until `ctx` is told to stop; then takes nothing new, lets what is under way end,
/// and returns when every event taken has its outcome.
///
/// Needs nothing but an address and a sound configuration to start: what is away is waited for, told
/// by `/readyz`, and answered with 503. Only a database with an older schema is refused at once.
pub async fn run(ctx: Context) -> Result<(), GatewayError> {
    let settings = Settings::from_vars(&ctx.vars)?;
    bm_admission::describe_metrics();
    let storage = Storage::connect_lazily(&settings.storage);
    let database = Database::new(storage.clone());
    let producer = EventProducer::new(&settings.kafka, &settings.append, "gateway")?;
    let (checked, warm, redis) = tokio::join!(
        database.check(),
        producer.warm_up(WARM_UP),
        RedisHandle::connect(
            &settings.admission.redis_url,
            settings.admission.redis_timeout
        ),
    );
    match checked {
        Err(error) if !error.is_transient() => return Err(error.into()),
        Err(error) => tracing::warn!(%error, "the database does not answer yet"),
        Ok(()) => {}
    }
    if let Err(error) = warm {
        tracing::warn!(%error, "the broker does not answer yet");
    }
    // The URL was read before; what else can fail is the TLS of this process.
    let redis = redis.map_err(|error| {
        tracing::error!(%error, "cannot use REDIS_URL");
        SettingsError::from(bm_admission::AdmissionConfigError::Invalid(
            "REDIS_URL",
            "a Redis URL this process can connect to",
        ))
    })?;
    let clock = ctx.clock.clone();
    let last_known = Arc::new(StudiosInDatabase(storage.clone()));
    let directory = StudioDirectory::start(
        &settings.studios,
        Some(last_known),
        Arc::new(move || clock.now()),
    )
    .await;
    register_health(&ctx, &producer, &database, &redis, &directory);

    let admission = &settings.admission;
    let ids = Idempotency::new(Some(redis.clone()), &admission.redis_prefix);
    let limiter = Limiter::new(
        Some(redis),
        LimiterConfig::from(admission),
        SteadyClock::default(),
    );
    let work = TaskTracker::new();
    let gateway = Arc::new(Gateway {
        directory,
        limiter: limiter.clone(),
        players: Players::new(admission.player_events_per_minute),
        games: GameCache::new(Arc::new(storage.clone())),
        ids: Arc::new(ids.clone()),
        log: Arc::new(producer.clone()),
        clock: ctx.clock.clone(),
        stats: EventStats::new(),
        work: work.clone(),
        body_timeout: settings.body_timeout,
        memory: Memory::of(settings.body_memory),
    });
    let operators = ops::router(ctx.service, ctx.health.clone(), ctx.metrics.clone());
    let mut router = routes::router(gateway);
    // Until the end: draining is worth watching too.
    let _operators = match &settings.ops_address {
        None => {
            router = router.merge(operators);
            None
        }
        Some(address) => Some(serve_operators(address, operators, settings.serve).await?),
    };

    let ended = serve_until_told(&ctx, &settings, router).await;
    let told = ended.as_ref().copied().unwrap_or_else(|_| Instant::now());

    // All requests have ended; what they handed over may not have. One deadline for all of it.
    let deadline = told + settings.serve.drain_timeout + LAST_APPENDS;
    work.close();
    if tokio::time::timeout_at(deadline, work.wait())
        .await
        .is_err()
    {
        tracing::error!(
            tasks = work.len(),
            "ending although events have no outcome yet; none of them was answered as accepted"
        );
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if let Err(error) = producer.flush(left).await {
        tracing::error!(%error, "the producer's queue is not empty");
    }
    let farewells = async { tokio::join!(ids.flush(), limiter.close(), storage.close()) };
    // Nothing is lost when they do not hear it.
    let _heard = tokio::time::timeout(FAREWELL, farewells).await;
    ended.map(|_told| ())
}

/// Serves operators at an address of their own until what is returned is dropped.
async fn serve_operators(
    address: &str,
    router: Router,
    config: ServeConfig,
) -> Result<DropGuard, BindError> {
    let listener = serve::bind(address).await?;
    tracing::info!(server.address = address, "operators are served");
    let stop = CancellationToken::new();
    tokio::spawn(serve::serve(listener, router, config, stop.clone()));
    Ok(stop.drop_guard())
}

/// Serves; gives the moment it was told to stop, after all requests have ended or were cut off.
async fn serve_until_told(
    ctx: &Context,
    settings: &Settings,
    router: Router,
) -> Result<Instant, GatewayError> {
    let listener = serve::bind(&settings.address).await?;
    let address = listener.local_addr().map_err(|source| BindError {
        address: settings.address.clone(),
        source,
    })?;
    ctx.announce(address);
    let stop = CancellationToken::new();
    let mut server = tokio::spawn(serve::serve(listener, router, settings.serve, stop.clone()));
    tokio::select! {
        () = ctx.shutdown.tripped() => {}
        _ended = &mut server => return Err(GatewayError::Server),
    }
    let told = Instant::now();
    ctx.health.drain();
    stop.cancel();
    server.await.map_err(|_| GatewayError::Server)?;
    Ok(told)
}
