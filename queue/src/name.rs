//! Names that stand in Redis keys, metrics and logs: validated once, at the edge.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name of a queue, kind or tenant, in bytes.
pub const MAX_NAME_LEN: usize = 64;

/// A name that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {given:?} is not valid: use 1 to {MAX_NAME_LEN} letters, digits, '_', '-' or '.', beginning with a letter or digit"
)]
pub struct InvalidName {
    /// `queue`, `kind` or `tenant`.
    pub what: &'static str,
    /// What was given, cut to a readable length.
    pub given: String,
}

fn is_valid(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Panics at compile time when used in a `const` with a name that is not valid.
const fn assert_valid(name: &str) {
    let bytes = name.as_bytes();
    assert!(!bytes.is_empty() && bytes.len() <= MAX_NAME_LEN, "a name has 1 to 64 bytes");
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        assert!(
            b.is_ascii_alphanumeric() || (i > 0 && matches!(b, b'_' | b'-' | b'.')),
            "a name has letters, digits, '_', '-', '.'"
        );
        i += 1;
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(std::borrow::Cow<'static, str>);

        impl $type {
            /// A name known at compile time.
            ///
            /// # Panics
            /// When the name is not valid; in a `const` that is a compile error.
            #[must_use]
            pub const fn from_static(name: &'static str) -> Self {
                assert_valid(name);
                Self(std::borrow::Cow::Borrowed(name))
            }

            /// Checks a name that came from outside.
            ///
            /// # Errors
            /// [`InvalidName`] when it is empty, too long or has a character that is not allowed.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
                let name = name.into();
                if is_valid(&name) {
                    Ok(Self(std::borrow::Cow::Owned(name)))
                } else {
                    Err(InvalidName { what: $what, given: name.chars().take(80).collect() })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl std::str::FromStr for $type {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.into_owned()
            }
        }
    };
}

name!(
    /// What a job is: `area.verb_noun`, stable for ever.
    Kind,
    "kind"
);
name!(
    /// Where a job waits. All keys of a queue share one hash tag.
    QueueName,
    "queue"
);
name!(
    /// Whom a job is done for. Stands in lanes, so that no tenant starves another.
    Tenant,
    "tenant"
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_name_that_could_forge_a_key_is_refused() {
        for bad in ["", "a}b", "a:b", "a b", "-a", ".a", "ä", "a\u{1f}b", "a\n", &"x".repeat(65)] {
            assert!(QueueName::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "A9", "fetch", "vacancy.fetch_source", &"x".repeat(64)] {
            assert_eq!(QueueName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn the_error_names_what_was_wrong() {
        let error = Kind::new("no spaces").unwrap_err().to_string();
        assert!(error.contains("kind") && error.contains("no spaces"), "{error}");
    }

    #[test]
    fn names_are_checked_when_they_are_deserialised() {
        assert!(serde_json::from_str::<Tenant>("\"acme\"").is_ok());
        assert!(serde_json::from_str::<Tenant>("\"ac:me\"").is_err());
    }
}
