//! All services as tasks of one process: started together, ready together, stopped together.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bm_bootstrap::{Context, Health, Need, Outcome, Shutdown, error_chain};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use crate::error::CliError;

/// The gateway's name.
const GATEWAY: &str = "gateway";

/// How long a service's own checks may take together.
const CHECK: Duration = Duration::from_secs(10);
/// Between two looks at who is ready.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Between two looks at lanes that ran.
const LOOK_AT_LANES: Duration = Duration::from_secs(5);
/// From then on it is said who is not ready yet.
const SAY_AFTER: Duration = Duration::from_secs(10);
/// How long services may take to finish what they are at; longer than they give themselves.
const STOP: Duration = Duration::from_secs(40);

/// The running services.
pub(super) struct Services {
    contexts: Vec<Context>,
    tasks: JoinSet<Result<(), String>>,
    names: Vec<(Id, &'static str)>,
    /// What is said when lanes halt.
    other_log: String,
}

impl Services {
    /// Starts every service; their names are those of their binaries. `other_log` is what to say
    /// when lanes halt.
    pub(super) fn start(ctx: &Context, other_log: String) -> Self {
        let mut services = Self {
            other_log,
            ..Self::none()
        };
        services.add(ctx, GATEWAY, bm_gateway::run);
        services.add(ctx, "event-router", bm_event_router::run);
        services.add(ctx, "quest-processor", bm_quest_processor::run);
        services.add(ctx, "reward-processor", bm_reward_processor::run);
        services
    }

    fn none() -> Self {
        Self {
            contexts: Vec::new(),
            tasks: JoinSet::new(),
            names: Vec::new(),
            other_log: String::new(),
        }
    }

    fn add<F, E>(&mut self, ctx: &Context, name: &'static str, run: impl FnOnce(Context) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Error + 'static,
    {
        // Metrics and readiness of all are served in one place; the gateway has its own beside its
        // other routes, as it has wherever nobody gave them an address.
        let ops = if name == GATEWAY { "" } else { "127.0.0.1:0" };
        let ctx = ctx.child(name, ctx.vars.with([("BM_OPS_ADDR", ops)]));
        let running = run(ctx.clone());
        let task = self
            .tasks
            .spawn(async move { running.await.map_err(|e| error_chain(&e)) });
        self.names.push((task.id(), name));
        self.contexts.push(ctx);
    }

    /// Waits until every service has its lanes, or takes requests; `false` when told to stop before.
    pub(super) async fn ready(
        &mut self,
        shutdown: &Shutdown,
        limit: Duration,
    ) -> Result<bool, CliError> {
        let begun = Instant::now();
        let mut said = false;
        loop {
            let lacking = self.lacking().await;
            if lacking.is_empty() {
                return Ok(true);
            }
            // That does not pass.
            if let Some(words) = self.halted().await {
                return Err(CliError::OtherLog(words));
            }
            let waited = begun.elapsed();
            if waited >= limit {
                return Err(CliError::NotReady {
                    seconds: limit.as_secs(),
                    what: lacking.join("; "),
                });
            }
            if waited >= SAY_AFTER && !said {
                said = true;
                eprintln!("  still waiting: {}", lacking.join("; "));
            }
            tokio::select! {
                () = shutdown.tripped() => return Ok(false),
                Some(ended) = self.tasks.join_next_with_id() => self.judge(ended, false)?,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// What is not ready, and why.
    async fn lacking(&self) -> Vec<String> {
        let mut all = Vec::new();
        for ctx in &self.contexts {
            if let Some(what) = lacking(ctx).await {
                all.push(format!("{} ({what})", ctx.service));
            }
        }
        all
    }

    /// Which services have halted lanes, and what that means; `None` where none has.
    async fn halted(&self) -> Option<String> {
        let mut halted = Vec::new();
        for ctx in &self.contexts {
            let report = ctx.health.report().await;
            if report.checks.values().any(tells_of_halted_lanes) {
                halted.push(ctx.service);
            }
        }
        (!halted.is_empty()).then(|| format!("{} halted: {}", halted.join(", "), self.other_log))
    }

    /// Waits until told to stop; a service that ends before is an error. Lanes that halt meanwhile
    /// are told once, and the others go on.
    pub(super) async fn until_one_ends(&mut self, shutdown: &Shutdown) -> Result<(), CliError> {
        let mut said = false;
        loop {
            tokio::select! {
                () = shutdown.tripped() => return Ok(()),
                Some(ended) = self.tasks.join_next_with_id() => {
                    return self.judge(ended, shutdown.is_tripped());
                }
                () = tokio::time::sleep(LOOK_AT_LANES), if !said => {
                    if let Some(words) = self.halted().await {
                        said = true;
                        eprintln!("{words}");
                    }
                }
            }
        }
    }

    /// Waits until all have stopped, which they were told before; those that do not are cut off.
    /// The first error of any is returned.
    pub(super) async fn stopped(&mut self) -> Result<(), CliError> {
        let deadline = Instant::now() + STOP;
        let mut outcome = Ok(());
        loop {
            match tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(Some(ended)) => outcome = outcome.and(self.judge(ended, true)),
                Ok(None) => return outcome,
                Err(_elapsed) => {
                    tracing::warn!(services = self.tasks.len(), "services did not stop in time");
                    self.tasks.shutdown().await;
                    return outcome;
                }
            }
        }
    }

    fn judge(
        &self,
        ended: Result<(Id, Result<(), String>), tokio::task::JoinError>,
        stopping: bool,
    ) -> Result<(), CliError> {
        let (id, why) = match ended {
            Ok((_, Ok(()))) if stopping => return Ok(()),
            Ok((id, Ok(()))) => (id, "without being told to".to_owned()),
            Ok((id, Err(why))) => (id, why),
            Err(panicked) => (
                panicked.id(),
                "a panic, which the log tells about".to_owned(),
            ),
        };
        let named = self.names.iter().find(|(known, _)| *known == id);
        Err(CliError::Service {
            service: named.map_or("a service", |(_, name)| name),
            why,
        })
    }

    /// Where the gateway listens.
    pub(super) fn gateway(&self) -> Option<SocketAddr> {
        let gateway = self.contexts.iter().find(|ctx| ctx.service == GATEWAY)?;
        gateway.address()
    }

    /// Has `health` report every service, a check each.
    pub(super) fn report_to(&self, health: &Health) {
        for ctx in &self.contexts {
            let ctx = ctx.clone();
            health.register(ctx.service, Need::Required, CHECK, move || {
                let ctx = ctx.clone();
                async move {
                    match lacking(&ctx).await {
                        None => Outcome::ok(),
                        Some(what) => Outcome::failed(what),
                    }
                }
            });
        }
    }
}

/// What a service lacks to be ready; `None` when it is.
async fn lacking(ctx: &Context) -> Option<String> {
    let report = ctx.health.report().await;
    // A service that has registered nothing yet has not begun.
    if ctx.address().is_none() || report.checks.is_empty() {
        return Some("is starting".to_owned());
    }
    if report.ready {
        return None;
    }
    let failing: Vec<String> = report
        .checks
        .iter()
        .filter(|(_, outcome)| !outcome.ok)
        .map(|(name, outcome)| format!("{name}: {}", outcome.detail.as_deref().unwrap_or("failed")))
        .collect();
    Some(failing.join(", "))
}

/// Whether a check's words are those of a processor's lanes (`…, 2 halted; …`), some of which halted.
fn tells_of_halted_lanes(outcome: &Outcome) -> bool {
    let words = outcome.detail.as_deref().unwrap_or_default();
    let mut parts = words.split([',', ';']).map(str::trim);
    parts
        .find_map(|part| part.strip_suffix(" halted"))
        .and_then(|count| count.parse().ok())
        .is_some_and(|count: usize| count > 0)
}

#[cfg(test)]
mod tests {
    use bm_bootstrap::{Clock, Vars, metrics};

    use super::*;

    fn context() -> Context {
        let clock = Clock::system();
        let metrics = metrics::install("test", &clock).unwrap();
        Context::new("brightmatter", Vars::default(), clock, metrics)
    }

    async fn good(ctx: Context) -> Result<(), std::io::Error> {
        ctx.health
            .register("lanes", Need::Required, SAY_AFTER, || async {
                Outcome::ok()
            });
        ctx.announce("127.0.0.1:7".parse().unwrap());
        ctx.shutdown.tripped().await;
        Ok(())
    }

    async fn lame(ctx: Context) -> Result<(), std::io::Error> {
        ctx.health
            .register("lanes", Need::Required, SAY_AFTER, || async {
                Outcome::failed("no lanes")
            });
        ctx.announce("127.0.0.1:8".parse().unwrap());
        ctx.shutdown.tripped().await;
        Ok(())
    }

    async fn failing(_ctx: Context) -> Result<(), std::io::Error> {
        Err(std::io::Error::other("no disk"))
    }

    async fn panicking(ctx: Context) -> Result<(), std::io::Error> {
        assert_eq!(ctx.service, "nobody");
        Ok(())
    }

    #[tokio::test]
    async fn they_are_ready_together_and_stop_together() {
        let ctx = context();
        let mut services = Services::none();
        services.add(&ctx, "one", good);
        services.add(&ctx, "two-three", good);
        assert!(services.ready(&ctx.shutdown, STOP).await.unwrap());
        services.report_to(&ctx.health);
        let report = ctx.health.report().await;
        assert!(report.ready && report.checks["two-three"].ok);
        ctx.shutdown.trip();
        services.until_one_ends(&ctx.shutdown).await.unwrap();
        services.stopped().await.unwrap();
    }

    #[tokio::test]
    async fn who_is_not_ready_is_named_with_the_reason() {
        let ctx = context();
        let mut services = Services::none();
        services.add(&ctx, "one", good);
        services.add(&ctx, "two", lame);
        let error = services
            .ready(&ctx.shutdown, LOOK_AGAIN * 3)
            .await
            .unwrap_err();
        assert!(
            error.to_string().ends_with("two (lanes: no lanes)"),
            "{error}"
        );
    }

    async fn on_another_log(ctx: Context) -> Result<(), std::io::Error> {
        ctx.health
            .register("lanes", Need::Required, SAY_AFTER, || async {
                Outcome::failed("5 assigned, 3 running, 0 stalled, 2 halted")
            });
        ctx.announce("127.0.0.1:9".parse().unwrap());
        ctx.shutdown.tripped().await;
        Ok(())
    }

    #[tokio::test]
    async fn halted_lanes_are_told_at_once_in_plain_words() {
        let ctx = context();
        let mut services = Services::none();
        services.other_log = "another log; delete .dev".to_owned();
        services.add(&ctx, "one", good);
        services.add(&ctx, "two", on_another_log);
        let error = services.ready(&ctx.shutdown, STOP).await.unwrap_err();
        assert_eq!(error.to_string(), "two halted: another log; delete .dev");
    }

    #[tokio::test]
    async fn a_service_that_fails_or_panics_is_the_error() {
        for (run, why) in [("failing", "no disk"), ("panicking", "panic")] {
            let ctx = context();
            let mut services = Services::none();
            services.add(&ctx, "one", good);
            match run {
                "failing" => services.add(&ctx, run, failing),
                _ => services.add(&ctx, run, panicking),
            }
            let error = services.until_one_ends(&ctx.shutdown).await.unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("{run} ended")),
                "{error}"
            );
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
