//! Two ports for people who debug: POST codes at 0x80 and a console at 0xE9.
//!
//! Does: remember the last POST code; pass on what is written to the console.
//! Does not: decide where the bytes go. They carry guest state, so they are an output.
//!
//! Invariant: reading changes nothing.

use serde::{Deserialize, Serialize};

/// POST code port.
pub const POST: u16 = 0x80;
/// Debug console port.
pub const CONSOLE: u16 = 0xE9;

/// The register, as plain data. Every value is possible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugPortState {
    /// The last POST code.
    pub post_code: u8,
}

/// The debug ports.
#[derive(Clone, Debug)]
pub struct DebugPort {
    post_code: u8,
}

impl DebugPort {
    /// After power-up.
    #[expect(clippy::new_without_default, reason = "state has no defaults")]
    pub fn new() -> Self {
        DebugPort { post_code: 0 }
    }

    /// The state, every field of it.
    pub fn save(&self) -> DebugPortState {
        let DebugPort { post_code } = *self;
        DebugPortState { post_code }
    }

    /// The ports with a saved state.
    pub fn restore(state: &DebugPortState) -> Self {
        let DebugPortState { post_code } = *state;
        DebugPort { post_code }
    }

    /// Reads a port. The console answers with its own number, which is how guests find it.
    pub fn read(&self, port: u16) -> u8 {
        match port {
            POST => self.post_code,
            CONSOLE => CONSOLE as u8,
            _ => 0xFF,
        }
    }

    /// Writes a port. Gives the byte for the debug console, if it is one.
    pub fn write(&mut self, port: u16, value: u8) -> Option<u8> {
        match port {
            POST => self.post_code = value,
            CONSOLE => return Some(value),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn post_codes_are_remembered_and_console_bytes_passed_on() {
        let mut port = DebugPort::new();
        assert_eq!(port.write(POST, 0x42), None);
        assert_eq!(port.write(CONSOLE, b'x'), Some(b'x'));
        let port = DebugPort::restore(&port.save());
        assert_eq!(port.read(POST), 0x42);
        assert_eq!(port.read(CONSOLE), 0xE9);
        assert_eq!(port.read(0x81), 0xFF);
    }
}
