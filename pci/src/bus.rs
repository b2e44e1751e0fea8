//! Bus 0, and the two mechanisms that reach its functions (PCI Local Bus Specification 3.0, section
//! 3.2.2.3; PCI Express Base Specification, section 7.2.2).
//!
//! Does: hold the address register at 0xCF8, find the function, split accesses at dwords.
//! Does not: know what a function is for.
//!
//! Invariant: both mechanisms reach the same registers; only the address register is the bus's own
//! state.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigState, Function, InvalidState, LENGTH};
use crate::host_bridge::HostBridge;

/// The I/O ports of the address register (four) and the data register (four).
pub const CONFIG_PORTS: std::ops::RangeInclusive<u16> = 0xCF8..=0xCFF;

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;

/// Address register: accesses to the data register are configuration accesses.
const ENABLE: u32 = 1 << 31;
/// Address register: bits that are not reserved.
const ADDRESS_WRITABLE: u32 = 0x80FF_FFFC;

/// Bus, device and function in ECAM's order: bits 8 to 15, 3 to 7 and 0 to 2.
type Bdf = u32;

/// Address register and functions, as plain data.
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
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        match self.data_access(port) {
            Some((bdf, offset)) => self.read(bdf, offset, data),
            // The address register is a dword, and answers to nothing less.
            None if port == ADDRESS && data.len() == 4 => {
                data.copy_from_slice(&self.address.to_le_bytes());
            }
            None => data.fill(0xFF),
        }
    }

    /// Writes I/O ports from `port` on, which is one of [`CONFIG_PORTS`].
    pub fn port_write(&mut self, port: u16, data: &[u8]) {
        match (self.data_access(port), <[u8; 4]>::try_from(data)) {
            (Some((bdf, offset)), _) => self.write(bdf, offset, data),
            (None, Ok(dword)) if port == ADDRESS => {
                self.address = u32::from_le_bytes(dword) & ADDRESS_WRITABLE;
            }
            _ => {}
        }
    }

    /// Reads at `offset` from the start of the ECAM.
    pub fn ecam_read(&self, offset: u64, data: &mut [u8]) {
        match u32::try_from(offset >> 12) {
            Ok(bdf) => self.read(bdf, offset as usize & 0xFFF, data),
            Err(_) => data.fill(0xFF),
        }
    }

    /// Writes at `offset` from the start of the ECAM.
    pub fn ecam_write(&mut self, offset: u64, data: &[u8]) {
        if let Ok(bdf) = u32::try_from(offset >> 12) {
            self.write(bdf, offset as usize & 0xFFF, data);
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

    fn function(&self, bdf: Bdf) -> Option<&dyn Function> {
        match bdf {
            0 => Some(&self.host_bridge),
            _ => None,
        }
    }

    fn function_mut(&mut self, bdf: Bdf) -> Option<&mut dyn Function> {
        match bdf {
            0 => Some(&mut self.host_bridge),
            _ => None,
        }
    }

    fn read(&self, bdf: Bdf, offset: usize, data: &mut [u8]) {
        data.fill(0xFF);
        let Some(function) = self.function(bdf) else {
            return;
        };
        let within = within_dword(offset, data.len());
        if offset < LENGTH {
            function.read_config(offset, &mut data[..within]);
        } else {
            data[..within].fill(0);
        }
    }

    fn write(&mut self, bdf: Bdf, offset: usize, data: &[u8]) {
        let within = within_dword(offset, data.len());
        if let Some(function) = self.function_mut(bdf)
            && offset < LENGTH
        {
            function.write_config(offset, &data[..within]);
        }
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
        bus.port_write(ADDRESS, &address.to_le_bytes());
    }

    fn port_dword(bus: &RootBus, port: u16) -> u32 {
        let mut data = [0; 4];
        bus.port_read(port, &mut data);
        u32::from_le_bytes(data)
    }

    fn ecam_dword(bus: &RootBus, offset: u64) -> u32 {
        let mut data = [0; 4];
        bus.ecam_read(offset, &mut data);
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
        bus.port_read(DATA + 3, &mut class);
        assert_eq!(class, [6]);
    }

    #[test]
    fn linux_finds_the_port_mechanism() {
        let mut bus = RootBus::new();
        bus.port_write(0xCFB, &[1]);
        select(&mut bus, 0x8000_0000);
        assert_eq!(port_dword(&bus, ADDRESS), 0x8000_0000);
        let mut byte = [0];
        bus.port_read(0xCF9, &mut byte);
        assert_eq!(byte, [0xFF], "no reset control register");
    }

    #[test]
    fn without_enable_the_data_register_is_not_there() {
        let mut bus = RootBus::new();
        select(&mut bus, 0);
        assert_eq!(port_dword(&bus, DATA), u32::MAX);
        bus.port_write(DATA, &[0; 4]);
    }

    #[test]
    fn absent_functions_read_all_ones() {
        let mut bus = RootBus::new();
        for address in [0x8000_0100, 0x8000_0800, 0x8001_0000, 0x80FF_FF00] {
            select(&mut bus, address);
            assert_eq!(port_dword(&bus, DATA), u32::MAX, "{address:#x}");
            bus.port_write(DATA, &[0; 4]);
        }
        assert_eq!(ecam_dword(&bus, 0x1000), u32::MAX);
        assert_eq!(ecam_dword(&bus, 0xFFFF_FFFF_FFFF_F000), u32::MAX);
        bus.ecam_write(u64::MAX, &[0; 8]);
    }

    #[test]
    fn writes_go_to_the_same_registers() {
        let mut bus = RootBus::new();
        select(&mut bus, 0x8000_0004);
        bus.port_write(DATA, &[0x06, 0x04]);
        assert_eq!(ecam_dword(&bus, 4), 0x0000_0406);
        bus.ecam_write(0, &[0; 4]);
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
        bus.ecam_read(2, &mut data);
        assert_eq!(data, [0x57, 0x0D, 0xFF, 0xFF]);
    }

    #[test]
    fn states_round_trip_and_impossible_ones_are_refused() {
        let mut bus = RootBus::new();
        select(&mut bus, u32::MAX);
        bus.ecam_write(4, &[0xFF; 4]);
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
