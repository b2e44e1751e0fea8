//! The machine's state as plain data.
//!
//! Does: name every component, refuse what no machine could have saved. Does not: hold RAM, which
//! travels beside it page by page.
//!
//! Invariant: what is saved is what is cloned is what the digest covers.

use std::sync::Arc;

use devices::acpi_pm::AcpiPmState;
use devices::cmos::CmosState;
use devices::debug_port::DebugPortState;
use devices::i8042::I8042State;
use devices::ioapic::IoapicState;
use devices::lapic::LapicState;
use devices::pci_hotplug::PciHotplugState;
use devices::serial::SerialState;
use devices::{InvalidState, PendingOutput};
use hypervisor::CpuState;
use pci::BusState;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_devices::TransportState;

use crate::board::PowerRequest;
use crate::clock::Clock;

/// Version of [`MachineState`]; raised with every change of its shape or meaning.
pub const STATE_VERSION: u32 = 9;

/// What the guest boots. It is state: a reset loads it again and opens no file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootPayload {
    /// A vmlinux with a PVH entry, or a bzImage.
    #[serde(with = "shared_bytes")]
    pub kernel: Arc<Vec<u8>>,
    /// An initramfs; empty for none.
    #[serde(with = "shared_bytes")]
    pub initramfs: Arc<Vec<u8>>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Files as one run of bytes instead of byte by byte.
mod shared_bytes {
    use std::sync::Arc;

    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Arc<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(bytes.as_slice(), to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Vec<u8>>, D::Error> {
        serde_bytes::deserialize::<Vec<u8>, D>(from).map(Arc::new)
    }
}

/// Everything a machine is, but its RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// Bytes of RAM.
    pub memory_size: u64,
    /// The vCPU.
    pub cpu: CpuState,
    /// Virtual time.
    pub clock: Clock,
    /// Local APIC.
    pub lapic: LapicState,
    /// I/O APIC.
    pub ioapic: IoapicState,
    /// Serial port.
    pub serial: SerialState,
    /// CMOS clock and RAM.
    pub cmos: CmosState,
    /// ACPI hardware.
    pub acpi: AcpiPmState,
    /// Keyboard controller's remains.
    pub i8042: I8042State,
    /// Debug ports.
    pub debug: DebugPortState,
    /// PCI root bus.
    pub pci: BusState,
    /// PCI hot-plug controller.
    pub pci_hotplug: PciHotplugState,
    /// Virtio devices, in the order of their numbers on the bus.
    pub virtio: Vec<TransportState>,
    /// Console bytes on their way out.
    pub console: PendingOutput,
    /// What the guest asked of the machine in the last step; the next step does it.
    pub request: Option<PowerRequest>,
    /// The guest powered the machine off.
    pub powered_off: bool,
    /// Next page of the digest's sweep through RAM.
    pub sweep_page: u64,
    /// What it boots.
    pub payload: BootPayload,
}

/// Why a state is refused. Nothing was changed by it.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another version.
    #[error("machine state has version {found}, this build reads version {expected}")]
    Version {
        /// What it has.
        found: u32,
        /// What this build reads.
        expected: u32,
    },
    /// The bytes are no state.
    #[error("machine state cannot be decoded")]
    Decode(#[source] postcard::Error),
    /// RAM of another size was given.
    #[error("machine state is of a machine with {state} bytes of RAM, not {ram}")]
    MemorySize {
        /// In the state.
        state: u64,
        /// Given.
        ram: u64,
    },
    /// A component contradicts itself.
    #[error("machine state is impossible in component {component}: {reason}")]
    Impossible {
        /// Which.
        component: &'static str,
        /// How.
        reason: String,
    },
}

impl From<InvalidState> for StateError {
    fn from(invalid: InvalidState) -> Self {
        StateError::Impossible {
            component: invalid.device,
            reason: invalid.reason.to_string(),
        }
    }
}

impl From<pci::InvalidState> for StateError {
    fn from(invalid: pci::InvalidState) -> Self {
        StateError::Impossible {
            component: "pci",
            reason: invalid.reason.to_string(),
        }
    }
}

impl From<virtio_devices::InvalidState> for StateError {
    fn from(invalid: virtio_devices::InvalidState) -> Self {
        StateError::Impossible {
            component: "virtio",
            reason: invalid.reason.to_string(),
        }
    }
}

impl MachineState {
    /// As bytes for file and channel.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data encodes")
    }

    /// From bytes; checks nothing but the version and the shape.
    pub fn decode(bytes: &[u8]) -> Result<MachineState, StateError> {
        // The version comes first, so that a state of another shape is named as such.
        let (found, _) = postcard::take_from_bytes::<u32>(bytes).map_err(StateError::Decode)?;
        if found != STATE_VERSION {
            return Err(StateError::Version {
                found,
                expected: STATE_VERSION,
            });
        }
        postcard::from_bytes(bytes).map_err(StateError::Decode)
    }
}
