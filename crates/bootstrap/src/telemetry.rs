//! Logs: JSON lines for machines, or text for people; panics are logged too.

use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::vars::Vars;

/// Libraries that tell at `info` and `debug` what nobody asked; name one in `BM_LOG` to hear it.
const QUIET: &str = "librdkafka=warn,rdkafka=warn,sqlx=warn,hyper=warn,hyper_util=warn,h2=warn,\
                     tower=warn,tonic=warn,firestore=warn,gcloud_sdk=warn,redis=warn,rustls=warn,\
                     notify=warn";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// For services.
    Stdout,
    /// For tools, whose standard output is their answer.
    Stderr,
}

/// What to log, how and where, when the variables do not say.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// `BM_LOG_FORMAT`.
    pub format: Format,
    /// Not configurable.
    pub stream: Stream,
    /// `BM_LOG`.
    pub filter: &'static str,
}

impl Defaults {
    /// JSON at `info` to standard output.
    pub const SERVICE: Self = Self {
        format: Format::Json,
        stream: Stream::Stdout,
        filter: "info",
    };

    /// Text at `warn` to standard error.
    pub const TOOL: Self = Self {
        format: Format::Text,
        stream: Stream::Stderr,
        filter: "warn",
    };
}

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `BM_LOG` is not a filter.
    #[error("BM_LOG must be a filter such as `info` or `info,bm_gateway=debug`")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// `BM_LOG_FORMAT` is neither.
    #[error("BM_LOG_FORMAT must be `json` or `text`")]
    Format,
    /// Something else logs already.
    #[error("logging was begun by something else")]
    Taken(#[from] TryInitError),
}

/// Begins logging, from `BM_LOG` and `BM_LOG_FORMAT` with `defaults`; says in which format.
/// Only the first call of a process counts.
pub fn init(
    service: &'static str,
    vars: &Vars,
    defaults: Defaults,
) -> Result<Format, TelemetryError> {
    static STARTED: Mutex<Option<Format>> = Mutex::new(None);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(format) = *started {
        return Ok(format);
    }
    let (format, filter) = settings(vars, defaults)?;
    let writer = LineWriter {
        stream: defaults.stream,
        // Names are ours and need no escaping.
        prefix: match format {
            Format::Json => Some(format!("{{\"service\":\"{service}\",")),
            Format::Text => None,
        },
    };
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .with_writer(writer),
            )
            .try_init()?,
        Format::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(false)
                    .with_writer(writer),
            )
            .try_init()?,
    }
    log_panics();
    *started = Some(format);
    Ok(format)
}

fn settings(vars: &Vars, defaults: Defaults) -> Result<(Format, EnvFilter), TelemetryError> {
    let format = match vars.get("BM_LOG_FORMAT").as_deref() {
        None => defaults.format,
        Some("json") => Format::Json,
        Some("text") => Format::Text,
        Some(_) => return Err(TelemetryError::Format),
    };
    let asked = vars
        .get("BM_LOG")
        .unwrap_or_else(|| defaults.filter.to_owned());
    let filter = EnvFilter::try_new(format!("{QUIET},{asked}")).map_err(TelemetryError::Filter)?;
    Ok((format, filter))
}

/// Logs of a test, as text to standard error, filtered by `BM_LOG` (default `warn`). May be called
/// by every test of a process.
pub fn init_for_tests() {
    let filter = std::env::var("BM_LOG").unwrap_or_else(|_| "warn".to_owned());
    let filter = EnvFilter::new(format!("{QUIET},{filter}"));
    // An error says that another test was first.
    let _already = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer()
        .try_init();
}

/// Has panics written as log lines, where a log collector finds them.
fn log_panics() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(ToString::to_string);
            let thread = std::thread::current();
            tracing::error!(
                panic.message = panic.payload_as_str().unwrap_or("not a text"),
                panic.location = location,
                panic.thread = thread.name(),
                panic.backtrace = %std::backtrace::Backtrace::capture(),
                "panic",
            );
        }));
    });
}

/// Writes each line in one piece, in JSON with the service's name put in front of its fields.
struct LineWriter {
    stream: Stream,
    prefix: Option<String>,
}

struct Line<'a>(&'a LineWriter);

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Line<'a>;
    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let prefixed = prefixed(self.0.prefix.as_deref(), line);
        let bytes = prefixed.as_deref().unwrap_or(line);
        match self.0.stream {
            Stream::Stdout => io::stdout().lock().write_all(bytes)?,
            Stream::Stderr => io::stderr().lock().write_all(bytes)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.stream {
            Stream::Stdout => io::stdout().flush(),
            Stream::Stderr => io::stderr().flush(),
        }
    }
}

fn prefixed(prefix: Option<&str>, line: &[u8]) -> Option<Vec<u8>> {
    let rest = line.strip_prefix(b"{")?;
    let prefix = prefix?;
    let mut whole = Vec::with_capacity(prefix.len() + rest.len());
    whole.extend_from_slice(prefix.as_bytes());
    whole.extend_from_slice(rest);
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_begins_with_the_service() {
        let line = prefixed(Some("{\"service\":\"gateway\","), b"{\"level\":\"INFO\"}\n").unwrap();
        let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            read,
            serde_json::json!({"service": "gateway", "level": "INFO"})
        );
        assert_eq!(prefixed(None, b"{}"), None);
        assert_eq!(prefixed(Some("x"), b"INFO text"), None);
    }

    #[test]
    fn the_quiet_list_is_a_filter() {
        EnvFilter::try_new(format!("{QUIET},info")).unwrap();
    }

    #[test]
    fn a_bad_filter_or_format_names_its_variable() {
        for (name, value) in [("BM_LOG", "bm_gateway=loud"), ("BM_LOG_FORMAT", "xml")] {
            let error = settings(&Vars::from_map([(name, value)]), Defaults::SERVICE).unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    #[test]
    fn tests_may_begin_logging_as_often_as_they_like() {
        init_for_tests();
        init_for_tests();
    }
}
