//! The one registry of topics: nothing else in the project spells a topic's name, size or policy.

use std::fmt;

/// A topic of the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Accepted events, as the gateway appended them.
    GameEvents,
    /// Quest definitions, the newest per key.
    ConfigQuests,
    /// Leaderboard definitions, the newest per key.
    ConfigLeaderboards,
    /// Tournament definitions, the newest per key.
    ConfigTournaments,
    /// Battle pass definitions, the newest per key.
    ConfigBattlepasses,
    /// Input of the quest processor.
    QuestEvents,
    /// Input of the leaderboard processor.
    LeaderboardEvents,
    /// Input of the tournament processor.
    TournamentEvents,
    /// Input of the battle pass processor.
    BattlepassEvents,
    /// Grants on their way to the reward ledger.
    RewardEvents,
    /// Every change of a grant's status.
    RewardStatus,
    /// What players' screens show.
    UiUpdates,
    /// Records no domain could use.
    DeadLetter,
}

/// What becomes of old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Deleted after so many days.
    Days(u32),
    /// Only the newest record of each key is kept.
    Compacted,
}

/// How a topic is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name without prefix.
    pub name: &'static str,
    /// Number of partitions at creation.
    pub partitions: i32,
    /// What becomes of old records.
    pub retention: Retention,
    /// Kafka's `compression.type`.
    pub compression: &'static str,
    /// Whether the broker stamps records with its append time (else the producer's time counts).
    pub append_time: bool,
}

/// The largest record a topic takes, in bytes (`max.message.bytes`).
///
/// A lane refuses larger messages before they enter its outbox.
pub const MAX_MESSAGE_BYTES: usize = 1_048_576;

impl Topic {
    /// Every topic there is.
    pub const ALL: [Self; 13] = [
        Self::GameEvents,
        Self::ConfigQuests,
        Self::ConfigLeaderboards,
        Self::ConfigTournaments,
        Self::ConfigBattlepasses,
        Self::QuestEvents,
        Self::LeaderboardEvents,
        Self::TournamentEvents,
        Self::BattlepassEvents,
        Self::RewardEvents,
        Self::RewardStatus,
        Self::UiUpdates,
        Self::DeadLetter,
    ];

    /// How the topic is made.
    pub const fn spec(self) -> TopicSpec {
        const fn spec(name: &'static str, partitions: i32, retention: Retention) -> TopicSpec {
            TopicSpec {
                name,
                partitions,
                retention,
                compression: "producer",
                append_time: false,
            }
        }
        match self {
            Self::GameEvents => TopicSpec {
                compression: "snappy",
                append_time: true,
                ..spec("game.events", 10, Retention::Days(7))
            },
            Self::ConfigQuests => spec("config.quests", 3, Retention::Compacted),
            Self::ConfigLeaderboards => spec("config.leaderboards", 3, Retention::Compacted),
            Self::ConfigTournaments => spec("config.tournaments", 3, Retention::Compacted),
            Self::ConfigBattlepasses => spec("config.battlepasses", 3, Retention::Compacted),
            Self::QuestEvents => spec("quest.events", 5, Retention::Days(7)),
            Self::LeaderboardEvents => spec("leaderboard.events", 5, Retention::Days(7)),
            Self::TournamentEvents => spec("tournament.events", 5, Retention::Days(7)),
            Self::BattlepassEvents => spec("battlepass.events", 5, Retention::Days(7)),
            Self::RewardEvents => spec("reward.events", 5, Retention::Days(7)),
            Self::RewardStatus => spec("reward.status", 3, Retention::Days(7)),
            Self::UiUpdates => spec("ui.updates", 10, Retention::Days(1)),
            Self::DeadLetter => spec("dead.letter", 3, Retention::Days(30)),
        }
    }

    /// Name without prefix, as it stands in lane rows and in `bm-source`.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// The topic of that unprefixed name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names as the broker knows them: an optional prefix (`BM_TOPIC_PREFIX`) before each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicNames {
    prefix: String,
}

impl TopicNames {
    /// With `prefix` put before every name; empty for none.
    pub fn with_prefix(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// The broker's name of `topic`.
    pub fn full(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }

    /// The topic of a broker's name; `None` for foreign topics.
    pub fn parse(&self, full: &str) -> Option<Topic> {
        Topic::from_name(full.strip_prefix(self.prefix.as_str())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_found_by_its_prefixed_name() {
        let names = TopicNames::with_prefix("cell1.");
        for topic in Topic::ALL {
            assert_eq!(names.parse(&names.full(topic)), Some(topic));
            assert_eq!(names.parse(topic.name()), None);
        }
    }

    #[test]
    fn the_fixed_contract_holds() {
        let partitions: Vec<_> = Topic::ALL
            .iter()
            .map(|t| (t.name(), t.spec().partitions))
            .collect();
        assert_eq!(
            partitions,
            [
                ("game.events", 10),
                ("config.quests", 3),
                ("config.leaderboards", 3),
                ("config.tournaments", 3),
                ("config.battlepasses", 3),
                ("quest.events", 5),
                ("leaderboard.events", 5),
                ("tournament.events", 5),
                ("battlepass.events", 5),
                ("reward.events", 5),
                ("reward.status", 3),
                ("ui.updates", 10),
                ("dead.letter", 3),
            ]
        );
        assert!(Topic::GameEvents.spec().append_time);
    }
}
