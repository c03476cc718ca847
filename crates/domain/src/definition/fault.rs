//! What is wrong with a definition: all of it at once, each with its place.

use std::fmt;

/// Something wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// JSON path, e.g. `$.quests[2].conditions.when`.
    pub path: String,
    /// What is wrong, as the end of a sentence that begins with the path.
    pub message: String,
    /// Where in the text, for JSON that cannot be read and for CEL.
    pub position: Option<Position>,
}

/// A place in a text: of the file for JSON, of the expression for CEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "{} ({position}): {}", self.path, self.message),
            None => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

/// Collects faults.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.push(Fault {
            path: path.into(),
            message: message.into(),
            position: None,
        });
    }

    pub(super) fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn into_list(self) -> Vec<Fault> {
        self.0
    }
}

/// The path of a member: `$.a.b`, or `$.a["b.c"]` where the name is not a plain one.
pub(super) fn member(path: &str, name: &str) -> String {
    let plain = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain {
        format!("{path}.{name}")
    } else {
        // A string always encodes.
        let name = serde_json::to_string(name).unwrap_or_default();
        format!("{path}[{name}]")
    }
}
