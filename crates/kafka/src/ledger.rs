//! The publisher's bookkeeping, without I/O: which message is to be sent next, and what a lost producer means.
//!
//! Outboxes are sent in the order they came in, each from its first message to its last. When a producer fails,
//! the next one sends every outbox that is not wholly acknowledged again from its first message: a message
//! resent alone could come after later ones, and a reader's watermark would then skip what it never saw.

use std::collections::BTreeMap;

/// Names an outbox that is being published. Greater is later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// As a plain number, to be carried through the client library.
    pub(crate) const fn as_u64(self) -> u64 {
        self.0
    }

    /// From that number.
    pub(crate) const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

/// A message that is to be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextSend {
    /// Whose message.
    pub(crate) ticket: Ticket,
    /// Its index in the outbox.
    pub(crate) index: usize,
}

/// What the report of a delivered message means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// It came from a producer that was given up; it counts for nothing.
    Stale,
    /// One more is acknowledged, others of its outbox are not.
    Counted,
    /// The outbox is wholly acknowledged, and forgotten.
    Complete,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    total: usize,
    sent: usize,
    acked: usize,
    /// Nobody waits for it any more: what is sent is sent, the rest is not.
    cancelled: bool,
}

/// Outboxes on their way, and the producer (generation) they go by.
#[derive(Debug, Default)]
pub(crate) struct PublishLedger {
    generation: u64,
    next_ticket: u64,
    entries: BTreeMap<Ticket, Entry>,
    /// Every earlier outbox is wholly sent by the current producer, or cancelled.
    sending: u64,
}

impl PublishLedger {
    /// The current producer's number.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The outboxes on their way, in order.
    #[cfg(test)]
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.entries.keys().copied()
    }

    /// Takes in an outbox of `total` (at least 1) messages behind all others.
    pub(crate) fn add(&mut self, total: usize) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.entries.insert(
            ticket,
            Entry {
                total,
                sent: 0,
                acked: 0,
                cancelled: false,
            },
        );
        ticket
    }

    /// The message that is to be sent next; the same until [`PublishLedger::sent`] says that it was.
    pub(crate) fn next_send(&mut self) -> Option<NextSend> {
        loop {
            let (&ticket, entry) = self.entries.range(Ticket(self.sending)..).next()?;
            if !entry.cancelled && entry.sent < entry.total {
                return Some(NextSend {
                    ticket,
                    index: entry.sent,
                });
            }
            self.sending = ticket.0 + 1;
        }
    }

    /// The producer has taken the message that [`PublishLedger::next_send`] named.
    pub(crate) fn sent(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.sent += 1;
        }
    }

    /// The broker has acknowledged a message of `ticket` to the producer `generation`.
    pub(crate) fn delivered(&mut self, generation: u64, ticket: Ticket) -> Delivered {
        if generation != self.generation {
            return Delivered::Stale;
        }
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return Delivered::Stale;
        };
        entry.acked += 1;
        let awaited = if entry.cancelled {
            entry.sent
        } else {
            entry.total
        };
        if entry.acked < awaited {
            return Delivered::Counted;
        }
        self.entries.remove(&ticket);
        Delivered::Complete
    }

    /// Nobody waits for `ticket` any more: it is not sent on, and not sent again.
    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        entry.cancelled = true;
        if entry.acked >= entry.sent {
            self.entries.remove(&ticket);
        }
    }

    /// The current producer is given up: the next one starts from the first message of every outbox left.
    ///
    /// Returns its number.
    pub(crate) fn begin_generation(&mut self) -> u64 {
        self.generation += 1;
        self.sending = 0;
        self.entries.retain(|_, entry| !entry.cancelled);
        for entry in self.entries.values_mut() {
            entry.sent = 0;
            entry.acked = 0;
        }
        self.generation
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes up to `room` messages, as a producer with that much room would.
    fn send(ledger: &mut PublishLedger, room: usize) -> Vec<(Ticket, usize)> {
        let mut sent = Vec::new();
        while sent.len() < room
            && let Some(NextSend { ticket, index }) = ledger.next_send()
        {
            ledger.sent(ticket);
            sent.push((ticket, index));
        }
        sent
    }

    #[test]
    fn outboxes_are_sent_in_order_and_complete_with_their_last_ack() {
        let mut ledger = PublishLedger::default();
        let a = ledger.add(2);
        let b = ledger.add(1);
        assert_eq!(send(&mut ledger, 9), [(a, 0), (a, 1), (b, 0)]);
        assert_eq!(ledger.delivered(0, a), Delivered::Counted);
        assert_eq!(ledger.delivered(0, b), Delivered::Complete);
        assert_eq!(ledger.delivered(0, a), Delivered::Complete);
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_fresh_producer_begins_every_unacked_outbox_again_and_no_message_alone() {
        let mut ledger = PublishLedger::default();
        let a = ledger.add(1);
        let b = ledger.add(3);
        let c = ledger.add(2);
        send(&mut ledger, 5);
        assert_eq!(ledger.delivered(0, a), Delivered::Complete);
        assert_eq!(ledger.delivered(0, b), Delivered::Counted);
        assert_eq!(ledger.delivered(0, b), Delivered::Counted);
        assert_eq!(ledger.begin_generation(), 1);
        assert_eq!(
            send(&mut ledger, 9),
            [(b, 0), (b, 1), (b, 2), (c, 0), (c, 1)]
        );
    }

    #[test]
    fn reports_of_a_producer_given_up_count_for_nothing() {
        let mut ledger = PublishLedger::default();
        let a = ledger.add(1);
        send(&mut ledger, 1);
        ledger.begin_generation();
        send(&mut ledger, 1);
        assert_eq!(ledger.delivered(0, a), Delivered::Stale);
        assert_eq!(ledger.delivered(1, a), Delivered::Complete);
        assert_eq!(ledger.delivered(1, a), Delivered::Stale);
    }

    #[test]
    fn a_message_the_producer_had_no_room_for_is_next_again() {
        let mut ledger = PublishLedger::default();
        let a = ledger.add(2);
        assert_eq!(
            ledger.next_send(),
            Some(NextSend {
                ticket: a,
                index: 0
            })
        );
        assert_eq!(
            ledger.next_send(),
            Some(NextSend {
                ticket: a,
                index: 0
            })
        );
        ledger.sent(a);
        assert_eq!(
            ledger.next_send(),
            Some(NextSend {
                ticket: a,
                index: 1
            })
        );
    }

    #[test]
    fn what_nobody_waits_for_is_not_sent_on_and_not_sent_again() {
        let mut ledger = PublishLedger::default();
        let a = ledger.add(3);
        let b = ledger.add(1);
        send(&mut ledger, 1);
        ledger.cancel(a);
        assert_eq!(send(&mut ledger, 9), [(b, 0)]);
        ledger.begin_generation();
        assert_eq!(send(&mut ledger, 9), [(b, 0)]);
        assert_eq!(ledger.tickets().collect::<Vec<_>>(), [b]);
        ledger.cancel(b);
        assert_eq!(ledger.delivered(1, b), Delivered::Complete);
        assert!(ledger.is_empty());
        let c = ledger.add(1);
        ledger.cancel(c);
        assert!(ledger.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(usize),
        Send(usize),
        Ack(usize),
        Fail,
        Cancel(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..5usize).prop_map(Step::Add),
            (1..8usize).prop_map(Step::Send),
            (1..8usize).prop_map(Step::Ack),
            Just(Step::Fail),
            (0..8usize).prop_map(Step::Cancel),
        ]
    }

    proptest! {
        /// Whatever fails when: of each outbox every producer sends a beginning, in order, never a middle; an
        /// outbox completes only when one producer had all of it acknowledged; and in the end all complete.
        #[test]
        fn every_outbox_is_sent_whole_by_one_producer(steps in prop::collection::vec(step(), 0..60)) {
            let mut ledger = PublishLedger::default();
            let mut totals = BTreeMap::new();
            let mut cancelled = Vec::new();
            let mut complete = Vec::new();
            let mut in_flight: Vec<(u64, Ticket, usize)> = Vec::new();
            let mut last: Option<(Ticket, usize)> = None;
            let wind_up = (0..4).flat_map(|_| [Step::Send(1000), Step::Ack(1000)]);
            for step in steps.into_iter().chain(wind_up) {
                match step {
                    Step::Add(total) => {
                        totals.insert(ledger.add(total), total);
                    }
                    Step::Send(room) => {
                        for (ticket, index) in send(&mut ledger, room) {
                            prop_assert!(!cancelled.contains(&ticket));
                            match last {
                                Some((before, at)) if before == ticket => prop_assert_eq!(index, at + 1),
                                Some((before, _)) => prop_assert!(ticket > before && index == 0),
                                None => prop_assert_eq!(index, 0),
                            }
                            last = Some((ticket, index));
                            in_flight.push((ledger.generation(), ticket, index));
                        }
                    }
                    Step::Ack(count) => {
                        let count = count.min(in_flight.len());
                        for (generation, ticket, index) in in_flight.drain(..count) {
                            if ledger.delivered(generation, ticket) == Delivered::Complete {
                                prop_assert_eq!(generation, ledger.generation());
                                if !cancelled.contains(&ticket) {
                                    prop_assert_eq!(index + 1, totals[&ticket]);
                                    complete.push(ticket);
                                }
                            }
                        }
                    }
                    Step::Fail => {
                        ledger.begin_generation();
                        last = None;
                    }
                    Step::Cancel(index) => {
                        let chosen = ledger.tickets().nth(index);
                        if let Some(ticket) = chosen {
                            ledger.cancel(ticket);
                            cancelled.push(ticket);
                        }
                    }
                }
            }
            prop_assert!(ledger.is_empty());
            for ticket in totals.keys() {
                prop_assert_eq!(
                    complete.iter().filter(|done| *done == ticket).count(),
                    usize::from(!cancelled.contains(ticket))
                );
            }
        }
    }
}
