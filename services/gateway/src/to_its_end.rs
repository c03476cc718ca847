//! Work that goes on when nobody waits for it any more.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// A future that goes on as a task of its own when it is dropped before its end. As long as it is
/// waited for it is part of the waiting task, and costs no change of tasks.
pub(crate) struct ToItsEnd<T: Send + 'static> {
    /// None once it has ended.
    work: Option<BoxFuture<'static, T>>,
    tasks: TaskTracker,
}

impl<T: Send + 'static> ToItsEnd<T> {
    /// `tasks` are those that are waited for when the process ends.
    pub(crate) fn new(work: BoxFuture<'static, T>, tasks: &TaskTracker) -> Self {
        Self {
            work: Some(work),
            tasks: tasks.clone(),
        }
    }
}

impl<T: Send + 'static> Future for ToItsEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.work else {
            // Nothing polls a future that has ended.
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for ToItsEnd<T> {
    fn drop(&mut self) {
        // Without a runtime the process has ended.
        if let Some(work) = self.work.take()
            && let Ok(runtime) = Handle::try_current()
        {
            self.tasks.spawn_on(work, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_is_done_all_the_same_and_waited_for_by_the_tasks() {
        let tasks = TaskTracker::new();
        let (go_on, wait) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let work = async move {
            wait.await.unwrap();
            done.send("done").unwrap();
        };
        let mut work = ToItsEnd::new(work.boxed(), &tasks);
        assert!((&mut work).now_or_never().is_none());
        assert!(tasks.is_empty());
        drop(work);
        assert_eq!(tasks.len(), 1);
        go_on.send(()).unwrap();
        assert_eq!(ended.await, Ok("done"));
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn what_has_ended_leaves_no_task() {
        let tasks = TaskTracker::new();
        assert_eq!(ToItsEnd::new(async { 1 }.boxed(), &tasks).await, 1);
        assert!(tasks.is_empty());
    }
}
