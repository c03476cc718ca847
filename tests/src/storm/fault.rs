//! What goes wrong in a storm and when: drawn from a seed alone, so that the seed repeats it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use crate::Service;

/// How many processes of each service a storm has.
pub const INSTANCES: usize = 2;

/// A process: its service, and its place among those of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance {
    /// What it is.
    pub service: Service,
    /// Counted from 0.
    pub place: usize,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service.name(), self.place)
    }
}

impl Instance {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        Service::ALL
            .into_iter()
            .flat_map(|service| (0..INSTANCES).map(move |place| Self { service, place }))
    }
}

/// A server that all processes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// The database.
    Postgres,
    /// Limits and idempotency of the gateways.
    Redis,
    /// The log.
    Broker,
}

/// A way from processes to a server, which leads through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// One process's to PostgreSQL.
    Postgres(Instance),
    /// The studio's to PostgreSQL, by which it saves definitions.
    Studio,
    /// One gateway's to Redis.
    Redis(usize),
    /// That of the last process of each service to the broker.
    Broker,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(instance) => write!(f, "{instance} to Postgres"),
            Self::Studio => f.write_str("studio to Postgres"),
            Self::Redis(place) => write!(f, "gateway {place} to Redis"),
            Self::Broker => write!(f, "every process {} to the broker", INSTANCES - 1),
        }
    }
}

/// What a network does to those who use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Connections end, and no new ones come about.
    Cut,
    /// Connections stay, and nothing comes through.
    Silent,
    /// Each piece comes so much later.
    Delayed(Duration),
    /// Requests come through; a connection ends when the answer to one is on its way.
    AnswersLost,
    /// The same only for requests that hold this text.
    AnswersLostTo(&'static str),
}

/// Something that goes wrong, and is put right after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; started again after a while.
    Killed(Instance),
    /// SIGSTOP; let go after a while.
    Stopped(Instance),
    /// SIGTERM; started again when it has ended, and a while later.
    Terminated(Instance),
    /// Redis forgets everything.
    Flushed,
    /// A server ends in an orderly way: Redis by SIGTERM, PostgreSQL by immediate shutdown.
    Shut(Shared),
    /// A server and all its processes get SIGKILL.
    Crashed(Shared),
    /// A network misbehaves.
    Network(Link, Weather),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed(whom) => write!(f, "{whom} killed"),
            Self::Stopped(whom) => write!(f, "{whom} stopped"),
            Self::Terminated(whom) => write!(f, "{whom} asked to end"),
            Self::Flushed => f.write_str("Redis flushed"),
            Self::Shut(what) => write!(f, "{what:?} shut down"),
            Self::Crashed(what) => write!(f, "{what:?} killed"),
            Self::Network(link, weather) => write!(f, "{link}: {weather:?}"),
        }
    }
}

/// What a fault touches: two of one round never touch the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Touched {
    Process(Instance),
    Server(Shared),
    Link(Link),
}

impl Fault {
    fn touches(self) -> Touched {
        match self {
            Self::Killed(whom) | Self::Stopped(whom) | Self::Terminated(whom) => {
                Touched::Process(whom)
            }
            Self::Flushed => Touched::Server(Shared::Redis),
            Self::Shut(what) | Self::Crashed(what) => Touched::Server(what),
            Self::Network(link, _) => Touched::Link(link),
        }
    }
}

/// A fault with its times, counted from the beginning of its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// From when.
    pub begins: Duration,
    /// How long.
    pub lasts: Duration,
}

/// Faults that may overlap; after them all has to come right again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// At least one.
    pub faults: Vec<Planned>,
    /// How long nothing goes wrong after all came right.
    pub rest: Duration,
}

/// The kinds of faults.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Kill,
    Stop,
    HoldUp,
    Terminate,
    Flush,
    Shut(Shared),
    Crash(Shared),
    Postgres,
    Studio,
    Redis,
    Broker,
}

/// Each kind as often as it comes before all have come.
const DECK: [(Kind, usize); 14] = [
    (Kind::Kill, 4),
    (Kind::Stop, 3),
    (Kind::HoldUp, 4),
    (Kind::Terminate, 2),
    (Kind::Flush, 2),
    (Kind::Shut(Shared::Redis), 1),
    (Kind::Crash(Shared::Redis), 1),
    (Kind::Shut(Shared::Postgres), 1),
    (Kind::Crash(Shared::Postgres), 1),
    (Kind::Crash(Shared::Broker), 1),
    (Kind::Postgres, 5),
    (Kind::Studio, 1),
    (Kind::Redis, 2),
    (Kind::Broker, 3),
];

/// Who stands still with a commit under way: most often who could do the most harm by it.
const HELD_UP: [Service; 4] = [
    Service::EventRouter,
    Service::QuestProcessor,
    Service::QuestProcessor,
    Service::RewardProcessor,
];

/// Topics whose names stand in requests that do something: produce requests on the way to the broker.
const WRITTEN: [&str; 5] = [
    "game.events",
    "quest.events",
    "reward.events",
    "reward.status",
    "ui.updates",
];

/// All the rounds of a seed, one after the other, without end.
#[derive(Debug)]
pub struct Rounds {
    random: StdRng,
    deck: Vec<Kind>,
}

impl Rounds {
    /// Those of this seed.
    pub fn of(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            deck: Vec::new(),
        }
    }

    fn kind(&mut self) -> Kind {
        if self.deck.is_empty() {
            let cards = DECK.iter().flat_map(|(kind, count)| vec![*kind; *count]);
            self.deck = cards.collect();
            self.deck.shuffle(&mut self.random);
        }
        self.deck.pop().unwrap_or(Kind::Kill)
    }

    /// The faults of one card.
    fn faults(&mut self) -> Vec<Planned> {
        let kind = self.kind();
        let begins = self.millis(0, 2_500);
        let fault = match kind {
            Kind::Kill => Fault::Killed(self.instance()),
            Kind::Stop => Fault::Stopped(self.instance()),
            Kind::HoldUp => return self.held_up(begins),
            Kind::Terminate => Fault::Terminated(self.instance()),
            Kind::Flush => Fault::Flushed,
            Kind::Shut(what) => Fault::Shut(what),
            Kind::Crash(what) => Fault::Crashed(what),
            Kind::Postgres => {
                let whom = self.instance();
                // Takes and commits name their topic; nothing else does.
                let input = Some(whom.service.input()).filter(|input| !input.is_empty());
                Fault::Network(Link::Postgres(whom), self.weather(input))
            }
            Kind::Studio => Fault::Network(Link::Studio, self.weather(None)),
            Kind::Redis => {
                let place = self.random.random_range(0..INSTANCES);
                Fault::Network(Link::Redis(place), self.weather(None))
            }
            Kind::Broker => {
                let topic = WRITTEN.choose(&mut self.random).copied();
                Fault::Network(Link::Broker, self.weather(topic))
            }
        };
        let lasts = self.length(fault);
        vec![Planned {
            fault,
            begins,
            lasts,
        }]
    }

    /// A processor stands still with a commit under way that has not reached the database, until
    /// others have its lanes: then both come back.
    fn held_up(&mut self, begins: Duration) -> Vec<Planned> {
        let whom = Instance {
            service: HELD_UP[self.random.random_range(0..HELD_UP.len())],
            ..self.instance()
        };
        let way = Planned {
            fault: Fault::Network(Link::Postgres(whom), Weather::Silent),
            begins,
            lasts: self.millis(9_000, 12_000),
        };
        let process = Planned {
            fault: Fault::Stopped(whom),
            // It has begun a statement by then.
            begins: begins + self.millis(50, 500),
            lasts: way.lasts,
        };
        vec![way, process]
    }

    fn instance(&mut self) -> Instance {
        Instance {
            service: Service::ALL[self.random.random_range(0..Service::ALL.len())],
            place: self.random.random_range(0..INSTANCES),
        }
    }

    /// Lost answers as often as all others together: they are what is hardest to get right.
    fn weather(&mut self, named: Option<&'static str>) -> Weather {
        match self.random.random_range(0..6) {
            0 => Weather::Cut,
            1 => Weather::Silent,
            2 => Weather::Delayed(self.millis(50, 400)),
            3 => Weather::AnswersLost,
            _ => named.map_or(Weather::AnswersLost, Weather::AnswersLostTo),
        }
    }

    fn length(&mut self, fault: Fault) -> Duration {
        match fault {
            Fault::Killed(_) | Fault::Terminated(_) => self.millis(0, 2_500),
            // Past the session's timeout, after which others have its lanes; or not.
            Fault::Stopped(_) | Fault::Network(Link::Broker, Weather::Cut | Weather::Silent) => {
                if self.random.random_range(0..4) == 0 {
                    self.millis(300, 3_000)
                } else {
                    self.millis(7_000, 10_000)
                }
            }
            // Past the time that an answer is waited for: what was held up comes late, when its
            // sender has given it up. Or not.
            Fault::Network(Link::Postgres(_), Weather::Silent) => {
                if self.random.random_range(0..2) == 0 {
                    self.millis(500, 4_000)
                } else {
                    self.millis(9_000, 12_000)
                }
            }
            Fault::Flushed => Duration::ZERO,
            Fault::Shut(_) | Fault::Crashed(_) => self.millis(200, 4_000),
            Fault::Network(..) => self.millis(500, 4_000),
        }
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from..to))
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let mut touched = BTreeSet::new();
        let mut faults = Vec::new();
        for _ in 0..self.random.random_range(1..=3) {
            let more = self.faults();
            if more
                .iter()
                .all(|one| !touched.contains(&one.fault.touches()))
            {
                touched.extend(more.iter().map(|one| one.fault.touches()));
                faults.extend(more);
            }
        }
        let rest = self.millis(0, 1_500);
        Some(Round { faults, rest })
    }
}
