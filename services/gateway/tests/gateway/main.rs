//! The gateway with real parts: a broker, PostgreSQL, Redis, a studios file, and HTTP.

mod bad_input;
mod contract;
mod support;
mod trouble;
