//! What is left of the keyboard controller: the reset line, and system control port B.
//!
//! Does: the pulse-reset command 0xFE on port 0x64; on port 0x61, the bits that guests write and
//! the refresh and timer-2 bits that they wait for.
//! Does not: model a keyboard, a mouse, a speaker or a PIT. The FADT says that there is no 8042.
//!
//! Invariant: nobody who waits for a bit of port B waits for ever: the timer-2 output is always up,
//! and the refresh bit toggles in virtual time.

use serde::{Deserialize, Serialize};

use crate::state::{InvalidState, require};

/// Data port of the keyboard controller.
pub const DATA: u16 = 0x60;
/// System control port B.
pub const PORT_B: u16 = 0x61;
/// Command and status port of the keyboard controller.
pub const COMMAND: u16 = 0x64;

/// Command: pulse the reset line.
const PULSE_RESET: u8 = 0xFE;

/// Port B: timer 2's gate, speaker, and the two check enables are the guest's to write.
const PORT_B_WRITABLE: u8 = 0x0F;
/// Port B: toggles with each memory refresh, every 15 µs on a PC.
const PORT_B_REFRESH: u8 = 1 << 4;
/// Port B: output of timer 2.
const PORT_B_TIMER2: u8 = 1 << 5;
/// Virtual time (ns) between two toggles of the refresh bit.
const REFRESH_NS: u64 = 15_085;

/// The register, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    /// Written bits of port B.
    pub port_b: u8,
}

/// The remains of the controller.
#[derive(Clone, Debug)]
pub struct I8042 {
    port_b: u8,
}

impl I8042 {
    /// After power-up.
    #[expect(clippy::new_without_default, reason = "state has no defaults")]
    pub fn new() -> Self {
        I8042 { port_b: 0 }
    }

    /// The state, every field of it.
    pub fn save(&self) -> I8042State {
        let I8042 { port_b } = *self;
        I8042State { port_b }
    }

    /// A controller with a saved state.
    pub fn restore(state: &I8042State) -> Result<Self, InvalidState> {
        let I8042State { port_b } = *state;
        require(
            port_b & !PORT_B_WRITABLE == 0,
            "keyboard controller",
            "reserved bits of port B",
        )?;
        Ok(I8042 { port_b })
    }

    /// Reads a port at virtual time `now` (ns). The status says: nothing to read, free to write.
    pub fn read(&self, port: u16, now: u64) -> u8 {
        match port {
            DATA | COMMAND => 0,
            PORT_B => {
                let refresh = if (now / REFRESH_NS).is_multiple_of(2) {
                    0
                } else {
                    PORT_B_REFRESH
                };
                self.port_b | PORT_B_TIMER2 | refresh
            }
            _ => 0xFF,
        }
    }

    /// Writes a port. True if that resets the machine.
    #[must_use = "the guest may have asked for a reset"]
    pub fn write(&mut self, port: u16, value: u8) -> bool {
        if port == PORT_B {
            self.port_b = value & PORT_B_WRITABLE;
        }
        port == COMMAND && value == PULSE_RESET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pulse_command_resets() {
        let mut controller = I8042::new();
        assert!(!controller.write(COMMAND, 0xFF));
        assert!(!controller.write(DATA, 0xFE));
        assert!(!controller.write(PORT_B, 0xFE));
        assert!(controller.write(COMMAND, 0xFE));
        assert_eq!(controller.read(COMMAND, 0) & 3, 0, "ready");
    }

    #[test]
    fn port_b_keeps_what_is_writable_and_toggles_refresh() {
        let mut controller = I8042::new();
        assert!(!controller.write(PORT_B, 0xFF));
        assert_eq!(controller.read(PORT_B, 0), 0x2F);
        assert_eq!(controller.read(PORT_B, REFRESH_NS), 0x3F);
        assert_eq!(controller.read(PORT_B, 2 * REFRESH_NS), 0x2F);
        let state = controller.save();
        assert_eq!(I8042::restore(&state).unwrap().save(), state);
        I8042::restore(&I8042State { port_b: 0x10 }).unwrap_err();
    }
}
