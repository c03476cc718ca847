//! Newtype ids, each checked where it is made, so that no other code has to ask again.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// Why a text is not an id. The sentence names no value, so it may be shown to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The empty text.
    #[error("must not be empty")]
    Empty,
    /// More than the id's limit, in characters.
    #[error("must be at most {0} characters")]
    TooLong(usize),
    /// `:` separates game and player in partition keys.
    #[error("must not contain ':'")]
    Colon,
    /// `!` begins the keys of things that belong to no player.
    #[error("must not begin with '!'")]
    Bang,
    /// Control characters (newlines and NUL among them).
    #[error("must not contain control characters")]
    Control,
}

/// Checks the rules all ids share: 1 to `max` characters, no `:`, no leading `!`, no control characters.
pub fn check_id(text: &str, max: usize) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.starts_with('!') {
        return Err(IdError::Bang);
    }
    // Bytes are at least as many as characters, so most ids never count characters.
    if text.len() > max && text.chars().count() > max {
        return Err(IdError::TooLong(max));
    }
    for c in text.chars() {
        if c == ':' {
            return Err(IdError::Colon);
        }
        if c.is_control() {
            return Err(IdError::Control);
        }
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $max:literal) => {
        $(#[$doc])*
        #[doc = ""]
        #[doc = "Cheap to clone."]
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The longest allowed, in characters.
            pub const MAX_CHARS: usize = $max;

            /// Takes `text` if it is a well-formed id.
            pub fn new(text: impl AsRef<str> + Into<Arc<str>>) -> Result<Self, IdError> {
                check_id(text.as_ref(), $max)?;
                Ok(Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// A customer of ours: the id of a document in the `studios` collection.
    StudioId,
    50
);
id!(
    /// A game; belongs to exactly one studio (table `games`).
    GameId,
    100
);
id!(
    /// A player of a game, in the studio's own naming (`userId` on the wire).
    UserId,
    255
);
id!(
    /// Names an event; unique per player.
    EventId,
    50
);
id!(
    /// A quest, in the studio's own naming; unique per game.
    QuestId,
    100
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_the_key_grammar() {
        assert_eq!(GameId::new(""), Err(IdError::Empty));
        assert_eq!(GameId::new("a:b"), Err(IdError::Colon));
        assert_eq!(GameId::new("!gate"), Err(IdError::Bang));
        assert_eq!(GameId::new("a\nb"), Err(IdError::Control));
        assert_eq!(GameId::new("a\u{0}"), Err(IdError::Control));
        assert_eq!(GameId::new("x".repeat(101)), Err(IdError::TooLong(100)));
        assert!(GameId::new("a!b").is_ok());
    }

    #[test]
    fn lengths_are_in_characters_not_bytes() {
        assert!(GameId::new("é".repeat(100)).is_ok());
        assert_eq!(GameId::new("é".repeat(101)), Err(IdError::TooLong(100)));
    }

    #[test]
    fn a_bad_id_does_not_deserialize() {
        assert!(serde_json::from_str::<UserId>("\"a:b\"").is_err());
    }
}
