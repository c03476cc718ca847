//! What every binary needs before it can do its own work: configuration, clock, telemetry,
//! metrics, health, an HTTP server, shutdown by signal. One bootstrap for all of them.
//!
//! A `main.rs` is then
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! #[global_allocator]
//! static ALLOCATOR: bm_bootstrap::Allocator = bm_bootstrap::Allocator;
//!
//! # async fn serve(_: bm_bootstrap::Context) -> Result<(), std::io::Error> { Ok(()) }
//! fn main() -> ExitCode {
//!     bm_bootstrap::run("event-router", serve)
//! }
//! ```

pub mod clock;
pub mod health;
pub mod metrics;
pub mod ops;
mod phase;
mod run;
pub mod serve;
pub mod shutdown;
pub mod supervise;
pub mod telemetry;
pub mod vars;

pub use clock::Clock;
pub use health::{Health, Need, Outcome};
pub use metrics::MetricsHandle;
pub use run::{Context, Options, error_chain, run, run_with};
pub use shutdown::Shutdown;
/// What every service's binary allocates with. Messages are made by one thread and freed by others, librdkafka's
/// among them, which costs the C library's own allocator a fifth of a gateway's time.
pub use tikv_jemallocator::Jemalloc as Allocator;
pub use vars::Vars;

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
