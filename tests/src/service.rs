//! The services of the pipeline, by the names of their binaries.

/// A separate binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Takes events over HTTP.
    Gateway,
    /// `game.events` → `events_raw` and the features' topics.
    EventRouter,
    /// `quest.events` → `quest_progress`.
    QuestProcessor,
    /// `reward.events` → `reward_grants`.
    RewardProcessor,
}

impl Service {
    /// All of them, in the order events pass them.
    pub const ALL: [Self; 4] = [
        Self::Gateway,
        Self::EventRouter,
        Self::QuestProcessor,
        Self::RewardProcessor,
    ];

    /// Those that own lanes.
    pub const PROCESSORS: [Self; 3] = [
        Self::EventRouter,
        Self::QuestProcessor,
        Self::RewardProcessor,
    ];

    /// The binary's name; a processor's name in its lane rows, too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::EventRouter => "event-router",
            Self::QuestProcessor => "quest-processor",
            Self::RewardProcessor => "reward-processor",
        }
    }

    /// Unprefixed name of the topic it reads; the gateway reads none.
    pub const fn input(self) -> &'static str {
        match self {
            Self::Gateway => "",
            Self::EventRouter => "game.events",
            Self::QuestProcessor => "quest.events",
            Self::RewardProcessor => "reward.events",
        }
    }
}
