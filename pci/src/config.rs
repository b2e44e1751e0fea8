//! The 256 bytes of a function's configuration space (PCI Local Bus Specification 3.0, chapter 6).
//!
//! Does: hold the bytes and say which bits the guest can write. A BAR sizes itself that way: the
//! bits below its size are read-only zeroes.
//! Does not: act on what is written.
//!
//! Invariant: a bit that is not writable has the value the function was made with.

use serde::{Deserialize, Serialize};

/// Bytes in the configuration space. What ECAM has room for beyond them reads 0: no extended
/// capability.
pub(crate) const LENGTH: usize = 256;

/// A saved state that contradicts what the function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidState {
    /// The rule it breaks.
    pub reason: &'static str,
}

impl std::fmt::Display for InvalidState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "saved state of PCI: {}", self.reason)
    }
}

impl std::error::Error for InvalidState {}

/// A function as the bus sees it. Offsets are below 256; an access lies within one dword.
pub trait Function {
    /// Reads configuration bytes.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// Writes configuration bytes.
    fn write_config(&mut self, offset: usize, data: &[u8]);
}

/// The bytes, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    /// All 256 bytes.
    pub bytes: Vec<u8>,
}

/// A configuration space: bytes, and for each the bits that the guest can write.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; LENGTH],
    writable: [u8; LENGTH],
}

impl ConfigSpace {
    /// All zeroes and read-only.
    #[expect(clippy::new_without_default, reason = "state has no defaults")]
    pub fn new() -> Self {
        ConfigSpace {
            bytes: [0; LENGTH],
            writable: [0; LENGTH],
        }
    }

    /// Sets the bytes at `offset`, and which of their bits are writable. For whoever makes a
    /// function: panics beyond the end.
    pub fn define<const N: usize>(&mut self, offset: usize, value: [u8; N], writable: [u8; N]) {
        self.bytes[offset..offset + N].copy_from_slice(&value);
        self.writable[offset..offset + N].copy_from_slice(&writable);
    }

    /// The little-endian number of `N` bytes at `offset`. Panics beyond the end.
    pub fn number<const N: usize>(&self, offset: usize) -> u64 {
        let bytes = self.bytes[offset..offset + N].iter().rev();
        bytes.fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// The state. Which bits are writable follows from what the function is.
    pub fn save(&self) -> ConfigState {
        let ConfigSpace { bytes, writable: _ } = self;
        ConfigState {
            bytes: bytes.to_vec(),
        }
    }

    /// Takes over a saved state of the same function.
    pub fn restore(&mut self, state: &ConfigState) -> Result<(), InvalidState> {
        let ConfigState { bytes } = state;
        let Ok(bytes) = <[u8; LENGTH]>::try_from(bytes.as_slice()) else {
            return Err(InvalidState {
                reason: "configuration space of another length",
            });
        };
        for (index, byte) in bytes.iter().enumerate() {
            if (byte ^ self.bytes[index]) & !self.writable[index] != 0 {
                return Err(InvalidState {
                    reason: "read-only bits of another function",
                });
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Reads bytes; beyond the end all ones.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(offset + index).copied().unwrap_or(0xFF);
        }
    }

    /// Writes the writable bits of bytes; beyond the end nothing.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (index, &value) in data.iter().enumerate() {
            let index = offset + index;
            if index < LENGTH {
                let writable = self.writable[index];
                self.bytes[index] = self.bytes[index] & !writable | value & writable;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A space with a BAR of 4 KiB at 0x10.
    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new();
        space.define(0x00, [0xF4, 0x1A, 0x42, 0x10], [0; 4]);
        space.define(0x10, [0, 0, 0, 0], [0, 0xF0, 0xFF, 0xFF]);
        space
    }

    fn dword(space: &ConfigSpace, offset: usize) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn writes_reach_writable_bits_only() {
        let mut space = space();
        space.write(0, &[0; 4]);
        assert_eq!(dword(&space, 0), 0x1042_1AF4);
        space.write(0x10, &[0xFF; 4]);
        assert_eq!(dword(&space, 0x10), 0xFFFF_F000, "the BAR's size");
        space.write(0x11, &[0x3F, 0x12]);
        assert_eq!(dword(&space, 0x10), 0xFF12_3000);
    }

    #[test]
    fn beyond_the_end_there_is_nothing() {
        let mut space = space();
        space.write(254, &[1; 4]);
        assert_eq!(dword(&space, 254), 0xFFFF_0000);
        assert_eq!(dword(&space, 300), u32::MAX);
    }

    #[test]
    fn a_state_of_another_function_is_refused() {
        let mut used = space();
        used.write(0x10, &0xE000_0000u32.to_le_bytes());
        let state = used.save();
        let mut fresh = space();
        fresh.restore(&state).unwrap();
        assert_eq!(dword(&fresh, 0x10), 0xE000_0000);
        ConfigSpace::new().restore(&state).unwrap_err();
        let mut short = state;
        short.bytes.pop();
        space().restore(&short).unwrap_err();
    }
}
