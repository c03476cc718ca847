//! The storage against a real PostgreSQL: what the protocol relies on, statement by statement.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what tests share may fail as the tests do: by a panic"
)]

mod archive;
mod commits;
mod definitions;
mod failures;
mod lanes;
mod last_known;
mod played;
mod schema;
mod sessions;
mod snapshots;
mod support;
