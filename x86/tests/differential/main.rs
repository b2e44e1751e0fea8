//! The interpreter against the processor underneath: one user-mode instruction at a time, with
//! random and extreme operands, executed natively in a child process and by [`x86::Cpu`].
//!
//! A test is a [`Family`](family::Family): which instructions, and what to do about what the manuals
//! leave undefined. Everything else is shared: `generate` makes random operands for any instruction
//! that iced-x86 can encode, with memory operands in pages that both sides map at the same
//! addresses; `native` single-steps it; `guest` executes it; `runner` compares general registers,
//! RIP, flags, XMM and x87 registers, memory, and the exception with its error code and address.
//!
//! To add instructions, write a file beside `integer.rs` with a `Family`, and tests that call
//! [`runner::check`] with the modes it exists in. Environment:
//!
//! - `X86_DIFFERENTIAL_SEED`: seed (decimal) instead of the fixed one; failures print it;
//! - `X86_DIFFERENTIAL_SCALE`: multiplies the number of cases;
//! - `X86_DIFFERENTIAL_SURVEY=1`: prints how often our definition of undefined flags is this host's.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod addresses;
mod context;
mod coverage;
mod family;
mod generate;
mod guest;
mod host;
mod integer;
mod layout;
mod native;
mod rng;
mod runner;
mod vector;
mod x87;
