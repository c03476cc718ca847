//! Tests of the questions, with an oracle that counts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bm_contracts::Timestamp;
use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp::clamped(0);

/// Knows the key `known`, and fails for the key `broken`.
struct Counting {
    asked: AtomicUsize,
    connected: AtomicBool,
    gate: tokio::sync::Semaphore,
}

impl Counting {
    fn new(open: usize) -> Arc<Self> {
        Arc::new(Self {
            asked: AtomicUsize::new(0),
            connected: AtomicBool::new(true),
            gate: tokio::sync::Semaphore::new(open),
        })
    }
}

struct Handle(Arc<Counting>);

impl Oracle for Handle {
    fn connected(&self) -> bool {
        self.0.connected.load(Ordering::SeqCst)
    }

    fn ask(
        &self,
        key: String,
        _: KeyHash,
    ) -> BoxFuture<'static, Result<Vec<StudioDocument>, String>> {
        let oracle = Arc::clone(&self.0);
        Box::pin(async move {
            oracle.asked.fetch_add(1, Ordering::SeqCst);
            oracle.gate.acquire().await.unwrap().forget();
            match key.as_str() {
                "known" => Ok(vec![
                    StudioDocument::from_json(
                        "a",
                        &json!({ "tier": "pro", "subscriptionStatus": "active", "apiKey": "known" }),
                    )
                    .unwrap(),
                ]),
                "panics" if oracle.asked.load(Ordering::SeqCst) == 1 => panic!("a question panics"),
                "broken" => Err("away".to_owned()),
                _ => Ok(Vec::new()),
            }
        })
    }
}

fn questions(open: usize) -> (Arc<Counting>, Questions) {
    let oracle = Counting::new(open);
    let questions = Questions::new(Arc::new(Handle(Arc::clone(&oracle))));
    (oracle, questions)
}

async fn ask(questions: &Questions, key: &str, generation: u64) -> Reply {
    questions.ask(key, KeyHash::of(key), generation).await
}

#[tokio::test]
async fn a_hundred_who_ask_for_one_key_at_once_ask_once() {
    let (oracle, questions) = questions(0);
    let askers = futures::future::join_all((0..100).map(|_| ask(&questions, "known", 1)));
    let release = async {
        tokio::task::yield_now().await;
        oracle.gate.add_permits(1);
    };
    let (replies, ()) = tokio::join!(askers, release);
    assert!(
        replies
            .iter()
            .all(|reply| matches!(reply, Reply::Owned(owner) if owner.admit(NOW).is_ok()))
    );
    assert_eq!(oracle.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_spoil_the_answer_for_others() {
    let (oracle, questions) = questions(0);
    let first = tokio::time::timeout(Duration::from_millis(1), ask(&questions, "known", 1)).await;
    assert!(first.is_err(), "the first hung up");
    oracle.gate.add_permits(1);
    assert!(matches!(ask(&questions, "known", 1).await, Reply::Owned(_)));
    assert_eq!(oracle.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_owner_is_believed_until_the_mirror_changes_and_no_longer() {
    let (oracle, questions) = questions(10);
    for _ in 0..3 {
        assert!(matches!(ask(&questions, "known", 1).await, Reply::Owned(_)));
    }
    assert_eq!(oracle.asked.load(Ordering::SeqCst), 1);
    assert!(matches!(ask(&questions, "known", 2).await, Reply::Owned(_)));
    assert_eq!(oracle.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_once_whatever_the_mirror_does() {
    let (oracle, questions) = questions(10);
    for generation in 0..5 {
        assert!(matches!(
            ask(&questions, "nobody's", generation).await,
            Reply::Unknown
        ));
    }
    assert_eq!(oracle.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn ten_thousand_unknown_keys_are_twenty_questions_a_second() {
    let (oracle, questions) = questions(100_000);
    let started = Instant::now();
    for i in 0..10_000 {
        let _reply = ask(&questions, &format!("key {i}"), 1).await;
    }
    let seconds = started.elapsed().as_secs() as usize;
    let asked = oracle.asked.load(Ordering::SeqCst);
    assert!(asked >= 20 && asked <= 20 * (seconds + 1), "{asked}");
    let counts = questions.counts();
    assert_eq!(counts.asked, asked as u64);
    assert_eq!(counts.asked + counts.suppressed, 10_000);
}

#[tokio::test]
async fn after_a_failure_and_while_disconnected_nobody_waits() {
    let (oracle, questions) = questions(10);
    assert!(matches!(
        ask(&questions, "broken", 1).await,
        Reply::NoAnswer
    ));
    assert!(matches!(ask(&questions, "known", 1).await, Reply::NoAnswer));
    assert_eq!(oracle.asked.load(Ordering::SeqCst), 1);

    let (oracle, questions) = self::questions(10);
    oracle.connected.store(false, Ordering::SeqCst);
    assert!(matches!(ask(&questions, "known", 1).await, Reply::NoAnswer));
    assert_eq!(oracle.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_question_that_panics_is_asked_again() {
    let (oracle, questions) = questions(10);
    assert!(matches!(
        ask(&questions, "panics", 1).await,
        Reply::NoAnswer
    ));
    assert!(matches!(ask(&questions, "panics", 1).await, Reply::Unknown));
    assert_eq!(oracle.asked.load(Ordering::SeqCst), 2);
}

#[test]
fn answers_are_forgotten_in_time_and_bounded_in_number() {
    let start = Instant::now();
    let mut answers = Answers::new(100);
    for i in 0..1_000 {
        answers.put(KeyHash::of(&i.to_string()), Reply::Unknown, 1, start);
        assert!(answers.known.len() <= 100 && answers.order.len() <= 100);
    }
    let last = KeyHash::of("999");
    let end = start + UNKNOWN_FOR;
    assert!(
        answers
            .get(&last, 1, end.checked_sub(Duration::from_millis(1)).unwrap())
            .is_some()
    );
    assert!(answers.get(&last, 1, end).is_none());
    answers.put(last, Reply::Unknown, 1, end);
    assert_eq!(answers.known.len(), 1, "what has expired is gone");
    assert!(answers.get(&last, 1, end).is_some());
}
