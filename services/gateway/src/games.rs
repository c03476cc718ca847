//! Remembers the games of every studio, and asks once however many want to know.
//!
//! A studio's games are few, and all of them are asked for together: names that are made up cost
//! nothing, and a batch costs at most one question, whatever it names.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bm_contracts::{GameId, StudioId};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use metrics::Counter;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::ports::{Games, GamesAway};

/// How long a known game is remembered: a game's studio does not change, but games can be removed.
pub const KNOWN_FOR: Duration = Duration::from_mins(1);
/// How long it is remembered that there is no such game: a studio that registers one waits no longer.
pub const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// How long a known game is believed while nobody can be asked. A game practically never leaves its
/// studio, but an event that is refused for minutes is an event lost: clients keep only so many.
pub const STALE_FOR: Duration = Duration::from_mins(10);

/// How long an answer is waited for, counted from the question: everybody who waits for the same
/// answer gives up together.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long it is remembered that nobody could be asked.
pub const AWAY_FOR: Duration = Duration::from_secs(1);

/// More games than these of one studio are not held in memory.
pub const MAX_GAMES: usize = 10_000;
/// Questions about different studios at a time: fewer than there are connections by default, because
/// `/readyz` needs one.
const AT_ONCE: usize = 3;

type Answer = Result<Arc<Told>, GamesAway>;

/// What was answered about a studio.
#[derive(Debug)]
struct Told {
    games: HashSet<GameId>,
    /// Not all of its games were told.
    too_many: bool,
    /// When that was asked, which is when it was surely true.
    at: Instant,
}

#[derive(Clone)]
struct Asking {
    since: Instant,
    answer: Shared<BoxFuture<'static, Answer>>,
}

/// What is known of a studio.
#[derive(Default)]
struct Entry {
    told: Option<Arc<Told>>,
    asking: Option<Asking>,
    /// Why and when the last question failed, if it did.
    failed: Option<(GamesAway, Instant)>,
}

type Entries = Arc<Mutex<HashMap<StudioId, Entry>>>;

/// The games of a studio, as well as they are known right now.
#[derive(Debug, Clone)]
pub struct KnownGames {
    told: Option<Arc<Told>>,
    away: Option<GamesAway>,
}

impl KnownGames {
    fn all(told: Arc<Told>) -> Self {
        let away = told.too_many.then(|| {
            let why = format!("the studio has more than {MAX_GAMES} games");
            GamesAway(why.into())
        });
        Self {
            told: Some(told),
            away,
        }
    }

    /// Whether the studio has this game. "No" is only said when it is known.
    pub fn has(&self, game: &GameId) -> Result<bool, GamesAway> {
        if self.told.as_ref().is_some_and(|told| told.has(game)) {
            return Ok(true);
        }
        self.away.clone().map_or(Ok(false), Err)
    }
}

impl Told {
    fn has(&self, game: &GameId) -> bool {
        self.games.contains(game)
    }
}

/// A cache over [`Games`].
pub struct GameCache {
    games: Arc<dyn Games>,
    entries: Entries,
    turns: Arc<Semaphore>,
    stale: Counter,
}

impl GameCache {
    /// An empty cache.
    pub fn new(games: Arc<dyn Games>) -> Self {
        metrics::describe_counter!(
            "bm_gateway_stale_games_total",
            "Requests that were believed about a game whose studio could not be asked for anew."
        );
        Self {
            games,
            entries: Entries::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            stale: metrics::counter!("bm_gateway_stale_games_total"),
        }
    }

    /// The games of a studio, fresh enough to tell of each of `wanted` whether it is one of them,
    /// if that can be found out within [`PATIENCE`]; about others it says nothing.
    pub async fn of(&self, studio: &StudioId, wanted: &[&GameId]) -> KnownGames {
        if wanted.is_empty() {
            return KnownGames {
                told: None,
                away: None,
            };
        }
        let (told, asking) = match self.told_or_asking(studio, wanted) {
            Ok(known) => return known,
            Err(asking) => asking,
        };
        match tokio::time::timeout_at(asking.since + PATIENCE, asking.answer).await {
            Ok(Ok(told)) => KnownGames::all(told),
            Ok(Err(away)) => self.without_asking(told, wanted, away),
            Err(_) => self.without_asking(told, wanted, GamesAway("no answer in time".into())),
        }
    }

    /// What is known, or what may be believed meanwhile and the question that will tell.
    fn told_or_asking(
        &self,
        studio: &StudioId,
        wanted: &[&GameId],
    ) -> Result<KnownGames, (Option<Arc<Told>>, Asking)> {
        let now = Instant::now();
        let mut entries = lock(&self.entries);
        let entry = entries.entry(studio.clone()).or_default();
        let told = entry.told.clone().filter(|told| now - told.at < STALE_FOR);
        let has_all = told
            .as_ref()
            .is_some_and(|told| wanted.iter().all(|game| told.has(game)));
        if let Some(told) = &told {
            let fresh_for = if has_all { KNOWN_FOR } else { UNKNOWN_FOR };
            if now - told.at < fresh_for {
                return Ok(KnownGames::all(Arc::clone(told)));
            }
        }
        let failed = entry.failed.clone();
        if let Some((why, at)) = &failed
            && now - *at < AWAY_FOR
        {
            return Ok(self.without_asking(told, wanted, why.clone()));
        }
        let asking = entry
            .asking
            .get_or_insert_with(|| self.ask(studio, now))
            .clone();
        match failed {
            // The last question failed, and this one may: what is known does not wait for it.
            Some((why, _)) if has_all => Ok(self.without_asking(told, wanted, why)),
            _ => Err((told, asking)),
        }
    }

    fn ask(&self, studio: &StudioId, since: Instant) -> Asking {
        let asked = self.games.of(studio.clone(), MAX_GAMES + 1);
        let (entries, turns) = (Arc::clone(&self.entries), Arc::clone(&self.turns));
        let studio = studio.clone();
        let answer = async move {
            let turn = turns.acquire().await;
            // A panic must not stay as the answer of every later question.
            let games = AssertUnwindSafe(asked).catch_unwind().await;
            let games =
                games.unwrap_or_else(|_| Err(GamesAway("a panic, which the log shows".into())));
            let answer = games.map(|games| {
                Arc::new(Told {
                    too_many: games.len() > MAX_GAMES,
                    games: games.into_iter().take(MAX_GAMES).collect(),
                    at: since,
                })
            });
            drop(turn);
            remember(
                lock(&entries).entry(studio.clone()).or_default(),
                &studio,
                &answer,
            );
            answer
        };
        let answer = answer.boxed().shared();
        // Whoever asked may hang up: the question ends all the same, and gives its connection back.
        tokio::spawn(answer.clone());
        Asking { since, answer }
    }

    fn without_asking(
        &self,
        told: Option<Arc<Told>>,
        wanted: &[&GameId],
        away: GamesAway,
    ) -> KnownGames {
        let believed = told.as_ref().is_some_and(|told| {
            told.at.elapsed() >= KNOWN_FOR && wanted.iter().any(|game| told.has(game))
        });
        if believed {
            self.stale.increment(1);
        }
        KnownGames {
            told,
            away: Some(away),
        }
    }
}

/// An outage is told once for each studio that it hits.
fn remember(entry: &mut Entry, studio: &StudioId, answer: &Answer) {
    entry.asking = None;
    match answer {
        Ok(told) => {
            if told.too_many {
                tracing::error!(
                    studio.id = studio.as_str(),
                    "a studio has more than {MAX_GAMES} games; events of further ones are not taken"
                );
            }
            entry.told = Some(Arc::clone(told));
            entry.failed = None;
        }
        Err(away) => {
            let before = entry.failed.replace((away.clone(), Instant::now()));
            if before.is_none() {
                tracing::warn!(studio.id = studio.as_str(), error = %away, "games are away");
            }
        }
    }
}

fn lock(entries: &Mutex<HashMap<StudioId, Entry>>) -> MutexGuard<'_, HashMap<StudioId, Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeGames;

    fn id(text: &str) -> GameId {
        GameId::new(text).unwrap()
    }

    fn studio(text: &str) -> StudioId {
        StudioId::new(text).unwrap()
    }

    async fn has(cache: &GameCache, game: &str) -> Result<bool, GamesAway> {
        let game = id(game);
        cache.of(&studio("acme"), &[&game]).await.has(&game)
    }

    #[tokio::test(start_paused = true)]
    async fn known_games_are_asked_for_once_a_minute() {
        let games = Arc::new(FakeGames::of(&[
            ("g", "acme"),
            ("h", "acme"),
            ("o", "other"),
        ]));
        let cache = GameCache::new(games.clone());
        for game in ["g", "h", "g"] {
            assert_eq!(has(&cache, game).await, Ok(true));
        }
        assert_eq!(has(&cache, "o").await, Ok(false));
        assert_eq!(games.asked(), 1);
        games.remove("g");
        tokio::time::advance(KNOWN_FOR).await;
        assert_eq!(has(&cache, "g").await, Ok(false));
        assert_eq!(games.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_game_registered_just_now_is_known_a_second_later() {
        let games = Arc::new(FakeGames::of(&[]));
        let cache = GameCache::new(games.clone());
        assert_eq!(has(&cache, "g").await, Ok(false));
        games.register("g", "acme");
        assert_eq!(has(&cache, "g").await, Ok(false));
        tokio::time::advance(UNKNOWN_FOR).await;
        assert_eq!(has(&cache, "g").await, Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_are_made_up_cost_a_question_a_second_however_many_there_are() {
        let games = Arc::new(FakeGames::of(&[("g", "acme")]));
        let cache = GameCache::new(games.clone());
        for n in 0..10_000 {
            assert_eq!(has(&cache, &format!("g{n}")).await, Ok(false));
        }
        assert_eq!(games.asked(), 1);
        tokio::time::advance(UNKNOWN_FOR).await;
        let names: Vec<GameId> = (0..500).map(|n| id(&format!("g{n}"))).collect();
        let names: Vec<&GameId> = names.iter().collect();
        cache.of(&studio("acme"), &names).await;
        assert_eq!(games.asked(), 2);
        assert_eq!(lock(&cache.entries).len(), 1);
    }

    #[tokio::test]
    async fn many_who_want_to_know_at_once_ask_once() {
        let games = Arc::new(FakeGames::of(&[("g", "acme")]));
        let cache = GameCache::new(games.clone());
        let answers = futures::future::join_all((0..50).map(|_| has(&cache, "g"))).await;
        assert!(answers.iter().all(|answer| *answer == Ok(true)));
        assert_eq!(games.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn while_nobody_can_be_asked_what_was_known_is_believed_for_ten_minutes() {
        let games = Arc::new(FakeGames::of(&[("g", "acme")]));
        let cache = GameCache::new(games.clone());
        assert_eq!(has(&cache, "g").await, Ok(true));
        games.go_away(true);
        tokio::time::advance(KNOWN_FOR).await;
        assert_eq!(has(&cache, "g").await, Ok(true));
        // What was not known is not known to be unknown.
        assert!(has(&cache, "h").await.is_err());
        // Nine minutes later it is ten minutes since the answer.
        tokio::time::advance(Duration::from_millis(9 * 60_000 - 1)).await;
        assert_eq!(has(&cache, "g").await, Ok(true));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(has(&cache, "g").await.is_err());
        games.go_away(false);
        tokio::time::advance(AWAY_FOR).await;
        assert_eq!(has(&cache, "h").await, Ok(false));
        assert_eq!(has(&cache, "g").await, Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn that_nobody_can_be_asked_is_remembered_for_a_second() {
        let games = Arc::new(FakeGames::of(&[]));
        games.go_away(true);
        let cache = GameCache::new(games.clone());
        for _ in 0..500 {
            assert!(has(&cache, "g").await.is_err());
        }
        assert_eq!(games.asked(), 1);
        tokio::time::advance(AWAY_FOR).await;
        assert!(has(&cache, "g").await.is_err());
        assert_eq!(games.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_answer_is_waited_for_once() {
        let games = Arc::new(FakeGames::of(&[("g", "acme")]));
        let cache = GameCache::new(games.clone());
        assert_eq!(has(&cache, "g").await, Ok(true));
        tokio::time::advance(KNOWN_FOR).await;
        games.be_silent(true);
        let begun = Instant::now();
        for _ in 0..500 {
            assert_eq!(has(&cache, "g").await, Ok(true));
            assert!(has(&cache, "h").await.is_err());
        }
        assert_eq!(
            (begun.elapsed().as_secs(), games.asked()),
            (PATIENCE.as_secs(), 2)
        );
        // The question ends though everybody who asked it has gone.
        games.be_silent(false);
        bm_testkit::eventually(Duration::from_secs(10), "the answer", || async {
            (has(&cache, "h").await == Ok(false)).then_some(())
        })
        .await;
        assert_eq!(games.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn studios_without_answers_leave_a_connection_to_others() {
        let games = Arc::new(FakeGames::of(&[]));
        games.be_silent(true);
        let cache = GameCache::new(games.clone());
        let game = id("g");
        let studios: Vec<StudioId> = (0..20).map(|n| studio(&format!("s{n}"))).collect();
        let asking = studios.iter().map(|studio| {
            let wanted = [&game];
            let cache = &cache;
            async move { cache.of(studio, &wanted).await }
        });
        for known in futures::future::join_all(asking).await {
            assert!(known.has(&game).is_err());
        }
        assert_eq!(games.asked(), AT_ONCE);
    }

    #[tokio::test]
    async fn of_too_many_games_the_rest_is_not_unknown() {
        let games = FakeGames::of(&[]);
        for n in 0..=MAX_GAMES {
            games.register(&format!("g{n:05}"), "acme");
        }
        let cache = GameCache::new(Arc::new(games));
        assert_eq!(has(&cache, "g00000").await, Ok(true));
        assert!(has(&cache, &format!("g{MAX_GAMES:05}")).await.is_err());
    }
}
