//! The software engine: the deterministic CPU of the `x86` crate.

use std::sync::atomic::AtomicBool;

use memory::GuestRam;
use x86::{Cpu, Tuning};

use crate::vcpu::{CpuState, Exit, Limits, Profile, Progress, Vcpu, VmOps};

/// A vCPU that interprets and compiles.
pub struct SoftwareVcpu {
    cpu: Cpu,
}

impl SoftwareVcpu {
    /// A vCPU in a validated state.
    pub fn new(state: &CpuState, tuning: Tuning) -> SoftwareVcpu {
        SoftwareVcpu {
            cpu: Cpu::new(state, tuning),
        }
    }
}

impl Vcpu for SoftwareVcpu {
    fn run(
        &mut self,
        ram: &mut GuestRam,
        ops: &mut dyn VmOps,
        limits: Limits,
        kick: &AtomicBool,
    ) -> Exit {
        self.cpu.run(ram, ops, limits, kick)
    }

    fn profile(&self) -> Profile {
        self.cpu.profile()
    }

    fn progress(&self) -> Progress {
        self.cpu.progress()
    }

    fn count_step(&mut self) {
        self.cpu.count_step();
    }

    fn raise_nmi(&mut self) {
        self.cpu.raise_nmi();
    }

    fn state(&self) -> CpuState {
        self.cpu.state()
    }

    fn set_state(&mut self, ram: &mut GuestRam, state: &CpuState) {
        self.cpu.set_state(ram, state);
    }

    fn flush_caches(&mut self, ram: &mut GuestRam) {
        self.cpu.flush(ram);
    }
}
