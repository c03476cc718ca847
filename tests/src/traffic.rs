//! Players who play: several clients that send events without pause, some of them twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bm_testkit::{TestClock, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{Quest, Sender, Step};

/// How many players there are; enough that some complete quests at any time of a test.
const PLAYERS: u32 = 300;

/// The quests that this traffic moves: some that players complete early, late and never.
pub fn quests() -> Vec<Quest> {
    let coins = |amount: i64| json!({"type": "coins", "amount": amount});
    vec![
        Quest::new("first-kill", "enemy_killed", Step::Count, 1).reward(coins(1)),
        Quest::new("hunter", "enemy_killed", Step::Count, 12)
            .reward(coins(50))
            .reward(json!({"type": "title", "name": "Hunter"})),
        Quest::new("forester", "enemy_killed", Step::Count, 4)
            .filter("map", "forest")
            .reward(coins(20)),
        Quest::new(
            "collector",
            "item_collected",
            Step::Unique("item".to_owned()),
            5,
        )
        .reward(json!({"type": "item", "itemId": "backpack"})),
        Quest::new(
            "endless",
            "enemy_killed",
            Step::Accumulate("damage".to_owned()),
            1_000_000_000,
        ),
        Quest::new("tourist", "enemy_killed", Step::Count, 1_000_000_000).filter("map", "desert"),
    ]
}

/// Makes events of one game, each with an id of its own.
#[derive(Debug)]
pub struct Events {
    random: StdRng,
    clock: TestClock,
    game: String,
    stem: String,
    count: u64,
}

impl Events {
    /// Events whose ids begin with `stem`, from a seed.
    pub fn new(game: &str, stem: &str, seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            clock: TestClock::starting_now(),
            game: game.to_owned(),
            stem: stem.to_owned(),
            count: 0,
        }
    }

    /// An event of that player.
    pub fn of(&mut self, player: &str, event_type: &str, metadata: &Value) -> Value {
        self.count += 1;
        json!({
            "eventType": event_type,
            "userId": player,
            "gameId": self.game,
            "eventId": format!("{}-{}", self.stem, self.count),
            "timestamp": self.clock.advance(Duration::from_millis(1)),
            "metadata": metadata,
        })
    }

    /// Any event of any player.
    pub fn any(&mut self) -> Value {
        let player = format!("player-{}", self.random.random_range(0..PLAYERS));
        let map = ["forest", "desert", "sea"][self.random.random_range(0..3)];
        match self.random.random_range(0..10) {
            0..7 => {
                let damage = self.random.random_range(0..10);
                let mut metadata = json!({"map": map, "damage": damage});
                if damage == 9 {
                    // Counts 1.
                    metadata = json!({"map": map});
                }
                self.of(&player, "enemy_killed", &metadata)
            }
            7..9 => {
                let item = format!("item-{}", self.random.random_range(0..12));
                self.of(&player, "item_collected", &json!({"item": item}))
            }
            _ => self.of(&player, "level_complete", &json!({"level": 3})),
        }
    }

    fn chance(&mut self, of: u32) -> bool {
        self.random.random_range(0..of) == 0
    }
}

/// Traffic that goes on until it is stopped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    settled: Arc<AtomicU64>,
    clients: JoinSet<()>,
}

impl Traffic {
    /// Starts `clients` clients; each waits for its answer before it sends the next event.
    pub fn start(sender: &Sender, game: &str, seed: u64, clients: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let settled = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let mut sender = sender.clone();
            let mut events = Events::new(game, &format!("c{client}"), seed.wrapping_add(client));
            let (stop, settled) = (Arc::clone(&stop), Arc::clone(&settled));
            tasks.spawn(async move {
                let mut last: Option<Value> = None;
                while !stop.load(Ordering::Relaxed) {
                    let event = events.any();
                    sender.send(&event).await;
                    settled.fetch_add(1, Ordering::Relaxed);
                    // Answers get lost on mobile networks, too.
                    if events.chance(10) {
                        sender.send(last.as_ref().unwrap_or(&event)).await;
                    }
                    last = Some(event);
                    // As many events as a small machine can follow in a debug build.
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
            });
        }
        Self {
            stop,
            settled,
            clients: tasks,
        }
    }

    /// How many events are settled so far.
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Waits until so many more events are settled.
    pub async fn more(&mut self, events: u64) {
        let until = self.settled() + events;
        let settled = Arc::clone(&self.settled);
        let arrived = eventually(Duration::from_secs(90), "more events", || async {
            (settled.load(Ordering::Relaxed) >= until).then_some(())
        });
        tokio::select! {
            () = arrived => {}
            Some(ended) = self.clients.join_next() => {
                ended.expect("a client sends until it is stopped");
                panic!("a client ended before it was stopped");
            }
        }
    }

    /// Lets every client settle its last event; gives how many were settled in all.
    pub async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client settles what it has begun");
        }
        self.settled()
    }
}
