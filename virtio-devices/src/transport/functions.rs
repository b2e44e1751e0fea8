//! The PCI function of a virtio device (virtio 1.2, sections 4.1.2 and 4.1.4).
//!
//! Does: lay out its configuration space: identity, BAR 0, the vendor capabilities that say where
//! the structures are, MSI-X; and reach BAR 0 through the configuration access capability.
//! Does not: decode BAR 0.
//!
//! Invariant: the layout depends on the model's type and number of queues only.

use pci::{ConfigSpace, MSIX_CAPABILITY, MSIX_ENABLE, MSIX_FUNCTION_MASK};

use super::{
    BAR_SIZE, COMMON, DEVICE, DEVICE_LENGTH, Env, ISR, NOTIFY, NOTIFY_LENGTH, NOTIFY_MULTIPLIER,
    PENDING, TABLE, VirtioPci, vectors,
};
use crate::device::Model;

const VENDOR: u16 = 0x1AF4;
/// Device id of type 0.
const DEVICE_BASE: u16 = 0x1040;
const REVISION: u8 = 1;

/// Command register: memory space is decoded.
const COMMAND_MEMORY: u64 = 1 << 1;
const COMMAND: usize = 0x04;
const BAR0: usize = 0x10;
/// BAR: 64 bits.
const BAR_64_BITS: u8 = 4;
/// Vendor-specific capability.
const VENDOR_CAPABILITY: u8 = 0x09;

// Types of structures.
const VIRTIO_PCI_CAP_COMMON_CFG: u8 = 1;
const VIRTIO_PCI_CAP_NOTIFY_CFG: u8 = 2;
const VIRTIO_PCI_CAP_ISR_CFG: u8 = 3;
const VIRTIO_PCI_CAP_DEVICE_CFG: u8 = 4;
const VIRTIO_PCI_CAP_PCI_CFG: u8 = 5;

// Capabilities, in the order of their chain.
const CAP_COMMON: usize = 0x40;
const CAP_ISR: usize = 0x50;
const CAP_DEVICE: usize = 0x60;
const CAP_NOTIFY: usize = 0x70;
const CAP_CONFIG_ACCESS: usize = 0x84;
const CAP_MSIX: usize = 0x98;
/// The register that reaches into BAR 0.
const CONFIG_ACCESS_DATA: usize = CAP_CONFIG_ACCESS + 16;
const MSIX_CONTROL: usize = CAP_MSIX + 2;

/// The configuration space after power-up.
pub(super) fn config_space(model: &dyn Model, bar: u64) -> ConfigSpace {
    let mut space = ConfigSpace::new();
    let id = DEVICE_BASE + model.device_type();
    let [class, subclass] = model.class();
    space.define(0x00, VENDOR.to_le_bytes(), [0; 2]);
    space.define(0x02, id.to_le_bytes(), [0; 2]);
    // Command: decoding, bus mastering, error and INTx bits. Status: there are capabilities.
    space.define(COMMAND, [0, 0, 0x10, 0], [0x47, 0x05, 0, 0]);
    space.define(0x08, [REVISION, 0, subclass, class], [0; 4]);
    // Cache line size.
    space.define(0x0C, [0], [0xFF]);
    let (low, high) = (bar as u32, (bar >> 32) as u32);
    let mut value = low.to_le_bytes();
    value[0] |= BAR_64_BITS;
    let writable = !(BAR_SIZE as u32 - 1);
    space.define(BAR0, value, writable.to_le_bytes());
    space.define(BAR0 + 4, high.to_le_bytes(), [0xFF; 4]);
    // Subsystem: as the function itself.
    space.define(0x2C, VENDOR.to_le_bytes(), [0; 2]);
    space.define(0x2E, id.to_le_bytes(), [0; 2]);
    space.define(0x34, [CAP_COMMON as u8], [0]);
    // Interrupt line.
    space.define(0x3C, [0], [0xFF]);

    let common = (COMMON, 56);
    let notify = (NOTIFY, NOTIFY_LENGTH);
    structure(
        &mut space,
        CAP_COMMON,
        CAP_ISR,
        VIRTIO_PCI_CAP_COMMON_CFG,
        common,
    );
    structure(
        &mut space,
        CAP_ISR,
        CAP_DEVICE,
        VIRTIO_PCI_CAP_ISR_CFG,
        (ISR, 1),
    );
    let device = (DEVICE, DEVICE_LENGTH);
    structure(
        &mut space,
        CAP_DEVICE,
        CAP_NOTIFY,
        VIRTIO_PCI_CAP_DEVICE_CFG,
        device,
    );
    structure(
        &mut space,
        CAP_NOTIFY,
        CAP_CONFIG_ACCESS,
        VIRTIO_PCI_CAP_NOTIFY_CFG,
        notify,
    );
    space.define(CAP_NOTIFY + 2, [20], [0]);
    space.define(CAP_NOTIFY + 16, NOTIFY_MULTIPLIER.to_le_bytes(), [0; 4]);
    let at = CAP_CONFIG_ACCESS;
    structure(&mut space, at, CAP_MSIX, VIRTIO_PCI_CAP_PCI_CFG, (0, 0));
    space.define(at + 2, [20], [0]);
    // The driver says where it wants to go.
    space.define(at + 4, [0], [0xFF]);
    space.define(at + 8, [0; 8], [0xFF; 8]);

    let last = vectors(model.queue_sizes().len()) - 1;
    space.define(CAP_MSIX, [MSIX_CAPABILITY, 0], [0; 2]);
    let writable = MSIX_ENABLE | MSIX_FUNCTION_MASK;
    space.define(MSIX_CONTROL, last.to_le_bytes(), writable.to_le_bytes());
    // Both in BAR 0.
    space.define(CAP_MSIX + 4, (TABLE as u32).to_le_bytes(), [0; 4]);
    space.define(CAP_MSIX + 8, (PENDING as u32).to_le_bytes(), [0; 4]);
    space
}

/// A vendor capability that says where in BAR 0 a structure is.
fn structure(space: &mut ConfigSpace, at: usize, next: usize, kind: u8, place: (u64, u64)) {
    let (offset, length) = place;
    let head = [VENDOR_CAPABILITY, next as u8, 16, kind];
    space.define(at, head, [0; 4]);
    space.define(at + 8, (offset as u32).to_le_bytes(), [0; 4]);
    space.define(at + 12, (length as u32).to_le_bytes(), [0; 4]);
}

/// Where BAR 0 lies, if it is decoded.
pub(super) fn bar_address(space: &ConfigSpace) -> Option<u64> {
    let is_decoded = space.number::<2>(COMMAND) & COMMAND_MEMORY != 0;
    is_decoded.then(|| space.number::<8>(BAR0) & !(BAR_SIZE - 1))
}

/// The writable bits of the MSI-X control register.
pub(super) fn msix_control(space: &ConfigSpace) -> u16 {
    space.number::<2>(MSIX_CONTROL) as u16 & (MSIX_ENABLE | MSIX_FUNCTION_MASK)
}

impl VirtioPci {
    /// Reads configuration space: bytes within one dword.
    pub fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        if offset == CONFIG_ACCESS_DATA
            && let Some((place, length)) = self.config_access(data.len())
        {
            self.read_bar(place, &mut data[..length]);
            return;
        }
        self.config.read(offset, data);
    }

    /// Writes configuration space: bytes within one dword.
    pub fn write_config(&mut self, env: &mut Env<'_>, offset: usize, data: &[u8]) {
        if offset == CONFIG_ACCESS_DATA
            && let Some((place, length)) = self.config_access(data.len())
        {
            self.write_bar(env, place, &data[..length]);
            return;
        }
        self.config.write(offset, data);
        let reaches_control = offset < MSIX_CONTROL + 2 && offset + data.len() > MSIX_CONTROL;
        if reaches_control {
            let control = msix_control(&self.config);
            env.messages.extend(self.msix.set_control(control));
        }
    }

    /// Where in BAR 0 the configuration access capability leads, and for how many bytes.
    fn config_access(&self, most: usize) -> Option<(u64, usize)> {
        let at = CAP_CONFIG_ACCESS;
        let bar = self.config.number::<1>(at + 4);
        let offset = self.config.number::<4>(at + 8);
        let length = self.config.number::<4>(at + 12);
        let is_possible = bar == 0
            && matches!(length, 1 | 2 | 4)
            && length as usize <= most
            && offset.is_multiple_of(length)
            && offset < BAR_SIZE;
        is_possible.then_some((offset, length as usize))
    }
}
