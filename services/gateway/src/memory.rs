//! Bounds what bodies, and the events made of them, take up over all requests together.

use std::sync::Arc;

use bm_web::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gateway::unavailable;

/// What an event takes up besides its text, about.
pub const EVENT_BYTES: usize = 1_024;

/// So many bytes are there for all.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Semaphore>);

/// What one request takes of it; given back when dropped.
#[derive(Debug)]
pub struct Held {
    memory: Memory,
    permit: Option<OwnedSemaphorePermit>,
}

impl Memory {
    /// All there is.
    pub fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// Nothing yet.
    pub fn hold(&self) -> Held {
        Held {
            memory: self.clone(),
            permit: None,
        }
    }

    /// What is left, in bytes.
    pub fn left(&self) -> usize {
        self.0.available_permits()
    }
}

impl Held {
    /// Takes so many bytes more; 503 when they are not there. Nobody waits for them: those who hold
    /// some would wait for each other.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let full = || unavailable().because("requests under way fill BM_HTTP_BODY_MEMORY_KBYTES");
        let bytes = u32::try_from(bytes).map_err(|_| full())?;
        let more = Arc::clone(&self.memory.0).try_acquire_many_owned(bytes);
        let more = more.map_err(|_| full())?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }

    /// Gives back all but so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            drop(permit.split(permit.num_permits().saturating_sub(bytes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_not_there_for_others_until_it_is_given_back() {
        let memory = Memory::of(100);
        let (mut one, mut other) = (memory.hold(), memory.hold());
        one.grow(40).unwrap();
        one.grow(40).unwrap();
        let refused = other.grow(21).unwrap_err();
        assert_eq!(refused.code(), bm_web::Code::Unavailable);
        assert_eq!(refused.retry_after_seconds(), Some(2));
        other.grow(20).unwrap();
        one.shrink_to(30);
        assert_eq!(memory.left(), 50);
        one.shrink_to(31);
        drop(one);
        drop(other);
        assert_eq!(memory.left(), 100);
    }
}
