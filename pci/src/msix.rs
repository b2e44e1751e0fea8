//! MSI-X: a function's interrupt messages (PCI Local Bus Specification 3.0, section 6.8.2).
//!
//! Does: hold the table, the pending bits and the two control bits, and say which message is to be
//! sent. Does not: send it, or know where in a BAR the table is.
//!
//! Invariant: a vector that was raised while masked is pending, and is sent once when it is
//! unmasked.

use serde::{Deserialize, Serialize};

use crate::config::InvalidState;

/// Capability id of MSI-X.
pub const MSIX_CAPABILITY: u8 = 0x11;
/// Bytes of the table for each vector.
pub const MSIX_ENTRY_BYTES: u64 = 16;
/// The most vectors of a function.
pub const MSIX_VECTORS_MAX: u16 = 2048;

/// Message control: MSI-X is enabled.
pub const MSIX_ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
pub const MSIX_FUNCTION_MASK: u16 = 1 << 14;

/// Vector control: this vector is masked.
const MASKED: u32 = 1;

/// A message: what is written where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address.
    pub address: u64,
    /// The data.
    pub data: u32,
}

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixEntry {
    /// Address, data and vector control as dwords.
    pub dwords: [u32; 4],
    /// It was raised while masked.
    pub pending: bool,
}

/// Table and control bits, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    /// [`MSIX_ENABLE`] and [`MSIX_FUNCTION_MASK`], as they stand in the message control register.
    pub control: u16,
    /// The table.
    pub entries: Vec<MsixEntry>,
}

/// The table of a function.
#[derive(Clone, Debug)]
pub struct Msix {
    state: MsixState,
}

impl Msix {
    /// After power-up: disabled, all of `vectors` masked.
    pub fn new(vectors: u16) -> Self {
        let entry = MsixEntry {
            dwords: [0, 0, 0, MASKED],
            pending: false,
        };
        Msix {
            state: MsixState {
                control: 0,
                entries: vec![entry; vectors.into()],
            },
        }
    }

    /// The state.
    pub fn save(&self) -> MsixState {
        self.state.clone()
    }

    /// A table of `vectors` with a saved state.
    pub fn restore(vectors: u16, state: &MsixState) -> Result<Self, InvalidState> {
        let reason = if state.entries.len() != usize::from(vectors) {
            "MSI-X table of another length"
        } else if state.control & !(MSIX_ENABLE | MSIX_FUNCTION_MASK) != 0 {
            "MSI-X control bits that cannot be set"
        } else {
            let state = state.clone();
            return Ok(Msix { state });
        };
        Err(InvalidState { reason })
    }

    /// Whether the guest has enabled MSI-X.
    pub fn is_enabled(&self) -> bool {
        self.state.control & MSIX_ENABLE != 0
    }

    /// The guest wrote the message control register. Gives what is to be sent now.
    pub fn set_control(&mut self, control: u16) -> Vec<MsiMessage> {
        self.state.control = control & (MSIX_ENABLE | MSIX_FUNCTION_MASK);
        (0..self.state.entries.len())
            .filter_map(|vector| self.send_pending(vector))
            .collect()
    }

    /// Raises a vector. Gives the message, if it is to be sent now; a vector that there is not, or
    /// one of a function that has not enabled MSI-X, sends nothing.
    pub fn raise(&mut self, vector: u16) -> Option<MsiMessage> {
        if !self.is_enabled() {
            return None;
        }
        let vector = usize::from(vector);
        self.state.entries.get_mut(vector)?.pending = true;
        self.send_pending(vector)
    }

    fn send_pending(&mut self, vector: usize) -> Option<MsiMessage> {
        let masked = self.state.control != MSIX_ENABLE;
        let entry = self.state.entries.get_mut(vector)?;
        if masked || entry.dwords[3] & MASKED != 0 || !entry.pending {
            return None;
        }
        entry.pending = false;
        Some(MsiMessage {
            address: u64::from(entry.dwords[1]) << 32 | u64::from(entry.dwords[0]),
            data: entry.dwords[2],
        })
    }

    /// Reads the table at `offset`: one or two aligned dwords; zeros for anything else.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (dword, bytes) in dwords(offset, data.len()).zip(data.chunks_mut(4)) {
            let entry = self.state.entries.get((dword / 4) as usize);
            let value = entry.map_or(0, |entry| entry.dwords[(dword % 4) as usize]);
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes the table at `offset`, as it is read. Gives what is to be sent now.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) -> Vec<MsiMessage> {
        let mut messages = Vec::new();
        for (dword, bytes) in dwords(offset, data.len()).zip(data.chunks(4)) {
            let mut value = [0; 4];
            value.copy_from_slice(bytes);
            let value = u32::from_le_bytes(value);
            let vector = (dword / 4) as usize;
            let Some(entry) = self.state.entries.get_mut(vector) else {
                continue;
            };
            entry.dwords[(dword % 4) as usize] = match dword % 4 {
                // Reserved bits of address and vector control.
                0 => value & !3,
                3 => value & MASKED,
                _ => value,
            };
            messages.extend(self.send_pending(vector));
        }
        messages
    }

    /// Reads the pending bits at `offset`.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (byte, index) in data.iter_mut().zip(offset..) {
            let bit = |bit: u64| {
                let entry = self.state.entries.get((index * 8 + bit) as usize);
                u8::from(entry.is_some_and(|entry| entry.pending)) << bit
            };
            *byte = (0..8).map(bit).sum();
        }
    }
}

/// The aligned dwords that an access of 4 or 8 bytes reaches.
fn dwords(offset: u64, length: usize) -> std::ops::Range<u64> {
    let is_whole = offset.is_multiple_of(4) && matches!(length, 4 | 8);
    let first = offset / 4;
    first..first + if is_whole { length as u64 / 4 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Msix {
        let mut msix = Msix::new(3);
        for vector in 0..3u32 {
            let mut entry = [0; 16];
            entry[..4].copy_from_slice(&0xFEE0_0000u32.to_le_bytes());
            entry[8] = 0x40 + vector as u8;
            for (dword, bytes) in entry.chunks(4).enumerate() {
                let offset = u64::from(vector) * 16 + dword as u64 * 4;
                assert_eq!(msix.write_table(offset, bytes), []);
            }
        }
        msix
    }

    fn message(data: u32) -> MsiMessage {
        MsiMessage {
            address: 0xFEE0_0000,
            data,
        }
    }

    #[test]
    fn what_is_enabled_and_unmasked_is_sent() {
        let mut msix = table();
        assert_eq!(msix.raise(1), None, "disabled");
        assert_eq!(msix.set_control(MSIX_ENABLE), []);
        assert_eq!(msix.raise(1), Some(message(0x41)));
        assert_eq!(msix.raise(3), None, "there is none");
        assert_eq!(msix.raise(0xFFFF), None, "no vector");
    }

    #[test]
    fn what_is_masked_waits_and_is_sent_once() {
        let mut msix = table();
        msix.set_control(MSIX_ENABLE);
        assert_eq!(msix.write_table(2 * 16 + 12, &[1, 0, 0, 0]), []);
        assert_eq!(msix.raise(2), None);
        assert_eq!(msix.raise(2), None);
        let mut bits = [0; 8];
        msix.read_pending(0, &mut bits);
        assert_eq!(bits, [4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(msix.set_control(MSIX_ENABLE | MSIX_FUNCTION_MASK), []);
        assert_eq!(msix.raise(0), None);
        assert_eq!(msix.set_control(MSIX_ENABLE), [message(0x40)]);
        assert_eq!(msix.write_table(2 * 16 + 12, &[0; 4]), [message(0x42)]);
        assert_eq!(msix.write_table(2 * 16 + 12, &[0; 4]), []);
    }

    #[test]
    fn odd_accesses_reach_nothing() {
        let mut msix = table();
        let before = msix.save();
        msix.write_table(1, &[0xFF; 4]);
        msix.write_table(0, &[0xFF; 2]);
        msix.write_table(48, &[0xFF; 8]);
        msix.write_table(u64::MAX - 3, &[0xFF; 4]);
        assert_eq!(msix.save(), before);
        let mut data = [0xFF; 8];
        msix.read_table(40, &mut data);
        assert_eq!(data, [0x42, 0, 0, 0, 0, 0, 0, 0]);
        msix.read_table(u64::MAX, &mut data);
        msix.read_pending(u64::MAX / 16, &mut data);
        assert_eq!(data, [0; 8]);
    }

    #[test]
    fn states_round_trip_and_impossible_ones_are_refused() {
        let mut msix = table();
        msix.set_control(MSIX_ENABLE | MSIX_FUNCTION_MASK);
        msix.raise(1);
        let state = msix.save();
        assert_eq!(Msix::restore(3, &state).unwrap().save(), state);
        Msix::restore(2, &state).unwrap_err();
        let mut bad = state;
        bad.control |= 1;
        Msix::restore(3, &bad).unwrap_err();
    }
}
