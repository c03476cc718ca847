//! Whose API key is this? A key is one look-up by SHA-256 in memory; this crate keeps that memory right.
//!
//! Studios come from the `studios` collection of Firestore, mirrored by a listener, or from a file
//! on a developer's machine. What the mirror does not know is asked for, rarely. What was last
//! known is kept elsewhere ([`LastKnown`]), so that a process can start while Firestore is away.

mod allowance;
mod backoff;
mod config;
mod directory;
mod document;
mod file;
mod firestore;
mod index;
mod last_known;
mod questions;
mod shared;
mod studio;

pub use config::{
    DEFAULT_MAX_STALE, FirestoreConfig, StudioAuthConfig, StudioAuthConfigError, StudioSource,
};
pub use directory::StudioDirectory;
pub use document::{DocumentError, KeyHash, MAX_KEY_BYTES, StudioDocument, StudioKey};
pub use file::{StudiosFileError, parse_studios_file};
pub use index::{Dispute, KeyIndex};
pub use last_known::{LastKnown, LastKnownError, StoredStudio, StoredStudios};
pub use questions::QuestionCounts;
pub use shared::{AuthHealth, Clock};
pub use studio::{AuthError, Authenticated, KeyKind, RateLimit, Studio, Subscription, Tier};
