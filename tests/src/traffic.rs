//! Players who play: several clients that send events without pause, some of them twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bm_testkit::{TestClock, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{Form, Quest, Sender, Step};

/// How many players there are; enough that some complete quests at any time of a test.
const PLAYERS: u32 = 300;

/// The quests that this traffic moves: some that players complete early, late and never.
pub fn quests() -> Vec<Quest> {
    let coins = |amount: i64| json!({"type": "coins", "amount": amount});
    // While events flow it begins, and ends.
    let now = TestClock::starting_now().now_millis();
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
        Quest::new(
            "marksman",
            "enemy_killed",
            Step::Accumulate("damage".to_owned()),
            25,
        )
        .reward(json!({"type": "xp", "amount": 2.5})),
        Quest::new("champion", "custom", Step::Count, 2)
            .named("boss_defeated")
            .reward(coins(100)),
        Quest::new("happy-hour", "enemy_killed", Step::Count, 2)
            .between(now + 8_000, now + 16_000)
            .reward(coins(5)),
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

    /// The same of a custom event of that name.
    pub fn custom(&mut self, player: &str, name: &str, metadata: &Value) -> Value {
        let mut event = self.of(player, "custom", metadata);
        event["eventName"] = name.into();
        event
    }

    /// Any event of any player.
    pub fn any(&mut self) -> Value {
        let player = format!("player-{}", self.random.random_range(0..PLAYERS));
        let map = ["forest", "desert", "sea"][self.random.random_range(0..3)];
        match self.random.random_range(0..12) {
            0..7 => {
                // The last has none, which counts 1. Added up as floating-point numbers most sums
                // would come out wrong.
                let damages = ["0", "1", "2", "3", "0.1", "0.2", "2.50", "7.125", ""];
                let damage = damages[self.random.random_range(0..damages.len())];
                let mut metadata = json!({"map": map});
                if !damage.is_empty() {
                    let number = serde_json::from_str(damage);
                    metadata["damage"] = number.expect("a number is JSON");
                }
                self.of(&player, "enemy_killed", &metadata)
            }
            7..9 => {
                let item = format!("item-{}", self.random.random_range(0..12));
                self.of(&player, "item_collected", &json!({"item": item}))
            }
            9 => {
                let mut event = self.of(&player, "level_complete", &json!({"level": 3}));
                event["sessionId"] = format!("session-{}", self.count).into();
                event
            }
            10 => self.custom(&player, "boss_defeated", &json!({"map": map})),
            _ => self.custom(&player, "chest_opened", &json!({})),
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

/// As many events as a small machine can follow in a debug build: one in this time and client.
const PACE: Duration = Duration::from_millis(30);

impl Traffic {
    /// Starts `clients` clients; each waits for its answer before it sends the next event, or the
    /// next batch. No other traffic of the same fleet may have this seed: it names the events.
    pub fn start(sender: &Sender, game: &str, seed: u64, clients: u64) -> Self {
        Self::start_at(sender, game, seed, (0..clients).map(|_| PACE))
    }

    /// The same without pauses: a request of each client is under way at any moment.
    pub fn start_dense(sender: &Sender, game: &str, seed: u64, clients: u64) -> Self {
        Self::start_at(sender, game, seed, (0..clients).map(|_| Duration::ZERO))
    }

    /// The same with pauses, and one client without: whenever a gateway goes, some request is under way.
    pub fn start_with_a_dense_one(sender: &Sender, game: &str, seed: u64, clients: u64) -> Self {
        let paces = (0..clients).map(|_| PACE).chain([Duration::ZERO]);
        Self::start_at(sender, game, seed, paces)
    }

    fn start_at(
        sender: &Sender,
        game: &str,
        seed: u64,
        paces: impl Iterator<Item = Duration>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let settled = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for (client, pace) in (0..).zip(paces) {
            let stem = format!("{seed:x}-{client}");
            let events = Events::new(game, &stem, seed.wrapping_add(client));
            let client = Client {
                sender: sender.clone(),
                events,
                last: None,
                settled: Arc::clone(&settled),
            };
            tasks.spawn(client.play(Arc::clone(&stop), pace));
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
        self.during(eventually(
            Duration::from_secs(90),
            "more events",
            || async { (settled.load(Ordering::Relaxed) >= until).then_some(()) },
        ))
        .await;
    }

    /// Waits for something else while events flow; fails at once when a client does.
    pub async fn during<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::select! {
            came = other => came,
            Some(ended) = self.clients.join_next() => {
                ended.expect("a client sends until it is stopped");
                panic!("a client ended before it was stopped");
            }
        }
    }

    /// Tells every client to send nothing new; what it has begun it goes on to settle.
    pub fn send_no_more(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Lets every client settle its last event; gives how many were settled in all.
    pub async fn stop(mut self) -> u64 {
        self.send_no_more();
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client settles what it has begun");
        }
        self.settled()
    }
}

/// One of the traffic's clients.
struct Client {
    sender: Sender,
    events: Events,
    last: Option<Value>,
    settled: Arc<AtomicU64>,
}

impl Client {
    async fn play(mut self, stop: Arc<AtomicBool>, pace: Duration) {
        while !stop.load(Ordering::Relaxed) {
            let sent = if self.events.chance(4) {
                self.batch().await
            } else {
                self.one().await
            };
            self.settled.fetch_add(u64::from(sent), Ordering::Relaxed);
            tokio::time::sleep(pace * sent).await;
        }
    }

    async fn one(&mut self) -> u32 {
        let event = self.events.any();
        self.sender.send(&event).await;
        // Answers get lost on mobile networks, too.
        if self.events.chance(10) {
            let again = self.last.as_ref().unwrap_or(&event);
            self.sender.send(again).await;
        }
        self.last = Some(event);
        1
    }

    /// A few events at once, sometimes with one that was sent before, alone or in the same batch.
    async fn batch(&mut self) -> u32 {
        let fresh = self.events.random.random_range(1..8);
        let mut events: Vec<Value> = (0..fresh).map(|_| self.events.any()).collect();
        if self.events.chance(5) {
            events.extend(self.last.take());
        }
        if self.events.chance(5) {
            let again = self.events.random.random_range(0..events.len());
            events.push(events[again].clone());
        }
        let form = Form::ALL[self.events.random.random_range(0..3)];
        self.sender.send_batch(&events, form).await;
        self.last = events.pop();
        fresh
    }
}
