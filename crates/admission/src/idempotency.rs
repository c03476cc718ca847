//! The first of the two walls against events sent twice: an hour's memory of event ids, in Redis.
//!
//! An attempt to append an event goes `pending` (30 s) → `done` (1 hour), or is cleared when the
//! answer is 503. `done` is written after the broker's ack, never before, and nobody waits for it. What
//! Redis cannot remember, the router's insert does: without Redis every event is accepted here.
//!
//! A key holds `P` + body hash + token of the attempt, or `D` + body hash + milliseconds of the
//! answer (8 bytes, big-endian). Every key is alone in its hash slot. Needs Redis 7 (`SET … NX GET`).

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bm_bootstrap::supervise;
use bm_contracts::time::Timestamp;
use redis::aio::ConnectionManager;
use redis::{RedisResult, Script};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use crate::redis_handle::{RedisHandle, run_scripts};
use crate::stats::BeginStats;
use crate::unique;

/// How long an attempt counts as under way.
const PENDING: Duration = Duration::from_secs(30);
/// How long an answer is remembered.
const DONE: Duration = Duration::from_hours(1);
/// Outcomes waiting to be written; more are dropped, which costs an answer `duplicate` at most.
const QUEUE: usize = 16_384;
/// Outcomes written in one round trip.
const BATCH: usize = 256;

/// Questions to Redis under way at a time.
const CALLS: usize = 4;
/// A call asks about few more attempts than these.
const ATTEMPTS: usize = 1_000;

const PENDING_TAG: u8 = b'P';
const DONE_TAG: u8 = b'D';

/// The first answer stays; anything else gives way to an answer.
static FINISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local held = redis.call('GET', KEYS[1])
         if held and string.byte(held) == 68 then return 0 end
         redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
         return 1",
    )
});

/// Only what this very attempt has put there is cleared.
static CLEAR: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0",
    )
});

/// What is known of an event that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Not seen in the last hour. Append it, then [`Idempotency::done`] or [`Idempotency::clear`].
    Fresh(Attempt),
    /// Redis could not say. Accept it, as with `Fresh`: the router knows.
    Unknown(Attempt),
    /// Another attempt is under way: 409, retry later.
    InFlight,
    /// It is in the log: `duplicate`, with the time of the first acceptance.
    Done {
        /// When the broker appended it.
        answer: Timestamp,
    },
    /// The same id was used for another body, in the last hour, now, or earlier in this batch: 422.
    OtherBody,
    /// The same event as an earlier one of this batch, whose place this is. It shares that one's
    /// fate: answer `duplicate` where that is accepted (or duplicate), else the same as that.
    SameBatch {
        /// Index in the batch.
        first: usize,
    },
}

/// One try at appending an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    event_key: [u8; 16],
    body_hash: [u8; 16],
    token: [u8; 16],
}

impl Attempt {
    fn pending(&self) -> Vec<u8> {
        [&[PENDING_TAG][..], &self.body_hash, &self.token].concat()
    }

    fn done(&self, answer: Timestamp) -> Vec<u8> {
        let millis = answer.as_millis().to_be_bytes();
        [&[DONE_TAG][..], &self.body_hash, &millis].concat()
    }
}

/// What Redis holds under the keys of these attempts, which it marks where it holds nothing. Left
/// without answer when Redis could not say.
#[derive(Debug)]
struct Question {
    attempts: Vec<Attempt>,
    answer: oneshot::Sender<Vec<Option<Vec<u8>>>>,
}

#[derive(Debug)]
enum Outcome {
    Done(Attempt, Timestamp),
    Clear(Attempt),
    Flushed(oneshot::Sender<()>),
}

/// The memory of event ids. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Idempotency {
    redis: Option<RedisHandle>,
    questions: mpsc::Sender<Question>,
    outcomes: mpsc::Sender<Outcome>,
    stats: Arc<BeginStats>,
}

impl Idempotency {
    /// Over Redis; with none, everything is [`Begin::Unknown`]. Needs a Tokio runtime.
    pub fn new(redis: Option<RedisHandle>, prefix: &str) -> Self {
        Self::with_pending(redis, prefix, PENDING)
    }

    /// The same with another life of pending attempts, for tests that wait for its end.
    pub fn with_pending(redis: Option<RedisHandle>, prefix: &str, pending: Duration) -> Self {
        let (questions, asked) = mpsc::channel(QUEUE);
        let (outcomes, queue) = mpsc::channel(QUEUE);
        // Outlives a writer that panics.
        let queue = Arc::new(Mutex::new(queue));
        if let Some(redis) = &redis {
            redis.probe_under(prefix);
        }
        if let Some(redis) = &redis {
            let asks = (redis.clone(), Arc::<str>::from(prefix));
            let asked = Arc::new(Mutex::new(asked));
            supervise::spawn("idempotency-asker", move || {
                let (redis, prefix) = asks.clone();
                ask_questions(redis, prefix, pending, Arc::clone(&asked))
            });
        }
        let writes_to = (redis.clone(), prefix.to_owned());
        supervise::spawn("idempotency-writer", move || {
            let (redis, prefix) = writes_to.clone();
            write_outcomes(redis, prefix, Arc::clone(&queue))
        });
        Self {
            redis,
            questions,
            outcomes,
            stats: Arc::new(BeginStats::new()),
        }
    }

    /// Asks about the events of a batch, `(event_key, body_hash)` each, together; the answers are in
    /// their order. An event that repeats an earlier one of the batch is not asked about.
    pub async fn begin_many(&self, events: &[([u8; 16], [u8; 16])]) -> Vec<Begin> {
        let mut firsts = HashMap::with_capacity(events.len());
        let mut begun: Vec<Option<Begin>> = Vec::with_capacity(events.len());
        let mut asked = Vec::with_capacity(events.len());
        for (index, &(event_key, body_hash)) in events.iter().enumerate() {
            let first = *firsts.entry(event_key).or_insert(index);
            begun.push(if first == index {
                asked.push(Attempt {
                    event_key,
                    body_hash,
                    token: unique::bytes(),
                });
                None
            } else if events[first].1 == body_hash {
                Some(Begin::SameBatch { first })
            } else {
                Some(Begin::OtherBody)
            });
        }
        let mut answers = self.ask(asked).await.into_iter();
        begun
            .into_iter()
            .zip(events)
            .map(|(known, &(event_key, body_hash))| {
                let answer = known.or_else(|| answers.next()).unwrap_or_else(|| {
                    Begin::Unknown(Attempt {
                        event_key,
                        body_hash,
                        token: unique::bytes(),
                    })
                });
                self.stats.answered(&answer);
                answer
            })
            .collect()
    }

    /// Questions of requests that come together go to Redis together: see [`ask_questions`].
    async fn ask(&self, attempts: Vec<Attempt>) -> Vec<Begin> {
        let unknown = |attempts: Vec<Attempt>| attempts.into_iter().map(Begin::Unknown).collect();
        let Some(redis) = self.redis.as_ref().filter(|_| !attempts.is_empty()) else {
            return unknown(attempts);
        };
        let (answer, answered) = oneshot::channel();
        let question = Question {
            attempts: attempts.clone(),
            answer,
        };
        // Without an asker, or when it fails: it may be that they were marked; the attempts settle
        // that like fresh ones.
        if self.questions.send(question).await.is_err() {
            return unknown(attempts);
        }
        // Those before them may take as long as a call at most.
        match tokio::time::timeout(redis.timeout() * 2, answered).await {
            Ok(Ok(held)) => attempts
                .into_iter()
                .zip(held)
                .map(|(attempt, held)| read(attempt, held.as_deref()))
                .collect(),
            Ok(Err(_)) | Err(_) => unknown(attempts),
        }
    }

    /// The broker has acked: remember the answer. Not waited for.
    pub fn done(&self, attempt: Attempt, answer: Timestamp) {
        self.write(Outcome::Done(attempt, answer));
    }

    /// The event was not accepted and may be tried again at once. Not waited for.
    pub fn clear(&self, attempt: Attempt) {
        self.write(Outcome::Clear(attempt));
    }

    fn write(&self, outcome: Outcome) {
        if self.redis.is_some() && self.outcomes.try_send(outcome).is_err() {
            metrics::counter!("bm_admission_idempotency_dropped_total").increment(1);
        }
    }

    /// Waits until everything handed over before this call was written or given up. For an orderly
    /// end.
    pub async fn flush(&self) {
        let (flushed, wait) = oneshot::channel();
        if self.outcomes.send(Outcome::Flushed(flushed)).await.is_ok() {
            // An error means that the writer is gone, and then there is nothing to wait for.
            let _gone = wait.await;
        }
    }
}

fn key(prefix: &str, event_key: &[u8; 16]) -> String {
    format!("{prefix}bm:idem:{{{}}}", hex::encode(event_key))
}

fn read(attempt: Attempt, held: Option<&[u8]>) -> Begin {
    let Some(held) = held else {
        return Begin::Fresh(attempt);
    };
    let (Some(tag), Some(body), Some(rest)) = (held.first(), held.get(1..17), held.get(17..))
    else {
        return Begin::Unknown(attempt);
    };
    if body != attempt.body_hash {
        return Begin::OtherBody;
    }
    match (*tag, <[u8; 8]>::try_from(rest)) {
        (PENDING_TAG, _) => Begin::InFlight,
        (DONE_TAG, Ok(millis)) => Begin::Done {
            answer: Timestamp::clamped(i64::from_be_bytes(millis)),
        },
        _ => Begin::Unknown(attempt),
    }
}

/// Asks Redis about what has come by now in one round trip: while some are under way the next
/// questions gather, so a busy gateway asks in few large calls, and an idle one at once. Until all
/// askers are gone.
async fn ask_questions(
    redis: RedisHandle,
    prefix: Arc<str>,
    pending: Duration,
    asked: Arc<Mutex<mpsc::Receiver<Question>>>,
) {
    let calls = Arc::new(Semaphore::new(CALLS));
    let mut asked = asked.lock().await;
    while let Some(question) = asked.recv().await {
        // Never closed.
        let Ok(call) = Arc::clone(&calls).acquire_owned().await else {
            return;
        };
        let mut attempts = question.attempts.len();
        let mut questions = vec![question];
        while attempts < ATTEMPTS
            && let Ok(question) = asked.try_recv()
        {
            attempts += question.attempts.len();
            questions.push(question);
        }
        let (redis, prefix) = (redis.clone(), Arc::clone(&prefix));
        tokio::spawn(async move {
            ask_together(&redis, &prefix, pending, questions).await;
            drop(call);
        });
    }
}

async fn ask_together(
    redis: &RedisHandle,
    prefix: &str,
    pending: Duration,
    questions: Vec<Question>,
) {
    let life = u64::try_from(pending.as_millis()).unwrap_or(u64::MAX);
    let mut pipeline = redis::pipe();
    for attempt in questions.iter().flat_map(|question| &question.attempts) {
        pipeline
            .cmd("SET")
            .arg(key(prefix, &attempt.event_key))
            .arg(attempt.pending())
            .arg("PX")
            .arg(life)
            .arg("NX")
            .arg("GET");
    }
    let held = redis
        .run("idempotency_begin", |mut connection| async move {
            let held: Vec<Option<Vec<u8>>> = pipeline.query_async(&mut connection).await?;
            Ok(held)
        })
        .await;
    let attempts: usize = questions.iter().map(|asked| asked.attempts.len()).sum();
    let Some(held) = held.ok().filter(|held| held.len() == attempts) else {
        return;
    };
    let mut held = held.into_iter();
    for Question { attempts, answer } in questions {
        // Whoever asked may have gone.
        let _gone = answer.send(held.by_ref().take(attempts.len()).collect());
    }
}

/// Writes outcomes in the order they came, as many at a time as there are, until all senders are gone.
async fn write_outcomes(
    redis: Option<RedisHandle>,
    prefix: String,
    queue: Arc<Mutex<mpsc::Receiver<Outcome>>>,
) {
    let mut queue = queue.lock().await;
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let mut flushed = Vec::new();
        let mut pipeline = redis::pipe();
        let mut count = 0_u64;
        for outcome in batch.drain(..) {
            let (script, attempt, value) = match outcome {
                Outcome::Done(attempt, answer) => {
                    let value = attempt.done(answer);
                    (&*FINISH, attempt, value)
                }
                Outcome::Clear(attempt) => {
                    let value = attempt.pending();
                    (&*CLEAR, attempt, value)
                }
                Outcome::Flushed(waiting) => {
                    flushed.push(waiting);
                    continue;
                }
            };
            count += 1;
            let life = u64::try_from(DONE.as_millis()).unwrap_or(u64::MAX);
            pipeline.invoke_script(
                script
                    .key(key(&prefix, &attempt.event_key))
                    .arg(value)
                    .arg(life),
            );
        }
        if let Some(redis) = redis.as_ref().filter(|_| count > 0) {
            let written = redis
                .run("idempotency_finish", |connection| {
                    send(connection, pipeline)
                })
                .await;
            if written.is_err() {
                metrics::counter!("bm_admission_idempotency_dropped_total").increment(count);
            }
        }
        for waiting in flushed {
            // Whoever waited may have gone.
            let _gone = waiting.send(());
        }
    }
}

async fn send(mut connection: ConnectionManager, pipeline: redis::Pipeline) -> RedisResult<()> {
    // Doing either twice changes nothing, so the scripts may be loaded and all be sent again.
    let _changed: Vec<i64> = run_scripts(&mut connection, &pipeline, &[&FINISH, &CLEAR]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_redis_everything_is_accepted_but_repeats_in_a_batch_are_seen() {
        let memory = Idempotency::new(None, "");
        let (a, b) = ([1; 16], [2; 16]);
        let begun = memory
            .begin_many(&[(a, a), (b, a), (a, a), (a, b), (b, a)])
            .await;
        assert!(matches!(begun[0], Begin::Unknown(_)));
        assert!(matches!(begun[1], Begin::Unknown(_)));
        assert_eq!(begun[2], Begin::SameBatch { first: 0 });
        assert_eq!(begun[3], Begin::OtherBody);
        assert_eq!(begun[4], Begin::SameBatch { first: 1 });
        let Begin::Unknown(attempt) = memory.begin_many(&[(a, a)]).await.remove(0) else {
            panic!("there is no Redis");
        };
        memory.done(attempt, Timestamp::clamped(5));
        memory.flush().await;
    }

    #[test]
    fn what_is_held_reads_back() {
        let attempt = Attempt {
            event_key: [1; 16],
            body_hash: [2; 16],
            token: [3; 16],
        };
        let answer = Timestamp::clamped(1_700_000_000_123);
        let other = Attempt {
            body_hash: [4; 16],
            ..attempt.clone()
        };
        let read = |held: Option<&[u8]>| read(attempt.clone(), held);
        assert_eq!(read(None), Begin::Fresh(attempt.clone()));
        assert_eq!(read(Some(&attempt.pending())), Begin::InFlight);
        assert_eq!(read(Some(&attempt.done(answer))), Begin::Done { answer });
        assert_eq!(read(Some(&other.pending())), Begin::OtherBody);
        assert_eq!(read(Some(&other.done(answer))), Begin::OtherBody);
        for strange in [&b""[..], b"D", b"X2222222222222222........"] {
            let begin = read(Some(strange));
            assert!(
                matches!(begin, Begin::Unknown(_) | Begin::OtherBody),
                "{begin:?}"
            );
        }
    }
}
