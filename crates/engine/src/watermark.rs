//! What a lane has already applied of each source: the reader's half of exactly once.

use std::collections::BTreeMap;

use bm_contracts::headers::{Seq, Source};
use serde::{Deserialize, Serialize};

/// The highest sequence applied, per emitting lane. One such map per partition read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Watermarks(BTreeMap<Source, Seq>);

/// Stored watermarks cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("stored watermarks cannot be read: {0}")]
pub struct WatermarksError(String);

#[derive(Serialize, Deserialize)]
struct Stored(Vec<(String, i64, i64, i32)>);

impl Watermarks {
    /// Whether a message of `source` at `seq` is new; if so it is remembered as applied.
    ///
    /// A source may repeat a message or send an old one late, but never a new one early: so "not
    /// above the highest" means "applied before".
    pub fn admit(&mut self, source: &Source, seq: Seq) -> bool {
        match self.0.get_mut(source) {
            Some(highest) if seq <= *highest => false,
            Some(highest) => {
                *highest = seq;
                true
            }
            None => {
                self.0.insert(source.clone(), seq);
                true
            }
        }
    }

    /// Each source and the highest sequence applied.
    pub fn iter(&self) -> impl Iterator<Item = (&Source, &Seq)> {
        self.0.iter()
    }

    /// The bytes that go into the lane's row. Empty for none.
    pub fn encode(&self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let stored = Stored(
            self.0
                .iter()
                .map(|(source, seq)| (source.to_string(), seq.generation, seq.offset, seq.index))
                .collect(),
        );
        // JSON, so that whoever is on call can read the row. Strings and integers always encode.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads what [`Watermarks::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, WatermarksError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let stored: Stored =
            serde_json::from_slice(bytes).map_err(|e| WatermarksError(e.to_string()))?;
        stored
            .0
            .into_iter()
            .map(|(source, generation, offset, index)| {
                let source = source
                    .parse()
                    .map_err(|e: bm_contracts::headers::HeaderError| {
                        WatermarksError(e.to_string())
                    })?;
                Ok((
                    source,
                    Seq {
                        generation,
                        offset,
                        index,
                    },
                ))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(partition: i32) -> Source {
        Source {
            processor: "p".to_owned(),
            topic: "t".to_owned(),
            partition,
        }
    }

    #[test]
    fn a_repeated_or_late_message_is_not_new() {
        let mut marks = Watermarks::default();
        let seq = |offset, index| Seq {
            generation: 0,
            offset,
            index,
        };
        assert!(marks.admit(&source(0), seq(5, 0)));
        assert!(marks.admit(&source(0), seq(5, 1)));
        assert!(!marks.admit(&source(0), seq(5, 1)));
        assert!(!marks.admit(&source(0), seq(4, 9)));
        assert!(
            marks.admit(&source(1), seq(1, 0)),
            "sources do not shadow each other"
        );
        assert_eq!(Watermarks::decode(&marks.encode()).unwrap(), marks);
    }
}
