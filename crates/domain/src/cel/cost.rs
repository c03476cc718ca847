//! What evaluating an expression may cost, known before it begins.

use std::cell::Cell;

use cel::common::types::{CelList, CelMap, CelString};
use cel::common::value::Val;
use cel::{Context, IdedExpr, Value};

/// Bytes of text that cost as much to copy or compare as one value.
pub(super) const BYTES_PER_VALUE: usize = 64;
/// A matcher that finds no short cut takes some 0.3 ns per byte of text and byte of its program; a
/// value is copied in some 100 ns.
const MATCHED_PER_VALUE: usize = 128;

/// How much there is of a value.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weight {
    /// Elements, were a loop to go through it.
    pub(super) elements: usize,
    /// Values in it, itself included, long texts counting as several.
    pub(super) values: usize,
    /// Bytes of all its texts and names.
    pub(super) text: usize,
}

impl Weight {
    pub(super) fn add_value(&mut self) {
        self.values += 1;
    }

    /// A map besides its members: more is to be copied than of a list.
    pub(super) fn add_map(&mut self, members: usize) {
        self.values += 2 + members;
    }

    pub(super) fn add_text(&mut self, bytes: usize) {
        self.values += bytes / BYTES_PER_VALUE;
        self.text += bytes;
    }

    /// Weighs what `place` gives; nothing where it errs, since then nothing is done with it. Looks at
    /// no more values than are `left` to look at.
    fn of(place: &IdedExpr, context: &Context<'_, '_>, left: &Cell<usize>) -> Self {
        let mut weight = Self::default();
        if let Ok(value) = Value::resolve_val(place, context) {
            let value = value.as_ref();
            // Texts have a size, too, but no loop goes through them.
            if let (Some(_), Some(sizer)) = (value.as_iterable(), value.as_sizer()) {
                weight.elements = usize::try_from(*sizer.size().inner()).unwrap_or(0);
            }
            weight.add(value, left);
        }
        weight
    }

    fn add(&mut self, value: &dyn Val, left: &Cell<usize>) {
        if left.get() == 0 {
            return;
        }
        let before = self.values;
        self.add_value();
        if let Some(text) = value.downcast_ref::<CelString<'_>>() {
            self.add_text(text.inner().len());
            left.set(left.get().saturating_sub(self.values - before));
        } else if let Some(list) = value.downcast_ref::<CelList<'_>>() {
            left.set(left.get() - 1);
            for value in list.inner() {
                self.add(value.as_ref(), left);
            }
        } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
            self.add_map(map.inner().len());
            left.set(left.get().saturating_sub(self.values - before));
            for (name, value) in map.inner() {
                if let Some(name) = name.inner().downcast_ref::<CelString<'_>>() {
                    self.add_text(name.inner().len());
                }
                self.add(value.as_ref(), left);
            }
        } else {
            left.set(left.get() - 1);
        }
    }
}

/// A place of the event whose value an expression asks for.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Gives the value without copying it; `None` where that depends on a loop's variable.
    pub(super) expression: Option<IdedExpr>,
    /// How many operations may go through all of the value.
    pub(super) uses: usize,
    /// Size of the pattern that it, or what is made of it, may be matched with.
    pub(super) program: usize,
}

/// One `all`, `exists`, … of an expression.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) range: Range,
    /// Operations per element.
    pub(super) operations: usize,
    /// Sizes of the patterns that an element may be matched with, each once per use of the element.
    pub(super) programs: usize,
    /// For each element, besides: bytes of literal text times the size of the pattern they are
    /// matched with.
    pub(super) literals: usize,
    /// Places its body asks for, once per element.
    pub(super) places: Vec<Place>,
}

/// What a loop goes through.
#[derive(Debug)]
pub(super) enum Range {
    /// A place of the event.
    Place(IdedExpr),
    /// A literal of so many parts, and the places of the event among them.
    Literal { parts: usize, places: Vec<Place> },
}

/// What an expression does, as far as it takes time.
#[derive(Debug, Default)]
pub(super) struct Cost {
    /// Bytes of literal text times the size of the pattern they are matched with.
    pub(super) literals: usize,
    /// Places that are asked for outside the bodies of loops.
    pub(super) places: Vec<Place>,
    pub(super) loops: Vec<Loop>,
}

impl Cost {
    /// Whether it is more work than `most` copies of a value.
    pub(super) fn exceeds(&self, most: usize, event: Weight, context: &Context<'_, '_>) -> bool {
        // Nearly all events are small enough whatever the places lead to.
        if self.estimate(&|_| event) <= most {
            return false;
        }
        // Whatever is walked through here is gone through twice in earnest.
        let left = Cell::new(most / 2);
        let weigh = |place: Option<&IdedExpr>| match place {
            Some(place) => Weight::of(place, context, &left),
            None => event,
        };
        self.estimate(&weigh) > most || left.get() == 0
    }

    /// The work, in copies of a value.
    fn estimate(&self, weigh: &dyn Fn(Option<&IdedExpr>) -> Weight) -> usize {
        let mut work = matched(self.literals, 1);
        for place in &self.places {
            work = work.saturating_add(place.work(weigh));
        }
        for each in &self.loops {
            let range = each.range.weight(weigh);
            let element: usize = each
                .places
                .iter()
                .map(|place| place.work(weigh))
                .fold(0, usize::saturating_add)
                .saturating_add(matched(each.literals, 1));
            work = work
                .saturating_add(range.elements.saturating_mul(element))
                .saturating_add(range.values.saturating_mul(each.operations))
                .saturating_add(matched(range.text, each.programs));
        }
        work
    }
}

impl Place {
    fn work(&self, weigh: &dyn Fn(Option<&IdedExpr>) -> Weight) -> usize {
        let weight = weigh(self.expression.as_ref());
        let matched = matched(weight.text, self.program);
        self.uses
            .saturating_mul(weight.values.saturating_add(matched))
    }
}

impl Range {
    fn weight(&self, weigh: &dyn Fn(Option<&IdedExpr>) -> Weight) -> Weight {
        match self {
            Self::Place(place) => weigh(Some(place)),
            Self::Literal { parts, places } => {
                let mut sum = Weight {
                    elements: *parts,
                    values: *parts,
                    text: super::MAX_BYTES,
                };
                for place in places {
                    let weight = weigh(place.expression.as_ref());
                    sum.values += weight.values;
                    sum.text += weight.text;
                    // `[event.a, event.b][0]` goes through one of them.
                    sum.elements += weight.elements;
                }
                sum
            }
        }
    }
}

fn matched(text: usize, program: usize) -> usize {
    text.saturating_mul(program) / MATCHED_PER_VALUE
}
