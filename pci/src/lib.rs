//! PCI configuration space: functions, the bus they are on, and the two ways to reach them.
//!
//! Does: configuration registers with read-only and writable bits, the port mechanism at 0xCF8, the
//! memory-mapped one (ECAM), and the host bridge.
//! Does not: decode BARs or deliver interrupts; those are the board's and the devices'.
//!
//! Invariant: the guest changes nothing but writable bits, and what is absent reads all ones.

mod bus;
mod config;
mod host_bridge;

pub use bus::{BusState, CONFIG_PORTS, RootBus};
pub use config::{ConfigSpace, ConfigState, Function, InvalidState};
pub use host_bridge::HostBridge;
