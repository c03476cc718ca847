//! Tasks that must not end: started again when they do, stopped at shutdown.

use std::time::Duration;

use bm_bootstrap::Shutdown;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How soon a task that ended is started again, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Runs what `start` makes until shutdown, and again when it ends, which only a panic makes it do.
///
/// Upkeep is not worth the process: days are made 3 days ahead and definitions are published by
/// whoever saves them, while a process that ends stops its lanes, and one that ends at every start
/// stops them for good. So it is an alarm (`bm_upkeep_restarts_total`) and another try.
pub(crate) async fn supervise<F>(
    name: &'static str,
    shutdown: Shutdown,
    start: impl FnMut() -> F + Send,
) where
    F: Future<Output = ()> + Send + 'static,
{
    supervise_after(PAUSE, name, shutdown, start).await;
}

async fn supervise_after<F>(
    pause: Duration,
    name: &'static str,
    shutdown: Shutdown,
    mut start: impl FnMut() -> F + Send,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut wait = pause;
    loop {
        let began = Instant::now();
        // Dropped, it aborts the task.
        let mut running = JoinSet::new();
        running.spawn(start());
        let ended = tokio::select! {
            () = shutdown.tripped() => return,
            ended = running.join_next() => ended,
        };
        let error = match ended {
            Some(Err(error)) => error.to_string(),
            Some(Ok(())) | None => "it returned".to_owned(),
        };
        if began.elapsed() > LONGEST_PAUSE {
            wait = pause;
        }
        metrics::counter!("bm_upkeep_restarts_total", "task" => name).increment(1);
        tracing::error!(
            task = name,
            error,
            ?wait,
            "UPKEEP ENDED: a bug; it is started again"
        );
        tokio::select! {
            () = shutdown.tripped() => return,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_task_that_panics_is_started_again_until_shutdown() {
        let starts = Arc::new(AtomicUsize::new(0));
        let (works, mut working) = mpsc::unbounded_channel();
        let (held, mut dropped) = oneshot::channel::<()>();
        let held = Arc::new(held);
        let shutdown = Shutdown::new();
        let supervised = tokio::spawn(supervise_after(
            Duration::from_millis(1),
            "test",
            shutdown.clone(),
            move || {
                let (starts, works, held) = (Arc::clone(&starts), works.clone(), Arc::clone(&held));
                async move {
                    let start = starts.fetch_add(1, Ordering::SeqCst);
                    assert!(start >= 2, "as told");
                    works.send(start).unwrap();
                    std::future::pending::<()>().await;
                    drop(held);
                }
            },
        ));
        let start = tokio::time::timeout(DEADLINE, working.recv()).await;
        assert_eq!(start.unwrap(), Some(2));
        assert!(dropped.try_recv().is_err());
        shutdown.trip();
        tokio::time::timeout(DEADLINE, supervised)
            .await
            .unwrap()
            .unwrap();
        // The task itself is gone, and what it held with it.
        let gone = tokio::time::timeout(DEADLINE, &mut dropped).await;
        assert!(gone.unwrap().is_err());
    }
}
