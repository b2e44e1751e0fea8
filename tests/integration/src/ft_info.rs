//! What `ch-remote ft-info` prints.

use std::fmt;

use serde_json::Value;

use crate::failure::{Failure, Outcome, While};

/// The answer, as JSON and by the fields that tests ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct FtInfo {
    json: Value,
}

impl FtInfo {
    /// Reads the answer.
    pub fn parse(text: &str) -> Outcome<Self> {
        let json: Value = serde_json::from_str(text).during(format_args!("ft-info: {text:?}"))?;
        let info = FtInfo { json };
        if info.state().is_empty() {
            return Err(Failure::new(format!("ft-info without a state: {text:?}")));
        }
        Ok(info)
    }

    /// `state`, as text.
    pub fn state(&self) -> &str {
        self.json["state"].as_str().unwrap_or_default()
    }

    /// `role`, as text.
    pub fn role(&self) -> &str {
        self.json["role"].as_str().unwrap_or_default()
    }

    /// `generation`.
    pub fn generation(&self) -> Option<u64> {
        self.json["generation"].as_u64()
    }

    /// The answer without what changes while nothing happens.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// Whether it is a primary whose backup is in place.
    pub fn is_protected(&self) -> bool {
        self.state() == "protected"
    }

    /// Whether it is a backup that replays.
    pub fn is_replaying(&self) -> bool {
        self.state() == "replaying"
    }

    /// Whether it runs without a backup.
    pub fn is_unprotected(&self) -> bool {
        self.state() == "unprotected"
    }

    /// Whether it has lost the flag and stopped for good.
    pub fn is_halted(&self) -> bool {
        self.state() == "halted"
    }
}

impl fmt::Display for FtInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.json)
    }
}
