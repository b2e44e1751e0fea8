//! The deterministic x86-64 CPU.
//!
//! Does: execute guest instructions one step at a time, exactly, the same on every host.
//! Does not: know devices (`Bus`), time (virtual time is computed from [`Progress`]) or the log.
//!
//! Invariant: the next state is a function of the state, of RAM and of what the bus answers. Caches
//! (TLB, decoded blocks, compiled code) never show.

mod block;
mod bus;
mod chain;
mod compiler;
mod core;
mod cpu;
mod decode;
mod env;
mod fault;
mod features;
mod fetch;
mod flags;
mod mmu;
mod op;
mod ops;
pub mod softfloat;
mod state;
mod system;
mod tuning;
mod word;

pub use arch::cpuid::{Features, Profile};
pub use bus::{Bus, NoDevices, Progress};
pub use compiler::{Listing, listing};
pub use cpu::{Cpu, Exit, Limits};
pub use features::has_form;
pub use state::{CpuState, Segment};
pub use tuning::{Translation, Tuning};

/// Cost units of a step that is no REP iteration.
pub use core::UNITS_PER_STEP;
