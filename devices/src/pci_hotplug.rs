//! The PCI hot-plug controller: what the DSDT's methods read to learn which slots have changed, and
//! write to eject a device (Cloud Hypervisor's `PHPR` region; ACPI specification 6.5, section 6.3).
//!
//! Does: hold the slots that were plugged in and those that the guest is asked to give up, until it
//! has read them; say which slots a write ejects. Does not: know the devices, or interrupt: the
//! event register does.
//!
//! Invariant: a bit is read once. Registers are dwords at multiples of 4; whatever else is read is
//! 0, whatever else is written has no effect.

use serde::{Deserialize, Serialize};

use crate::state::{InvalidState, require};

/// First address of the registers.
pub const BASE: u64 = 0xF800_0000;
/// Bytes of the registers.
pub const LENGTH: u64 = 0x10;

/// Slots that were plugged in; reading it clears it.
const UP: u64 = 0x0;
/// Slots that are to be given up; reading it clears it.
const DOWN: u64 = 0x4;
/// A write ejects the slots whose bits are set.
const EJECT: u64 = 0x8;
/// The PCI segment that the others are about; there is only segment 0.
const SEGMENT: u64 = 0xC;

/// The registers, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciHotplugState {
    /// Slots that were plugged in and not read yet, a bit each.
    pub up: u32,
    /// Slots that are to be given up and not read yet.
    pub down: u32,
    /// The segment that was chosen.
    pub segment: u32,
}

/// The controller.
#[derive(Clone, Debug)]
pub struct PciHotplug {
    up: u32,
    down: u32,
    segment: u32,
}

impl PciHotplug {
    /// After power-up: nothing has changed.
    #[expect(clippy::new_without_default, reason = "state has no defaults")]
    pub fn new() -> Self {
        PciHotplug {
            up: 0,
            down: 0,
            segment: 0,
        }
    }

    /// The state, every field of it.
    pub fn save(&self) -> PciHotplugState {
        let PciHotplug { up, down, segment } = *self;
        PciHotplugState { up, down, segment }
    }

    /// The controller with a saved state.
    pub fn restore(state: &PciHotplugState) -> Result<Self, InvalidState> {
        let PciHotplugState { up, down, segment } = *state;
        require(
            (up | down) & 1 == 0,
            "PCI hot-plug controller",
            "the host bridge was plugged",
        )?;
        Ok(PciHotplug { up, down, segment })
    }

    /// A device was put into `slot` (1 to 31).
    pub fn plugged(&mut self, slot: u8) {
        self.up |= bit(slot);
    }

    /// The guest is to give up the device in `slot`.
    pub fn ask_for(&mut self, slot: u8) {
        self.down |= bit(slot);
    }

    /// The device in `slot` is gone.
    pub fn gone(&mut self, slot: u8) {
        self.up &= !bit(slot);
        self.down &= !bit(slot);
    }

    /// Reads at `offset`.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if data.len() != 4 {
            return;
        }
        let value = match offset {
            UP if self.segment == 0 => std::mem::take(&mut self.up),
            DOWN if self.segment == 0 => std::mem::take(&mut self.down),
            SEGMENT => self.segment,
            _ => 0,
        };
        data.copy_from_slice(&value.to_le_bytes());
    }

    /// Writes at `offset`. Gives the slots that are to be ejected, a bit each.
    #[must_use = "the guest may have ejected devices"]
    pub fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        let Ok(dword) = <[u8; 4]>::try_from(data) else {
            return 0;
        };
        let value = u32::from_le_bytes(dword);
        match offset {
            EJECT if self.segment == 0 => value,
            SEGMENT => {
                self.segment = value;
                0
            }
            _ => 0,
        }
    }
}

fn bit(slot: u8) -> u32 {
    1 << (slot & 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(controller: &mut PciHotplug, offset: u64) -> u32 {
        let mut dword = [0xFF; 4];
        controller.read(offset, &mut dword);
        u32::from_le_bytes(dword)
    }

    #[test]
    fn changes_are_read_once() {
        let mut controller = PciHotplug::new();
        controller.plugged(3);
        controller.plugged(31);
        controller.ask_for(2);
        let mut controller = PciHotplug::restore(&controller.save()).unwrap();
        assert_eq!(read(&mut controller, UP), 1 << 3 | 1 << 31);
        assert_eq!(read(&mut controller, UP), 0);
        assert_eq!(read(&mut controller, DOWN), 1 << 2);
        assert_eq!(read(&mut controller, DOWN), 0);
        assert_eq!(read(&mut controller, EJECT), 0);
        let mut byte = [0xFF];
        controller.plugged(3);
        controller.read(UP, &mut byte);
        assert_eq!(byte, [0], "registers are dwords");
        assert_eq!(read(&mut controller, UP), 1 << 3);
    }

    #[test]
    fn only_the_first_segment_has_slots() {
        let mut controller = PciHotplug::new();
        controller.plugged(4);
        assert_eq!(controller.write(SEGMENT, &1u32.to_le_bytes()), 0);
        assert_eq!(read(&mut controller, SEGMENT), 1);
        assert_eq!(read(&mut controller, UP), 0);
        assert_eq!(controller.write(EJECT, &16u32.to_le_bytes()), 0);
        assert_eq!(controller.write(SEGMENT, &[0; 4]), 0);
        assert_eq!(controller.write(EJECT, &16u32.to_le_bytes()), 16);
        assert_eq!(controller.write(EJECT, &[16]), 0);
        assert_eq!(controller.write(UP, &[0xFF; 4]), 0);
        assert_eq!(read(&mut controller, UP), 16);
    }

    #[test]
    fn a_device_that_is_gone_is_told_of_no_more() {
        let mut controller = PciHotplug::new();
        controller.plugged(4);
        controller.ask_for(4);
        controller.ask_for(5);
        controller.gone(4);
        let state = controller.save();
        assert_eq!((state.up, state.down), (0, 1 << 5));
        let up = 1;
        PciHotplug::restore(&PciHotplugState { up, ..state }).unwrap_err();
    }
}
