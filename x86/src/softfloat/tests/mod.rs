//! Everything against the host's FPU, bit for bit, on seeded random operands that favour edges;
//! and the transcendental functions against true values.
//!
//! What it does not: compare with an FPU on a host that has none; there the golden cases remain.

#[cfg(target_arch = "x86_64")]
mod arithmetic;
#[cfg(target_arch = "x86_64")]
mod convert;
#[cfg(target_arch = "x86_64")]
mod edges;
mod golden;
#[cfg(target_arch = "x86_64")]
mod host;
#[cfg(target_arch = "x86_64")]
mod operands;
#[cfg(target_arch = "x86_64")]
mod transcendental;
