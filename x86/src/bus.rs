//! What the CPU sees beyond RAM: ports, MMIO, the local APIC and the time-stamp counter.

use memory::GuestRam;

/// How far the CPU has come; virtual time is computed from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Steps since the VM was created: the position.
    pub steps: u64,
    /// Cost units since the VM was created: 8 a step, 1 a REP iteration.
    pub units: u64,
}

/// The machine as the CPU reaches it. Every call happens within the step that begins at `at`.
pub trait Bus {
    /// Reads `size` (1, 2, 4) bytes from `port`; nothing there reads as all ones.
    fn io_read(&mut self, ram: &mut GuestRam, at: Progress, port: u16, size: u8) -> u32;
    /// Writes `size` (1, 2, 4) bytes to `port`.
    fn io_write(&mut self, ram: &mut GuestRam, at: Progress, port: u16, size: u8, value: u32);
    /// Reads `size` (1, 2, 4, 8) bytes of MMIO; never crosses an 8-byte boundary.
    fn mmio_read(&mut self, ram: &mut GuestRam, at: Progress, address: u64, size: u8) -> u64;
    /// Writes `size` (1, 2, 4, 8) bytes of MMIO; never crosses an 8-byte boundary.
    fn mmio_write(&mut self, ram: &mut GuestRam, at: Progress, address: u64, size: u8, value: u64);
    /// Reads an MSR that is not the CPU's own (IA32_APIC_BASE, x2APIC, IA32_TSC_DEADLINE).
    /// `None` is #GP(0).
    fn msr_read(&mut self, at: Progress, index: u32) -> Option<u64>;
    /// Writes such an MSR. `None` is #GP(0).
    fn msr_write(&mut self, at: Progress, index: u32, value: u64) -> Option<()>;
    /// The task-priority register as CR8 (0–15).
    fn cr8(&mut self) -> u64;
    /// Writes CR8 (0–15).
    fn set_cr8(&mut self, value: u64);
    /// Takes the vector of the pending interrupt; `None` if there is none after all.
    fn acknowledge_interrupt(&mut self) -> Option<u8>;
    /// The time-stamp counter before IA32_TSC_ADJUST.
    fn tsc(&self, at: Progress) -> u64;
}

/// A bus with nothing on it, for programs that need none: ports and MMIO read as all ones.
#[derive(Clone, Copy, Debug)]
pub struct NoDevices;

impl Bus for NoDevices {
    fn io_read(&mut self, _: &mut GuestRam, _: Progress, _: u16, _: u8) -> u32 {
        u32::MAX
    }

    fn io_write(&mut self, _: &mut GuestRam, _: Progress, _: u16, _: u8, _: u32) {}
    fn mmio_read(&mut self, _: &mut GuestRam, _: Progress, _: u64, _: u8) -> u64 {
        u64::MAX
    }

    fn mmio_write(&mut self, _: &mut GuestRam, _: Progress, _: u64, _: u8, _: u64) {}
    fn msr_read(&mut self, _: Progress, _: u32) -> Option<u64> {
        None
    }

    fn msr_write(&mut self, _: Progress, _: u32, _: u64) -> Option<()> {
        None
    }

    fn cr8(&mut self) -> u64 {
        0
    }

    fn set_cr8(&mut self, _: u64) {}
    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }

    fn tsc(&self, _: Progress) -> u64 {
        0
    }
}
