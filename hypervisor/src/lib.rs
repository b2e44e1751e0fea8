//! The boundary between the machine and what executes the guest's instructions.
//!
//! Does: name positions, the `Vcpu` that every engine implements, and wrap the software engine.
//! Does not: know devices, the log or fault tolerance.
//!
//! Invariant: a position belongs to one engine; positions of different engines never meet.

mod position;
mod software;
mod vcpu;

pub use position::Position;
pub use software::SoftwareVcpu;
pub use vcpu::{CpuState, Exit, Limits, Profile, Progress, Vcpu, VmOps};
pub use x86::{Translation, Tuning, UNITS_PER_STEP};
