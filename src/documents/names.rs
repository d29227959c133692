//! Names of clusters and snapshots, as types: what has one of them can be a folder's name and no path.
//!
//! Owns what any such name may look like, whoever made the cluster. What a profile demands beyond that (room for the
//! names of its nodes) is left to `profile`.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name of a cluster: with `-control-plane` behind it, it is a host name.
const LONGEST_CLUSTER: usize = 63 - "-control-plane".len();

/// The longest name of a snapshot.
const LONGEST_SNAPSHOT: usize = 63;

/// What kprov's locks are called after a cluster's name.
const LOCK: &str = ".lock";

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[diagnostic(
    code(kprov::name),
    help("names are of lower-case letters, digits, dots and dashes, such as `class-3`; nothing has been changed")
)]
pub enum NameError {
    /// There is no text at all: most often a variable of a script that is not set.
    #[error("a {of}'s name cannot be empty; is the variable that should hold it set?")]
    Empty {
        /// What was to be named.
        of: &'static str,
    },
    /// A character that no name has.
    #[error("a {of}'s name has only lower-case letters, digits, `-` and `.`, not {found:?}")]
    Character {
        /// What was to be named.
        of: &'static str,
        /// The first such character.
        found: char,
    },
    /// It begins, or ends, with something else than a letter or digit.
    #[error("a {of}'s name begins and ends with a lower-case letter or a digit")]
    Edge {
        /// What was to be named.
        of: &'static str,
    },
    /// It is too long.
    #[error("a {of} has a name of at most {most} characters")]
    Long {
        /// What was to be named.
        of: &'static str,
        /// How many it may have.
        most: usize,
    },
    /// The nodes, which are called after it, would have names that no host can have.
    #[error("a cluster with a node NAME{suffix} has a name of at most {most} characters")]
    Room {
        /// What follows the cluster's name in the longest of the nodes' names.
        suffix: String,
        /// How many characters it may have.
        most: usize,
    },
    /// It would be taken for a lock.
    #[error("a cluster's name cannot end with `{LOCK}`: kprov's locks are called so")]
    Lock,
}

/// Checks what all names have in common.
fn check(of: &'static str, most: usize, name: &str) -> Result<(), NameError> {
    let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '.' | '-');
    let Some(first) = name.chars().next() else { return Err(NameError::Empty { of }) };
    if let Some(found) = name.chars().find(|&char| !fits(char)) {
        return Err(NameError::Character { of, found });
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Edge { of });
    }
    if name.len() > most {
        return Err(NameError::Long { of, most });
    }
    Ok(())
}

/// The name of a cluster, whoever made it: by kind's rules, and fit for a file's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ClusterName(String);

impl ClusterName {
    /// The name of the cluster that is number `index` of several.
    ///
    /// # Errors
    /// [`NameError::Long`] if the number makes it too long.
    pub fn numbered(&self, index: u16) -> Result<Self, NameError> {
        format!("{self}-{index}").parse()
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        check("cluster", LONGEST_CLUSTER, name)?;
        if name.ends_with(LOCK) {
            return Err(NameError::Lock);
        }
        Ok(Self(name.to_owned()))
    }
}

/// The name of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct SnapshotName(String);

impl FromStr for SnapshotName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        check("snapshot", LONGEST_SNAPSHOT, name)?;
        if name.ends_with(['.', '-']) {
            return Err(NameError::Edge { of: "snapshot" });
        }
        Ok(Self(name.to_owned()))
    }
}

macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                name.parse()
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }
    };
}

text!(ClusterName);
text!(SnapshotName);

#[cfg(test)]
mod tests {
    use super::*;

    /// What must never become a path: the first six were seen to remove other clusters' files.
    const CROOKED: [&str; 16] =
        ["", ".", "..", "/", "x/bar", "../bar", "./bar", "bar/", "a\0", "a b", "A", "ä", "-a", ".a", "a\n", "a_b"];

    #[test]
    fn what_could_be_a_path_is_no_name() {
        for text in CROOKED {
            assert!(text.parse::<ClusterName>().is_err(), "{text:?}");
            assert!(text.parse::<SnapshotName>().is_err(), "{text:?}");
            assert!(serde_json::from_value::<ClusterName>(text.into()).is_err(), "{text:?}");
            assert!(serde_json::from_value::<SnapshotName>(text.into()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn kinds_names_are_names() {
        for text in ["kind", "a", "0", "a.b-c", "a-", &"a".repeat(49)] {
            assert_eq!(text.parse::<ClusterName>().unwrap(), *text);
        }
        let long = "a".repeat(50).parse::<ClusterName>().unwrap_err();
        assert_eq!(long.to_string(), "a cluster has a name of at most 49 characters");
        assert_eq!("a".parse::<ClusterName>().unwrap().numbered(12).unwrap(), "a-12");
        assert!("a".repeat(48).parse::<ClusterName>().unwrap().numbered(1).is_err());
    }

    #[test]
    fn a_cluster_is_not_called_like_the_lock_of_another() {
        assert_eq!("a.lock".parse::<ClusterName>(), Err(NameError::Lock));
        assert!("a.locks".parse::<ClusterName>().is_ok());
    }

    #[test]
    fn snapshots_names_end_as_they_begin() {
        assert!("lesson-3".parse::<SnapshotName>().is_ok());
        assert!("lesson-".parse::<SnapshotName>().is_err());
        assert!("a".repeat(64).parse::<SnapshotName>().is_err());
    }
}
