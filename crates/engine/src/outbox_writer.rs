//! Turns what a lane's records emit into its outbox: placed, numbered, and never too large.

use std::collections::BTreeMap;

use bm_contracts::Topic;
use bm_contracts::headers::{self, Name, Seq, Source};
use bm_contracts::messages::DeadLetter;
use bm_contracts::partition::partition_for;
use bm_contracts::topics::MAX_MESSAGE_BYTES;

use crate::domain::{Domain, Emit, Poison, RecordEffects};
use crate::fold::{FoldContext, LaneInput};
use crate::outbox::{Outbox, OutboxMessage};
use crate::record::Record;

/// Longest correlation id and trace context that is passed on, in bytes. The gateway's are shorter.
const MAX_PASSED_ON: usize = 512;
/// What is left of a key, and of an error's sentence, in a dead letter for which they are too long.
const CUT_TO: usize = 1_024;

/// Collects a lane's messages in sequence order; of those with a slot only the last stays.
pub(crate) struct OutboxWriter<'a, D: Domain> {
    source: String,
    lane: &'a LaneInput,
    context: &'a FoldContext<'a>,
    messages: Vec<Option<OutboxMessage>>,
    latest: BTreeMap<(Topic, D::Key), usize>,
    /// Of one record, until all of its messages are made; empty between records.
    made: Vec<(Option<D::Key>, OutboxMessage)>,
    offset: i64,
    index: i32,
    /// Of all messages written so far.
    pub(crate) bytes: usize,
    /// Dead letters written so far.
    pub(crate) dead: usize,
}

impl<'a, D: Domain> OutboxWriter<'a, D> {
    pub(crate) fn new(lane: &'a LaneInput, context: &'a FoldContext<'a>) -> Self {
        let source = Source {
            processor: D::PROCESSOR.to_owned(),
            topic: D::INPUT.name().to_owned(),
            partition: lane.partition,
        };
        Self {
            source: source.to_string(),
            lane,
            context,
            messages: Vec::new(),
            latest: BTreeMap::new(),
            made: Vec::new(),
            offset: -1,
            index: 0,
            bytes: 0,
            dead: 0,
        }
    }

    /// Takes all messages and dead letters of a record, or nothing when a message cannot be appended.
    pub(crate) fn write(
        &mut self,
        record: &Record,
        effects: &mut RecordEffects<D>,
    ) -> Result<(), Poison> {
        // Empty, and back when all are made.
        let mut made = std::mem::take(&mut self.made);
        let first = if self.offset == record.offset {
            self.index
        } else {
            0
        };
        for (index, (slot, emit)) in (first..).zip(effects.emits.drain(..)) {
            let message = self.message(record, emit, index)?;
            made.push((slot, message));
        }
        self.offset = record.offset;
        self.index = first + made.len() as i32;
        for (slot, message) in made.drain(..) {
            if let Some(slot) = slot
                && let Some(older) = self
                    .latest
                    .insert((message.topic, slot), self.messages.len())
            {
                self.messages[older] = None;
            }
            self.bytes += message.size();
            self.messages.push(Some(message));
        }
        self.made = made;
        for (poison, definition) in effects.dead.drain(..) {
            self.dead_letter(record, &poison, definition);
        }
        Ok(())
    }

    fn message(&self, record: &Record, emit: Emit, index: i32) -> Result<OutboxMessage, Poison> {
        let seq = Seq {
            generation: self.lane.generation,
            offset: record.offset,
            index,
        };
        let mut headers = Vec::with_capacity(emit.headers.len() + 4);
        headers.push((Name::Borrowed(headers::SOURCE), self.source.clone()));
        headers.push((Name::Borrowed(headers::SEQ), seq.to_string()));
        headers.extend(emit.headers);
        for name in [headers::CORRELATION_ID, headers::TRACEPARENT] {
            if let Some(value) = record.header(name).filter(|v| v.len() <= MAX_PASSED_ON) {
                headers.push((Name::Borrowed(name), value.to_owned()));
            }
        }
        let partitions = self
            .context
            .partition_counts
            .get(&emit.topic)
            .copied()
            .unwrap_or(1);
        let message = OutboxMessage {
            topic: emit.topic,
            partition: partition_for(emit.key.as_bytes(), partitions),
            key: emit.key,
            headers,
            value: emit.value,
        };
        if message.size() > MAX_MESSAGE_BYTES {
            return Err(Poison::new(
                "message_too_large",
                format!(
                    "it would emit a message of {} bytes to {}, more than {MAX_MESSAGE_BYTES}",
                    message.size(),
                    message.topic
                ),
            ));
        }
        Ok(message)
    }

    pub(crate) fn dead_letter(
        &mut self,
        record: &Record,
        poison: &Poison,
        definition: Option<String>,
    ) {
        self.dead += 1;
        let letter = self.letter(record, poison, definition.clone(), Some(record));
        let message = letter.or_else(|_| {
            let poison = Poison {
                code: poison.code.clone(),
                error: format!(
                    "{} (its {} bytes, its headers and what its key has beyond {CUT_TO} bytes are left out here)",
                    cut(&poison.error),
                    record.value.len()
                ),
            };
            self.letter(record, &poison, definition, None)
        });
        // All that is left is bounded.
        if let Ok(message) = message {
            self.index += 1;
            self.bytes += message.size();
            self.messages.push(Some(message));
        }
    }

    fn letter(
        &mut self,
        record: &Record,
        poison: &Poison,
        definition: Option<String>,
        shown: Option<&Record>,
    ) -> Result<OutboxMessage, Poison> {
        if self.offset != record.offset {
            self.offset = record.offset;
            self.index = 0;
        }
        let letter = DeadLetter {
            topic: D::INPUT.name().to_owned(),
            partition: record.partition,
            offset: record.offset,
            service: D::PROCESSOR.to_owned(),
            code: poison.code.clone(),
            error: poison.error.clone(),
            definition,
            correlation_id: record
                .correlation_id()
                .filter(|id| id.len() <= MAX_PASSED_ON)
                .map(ToOwned::to_owned),
            headers: shown
                .iter()
                .flat_map(|record| &record.headers)
                .map(|(name, value)| {
                    (
                        name.to_string(),
                        String::from_utf8_lossy(value).into_owned(),
                    )
                })
                .collect(),
            value_base64: DeadLetter::encode_value(shown.map_or(&[], |record| &record.value)),
            failed_at: self.context.now,
        };
        let mut key = String::from_utf8_lossy(&record.key);
        if shown.is_none() {
            key = cut(&key).to_owned().into();
        }
        let emit = Emit {
            topic: Topic::DeadLetter,
            key: key.into_owned(),
            headers: Vec::new(),
            // Strings and integers always encode.
            value: serde_json::to_vec(&letter).unwrap_or_default(),
        };
        self.message(record, emit, self.index)
    }

    pub(crate) fn finish(self) -> Outbox {
        Outbox {
            messages: self.messages.into_iter().flatten().collect(),
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(CUT_TO)]
}
