//! Which events have had their effect on `ui.updates`, and how long after they were meant to be sent.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::report::Latency;

/// Events on their way, per player. Of the updates that one batch of a processor makes for a player
/// and quest only the last is published: it is the effect of all events before it.
#[derive(Debug, Default)]
pub struct Tracker(Mutex<Tracked>);

#[derive(Debug, Default)]
struct Tracked {
    /// By partition key (`gameId:userId`), in the order they were sent.
    on_their_way: HashMap<String, VecDeque<(String, Instant)>>,
    waiting: u64,
    latency: Latency,
}

impl Tracker {
    fn lock(&self) -> MutexGuard<'_, Tracked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event of this player is about to be sent; `due` is when it was meant to be.
    pub fn sent(&self, player: &str, correlation: &str, due: Instant) {
        let mut tracked = self.lock();
        tracked.waiting += 1;
        let events = tracked.on_their_way.entry(player.to_owned()).or_default();
        events.push_back((correlation.to_owned(), due));
    }

    /// An event of this player was not accepted: nothing is to be seen of it.
    pub fn refused(&self, player: &str, correlation: &str) {
        let mut tracked = self.lock();
        let Some(events) = tracked.on_their_way.get_mut(player) else {
            return;
        };
        if let Some(at) = events.iter().position(|(sent, _)| sent == correlation) {
            events.remove(at);
            tracked.waiting -= 1;
        }
    }

    /// An update for this player, caused by the event with this correlation id, is there at `now`.
    pub fn seen(&self, player: &str, correlation: &str, now: Instant) {
        let mut tracked = self.lock();
        let Some(events) = tracked.on_their_way.get_mut(player) else {
            return;
        };
        let Some(at) = events.iter().rposition(|(sent, _)| sent == correlation) else {
            return;
        };
        let done: Vec<Duration> = events
            .drain(..=at)
            .map(|(_, due)| now.saturating_duration_since(due))
            .collect();
        tracked.waiting -= done.len() as u64;
        for took in done {
            tracked.latency.record(took);
        }
    }

    /// How many events have had no effect yet.
    pub fn waiting(&self) -> u64 {
        self.lock().waiting
    }

    /// The latencies so far.
    pub fn latency(&self) -> Latency {
        self.lock().latency.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_update_is_the_effect_of_all_events_of_its_player_before_it() {
        let tracker = Tracker::default();
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        for (player, correlation, due) in [
            ("a", "1", 0),
            ("b", "2", 10),
            ("a", "3", 20),
            ("a", "4", 30),
        ] {
            tracker.sent(player, correlation, after(due));
        }
        tracker.seen("a", "3", after(50));
        assert_eq!(tracker.waiting(), 2);
        // Again, and of somebody else's load: nothing new.
        tracker.seen("a", "1", after(60));
        tracker.seen("z", "9", after(60));
        assert_eq!(tracker.waiting(), 2);
        tracker.refused("b", "2");
        tracker.seen("a", "4", after(60));
        assert_eq!(tracker.waiting(), 0);
        let figures = tracker.latency().figures();
        assert_eq!(figures.count, 3);
        assert!((49.0..51.0).contains(&figures.max), "{figures}");
    }
}
