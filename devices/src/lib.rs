//! The guest-facing halves of the machine's devices.
//!
//! Does: model the registers of each device as plain state. Virtual time (nanoseconds) is an
//! argument; what a device wants to happen (an interrupt message, a byte on the line, a reset)
//! is a return value, and its interrupt line is a pure function of its state.
//! Does not: know the machine, the host, threads or clocks.
//!
//! Invariant: a device's behaviour depends on nothing but its state and its arguments; whatever
//! the guest writes, a device neither panics nor loses the ability to be saved. `save` names every
//! field, and `restore` accepts exactly what a device could have saved.

pub mod acpi_pm;
pub mod cmos;
pub mod debug_port;
pub mod i8042;
pub mod ioapic;
pub mod lapic;
mod message;
pub mod pci_hotplug;
mod pending_output;
pub mod serial;
mod state;

pub use message::{DeliveryMode, Message};
pub use pending_output::PendingOutput;
pub use state::InvalidState;
