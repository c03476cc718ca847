//! What became of messages that were handed over together: filled in by the producer's own thread, in
//! any order, and given away when the last outcome is there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Instant;

use crate::event_producer::{AppendError, Appended};

type Outcome = Result<Appended, AppendError>;

/// The outcomes of some messages, in the order in which they were handed over.
#[derive(Debug)]
pub(crate) struct Acks(Mutex<State>);

#[derive(Debug)]
struct State {
    outcomes: Vec<Option<Outcome>>,
    /// Messages on their way.
    missing: usize,
    /// Of whoever waits for the last one.
    waker: Option<Waker>,
}

/// A message on its way. Dropped without an outcome, it was lost with its producer.
#[derive(Debug)]
pub(crate) struct Pending {
    /// None when it has its outcome.
    acks: Option<Arc<Acks>>,
    place: usize,
    pub(crate) since: Instant,
}

impl Acks {
    /// Room for so many messages.
    pub(crate) fn of(count: usize) -> Self {
        Self(Mutex::new(State {
            outcomes: Vec::with_capacity(count),
            missing: 0,
            waker: None,
        }))
    }

    /// One more message is on its way.
    pub(crate) fn await_next(acks: &Arc<Self>) -> Pending {
        let mut state = acks.state();
        state.outcomes.push(None);
        state.missing += 1;
        Pending {
            acks: Some(Arc::clone(acks)),
            place: state.outcomes.len() - 1,
            since: Instant::now(),
        }
    }

    /// One more message was refused at once.
    pub(crate) fn refused(&self, error: AppendError) -> AppendError {
        self.state().outcomes.push(Some(Err(error.clone())));
        error
    }

    /// The outcomes, once all are there; otherwise whoever asks is woken then.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Option<Vec<Outcome>> {
        let mut state = self.state();
        if state.missing == 0 {
            return Some(state.give_away());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        None
    }

    /// The outcomes as they are now; of messages still on their way nobody will know more.
    pub(crate) fn give_up(&self) -> Vec<Outcome> {
        self.state().give_away()
    }

    fn settle(&self, place: usize, outcome: Outcome) {
        let waker = {
            let mut state = self.state();
            // After giving up there is no place any more.
            if let Some(slot) = state.outcomes.get_mut(place) {
                *slot = Some(outcome);
            }
            state.missing = state.missing.saturating_sub(1);
            let all = state.missing == 0;
            state.waker.take_if(|_| all)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn give_away(&mut self) -> Vec<Outcome> {
        let outcomes = std::mem::take(&mut self.outcomes).into_iter();
        outcomes
            .map(|outcome| outcome.unwrap_or(Err(AppendError::TimedOut)))
            .collect()
    }
}

impl Pending {
    /// It has its outcome.
    pub(crate) fn settle(mut self, outcome: Outcome) {
        if let Some(acks) = self.acks.take() {
            acks.settle(self.place, outcome);
        }
    }

    /// It was refused at once and is not on its way: nobody waits for it here, and its place is free.
    pub(crate) fn taken_back(mut self) {
        if let Some(acks) = self.acks.take() {
            let mut state = acks.state();
            // Messages are handed over one after the other, so it is the last.
            state.outcomes.pop();
            state.missing -= 1;
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(acks) = self.acks.take() {
            let lost = AppendError::Unavailable("the producer was replaced".to_owned());
            acks.settle(self.place, Err(lost));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use bm_contracts::Timestamp;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn at(offset: i64) -> Appended {
        Appended {
            partition: 0,
            offset,
            timestamp: Timestamp::clamped(0),
        }
    }

    #[test]
    fn outcomes_are_in_the_order_of_handing_over_and_wake_once_when_all_are_there() {
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let acks = Arc::new(Acks::of(4));
        let first = Acks::await_next(&acks);
        acks.refused(AppendError::QueueFull);
        let refused = Acks::await_next(&acks);
        refused.taken_back();
        acks.refused(AppendError::TooLarge);
        let second = Acks::await_next(&acks);
        let third = Acks::await_next(&acks);
        assert_eq!(acks.poll(&mut cx), None);
        third.settle(Ok(at(3)));
        first.settle(Ok(at(1)));
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        drop(second);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        let lost = AppendError::Unavailable("the producer was replaced".to_owned());
        let expected = vec![
            Ok(at(1)),
            Err(AppendError::QueueFull),
            Err(AppendError::TooLarge),
            Err(lost),
            Ok(at(3)),
        ];
        assert_eq!(acks.poll(&mut cx), Some(expected));
    }

    #[test]
    fn an_outcome_that_comes_after_giving_up_is_for_nobody() {
        let acks = Arc::new(Acks::of(2));
        let (first, second) = (Acks::await_next(&acks), Acks::await_next(&acks));
        first.settle(Ok(at(1)));
        assert_eq!(acks.give_up(), [Ok(at(1)), Err(AppendError::TimedOut)]);
        second.settle(Ok(at(2)));
    }
}
