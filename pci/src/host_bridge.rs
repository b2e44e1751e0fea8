//! The host bridge at 00:00.0: 8086:0d57, as Cloud Hypervisor has it.
//!
//! Does: be there, so that the guest believes in the bus. Does not: bridge anything that would need
//! registers: windows are told by ACPI.
//!
//! Invariant: class 06:00.00, header type 0, no BARs, no capabilities.

use crate::config::{ConfigSpace, ConfigState, Function, InvalidState};

/// The host bridge.
#[derive(Clone, Debug)]
pub struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    /// After power-up.
    #[expect(clippy::new_without_default, reason = "state has no defaults")]
    pub fn new() -> Self {
        let mut config = ConfigSpace::new();
        // Vendor and device.
        config.define(0x00, [0x86, 0x80, 0x57, 0x0D], [0; 4]);
        // Command: decoding, bus mastering, error and INTx bits. Status: nothing.
        config.define(0x04, [0; 4], [0x47, 0x05, 0, 0]);
        // Revision, programming interface, class: host bridge.
        config.define(0x08, [0, 0x00, 0x00, 0x06], [0; 4]);
        // Cache line size.
        config.define(0x0C, [0], [0xFF]);
        // Interrupt line.
        config.define(0x3C, [0], [0xFF]);
        HostBridge { config }
    }

    /// The state, every field of it.
    pub fn save(&self) -> ConfigState {
        let HostBridge { config } = self;
        config.save()
    }

    /// A host bridge with a saved state.
    pub fn restore(state: &ConfigState) -> Result<Self, InvalidState> {
        let mut bridge = HostBridge::new();
        bridge.config.restore(state)?;
        Ok(bridge)
    }
}

impl Function for HostBridge {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }
}
