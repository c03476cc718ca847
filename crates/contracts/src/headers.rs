//! Record headers: who emitted a record, in which place of its sequence, and of which kind it is.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Emitting lane: `processor/topic/partition`.
pub const SOURCE: &str = "bm-source";
/// Place in the emitting lane's sequence: `generation.offset.index`, decimal.
pub const SEQ: &str = "bm-seq";
/// What the record is: event, command, barrier, delta.
pub const KIND: &str = "bm-kind";
/// The config sequence an event is stamped with, decimal.
pub const CONFIG: &str = "bm-config";
/// Ties a record to the request that caused it.
pub const CORRELATION_ID: &str = "bm-correlation-id";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Set by the gateway.
pub const STUDIO_ID: &str = "studioId";
/// Set by the gateway.
pub const GAME_ID: &str = "gameId";
/// Set by the gateway.
pub const EVENT_TYPE: &str = "eventType";

/// Headers that this system sets itself.
const OURS: [&str; 9] = [
    SOURCE,
    SEQ,
    KIND,
    CONFIG,
    CORRELATION_ID,
    TRACEPARENT,
    STUDIO_ID,
    GAME_ID,
    EVENT_TYPE,
];

/// A header's name; one that this system sets itself costs no memory.
pub type Name = Cow<'static, str>;

/// A header's name as it was read.
pub fn name(read: &str) -> Name {
    let ours = OURS.into_iter().find(|ours| *ours == read);
    ours.map_or_else(|| Cow::Owned(read.to_owned()), Cow::Borrowed)
}

/// A header's text is not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header {header} is not of the form {form}")]
pub struct HeaderError {
    /// Which header.
    pub header: &'static str,
    /// What it should look like.
    pub form: &'static str,
}

/// What a record is to the lane that reads it. A record without the header is an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    /// A game event.
    #[default]
    Event,
    /// A claim, join, unlock, moderation; or a redriven dead letter.
    Command,
    /// A point in time turned into a position.
    Barrier,
    /// A change sent to, or a decision of, the owner of a thing that spans players.
    Delta,
}

impl Kind {
    /// The header's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Command => "command",
            Self::Barrier => "barrier",
            Self::Delta => "delta",
        }
    }
}

impl FromStr for Kind {
    type Err = HeaderError;
    fn from_str(text: &str) -> Result<Self, HeaderError> {
        match text {
            "event" => Ok(Self::Event),
            "command" => Ok(Self::Command),
            "barrier" => Ok(Self::Barrier),
            "delta" => Ok(Self::Delta),
            _ => Err(HeaderError {
                header: KIND,
                form: "event|command|barrier|delta",
            }),
        }
    }
}

/// A lane as the outside sees it: the processor, and the topic and partition it reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    /// Processor name, fixed in code.
    pub processor: String,
    /// Unprefixed topic name.
    pub topic: String,
    /// Partition the lane reads.
    pub partition: i32,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.processor, self.topic, self.partition)
    }
}

/// The same as it stands in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceRef<'a> {
    processor: &'a str,
    topic: &'a str,
    partition: i32,
}

impl<'a> SourceRef<'a> {
    /// Reads a header's text.
    pub fn parse(text: &'a str) -> Result<Self, HeaderError> {
        const BAD: HeaderError = HeaderError {
            header: SOURCE,
            form: "processor/topic/partition",
        };
        let mut parts = text.split('/');
        let (Some(processor), Some(topic), Some(partition), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BAD);
        };
        if processor.is_empty() || topic.is_empty() {
            return Err(BAD);
        }
        let partition = partition.parse().map_err(|_| BAD)?;
        Ok(Self {
            processor,
            topic,
            partition,
        })
    }

    /// Whether this is that lane.
    pub fn names(self, source: &Source) -> bool {
        (self.processor, self.topic, self.partition)
            == (
                source.processor.as_str(),
                source.topic.as_str(),
                source.partition,
            )
    }

    /// On its own.
    pub fn to_owned(self) -> Source {
        Source {
            processor: self.processor.to_owned(),
            topic: self.topic.to_owned(),
            partition: self.partition,
        }
    }
}

impl FromStr for Source {
    type Err = HeaderError;
    fn from_str(text: &str) -> Result<Self, HeaderError> {
        SourceRef::parse(text).map(SourceRef::to_owned)
    }
}

/// Place of a message in what one lane emits; greater is later.
///
/// The generation changes only when an operator moves the lane to a new log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seq {
    /// Which log the offset belongs to.
    pub generation: i64,
    /// Offset of the input record that caused the message.
    pub offset: i64,
    /// Place among the messages of that record.
    pub index: i32,
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.generation, self.offset, self.index)
    }
}

impl FromStr for Seq {
    type Err = HeaderError;
    fn from_str(text: &str) -> Result<Self, HeaderError> {
        const BAD: HeaderError = HeaderError {
            header: SEQ,
            form: "generation.offset.index",
        };
        let mut parts = text.split('.');
        let (Some(generation), Some(offset), Some(index), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BAD);
        };
        Ok(Self {
            generation: generation.parse().map_err(|_| BAD)?,
            offset: offset.parse().map_err(|_| BAD)?,
            index: index.parse().map_err(|_| BAD)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_orders_by_number_not_by_text() {
        let seq = |text: &str| text.parse::<Seq>().unwrap();
        assert!(seq("0.9.0") < seq("0.10.0"));
        assert!(seq("0.10.1") < seq("1.0.0"));
        assert_eq!(seq("1.22.3").to_string(), "1.22.3");
        assert!("1.2".parse::<Seq>().is_err());
    }

    #[test]
    fn a_source_reads_back() {
        let source: Source = "event-router/game.events/7".parse().unwrap();
        assert_eq!(source.partition, 7);
        assert_eq!(source.to_string(), "event-router/game.events/7");
        assert!("a/b".parse::<Source>().is_err());
        assert!("a/b/c".parse::<Source>().is_err());
    }
}
