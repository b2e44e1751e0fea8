//! The names of the CPU models.
//!
//! Invariant: a model never changes under its name: a log replays only on its model, and a pair has
//! one model.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A CPU model, named after the x86-64 level (psABI, 3.1.1) that it offers. What it has beside
/// stands in [`Profile::features`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// x86-64-v1: SSE2; with CMPXCHG16B, RDTSCP, RDRAND, SMEP, SMAP, UMIP.
    V1,
    /// x86-64-v2: SSE4.2 and POPCNT; with AES, PCLMULQDQ, PCID, FSGSBASE, RDSEED, RDPID.
    V2,
    /// x86-64-v3: AVX2, BMI, FMA, XSAVE; with SHA.
    V3,
}

impl Profile {
    /// Every model.
    pub const ALL: [Profile; 3] = [Profile::V1, Profile::V2, Profile::V3];

    /// As options and configuration have it.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::V1 => "v1",
            Profile::V2 => "v2",
            Profile::V3 => "v3",
        }
    }

    /// As handshake and log have it.
    pub const fn model_name(self) -> &'static str {
        match self {
            Profile::V1 => "x86-64-v1",
            Profile::V2 => "x86-64-v2",
            Profile::V3 => "x86-64-v3",
        }
    }
}

impl Default for Profile {
    /// The highest.
    fn default() -> Self {
        Profile::V3
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No model has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no CPU model: use v1, v2 or v3")]
pub struct UnknownProfile(pub String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Profile::ALL
            .into_iter()
            .find(|profile| profile.name() == text)
            .ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}
