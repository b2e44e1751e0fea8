//! What a running CPU borrows from its machine.

use memory::GuestRam;

use crate::bus::Bus;

/// RAM and everything beyond it, lent to the CPU for one `run`.
pub struct Env<'a> {
    /// Guest RAM.
    pub ram: &'a mut GuestRam,
    /// Ports, MMIO, APIC, clock.
    pub bus: &'a mut dyn Bus,
}
