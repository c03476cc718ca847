//! Remembers which studio a game belongs to, and asks once however many want to know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bm_contracts::{GameId, StudioId};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;

use crate::ports::{Games, GamesAway};

/// How long a known game is remembered: a game's studio does not change, but games can be removed.
pub const KNOWN_FOR: Duration = Duration::from_mins(1);
/// How long it is remembered that there is no such game: a studio that registers one waits no longer.
pub const UNKNOWN_FOR: Duration = Duration::from_secs(1);

/// Expired entries are thrown out at the earliest when there are so many.
const SWEEP_FROM: usize = 10_000;

type Answer = Result<Option<StudioId>, GamesAway>;
type Asking = Shared<BoxFuture<'static, Answer>>;

enum Entry {
    Told {
        studio: Option<StudioId>,
        until: Instant,
    },
    Asking(Asking),
}

struct Entries {
    games: HashMap<GameId, Entry>,
    swept: Instant,
}

/// A cache over [`Games`]. Errors are not remembered.
pub struct GameCache {
    games: Arc<dyn Games>,
    entries: Arc<Mutex<Entries>>,
}

impl GameCache {
    /// An empty cache.
    pub fn new(games: Arc<dyn Games>) -> Self {
        Self {
            games,
            entries: Arc::new(Mutex::new(Entries {
                games: HashMap::new(),
                swept: Instant::now(),
            })),
        }
    }

    /// The studio a game belongs to; `None` when there is no such game.
    pub async fn studio_of(&self, game: &GameId) -> Answer {
        match self.told_or_asking(game) {
            Ok(told) => Ok(told),
            Err(asking) => asking.await,
        }
    }

    fn told_or_asking(&self, game: &GameId) -> Result<Option<StudioId>, Asking> {
        let now = Instant::now();
        let mut entries = lock(&self.entries);
        match entries.games.get(game) {
            Some(Entry::Told { studio, until }) if *until > now => return Ok(studio.clone()),
            Some(Entry::Asking(asking)) => return Err(asking.clone()),
            _ => {}
        }
        // Names that do not exist are cheap to make up; at most once a second is cheap to clean up.
        if entries.games.len() >= SWEEP_FROM && now - entries.swept >= UNKNOWN_FOR {
            entries.swept = now;
            entries
                .games
                .retain(|_, entry| !matches!(entry, Entry::Told { until, .. } if *until <= now));
        }
        let asked = self.games.studio_of(game.clone());
        let (cache, name) = (Arc::clone(&self.entries), game.clone());
        let asking = async move {
            let answer = asked.await;
            remember(&mut lock(&cache), name, &answer);
            answer
        }
        .boxed()
        .shared();
        entries
            .games
            .insert(game.clone(), Entry::Asking(asking.clone()));
        // Whoever asked may hang up: the question ends all the same, and gives its connection back.
        tokio::spawn(asking.clone());
        Err(asking)
    }
}

/// Errors are not remembered.
fn remember(entries: &mut Entries, game: GameId, answer: &Answer) {
    let Ok(studio) = answer else {
        entries.games.remove(&game);
        return;
    };
    let life = if studio.is_some() {
        KNOWN_FOR
    } else {
        UNKNOWN_FOR
    };
    let told = Entry::Told {
        studio: studio.clone(),
        until: Instant::now() + life,
    };
    entries.games.insert(game, told);
}

fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeGames;

    fn id(text: &str) -> GameId {
        GameId::new(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_game_is_asked_about_once_a_minute() {
        let games = Arc::new(FakeGames::of(&[("g", "acme")]));
        let cache = GameCache::new(games.clone());
        for _ in 0..3 {
            let studio = cache.studio_of(&id("g")).await.unwrap().unwrap();
            assert_eq!(studio.as_str(), "acme");
        }
        assert_eq!(games.asked(), 1);
        tokio::time::advance(KNOWN_FOR).await;
        cache.studio_of(&id("g")).await.unwrap();
        assert_eq!(games.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_game_registered_just_now_is_known_a_second_later() {
        let games = Arc::new(FakeGames::of(&[]));
        let cache = GameCache::new(games.clone());
        assert_eq!(cache.studio_of(&id("g")).await, Ok(None));
        games.register("g", "acme");
        assert_eq!(cache.studio_of(&id("g")).await, Ok(None));
        tokio::time::advance(UNKNOWN_FOR).await;
        assert!(cache.studio_of(&id("g")).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn many_who_want_to_know_at_once_ask_once() {
        let games = Arc::new(FakeGames::of(&[("g", "acme")]));
        let cache = GameCache::new(games.clone());
        let game = id("g");
        let answers = futures::future::join_all((0..50).map(|_| cache.studio_of(&game))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Some(_)))));
        assert_eq!(games.asked(), 1);
    }

    /// Answers once, when it is let to.
    struct SlowGames(tokio::sync::Semaphore);

    impl Games for Arc<SlowGames> {
        fn studio_of(&self, _: GameId) -> BoxFuture<'static, Answer> {
            let games = Arc::clone(self);
            async move {
                games.0.acquire().await.unwrap().forget();
                Ok(Some(StudioId::new("acme").unwrap()))
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn a_question_ends_though_whoever_asked_has_hung_up() {
        let games = Arc::new(SlowGames(tokio::sync::Semaphore::new(0)));
        let cache = GameCache::new(Arc::new(Arc::clone(&games)));
        let game = id("g");
        assert_eq!(cache.studio_of(&game).now_or_never(), None);
        games.0.add_permits(1);
        bm_testkit::eventually(Duration::from_secs(10), "the answer", || async {
            matches!(
                lock(&cache.entries).games.get(&game),
                Some(Entry::Told { .. })
            )
            .then_some(())
        })
        .await;
    }

    #[tokio::test]
    async fn an_error_is_not_remembered_and_a_known_game_survives_it() {
        let games = Arc::new(FakeGames::of(&[("g", "acme"), ("h", "acme")]));
        let cache = GameCache::new(games.clone());
        cache.studio_of(&id("g")).await.unwrap();
        games.go_away(true);
        assert!(cache.studio_of(&id("h")).await.is_err());
        assert!(cache.studio_of(&id("g")).await.is_ok());
        games.go_away(false);
        assert!(cache.studio_of(&id("h")).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_names_do_not_pile_up() {
        let games = Arc::new(FakeGames::of(&[]));
        let cache = GameCache::new(games);
        for n in 0..SWEEP_FROM {
            cache.studio_of(&id(&format!("g{n}"))).await.unwrap();
        }
        tokio::time::advance(UNKNOWN_FOR).await;
        cache.studio_of(&id("last")).await.unwrap();
        assert_eq!(lock(&cache.entries).games.len(), 1);
    }
}
