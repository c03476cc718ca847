//! What a test's own thread logs, to be looked at.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::subscriber::DefaultGuard;

/// The lines logged on this thread while it is held, from level INFO on.
#[derive(Debug)]
pub struct Logged {
    lines: Lines,
    _guard: DefaultGuard,
}

#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Logged {
    /// From here on.
    pub fn here() -> Self {
        // While a process has one subscriber only, whoever comes to a line of code first says for all threads
        // whether it logs: a thread without one says that it never does. So there are two. An error says that
        // there is one for all threads already.
        let for_all = tracing_subscriber::fmt().with_writer(io::sink).finish();
        let _already = tracing::subscriber::set_global_default(for_all);
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self {
            lines,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// What there is so far.
    pub fn text(&self) -> String {
        let lines = self.lines.0.lock();
        let lines = lines.unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&lines).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(what: &str) {
        tracing::info!("said by {what}");
    }

    #[test]
    fn a_line_that_another_thread_came_to_first_is_logged() {
        let logged = Logged::here();
        std::thread::spawn(|| say("another"))
            .join()
            .expect("it only logs");
        say("this");
        let text = logged.text();
        assert!(text.contains("said by this"), "{text}");
        assert!(!text.contains("another"), "{text}");
    }
}
