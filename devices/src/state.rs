//! What is wrong with a saved state that no device could have saved.
//!
//! Does: name the device and the rule. Does not: repair anything.
//!
//! Invariant: a state that is refused has changed no device.

/// A saved state that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidState {
    /// The device it was meant for.
    pub device: &'static str,
    /// The rule it breaks.
    pub reason: &'static str,
}

impl std::fmt::Display for InvalidState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "saved state of the {}: {}", self.device, self.reason)
    }
}

impl std::error::Error for InvalidState {}

/// Refuses unless `condition` holds.
pub(crate) fn require(
    condition: bool,
    device: &'static str,
    reason: &'static str,
) -> Result<(), InvalidState> {
    if condition {
        Ok(())
    } else {
        Err(InvalidState { device, reason })
    }
}
