//! What the end-to-end tests stand on: the real binaries as a fleet, traffic as studios make it,
//! and an oracle that works out by rules of its own what must have come of it.
//!
//! Functions panic when something is not as it must be; that is how a test fails.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot get its surroundings has failed, and a panic is how a test says so"
)]

pub mod book;
pub mod firestore;
pub mod fleet;
pub mod lanes;
pub mod number;
pub mod oracle;
pub mod quests;
pub mod reader;
pub mod sender;
pub mod service;
pub mod storm;
pub mod traffic;

pub use book::Book;
pub use fleet::Fleet;
pub use quests::{Quest, Step};
pub use sender::{Door, Form, Sender};
pub use service::Service;
pub use traffic::Traffic;
