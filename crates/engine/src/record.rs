//! A record read from the log.

use bm_contracts::Timestamp;
use bm_contracts::headers::{self, HeaderError, Kind, Name, Seq, SourceRef};
use bytes::Bytes;

/// A record as the lane read it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Partition it was read from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The broker's append time, or the producer's where the topic keeps that.
    pub timestamp: Timestamp,
    /// Partition key; empty when the record has none.
    pub key: Bytes,
    /// The message; empty for a tombstone.
    pub value: Bytes,
    /// In order; names may repeat.
    pub headers: Vec<(Name, Bytes)>,
}

impl Record {
    /// The first header of that name, as text; `None` when it is missing or not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// What the record is; an event where it does not say.
    pub fn kind(&self) -> Result<Kind, HeaderError> {
        self.header(headers::KIND)
            .map_or(Ok(Kind::Event), str::parse)
    }

    /// Which lane emitted it and in which place; `None` for what comes from outside the lanes.
    pub fn origin(&self) -> Result<Option<(SourceRef<'_>, Seq)>, HeaderError> {
        match (self.header(headers::SOURCE), self.header(headers::SEQ)) {
            (None, None) => Ok(None),
            (Some(source), Some(seq)) => Ok(Some((SourceRef::parse(source)?, seq.parse()?))),
            _ => Err(HeaderError {
                header: headers::SOURCE,
                form: "present together with bm-seq",
            }),
        }
    }

    /// The config sequence the router stamped on it.
    pub fn config_seq(&self) -> Result<Option<i64>, HeaderError> {
        self.header(headers::CONFIG)
            .map(|text| {
                text.parse().map_err(|_| HeaderError {
                    header: headers::CONFIG,
                    form: "a decimal number",
                })
            })
            .transpose()
    }

    /// Ties it to the request that caused it.
    pub fn correlation_id(&self) -> Option<&str> {
        self.header(headers::CORRELATION_ID)
    }

    /// Bytes it counts as in a batch's budget: key, value and headers.
    pub fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.key.len() + self.value.len() + headers
    }

    /// About how many bytes of memory it takes while it waits: many small records are more than
    /// the sum of their bytes.
    pub fn footprint(&self) -> usize {
        self.size() + size_of::<Self>() + self.headers.len() * size_of::<(Name, Bytes)>()
    }
}
