//! PCI configuration space: functions, the bus they are on, and the two ways to reach them.
//!
//! Does: configuration registers with read-only and writable bits, the port mechanism at 0xCF8, the
//! memory-mapped one (ECAM), the host bridge, and MSI-X tables.
//! Does not: decode BARs or deliver interrupts; those are the board's and the devices'.
//!
//! Invariant: the guest changes nothing but writable bits, and what is absent reads all ones.

mod bus;
mod config;
mod host_bridge;
mod msix;

pub use bus::{BusState, CONFIG_PORTS, DEVICES, Functions, RootBus};
pub use config::{ConfigSpace, ConfigState, Function, InvalidState};
pub use host_bridge::HostBridge;
pub use msix::{
    MSIX_CAPABILITY, MSIX_ENABLE, MSIX_ENTRY_BYTES, MSIX_FUNCTION_MASK, MSIX_VECTORS_MAX,
    MsiMessage, Msix, MsixEntry, MsixState,
};
