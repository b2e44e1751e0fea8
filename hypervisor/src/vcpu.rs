//! What every engine can do for the machine.
//!
//! Does: name the operations between two boundaries. Does not: choose an engine (`vmm`).
//!
//! Invariant: a `Vcpu` returns only at a boundary, and its state there is all there is to it.

use std::sync::atomic::AtomicBool;

use memory::GuestRam;
pub use x86::{Bus as VmOps, CpuState, Exit, Limits, Profile, Progress};

/// A virtual CPU.
pub trait Vcpu: Send {
    /// Runs until a limit, a kick (not before one step was made), or something the machine must
    /// see.
    fn run(
        &mut self,
        ram: &mut GuestRam,
        ops: &mut dyn VmOps,
        limits: Limits,
        kick: &AtomicBool,
    ) -> Exit;
    /// The CPU model, which never changes.
    fn profile(&self) -> Profile;
    /// Steps and cost units so far.
    fn progress(&self) -> Progress;
    /// Counts a step that the machine makes itself: an idle jump, a reset.
    fn count_step(&mut self);
    /// A non-maskable interrupt arrives.
    fn raise_nmi(&mut self);
    /// The state at this boundary.
    fn state(&self) -> CpuState;
    /// Replaces the state, which was validated.
    fn set_state(&mut self, ram: &mut GuestRam, state: &CpuState);
    /// Empties whatever caches there are; nothing may change by it.
    fn flush_caches(&mut self, ram: &mut GuestRam);
}
