//! The gateway: authenticates, limits, validates, stamps and appends events to `game.events`, and
//! answers 2xx only once the broker has them for good.
//!
//! | module | what for |
//! | --- | --- |
//! | [`routes`] | the way of a request |
//! | [`request`], [`inflate`], [`memory`] | key, forms, encodings, the body |
//! | [`envelope`], [`body`], [`json`] | from bytes to checked events |
//! | [`gateway`], [`games`], [`settle`] | who asks, what may come in, what became of it |
//! | [`record`], [`answer`] | what the bus and the client get |
//! | `to_its_end` | work that goes on without its client |
//! | [`ports`], [`wiring`] | what is needed from outside, and what there is |
//! | [`settings`], [`run`](mod@run), [`stats`] | configuration, life, metrics |

pub mod answer;
pub mod body;
pub mod envelope;
pub mod games;
pub mod gateway;
pub mod inflate;
pub mod json;
pub mod memory;
pub mod ports;
pub mod record;
pub mod request;
pub mod routes;
pub mod run;
pub mod settings;
pub mod settle;
pub mod stats;
mod to_its_end;
pub mod wiring;

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod batch_tests;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod testing;

pub use gateway::Gateway;
pub use run::{GatewayError, run};
pub use settings::{Settings, SettingsError};
