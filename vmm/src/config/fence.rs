//! How a side that goes live makes sure that the old one no longer writes to shared disks.
//!
//! Does: name it: `exec:COMMAND`, `none`. Does not: run a command.
//!
//! Invariant: what is written reads back as the same value.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// How the old side is fenced. Without any, the lock on an image tells when it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fence {
    /// A command of a shell, which succeeds when the old side can write no more.
    Exec(String),
    /// By nobody. Its last writes may come late and hit newer ones.
    None,
}

impl FromStr for Fence {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text.strip_prefix("exec:") {
            Some(command) if !command.trim().is_empty() => Ok(Fence::Exec(command.to_owned())),
            None if text == "none" => Ok(Fence::None),
            _ => Err(ConfigError::Fence {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fence::Exec(command) => write!(f, "exec:{command}"),
            Fence::None => f.write_str("none"),
        }
    }
}

impl TryFrom<String> for Fence {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<Fence> for String {
    fn from(fence: Fence) -> String {
        fence.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences() {
        for text in ["none", "exec:/sbin/fence host-a", "exec:a=b; c,d"] {
            assert_eq!(text.parse::<Fence>().unwrap().to_string(), text);
        }
        for wrong in ["", "exec:", "exec: ", "None", "kill"] {
            assert!(wrong.parse::<Fence>().is_err(), "{wrong}");
        }
    }
}
