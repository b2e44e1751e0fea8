//! What can be wrong with an option's text.
//!
//! Does: name the option and the offending piece, and say what was expected. Does not: say where
//! the text came from.
//!
//! Invariant: every variant can be shown to the person who typed the option, as it is.

use thiserror::Error;

use crate::split::SplitError;

/// Why an option was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// Quotes or brackets do not match.
    #[error("{option}: cannot tell where the values of '{text}' end")]
    Split {
        /// The option.
        option: String,
        /// Its whole text.
        text: String,
        /// What does not match.
        source: SplitError,
    },
    /// Two commas in a row, or one at either end.
    #[error("{option}: there is nothing between two commas in '{text}'; remove one of them")]
    EmptyItem {
        /// The option.
        option: String,
        /// Its whole text.
        text: String,
    },
    /// A key that this option does not know.
    #[error("{option}: unknown key '{key}'; it takes {known}")]
    UnknownKey {
        /// The option.
        option: String,
        /// What was given.
        key: String,
        /// The keys it does take, for people.
        known: String,
    },
    /// The same key twice.
    #[error("{option}: '{key}' is given more than once")]
    Duplicate {
        /// The option.
        option: String,
        /// The key.
        key: String,
    },
    /// A key that needs a value stands alone, or its value is empty.
    #[error("{option}: '{key}' needs a value, as in {key}=…")]
    MissingValue {
        /// The option.
        option: String,
        /// The key.
        key: String,
    },
    /// A word that stands alone was given a value.
    #[error("{option}: '{key}' takes no value; write it without '='")]
    UnexpectedValue {
        /// The option.
        option: String,
        /// The key.
        key: String,
    },
    /// A key that must be there is not.
    #[error("{option}: '{key}=…' is missing")]
    Required {
        /// The option.
        option: String,
        /// The key.
        key: String,
    },
    /// A value is not what its key takes.
    #[error("{option}: '{value}' is no value for '{key}', which takes {expected}")]
    InvalidValue {
        /// The option.
        option: String,
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// What would have been right.
        expected: String,
    },
}
