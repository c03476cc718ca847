//! Waiting for the outside world, and names and ports nobody else has.

use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::panic::Location;
use std::time::{Duration, Instant};

use rand::Rng;

/// Asks `probe` again and again until it gives a value; panics at the caller's line, naming
/// `what` was waited for, when `deadline` has passed.
///
/// One probe is cut short by the deadline too, so a probe that hangs does not hang the test.
#[track_caller]
pub fn eventually<T, F, Fut>(
    deadline: Duration,
    what: &str,
    mut probe: F,
) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let caller = Location::caller();
    async move {
        let mut waiting = Waiting::new(caller, deadline, what);
        loop {
            match waiting.answer(probe()).await {
                Some(value) => return value,
                None => waiting.pause("").await,
            }
        }
    }
}

/// The same for a `probe` that says what is there instead: the panic tells the last of it. It may
/// change what it borrows.
#[track_caller]
pub fn until<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let mut waiting = Waiting::new(caller, deadline, what);
        loop {
            match waiting.answer(probe()).await {
                Ok(value) => return value,
                Err(instead) => waiting.pause(&instead).await,
            }
        }
    }
}

/// One who waits: how long already, and how often it has asked.
struct Waiting<'a> {
    caller: &'static Location<'static>,
    deadline: Duration,
    what: &'a str,
    started: Instant,
    next_pause: Duration,
    probes: u32,
    /// What was there instead at the last probe.
    instead: String,
}

impl<'a> Waiting<'a> {
    fn new(caller: &'static Location<'static>, deadline: Duration, what: &'a str) -> Self {
        Self {
            caller,
            deadline,
            what,
            started: Instant::now(),
            next_pause: Duration::from_millis(5),
            probes: 0,
            instead: String::new(),
        }
    }

    async fn answer<T>(&mut self, probe: impl Future<Output = T>) -> T {
        let left = self.deadline.saturating_sub(self.started.elapsed());
        self.probes += 1;
        let answer = tokio::time::timeout(left, probe).await;
        answer.unwrap_or_else(|_elapsed| {
            panic!(
                "{}: not within {:?} (probe {} was still under way): {}{}",
                self.caller, self.deadline, self.probes, self.what, self.instead
            )
        })
    }

    async fn pause(&mut self, instead: &str) {
        if !instead.is_empty() {
            self.instead = format!("; instead: {instead}");
        }
        assert!(
            self.started.elapsed() < self.deadline,
            "{}: not within {:?} ({} probes): {}{}",
            self.caller,
            self.deadline,
            self.probes,
            self.what,
            self.instead
        );
        tokio::time::sleep(self.next_pause).await;
        self.next_pause = (self.next_pause * 2).min(Duration::from_millis(100));
    }
}

/// A loopback port nobody listens on.
///
/// Below the range the kernel gives to outgoing connections, so that a server that was stopped
/// finds it free when it starts again.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `count` neighbouring free ports.
pub(crate) fn free_ports(count: u16) -> u16 {
    let mut random = rand::rng();
    for _ in 0..1_000 {
        let first = random.random_range(15_000..32_000 - count);
        if (first..first + count).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        {
            return first;
        }
    }
    panic!("found no free port between 15000 and 32000");
}

/// `stem` followed by a dash and 12 random characters: an id no other test has.
pub fn unique(stem: &str) -> String {
    format!("{stem}-{}", random_suffix())
}

/// 12 random characters of `0-9a-f`.
pub(crate) fn random_suffix() -> String {
    format!("{:012x}", rand::rng().random::<u64>() & 0xffff_ffff_ffff)
}

/// Runs a future to its end from where nothing can be awaited, such as `Drop`; gives up after 10 s.
pub(crate) fn block_on_thread(future: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        if let Ok(runtime) = runtime {
            let limited = async { tokio::time::timeout(Duration::from_secs(10), future).await };
            if runtime.block_on(limited).is_err() {
                tracing::warn!("cleaning up after a test took too long");
            }
        }
    });
    // A panic in there is printed by the thread; a second one in a destructor would abort.
    let _panicked = thread.join();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_that_comes_later_is_returned() {
        let mut asked = 0;
        let value = eventually(Duration::from_secs(5), "the third answer", || {
            asked += 1;
            let answer = (asked == 3).then_some("here");
            async move { answer }
        })
        .await;
        assert_eq!(value, "here");
    }

    #[tokio::test]
    #[should_panic(expected = "the moon")]
    async fn a_value_that_never_comes_is_named_in_the_panic() {
        eventually(Duration::from_millis(20), "the moon", || async {
            None::<()>
        })
        .await;
    }

    #[tokio::test]
    #[should_panic(expected = "the moon; instead: a cloud")]
    async fn what_is_there_instead_is_told() {
        until(Duration::from_millis(20), "the moon", async || {
            Err::<(), _>("a cloud".to_owned())
        })
        .await;
    }

    #[tokio::test]
    #[should_panic(expected = "still under way")]
    async fn a_probe_that_hangs_is_cut_short() {
        eventually(
            Duration::from_millis(20),
            "an answer",
            std::future::pending::<Option<()>>,
        )
        .await;
    }

    #[test]
    fn free_ports_can_be_bound() {
        TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
    }

    #[test]
    fn unique_names_differ() {
        assert_ne!(unique("studio"), unique("studio"));
        assert!(unique("studio").starts_with("studio-"));
    }
}
