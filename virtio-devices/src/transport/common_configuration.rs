//! The common configuration structure (virtio 1.2, section 4.1.4.3).
//!
//! Does: feature negotiation, device status, queue selection and set-up. Does not: notify or
//! interrupt.
//!
//! Invariant: FEATURES_OK stays set only if the driver accepted VERSION_1 and nothing that was not
//! offered; queues are set up only before they are enabled.

use memory::GuestRam;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use crate::ring::{NO_VECTOR, Ring};

pub(super) const STATUS_DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const STATUS_FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const STATUS_NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;

/// Bytes in the structure.
const LENGTH: usize = 56;
// Offsets.
const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0C;
const CONFIG_VECTOR: usize = 0x10;
const QUEUES: usize = 0x12;
const STATUS: usize = 0x14;
const GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_VECTOR: usize = 0x1A;
const QUEUE_ENABLE: usize = 0x1C;
const QUEUE_NOTIFY_OFFSET: usize = 0x1E;
const QUEUE_ADDRESSES: usize = 0x20;

/// The structure as plain data; the queues' part is theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonState {
    /// Which half of the features the driver reads.
    pub device_feature_select: u32,
    /// Which half it writes.
    pub driver_feature_select: u32,
    /// Features that the driver accepted.
    pub driver_features: u64,
    /// MSI-X vector of changes of the configuration.
    pub config_vector: u16,
    /// Device status.
    pub status: u8,
    /// Counts changes of the configuration.
    pub generation: u8,
    /// Which queue the driver sets up.
    pub queue_select: u16,
}

/// What a write asks of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Nothing,
    Reset,
    /// The driver says DRIVER_OK.
    Started,
    Broken,
}

/// The structure.
#[derive(Clone, Debug)]
pub(super) struct Common(CommonState);

impl std::ops::Deref for Common {
    type Target = CommonState;

    fn deref(&self) -> &CommonState {
        &self.0
    }
}

impl std::ops::DerefMut for Common {
    fn deref_mut(&mut self) -> &mut CommonState {
        &mut self.0
    }
}

impl Common {
    /// After a reset.
    pub(super) fn new() -> Self {
        Common(CommonState {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            queue_select: 0,
        })
    }

    pub(super) fn save(&self) -> CommonState {
        self.0.clone()
    }

    pub(super) fn restore(state: &CommonState) -> Self {
        Common(state.clone())
    }

    /// Whether the driver has set the device up, and the device has not said that it needs a reset.
    pub(super) fn is_running(&self) -> bool {
        self.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET) == STATUS_DRIVER_OK
    }

    /// The structure as the driver reads it.
    pub(super) fn image(&self, rings: &[Ring], features: u64) -> [u8; LENGTH] {
        let mut image = [0; LENGTH];
        let mut put = |offset: usize, value: &[u8]| {
            image[offset..offset + value.len()].copy_from_slice(value);
        };
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let offered = half(features, self.device_feature_select);
        let accepted = half(self.driver_features, self.driver_feature_select);
        put(
            DEVICE_FEATURE_SELECT,
            &self.device_feature_select.to_le_bytes(),
        );
        put(DEVICE_FEATURE, &offered.to_le_bytes());
        put(
            DRIVER_FEATURE_SELECT,
            &self.driver_feature_select.to_le_bytes(),
        );
        put(DRIVER_FEATURE, &accepted.to_le_bytes());
        put(CONFIG_VECTOR, &self.config_vector.to_le_bytes());
        put(QUEUES, &(rings.len() as u16).to_le_bytes());
        put(STATUS, &[self.status]);
        put(GENERATION, &[self.generation]);
        put(QUEUE_SELECT, &self.queue_select.to_le_bytes());
        // A queue that there is not has size 0.
        if let Some(ring) = rings.get(usize::from(self.queue_select)) {
            put(QUEUE_SIZE, &ring.size().to_le_bytes());
            put(QUEUE_VECTOR, &ring.vector.to_le_bytes());
            put(QUEUE_ENABLE, &u16::from(ring.is_ready()).to_le_bytes());
            put(QUEUE_NOTIFY_OFFSET, &self.queue_select.to_le_bytes());
            for (index, address) in ring.addresses().iter().enumerate() {
                put(QUEUE_ADDRESSES + 8 * index, &address.to_le_bytes());
            }
        }
        image
    }

    /// The driver writes `data` at `offset`. What is no field, read-only, or not possible now is
    /// ignored. `offered` are features and vectors.
    pub(super) fn write(
        &mut self,
        offset: usize,
        data: &[u8],
        rings: &mut [Ring],
        offered: (u64, u16),
        ram: &GuestRam,
    ) -> Written {
        let (features, vectors) = offered;
        let bytes = data.iter().rev();
        let value = bytes.fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let vector = if (value as u16) < vectors {
            value as u16
        } else {
            NO_VECTOR
        };
        let ring = rings.get_mut(usize::from(self.queue_select));
        match (offset, data.len()) {
            (DEVICE_FEATURE_SELECT, 4) => self.device_feature_select = value as u32,
            (DRIVER_FEATURE_SELECT, 4) => self.driver_feature_select = value as u32,
            (DRIVER_FEATURE, 4) if self.status & STATUS_FEATURES_OK == 0 => {
                let shift = match self.driver_feature_select {
                    0 => 0,
                    1 => 32,
                    _ => return Written::Nothing,
                };
                let kept = self.driver_features & !(0xFFFF_FFFF << shift);
                self.driver_features = kept | value << shift;
            }
            (CONFIG_VECTOR, 2) => self.config_vector = vector,
            (STATUS, 1) => return self.set_status(value as u8, features),
            (QUEUE_SELECT, 2) => self.queue_select = value as u16,
            (QUEUE_VECTOR, 2) => {
                if let Some(ring) = ring {
                    ring.vector = vector;
                }
            }
            (QUEUE_ENABLE, 2) if value == 1 && self.status & STATUS_FEATURES_OK != 0 => {
                let event_index = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
                if let Some(ring) = ring.filter(|ring| !ring.is_ready())
                    && ring.enable(ram, event_index).is_err()
                {
                    return Written::Broken;
                }
            }
            _ => {
                if let Some(ring) = ring.filter(|ring| !ring.is_ready()) {
                    set_up(ring, offset, data.len(), value);
                }
            }
        }
        Written::Nothing
    }

    fn set_status(&mut self, value: u8, features: u64) -> Written {
        if value == 0 {
            return Written::Reset;
        }
        let mut status = value & !STATUS_NEEDS_RESET | self.status & STATUS_NEEDS_RESET;
        let accepted = self.driver_features;
        let is_possible = accepted & !features == 0 && accepted & 1 << VIRTIO_F_VERSION_1 != 0;
        if !is_possible {
            status &= !STATUS_FEATURES_OK;
        }
        // Without features there is no driver that runs.
        if status & STATUS_FEATURES_OK == 0 {
            status &= !STATUS_DRIVER_OK;
        }
        let starts = status & !self.status & STATUS_DRIVER_OK != 0;
        self.status = status;
        if starts && status & STATUS_NEEDS_RESET == 0 {
            Written::Started
        } else {
            Written::Nothing
        }
    }
}

/// The driver writes a field of a queue that is not enabled.
fn set_up(ring: &mut Ring, offset: usize, length: usize, value: u64) {
    if (offset, length) == (QUEUE_SIZE, 2) {
        ring.set_size(value as u16);
        return;
    }
    let Some(within) = offset.checked_sub(QUEUE_ADDRESSES).filter(|w| *w < 24) else {
        return;
    };
    let (index, half) = (within / 8, within % 8);
    let (low, high) = (value as u32, (value >> 32) as u32);
    match (half, length) {
        (0, 8) => ring.set_address(index, Some(low), Some(high)),
        (0, 4) => ring.set_address(index, Some(low), None),
        (4, 4) => ring.set_address(index, None, Some(low)),
        _ => {}
    }
}
