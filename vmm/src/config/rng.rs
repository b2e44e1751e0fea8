//! Where the guest's random numbers come from.
//!
//! Does: name the file that the seed of the machine's generator is read from at boot, and the bytes
//! that the virtio-rng device gives later. Does not: read it; what is read enters the machine as
//! an input, so that a replay finds the same.
//!
//! Invariant: there always is a source.

use std::path::PathBuf;

use option_parser::{Key, Options};
use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// The source of randomness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngConfig {
    /// A file with random bytes.
    pub src: PathBuf,
}

impl Default for RngConfig {
    fn default() -> Self {
        RngConfig {
            src: PathBuf::from("/dev/urandom"),
        }
    }
}

impl RngConfig {
    /// Reads `--rng src=`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = Options::parse("--rng", text, &[Key::value("src")])?;
        Ok(RngConfig {
            src: options.require("src")?,
        })
    }
}
