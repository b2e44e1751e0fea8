//! The network of the host, as a virtual machine meets it.
//!
//! Does: TAP devices (open by name or descriptor, address, MTU, offloads, frames in and out), MAC
//! addresses, and the frame by which a card tells the network where it is. Does not: know virtual
//! machines or threads.
//!
//! Invariant: a frame is read or written whole, behind a virtio header of 12 bytes.

mod announcement;
mod mac;
mod tap;

pub use announcement::announcement;
pub use mac::{MacAddress, NotAMac};
pub use tap::{Offloads, Tap, TapError, VNET_HEADER, missing_tap};
