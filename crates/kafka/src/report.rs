//! What topics should be, what they are, and the difference in words.

use std::collections::BTreeMap;
use std::fmt;

use bm_contracts::Topic;
use bm_contracts::topics::{MAX_MESSAGE_BYTES, Retention};

/// One thing in which a topic is not as the registry wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `partitions`, `replication` or a topic setting as Kafka names it.
    pub setting: String,
    /// What it is.
    pub actual: String,
    /// What it should be.
    pub wanted: String,
}

/// What became of one topic of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicState {
    /// It was missing, and is there now.
    Created,
    /// It was there, as the registry wants it.
    AsWanted,
    /// It was there and differs; it was not touched.
    Differs(Vec<Difference>),
    /// It is missing (only where nothing was to be created).
    Missing,
    /// It was missing and could not be created.
    Failed(String),
}

/// A topic as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingTopic {
    /// Full name, with prefix.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of its least replicated partition.
    pub replication: i16,
    /// The settings the registry fixes, as the broker has them. Empty for foreign topics.
    pub settings: BTreeMap<String, String>,
}

/// What [`crate::TopicAdmin::reconcile`] found and did. `Display` prints it, a line for each topic and difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    /// Brokers it was asked of.
    pub brokers: String,
    /// Replication factor wanted.
    pub replication: i16,
    /// Every topic of the registry under its full name, in the registry's order.
    pub topics: Vec<(String, TopicState)>,
    /// Every topic there is whose name begins with the prefix, by name; not Kafka's own (`__…`).
    pub existing: Vec<ExistingTopic>,
}

impl TopicReport {
    /// Whether a topic could not be created.
    pub fn has_failures(&self) -> bool {
        self.topics
            .iter()
            .any(|(_, state)| matches!(state, TopicState::Failed(_)))
    }

    /// Whether a topic is missing or is not as wanted.
    pub fn has_differences(&self) -> bool {
        self.topics
            .iter()
            .any(|(_, state)| matches!(state, TopicState::Differs(_) | TopicState::Missing))
    }
}

impl fmt::Display for TopicReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, state) in &self.topics {
            match state {
                TopicState::Created => writeln!(f, "created    {name}")?,
                TopicState::AsWanted => writeln!(f, "as wanted  {name}")?,
                TopicState::Missing => writeln!(f, "missing    {name}")?,
                TopicState::Failed(reason) => writeln!(f, "failed     {name}: {reason}")?,
                TopicState::Differs(differences) => {
                    for Difference {
                        setting,
                        actual,
                        wanted,
                    } in differences
                    {
                        writeln!(
                            f,
                            "differs    {name}: {setting} is {actual}, wanted {wanted}"
                        )?;
                    }
                }
            }
        }
        writeln!(f)?;
        writeln!(f, "topics at {}:", self.brokers)?;
        let width = self
            .existing
            .iter()
            .map(|t| t.name.len())
            .max()
            .unwrap_or(0);
        for topic in &self.existing {
            write!(
                f,
                "  {:width$}  partitions={} replication={}",
                topic.name, topic.partitions, topic.replication
            )?;
            for (setting, value) in &topic.settings {
                write!(f, " {setting}={value}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The settings the registry fixes for `topic`, as Kafka names and spells them.
pub(crate) fn wanted_settings(topic: Topic, replication: i16) -> BTreeMap<&'static str, String> {
    let spec = topic.spec();
    let mut settings = BTreeMap::new();
    match spec.retention {
        Retention::Days(days) => {
            settings.insert("cleanup.policy", "delete".to_owned());
            settings.insert("retention.ms", (u64::from(days) * 86_400_000).to_string());
        }
        Retention::Compacted => {
            settings.insert("cleanup.policy", "compact".to_owned());
        }
    }
    settings.insert("compression.type", spec.compression.to_owned());
    settings.insert(
        "message.timestamp.type",
        if spec.append_time {
            "LogAppendTime"
        } else {
            "CreateTime"
        }
        .to_owned(),
    );
    settings.insert("max.message.bytes", MAX_MESSAGE_BYTES.to_string());
    if replication >= 3 {
        settings.insert("min.insync.replicas", "2".to_owned());
        settings.insert("unclean.leader.election.enable", "false".to_owned());
    }
    settings
}

/// In what `existing` is not what the registry wants of `topic`.
///
/// A setting the broker does not report is one it does not have (Redpanda has no unclean election, for one).
pub(crate) fn differences(
    topic: Topic,
    replication: i16,
    existing: &ExistingTopic,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |setting: &str, actual: String, wanted: String| {
        if actual != wanted {
            found.push(Difference {
                setting: setting.to_owned(),
                actual,
                wanted,
            });
        }
    };
    compare(
        "partitions",
        existing.partitions.to_string(),
        topic.spec().partitions.to_string(),
    );
    compare(
        "replication",
        existing.replication.to_string(),
        replication.to_string(),
    );
    for (setting, wanted) in wanted_settings(topic, replication) {
        if let Some(actual) = existing.settings.get(setting) {
            compare(setting, actual.clone(), wanted);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn existing(topic: Topic, replication: i16) -> ExistingTopic {
        ExistingTopic {
            name: topic.name().to_owned(),
            partitions: topic.spec().partitions,
            replication,
            settings: wanted_settings(topic, replication)
                .into_iter()
                .map(|(setting, value)| (setting.to_owned(), value))
                .collect(),
        }
    }

    #[test]
    fn a_topic_made_by_the_registry_does_not_differ() {
        for topic in Topic::ALL {
            for replication in [1, 3] {
                assert_eq!(
                    differences(topic, replication, &existing(topic, replication)),
                    []
                );
            }
        }
    }

    #[test]
    fn production_topics_need_two_replicas_in_sync() {
        let settings = wanted_settings(Topic::GameEvents, 3);
        assert_eq!(settings["min.insync.replicas"], "2");
        assert_eq!(settings["unclean.leader.election.enable"], "false");
        assert_eq!(settings["message.timestamp.type"], "LogAppendTime");
        assert_eq!(settings["retention.ms"], "604800000");
        assert!(!wanted_settings(Topic::GameEvents, 1).contains_key("min.insync.replicas"));
        assert!(!wanted_settings(Topic::ConfigQuests, 1).contains_key("retention.ms"));
    }

    #[test]
    fn every_difference_is_a_line() {
        let mut topic = existing(Topic::UiUpdates, 1);
        topic.partitions = 3;
        topic
            .settings
            .insert("retention.ms".to_owned(), "1000".to_owned());
        let report = TopicReport {
            brokers: "localhost:9092".to_owned(),
            replication: 1,
            topics: vec![(
                topic.name.clone(),
                TopicState::Differs(differences(Topic::UiUpdates, 1, &topic)),
            )],
            existing: vec![topic],
        };
        let text = report.to_string();
        assert!(
            text.contains("differs    ui.updates: partitions is 3, wanted 10\n"),
            "{text}"
        );
        assert!(
            text.contains("differs    ui.updates: retention.ms is 1000, wanted 86400000\n"),
            "{text}"
        );
        assert!(report.has_differences() && !report.has_failures());
    }
}
