//! Dotted paths into an event's metadata, as `filters`, `valueField` and `uniqueField` name them.

use std::fmt;

use serde_json::Value;

/// A dotted path in `metadata`, e.g. `weapon.kind`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetadataPath(String);

/// The text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Longer than [`MetadataPath::MAX_CHARS`].
    #[error("must be at most {} characters", MetadataPath::MAX_CHARS)]
    TooLong,
    /// Deeper than metadata may be.
    #[error("must have at most {} parts", MetadataPath::MAX_PARTS)]
    TooDeep,
    /// Nothing, or nothing between two dots.
    #[error("must be names joined by dots, like weapon.kind")]
    EmptyPart,
}

impl MetadataPath {
    /// The longest allowed, in characters.
    pub const MAX_CHARS: usize = 200;
    /// As many parts as metadata may be deep.
    pub const MAX_PARTS: usize = 16;

    /// Takes `text`, as a studio writes it, if it is a path. A leading `metadata.` is understood and
    /// left out.
    pub fn new(text: &str) -> Result<Self, PathError> {
        if text.chars().count() > Self::MAX_CHARS {
            return Err(PathError::TooLong);
        }
        let text = text.strip_prefix("metadata.").unwrap_or(text);
        if text.split('.').any(str::is_empty) {
            return Err(PathError::EmptyPart);
        }
        if text.split('.').count() > Self::MAX_PARTS {
            return Err(PathError::TooDeep);
        }
        Ok(Self(text.to_owned()))
    }

    /// Takes what [`MetadataPath::as_str`] gave, as it is: `metadata.` at its beginning is a name in
    /// the metadata.
    pub(crate) fn stored(text: String) -> Self {
        Self(text)
    }

    /// The path without `metadata.`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands there; `None` when the event says nothing there.
    pub fn find<'a>(&self, metadata: &'a Value) -> Option<&'a Value> {
        self.0
            .split('.')
            .try_fold(metadata, |value, part| value.as_object()?.get(part))
    }
}

impl fmt::Display for MetadataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_leads_into_metadata_with_or_without_its_name() {
        let metadata = json!({"weapon": {"kind": "sword"}, "list": [1]});
        for text in ["weapon.kind", "metadata.weapon.kind"] {
            let path = MetadataPath::new(text).unwrap();
            assert_eq!(path.find(&metadata), Some(&json!("sword")));
        }
        for text in ["weapon.kind.x", "list.0", "none"] {
            assert_eq!(MetadataPath::new(text).unwrap().find(&metadata), None);
        }
        let inner = MetadataPath::new("metadata.metadata.x").unwrap();
        assert_eq!(inner.as_str(), "metadata.x");
        assert_eq!(MetadataPath::stored(inner.as_str().to_owned()), inner);
        let metadata = json!({"x": 1, "metadata": {"x": 2}});
        assert_eq!(inner.find(&metadata), Some(&json!(2)));
        for text in ["", ".", "a..b", "a.", "metadata."] {
            assert_eq!(MetadataPath::new(text), Err(PathError::EmptyPart), "{text}");
        }
        assert_eq!(
            MetadataPath::new(&"a.".repeat(16)),
            Err(PathError::EmptyPart)
        );
        assert_eq!(
            MetadataPath::new(&vec!["a"; 17].join(".")),
            Err(PathError::TooDeep)
        );
    }
}
