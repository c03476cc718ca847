//! Asking the source for keys the mirror does not know: once per key, remembered, few a second.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use crate::allowance::Allowance;
use crate::document::{KeyHash, StudioDocument};
use crate::index::{KeyIndex, Owner, Slot};

/// Questions a second, of the whole process.
const QUESTIONS_PER_SECOND: usize = 20;
/// How long "no studio has this key" is remembered.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// How long a found key is remembered when the mirror does not bring it: no longer than a
/// revocation may take.
const KNOWN_FOR: Duration = Duration::from_secs(4);
/// How long one question may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
/// After a question that failed none is asked for so long, so that wrong keys do not pile up
/// behind a source that is away.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How many answers are remembered. The rate bounds them far below; this is a second wall.
const MAX_REMEMBERED: usize = 10_000;

/// What can be asked for the documents that list a key.
pub(crate) trait Oracle: Send + Sync {
    /// Whether asking makes sense at the moment.
    fn connected(&self) -> bool;

    /// The documents that list `key` (whose hash is `hash`); an error's text holds no key.
    fn ask(
        &self,
        key: String,
        hash: KeyHash,
    ) -> BoxFuture<'static, Result<Vec<StudioDocument>, String>>;
}

/// What came of asking.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// The source knows whose it is.
    Owned(Owner),
    /// The source says that no studio has it, or that two have.
    Unknown,
    /// The source was not asked, or did not answer.
    NoAnswer,
}

/// How many questions there were since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuestionCounts {
    /// Asked of the source.
    pub asked: u64,
    /// Not asked, because there were too many already.
    pub suppressed: u64,
}

type Pending = Shared<BoxFuture<'static, Reply>>;

/// The one place questions are asked from.
pub(crate) struct Questions {
    oracle: Arc<dyn Oracle>,
    desk: Arc<Mutex<Desk>>,
}

struct Desk {
    answers: Answers,
    pending: HashMap<KeyHash, Pending>,
    allowance: Allowance,
    paused_until: Option<Instant>,
    counts: QuestionCounts,
}

impl Questions {
    pub(crate) fn new(oracle: Arc<dyn Oracle>) -> Self {
        let desk = Desk {
            answers: Answers::new(MAX_REMEMBERED),
            pending: HashMap::new(),
            allowance: Allowance::new(QUESTIONS_PER_SECOND, Duration::from_secs(1)),
            paused_until: None,
            counts: QuestionCounts::default(),
        };
        Self {
            oracle,
            desk: Arc::new(Mutex::new(desk)),
        }
    }

    pub(crate) fn counts(&self) -> QuestionCounts {
        lock(&self.desk).counts
    }

    /// Whose `key` is, according to the source or to what it said a moment ago.
    ///
    /// `generation` is that of the mirror that did not know the key: an answer that names an owner
    /// is believed only until the mirror changes, since the change may be the key's revocation.
    pub(crate) async fn ask(&self, key: &str, hash: KeyHash, generation: u64) -> Reply {
        let pending = {
            let mut desk = lock(&self.desk);
            // Under the lock, so that the allowance sees times in order.
            let at = Instant::now();
            if let Some(reply) = desk.answers.get(&hash, generation, at) {
                return reply;
            }
            if let Some(pending) = desk.pending.get(&hash) {
                pending.clone()
            } else {
                if desk.paused_until.is_some_and(|until| at < until) || !self.oracle.connected() {
                    return Reply::NoAnswer;
                }
                if !desk.allowance.take(at) {
                    desk.counts.suppressed += 1;
                    metrics::counter!("bm_auth_questions_suppressed_total").increment(1);
                    return Reply::NoAnswer;
                }
                desk.counts.asked += 1;
                let pending = self.put(key, hash, generation);
                desk.pending.insert(hash, pending.clone());
                pending
            }
        };
        pending.await
    }

    /// Asks in a task of its own: the client that asked first may hang up, others wait for the
    /// same answer.
    fn put(&self, key: &str, hash: KeyHash, generation: u64) -> Pending {
        let question = self.oracle.ask(key.to_owned(), hash);
        let desk = Arc::clone(&self.desk);
        let task = tokio::spawn(async move {
            let entry = Entry { desk, hash };
            let answer = tokio::time::timeout(QUESTION_TIMEOUT, question).await;
            let reply = match answer.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(documents) => match KeyIndex::build(&documents).0.find(&hash) {
                    Some(Slot::Owned(owner)) => Reply::Owned(owner.clone()),
                    Some(Slot::Disputed) | None => Reply::Unknown,
                },
                Err(error) => {
                    tracing::warn!(error, "could not ask for a key the mirror does not know");
                    Reply::NoAnswer
                }
            };
            let result = match &reply {
                Reply::Owned(_) => "known",
                Reply::Unknown => "unknown",
                Reply::NoAnswer => "failed",
            };
            metrics::counter!("bm_auth_questions_total", "result" => result).increment(1);
            let mut desk = lock(&entry.desk);
            let at = Instant::now();
            if matches!(reply, Reply::NoAnswer) {
                desk.paused_until = Some(at + PAUSE_AFTER_FAILURE);
            }
            desk.answers.put(hash, reply.clone(), generation, at);
            drop(desk);
            reply
        });
        task.map(|joined| joined.unwrap_or(Reply::NoAnswer))
            .boxed()
            .shared()
    }
}

/// A question's place among those under way, left however the question ends.
struct Entry {
    desk: Arc<Mutex<Desk>>,
    hash: KeyHash,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.desk).pending.remove(&self.hash);
    }
}

/// What is behind the lock is right after every statement, so a panic elsewhere spoils nothing.
fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers remembered for a while, a bounded number of them.
struct Answers {
    known: HashMap<KeyHash, Answer>,
    order: VecDeque<(KeyHash, Instant)>,
    capacity: usize,
}

struct Answer {
    reply: Reply,
    generation: u64,
    until: Instant,
}

impl Answers {
    fn new(capacity: usize) -> Self {
        Self {
            known: HashMap::new(),
            order: VecDeque::new(),
            capacity,
        }
    }

    fn get(&self, hash: &KeyHash, generation: u64, at: Instant) -> Option<Reply> {
        let answer = self.known.get(hash).filter(|answer| at < answer.until)?;
        match &answer.reply {
            Reply::Owned(_) if answer.generation != generation => None,
            reply => Some(reply.clone()),
        }
    }

    fn put(&mut self, hash: KeyHash, reply: Reply, generation: u64, at: Instant) {
        let until = match &reply {
            Reply::Owned(_) => at + KNOWN_FOR,
            Reply::Unknown => at + UNKNOWN_FOR,
            Reply::NoAnswer => return,
        };
        while let Some((oldest, its_end)) = self.order.front().copied() {
            if its_end > at && self.order.len() < self.capacity {
                break;
            }
            self.order.pop_front();
            // The key may have been asked for again since; that answer has its own place.
            if self.known.get(&oldest).is_some_and(|a| a.until == its_end) {
                self.known.remove(&oldest);
            }
        }
        self.order.push_back((hash, until));
        self.known.insert(
            hash,
            Answer {
                reply,
                generation,
                until,
            },
        );
    }
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
