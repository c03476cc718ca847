//! What the command line tool does, a module for each command.

mod apply;
mod cli;
mod dead_letters;
mod dev;
mod doctor;
mod error;
mod hints;
mod init;
mod keys;
mod load;
mod migrate;
mod output;
mod repeats;
mod starter;
mod studios_file;
mod topics;
mod watch;

pub use cli::Cli;
pub use error::CliError;
pub use keys::KeyError;
pub use studios_file::StudiosFileError;
