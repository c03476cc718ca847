//! The two things that are counted, always side by side.

use std::ops::{AddAssign, SubAssign};

/// One value for requests and one for events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pair<T> {
    /// Of HTTP requests.
    pub requests: T,
    /// Of events in them.
    pub events: T,
}

impl<T> Pair<T> {
    /// Both values.
    pub const fn new(requests: T, events: T) -> Self {
        Self { requests, events }
    }

    /// References to both.
    pub const fn each(&self) -> Pair<&T> {
        Pair::new(&self.requests, &self.events)
    }

    /// Mutable references to both.
    pub const fn each_mut(&mut self) -> Pair<&mut T> {
        Pair::new(&mut self.requests, &mut self.events)
    }

    /// `f` of each.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Pair<U> {
        Pair::new(f(self.requests), f(self.events))
    }

    /// `f` of each with its counterpart.
    pub fn zip<U, V>(self, other: Pair<U>, mut f: impl FnMut(T, U) -> V) -> Pair<V> {
        Pair::new(
            f(self.requests, other.requests),
            f(self.events, other.events),
        )
    }
}

impl Pair<u32> {
    /// Nothing of either.
    pub const ZERO: Self = Self::new(0, 0);

    /// Neither a request nor an event.
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// The smaller of each.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        self.zip(other, u32::min)
    }

    /// What of `self` is left when `other` is taken away; never below nothing.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        self.zip(other, u32::saturating_sub)
    }

    /// The sum of each.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u32::saturating_add)
    }

    /// Whether `got` is enough of this ask to answer it: every request unit, and of the events at
    /// least one, because a request none of whose events may come in is refused as a whole.
    pub fn is_served_by(self, got: Self) -> bool {
        got.requests >= self.requests && (self.events == 0 || got.events > 0)
    }
}

impl AddAssign for Pair<u32> {
    fn add_assign(&mut self, other: Self) {
        *self = self.plus(other);
    }
}

impl SubAssign for Pair<u32> {
    fn sub_assign(&mut self, other: Self) {
        *self = self.less(other);
    }
}
