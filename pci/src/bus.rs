//! Bus 0, and the two mechanisms that reach its functions (PCI Local Bus Specification 3.0, section
//! 3.2.2.3; PCI Express Base Specification, section 7.2.2).
//!
//! Does: hold the address register at 0xCF8, the host bridge, find the function, split accesses at
//! dwords. Does not: hold the other functions, or know what they are for: whoever does is
//! [`Functions`].
//!
//! Invariant: both mechanisms reach the same registers; only the address register and the host
//! bridge are the bus's own state.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigState, Function, InvalidState, LENGTH};
use crate::host_bridge::HostBridge;

/// The I/O ports of the address register (four) and the data register (four).
pub const CONFIG_PORTS: std::ops::RangeInclusive<u16> = 0xCF8..=0xCFF;

/// Devices on the bus, the host bridge (device 0) included.
pub const DEVICES: u8 = 32;

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;

/// Address register: accesses to the data register are configuration accesses.
const ENABLE: u32 = 1 << 31;
/// Address register: bits that are not reserved.
const ADDRESS_WRITABLE: u32 = 0x80FF_FFFC;

/// Bus, device and function in ECAM's order: bits 8 to 15, 3 to 7 and 0 to 2.
type Bdf = u32;

/// The functions of the bus beside the host bridge: function 0 of each device that there is.
/// Offsets are below 256; an access lies within one dword.
pub trait Functions {
    /// Whether there is a device of this number (1 to 31).
    fn has(&self, device: u8) -> bool;

    /// Reads configuration bytes of a device that there is. That may have side effects.
    fn read_config(&mut self, device: u8, offset: usize, data: &mut [u8]);

    /// Writes configuration bytes of a device that there is.
    fn write_config(&mut self, device: u8, offset: usize, data: &[u8]);
}

/// No functions.
impl Functions for () {
    fn has(&self, _: u8) -> bool {
        false
    }

    fn read_config(&mut self, _: u8, _: usize, _: &mut [u8]) {}

    fn write_config(&mut self, _: u8, _: usize, _: &[u8]) {}
}

/// Address register and host bridge, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusState {
    /// The address register.
    pub address: u32,
    /// The host bridge.
    pub host_bridge: ConfigState,
}

/// The root bus.
#[derive(Clone, Debug)]
pub struct RootBus {
    address: u32,
    host_bridge: HostBridge,
}

/// What an access reaches.
enum Target {
    HostBridge,
    Device(u8),
    Nothing,
}

impl RootBus {
    /// After power-up.
    #[expect(clippy::new_without_default, reason = "state has no defaults")]
    pub fn new() -> Self {
        RootBus {
            address: 0,
            host_bridge: HostBridge::new(),
        }
    }

    /// The state, every field of it.
    pub fn save(&self) -> BusState {
        let RootBus {
            address,
            host_bridge,
        } = self;
        BusState {
            address: *address,
            host_bridge: host_bridge.save(),
        }
    }

    /// A bus with a saved state.
    pub fn restore(state: &BusState) -> Result<Self, InvalidState> {
        let BusState {
            address,
            host_bridge,
        } = state;
        if address & !ADDRESS_WRITABLE != 0 {
            return Err(InvalidState {
                reason: "reserved bits of the address register",
            });
        }
        Ok(RootBus {
            address: *address,
            host_bridge: HostBridge::restore(host_bridge)?,
        })
    }

    /// Reads I/O ports from `port` on, which is one of [`CONFIG_PORTS`].
    pub fn port_read(&self, functions: &mut dyn Functions, port: u16, data: &mut [u8]) {
        match self.data_access(port) {
            Some((bdf, offset)) => self.read(functions, bdf, offset, data),
            // The address register is a dword, and answers to nothing less.
            None if port == ADDRESS && data.len() == 4 => {
                data.copy_from_slice(&self.address.to_le_bytes());
            }
            None => data.fill(0xFF),
        }
    }

    /// Writes I/O ports from `port` on, which is one of [`CONFIG_PORTS`].
    pub fn port_write(&mut self, functions: &mut dyn Functions, port: u16, data: &[u8]) {
        match (self.data_access(port), <[u8; 4]>::try_from(data)) {
            (Some((bdf, offset)), _) => self.write(functions, bdf, offset, data),
            (None, Ok(dword)) if port == ADDRESS => {
                self.address = u32::from_le_bytes(dword) & ADDRESS_WRITABLE;
            }
            _ => {}
        }
    }

    /// Reads at `offset` from the start of the ECAM.
    pub fn ecam_read(&self, functions: &mut dyn Functions, offset: u64, data: &mut [u8]) {
        match u32::try_from(offset >> 12) {
            Ok(bdf) => self.read(functions, bdf, offset as usize & 0xFFF, data),
            Err(_) => data.fill(0xFF),
        }
    }

    /// Writes at `offset` from the start of the ECAM.
    pub fn ecam_write(&mut self, functions: &mut dyn Functions, offset: u64, data: &[u8]) {
        if let Ok(bdf) = u32::try_from(offset >> 12) {
            self.write(functions, bdf, offset as usize & 0xFFF, data);
        }
    }

    /// Function and offset that an access to the data register means, if it is one.
    fn data_access(&self, port: u16) -> Option<(Bdf, usize)> {
        let byte = port.checked_sub(DATA).filter(|&byte| byte < 4)?;
        if self.address & ENABLE == 0 {
            return None;
        }
        let register = self.address as usize & 0xFC;
        Some(((self.address >> 8) & 0xFFFF, register + usize::from(byte)))
    }

    fn read(&self, functions: &mut dyn Functions, bdf: Bdf, offset: usize, data: &mut [u8]) {
        data.fill(0xFF);
        let within = within_dword(offset, data.len());
        let data = &mut data[..within];
        match target(functions, bdf) {
            Target::Nothing => {}
            _ if offset >= LENGTH => data.fill(0),
            Target::HostBridge => self.host_bridge.read_config(offset, data),
            Target::Device(device) => functions.read_config(device, offset, data),
        }
    }

    fn write(&mut self, functions: &mut dyn Functions, bdf: Bdf, offset: usize, data: &[u8]) {
        if offset >= LENGTH {
            return;
        }
        let data = &data[..within_dword(offset, data.len())];
        match target(functions, bdf) {
            Target::Nothing => {}
            Target::HostBridge => self.host_bridge.write_config(offset, data),
            Target::Device(device) => functions.write_config(device, offset, data),
        }
    }
}

fn target(functions: &dyn Functions, bdf: Bdf) -> Target {
    match u8::try_from(bdf >> 3) {
        _ if bdf & 7 != 0 => Target::Nothing,
        Ok(0) => Target::HostBridge,
        Ok(device) if device < DEVICES && functions.has(device) => Target::Device(device),
        _ => Target::Nothing,
    }
}

/// How much of an access lies in the dword it starts in. A configuration access never crosses
/// one: nothing answers for the rest.
fn within_dword(offset: usize, length: usize) -> usize {
    length.min(4 - offset % 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(bus: &mut RootBus, address: u32) {
        bus.port_write(&mut (), ADDRESS, &address.to_le_bytes());
    }

    fn port_dword(bus: &RootBus, port: u16) -> u32 {
        let mut data = [0; 4];
        bus.port_read(&mut (), port, &mut data);
        u32::from_le_bytes(data)
    }

    fn ecam_dword(bus: &RootBus, offset: u64) -> u32 {
        let mut data = [0; 4];
        bus.ecam_read(&mut (), offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_host_bridge_answers_both_ways() {
        let mut bus = RootBus::new();
        select(&mut bus, 0x8000_0000);
        assert_eq!(port_dword(&bus, DATA), 0x0D57_8086);
        assert_eq!(ecam_dword(&bus, 0), 0x0D57_8086);
        select(&mut bus, 0x8000_0008);
        assert_eq!(port_dword(&bus, DATA), 0x0600_0000);
        let mut class = [0];
        bus.port_read(&mut (), DATA + 3, &mut class);
        assert_eq!(class, [6]);
    }

    #[test]
    fn linux_finds_the_port_mechanism() {
        let mut bus = RootBus::new();
        bus.port_write(&mut (), 0xCFB, &[1]);
        select(&mut bus, 0x8000_0000);
        assert_eq!(port_dword(&bus, ADDRESS), 0x8000_0000);
        let mut byte = [0];
        bus.port_read(&mut (), 0xCF9, &mut byte);
        assert_eq!(byte, [0xFF], "no reset control register");
    }

    #[test]
    fn without_enable_the_data_register_is_not_there() {
        let mut bus = RootBus::new();
        select(&mut bus, 0);
        assert_eq!(port_dword(&bus, DATA), u32::MAX);
        bus.port_write(&mut (), DATA, &[0; 4]);
    }

    #[test]
    fn absent_functions_read_all_ones() {
        let mut bus = RootBus::new();
        for address in [0x8000_0100, 0x8000_0800, 0x8001_0000, 0x80FF_FF00] {
            select(&mut bus, address);
            assert_eq!(port_dword(&bus, DATA), u32::MAX, "{address:#x}");
            bus.port_write(&mut (), DATA, &[0; 4]);
        }
        assert_eq!(ecam_dword(&bus, 0x1000), u32::MAX);
        assert_eq!(ecam_dword(&bus, 0xFFFF_FFFF_FFFF_F000), u32::MAX);
        bus.ecam_write(&mut (), u64::MAX, &[0; 8]);
    }

    #[test]
    fn writes_go_to_the_same_registers() {
        let mut bus = RootBus::new();
        select(&mut bus, 0x8000_0004);
        bus.port_write(&mut (), DATA, &[0x06, 0x04]);
        assert_eq!(ecam_dword(&bus, 4), 0x0000_0406);
        bus.ecam_write(&mut (), 0, &[0; 4]);
        assert_eq!(ecam_dword(&bus, 0), 0x0D57_8086);
    }

    #[test]
    fn there_is_no_extended_capability() {
        assert_eq!(ecam_dword(&RootBus::new(), 0x100), 0);
        assert_eq!(ecam_dword(&RootBus::new(), 0xFFC), 0);
    }

    #[test]
    fn an_access_ends_with_its_dword() {
        let bus = RootBus::new();
        let mut data = [0; 4];
        bus.ecam_read(&mut (), 2, &mut data);
        assert_eq!(data, [0x57, 0x0D, 0xFF, 0xFF]);
    }

    #[test]
    fn states_round_trip_and_impossible_ones_are_refused() {
        let mut bus = RootBus::new();
        select(&mut bus, u32::MAX);
        bus.ecam_write(&mut (), 4, &[0xFF; 4]);
        let state = bus.save();
        assert_eq!(state.address, 0x80FF_FFFC);
        assert_eq!(RootBus::restore(&state).unwrap().save(), state);
        let mut bad = vec![state; 2];
        bad[0].address = 1;
        bad[1].host_bridge.bytes[0] = 0;
        for state in bad {
            RootBus::restore(&state).unwrap_err();
        }
    }
}
