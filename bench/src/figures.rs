//! What was measured, beside what was aimed at.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

/// Of the column of names.
const WIDTH: usize = 60;

/// What a figure is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Not below.
    Min(f64),
    /// Not above.
    Max(f64),
    /// Told only.
    None,
}

#[derive(Debug)]
struct Figure {
    value: f64,
    unit: &'static str,
    goal: Goal,
}

impl Figure {
    fn misses(&self) -> bool {
        match self.goal {
            Goal::Min(min) => self.value < min,
            Goal::Max(max) => self.value > max,
            Goal::None => false,
        }
    }
}

/// All figures of a run, by name.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    taken: BTreeMap<String, Figure>,
    left_out: Vec<String>,
}

impl Figures {
    /// Adds one, and says so at once.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        goal: Goal,
    ) {
        let (name, figure) = (name.into(), Figure { value, unit, goal });
        println!("{name}: {figure}");
        self.taken.insert(name, figure);
    }

    /// Says why some cannot be had here.
    pub(crate) fn leave_out(&mut self, what: &str, why: &str) {
        let sentence = format!("left out: {what}, since {why}");
        println!("{sentence}");
        self.left_out.push(sentence);
    }

    /// How many are not what they are to be.
    pub(crate) fn missed(&self) -> usize {
        self.taken.values().filter(|figure| figure.misses()).count()
    }

    /// Writes `{name: {value, unit, min|max}}`.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let figures: BTreeMap<&str, Value> = self
            .taken
            .iter()
            .map(|(name, figure)| {
                let mut json = json!({"value": figure.value, "unit": figure.unit});
                match figure.goal {
                    Goal::Min(min) => json["min"] = min.into(),
                    Goal::Max(max) => json["max"] = max.into(),
                    Goal::None => {}
                }
                (name.as_str(), json)
            })
            .collect();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(&figures)?)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} {}", self.value, self.unit)?;
        match self.goal {
            Goal::Min(min) if self.misses() => write!(f, "   MISSED: at least {min}"),
            Goal::Max(max) if self.misses() => write!(f, "   MISSED: at most {max}"),
            Goal::Min(min) => write!(f, "   (at least {min})"),
            Goal::Max(max) => write!(f, "   (at most {max})"),
            Goal::None => Ok(()),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, figure) in &self.taken {
            writeln!(f, "{name:<WIDTH$} {figure}")?;
        }
        for sentence in &self.left_out {
            writeln!(f, "{sentence}")?;
        }
        Ok(())
    }
}

/// The middle of them; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
