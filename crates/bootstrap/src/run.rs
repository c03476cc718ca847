//! The frame around a binary's own work: everything it needs is made, then it runs to its end.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::health::Health;
use crate::metrics::{self, MetricsHandle};
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Format};
use crate::vars::Vars;

/// What a service gets from outside itself; clones are cheap and share everything.
#[derive(Debug, Clone)]
pub struct Context {
    /// Its name, such as `quest-processor`.
    pub service: &'static str,
    /// Its configuration.
    pub vars: Vars,
    /// Where it takes the time from.
    pub clock: Clock,
    /// When it is to stop.
    pub shutdown: Shutdown,
    /// What it has recorded.
    pub metrics: MetricsHandle,
    /// Where it registers what it depends on.
    pub health: Health,
    addresses: Arc<Mutex<BTreeMap<&'static str, SocketAddr>>>,
}

impl Context {
    /// A context with a fresh health registry and shutdown; for tests, and for what `run` makes.
    pub fn new(service: &'static str, vars: Vars, clock: Clock, metrics: MetricsHandle) -> Self {
        Self {
            service,
            vars,
            clock,
            shutdown: Shutdown::new(),
            metrics,
            health: Health::new(),
            addresses: Arc::default(),
        }
    }

    /// A context for `service` in the same process: with `vars` instead of this one's, a health
    /// registry of its own, and a shutdown that this one's trips.
    #[must_use]
    pub fn child(&self, service: &'static str, vars: Vars) -> Self {
        Self {
            service,
            vars,
            clock: self.clock.clone(),
            shutdown: self.shutdown.child(),
            metrics: self.metrics.clone(),
            health: Health::new(),
            addresses: Arc::clone(&self.addresses),
        }
    }

    /// Says where this service listens: in the log, and to whoever runs it.
    pub fn announce(&self, address: SocketAddr) {
        tracing::info!(server.service = self.service, server.address = %address, "listening");
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.service, address);
    }

    /// Where this service listens, once it has announced it.
    pub fn address(&self) -> Option<SocketAddr> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(self.service)
            .copied()
    }
}

/// What a binary is.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Its name.
    pub service: &'static str,
    /// What it logs when the variables do not say.
    pub log: telemetry::Defaults,
}

/// Runs a service: JSON logs to standard output, and otherwise as [`run_with`].
pub fn run<E: Into<Box<dyn Error>>>(
    service: &'static str,
    main: impl AsyncFnOnce(Context) -> Result<(), E>,
) -> ExitCode {
    let log = telemetry::Defaults::SERVICE;
    run_with(Options { service, log }, async |ctx| {
        main(ctx).await.map(|()| ExitCode::SUCCESS)
    })
}

/// Makes configuration, logs, TLS, metrics and a runtime (`BM_WORKER_THREADS`), runs `main` in it
/// and gives its exit code; an error, or anything that cannot be made, is told with its causes and
/// gives 1.
pub fn run_with<E: Into<Box<dyn Error>>>(
    options: Options,
    main: impl AsyncFnOnce(Context) -> Result<ExitCode, E>,
) -> ExitCode {
    let mut format = None;
    match try_run(options, main, &mut format) {
        Ok(code) => code,
        Err(error) => {
            let chain = error_chain(&*error);
            match format {
                Some(Format::Json) => {
                    tracing::error!(error = chain, "{} ended with an error", options.service);
                }
                // For people, or before there were logs.
                Some(Format::Text) | None => eprintln!("{}: {chain}", options.service),
            }
            ExitCode::FAILURE
        }
    }
}

fn try_run<E: Into<Box<dyn Error>>>(
    options: Options,
    main: impl AsyncFnOnce(Context) -> Result<ExitCode, E>,
    format: &mut Option<Format>,
) -> Result<ExitCode, Box<dyn Error>> {
    let vars = Vars::load()?;
    *format = Some(telemetry::init(options.service, &vars, options.log)?);
    // An error says that a provider is installed already: in one process with others, as in tests.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let clock = Clock::system();
    let metrics = metrics::install(options.service, &clock)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let expected = "a number of threads from 1 to 512";
    match vars.parsed("BM_WORKER_THREADS", expected, 0_usize)? {
        0 if vars.get("BM_WORKER_THREADS").is_none() => {}
        threads @ 1..=512 => {
            runtime.worker_threads(threads);
        }
        _ => {
            return Err(crate::vars::VarsError::Invalid {
                name: "BM_WORKER_THREADS".to_owned(),
                expected,
            }
            .into());
        }
    }
    let runtime = runtime.enable_all().thread_name(options.service).build()?;
    let ended = runtime.block_on(async {
        metrics.spawn_upkeep();
        let mut ctx = Context::new(options.service, vars, clock, metrics);
        ctx.shutdown = Shutdown::on_signals()?;
        tracing::info!(version = crate::VERSION, "{} starts", options.service);
        let code = Box::pin(main(ctx)).await.map_err(Into::into)?;
        tracing::info!("{} ends", options.service);
        Ok(code)
    });
    // Blocking calls into libraries may hang on a server that is gone; nothing waits for them.
    runtime.shutdown_timeout(Duration::from_secs(3));
    ended
}

/// An error and its causes in one line; a cause whose text its effect already ends with is left out.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.ends_with(&told) {
            // Writing to a String cannot fail.
            let _infallible = write!(text, ": {told}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vars::VarsError;

    #[test]
    fn an_error_is_told_with_its_causes_once_each() {
        let error = VarsError::Read {
            path: ".env".into(),
            source: std::io::Error::other("disk on fire"),
        };
        assert_eq!(error_chain(&error), "cannot read .env: disk on fire");
        let same = crate::ops::OpsError::Vars(error);
        assert_eq!(error_chain(&same), "cannot read .env: disk on fire");
    }

    #[test]
    fn an_error_of_main_is_the_exit_code() {
        let failed = run("test", async |_ctx| Err("no"));
        assert_eq!(format!("{failed:?}"), format!("{:?}", ExitCode::FAILURE));
        let fine = run("test", async |ctx: Context| {
            assert_eq!(ctx.service, "test");
            Ok::<(), String>(())
        });
        assert_eq!(format!("{fine:?}"), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn a_child_has_its_own_health_and_address() {
        let clock = Clock::system();
        let metrics = metrics::install("test", &clock).unwrap();
        let parent = Context::new("brightmatter", Vars::default(), clock, metrics);
        let child = parent.child("gateway", Vars::from_map([("A", "1")]));
        child.announce("127.0.0.1:81".parse().unwrap());
        child.health.drain();
        assert_eq!(parent.address(), None);
        assert_eq!(child.address().unwrap().port(), 81);
        assert!(!parent.health.is_draining());
        parent.shutdown.trip();
        assert!(child.shutdown.is_tripped());
    }
}
