//! Keeps tasks of the background alive: one that panics is begun again, and that is told.

use std::future::Future;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Before the first new beginning; doubled with each until [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between two beginnings at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A task that went on for so long before it panicked is begun again after the first pause.
const LASTING: Duration = Duration::from_mins(1);

/// Spawns [`supervised`]; aborting the handle ends the task too.
pub fn spawn<F>(name: &'static str, make: impl FnMut() -> F + Send + 'static) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(supervised(name, make))
}

/// Runs what `make` makes until it returns, which says that its work is done. When it panics
/// instead, a new one is made after a pause; the panic is logged as an error and counted in
/// `bm_task_restarts_total`. Dropped, it takes the running task with it.
pub async fn supervised<F>(name: &'static str, mut make: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let mut task = JoinSet::new();
        task.spawn(make());
        let error = match task.join_next().await {
            Some(Err(error)) if error.is_panic() => error,
            _ => return,
        };
        if begun.elapsed() >= LASTING {
            pause = FIRST_PAUSE;
        }
        metrics::counter!("bm_task_restarts_total", "task" => name).increment(1);
        tracing::error!(task.name = name, %error, pause = ?pause, "a task panicked; it begins again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::Clock;

    #[tokio::test]
    async fn a_task_that_panics_begins_again_and_one_that_returns_is_done() {
        let recorded = crate::metrics::install("test", &Clock::system()).unwrap();
        let begun = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&begun);
        let task = spawn("shaky", move || {
            let nth = count.fetch_add(1, Ordering::SeqCst);
            async move { assert!(nth >= 2, "a task that panics") }
        });
        tokio::time::timeout(Duration::from_secs(10), task)
            .await
            .expect("it ends")
            .unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 3);
        let text = recorded.render();
        assert!(
            text.contains(r#"bm_task_restarts_total{task="shaky"} 2"#),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_task_goes_with_its_supervisor() {
        let held = Arc::new(());
        let kept = Arc::clone(&held);
        let task = spawn("endless", move || {
            let kept = Arc::clone(&kept);
            async move {
                std::future::pending::<()>().await;
                drop(kept);
            }
        });
        tokio::task::yield_now().await;
        task.abort();
        let ended = task.await;
        assert!(ended.unwrap_err().is_cancelled());
        let gone = async {
            while Arc::strong_count(&held) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone)
            .await
            .expect("nothing holds it");
    }
}
