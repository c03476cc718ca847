//! What tests stand on: addresses of the test servers, databases and topics of a test's own,
//! private servers to break, a proxy to cut, a clock to step, and processes to kill.
//!
//! Functions panic when the surroundings of a test cannot be had; the message says which and why.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot get its surroundings has failed, and a panic is how a test says so"
)]

mod child;
pub mod clock;
pub mod database;
pub mod env;
pub mod http;
pub mod logged;
pub mod process;
pub mod proxy;
pub mod server;
mod stale;
pub mod topics;
pub mod wait;

pub use clock::TestClock;
pub use database::TestDatabase;
pub use env::TestEnv;
pub use logged::Logged;
pub use process::Process;
pub use proxy::TcpProxy;
pub use server::Server;
pub use topics::{TestRecord, TestTopics, TopicPlan};
pub use wait::{eventually, free_port, unique, until};
