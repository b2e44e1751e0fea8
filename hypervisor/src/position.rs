//! Where a machine is in its execution.

use serde::{Deserialize, Serialize};

/// A boundary between two steps. For the software engine: the number of steps (retired
/// instructions, REP iterations, deliveries, idle jumps, resets) since the VM was created; never
/// restarts. Opaque to the protocol, which only compares positions.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position(pub u64);

impl Position {
    /// Beyond every position.
    pub const MAX: Position = Position(u64::MAX);

    /// The boundary after the next step.
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
