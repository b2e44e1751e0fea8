//! The guest-facing halves of virtio devices.
//!
//! Does: the PCI transport with its queues and interrupts, and a model for each type of device.
//! What a device wants of the world is a [`Submission`], what the world says is an [`Event`].
//! Does not: open files or sockets, look at clocks, or have threads; `vmm` does, behind the gate.
//!
//! Invariant: a device's behaviour depends on nothing but its state, guest RAM, the driver's
//! accesses and the events it is given. Guest RAM is touched only within a step. Whatever the
//! driver does, a device neither panics nor leaves RAM; at worst it says that it needs a reset.

pub mod balloon;
pub mod block;
pub mod console;
mod device;
mod in_flight;
pub mod net;
mod request;
mod ring;
mod rng;
mod stream;
mod transport;
pub mod vsock;

pub use device::{DeviceSpec, InvalidState, ModelState};
pub use request::{Event, Extent, Offloads, Outcome, Request, Submission};
pub use stream::{StreamCommand, StreamEvent};
pub use transport::{BAR_SIZE, Env, Presence, TransportState, VirtioPci};
