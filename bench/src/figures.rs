//! What was measured, beside what was aimed at.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

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

/// All figures of a run, by name.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<String, Figure>);

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
        self.0.insert(name, figure);
    }

    /// Writes `{name: {value, unit, min|max}}`.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let figures: BTreeMap<&str, Value> = self
            .0
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
            Goal::Min(min) if self.value < min => write!(f, "   MISSED: at least {min}"),
            Goal::Max(max) if self.value > max => write!(f, "   MISSED: at most {max}"),
            Goal::Min(min) => write!(f, "   (at least {min})"),
            Goal::Max(max) => write!(f, "   (at most {max})"),
            Goal::None => Ok(()),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, figure) in &self.0 {
            writeln!(f, "{name:<44} {figure}")?;
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
