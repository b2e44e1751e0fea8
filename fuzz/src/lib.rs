//! What the fuzzing targets share: a small guest made of the fuzzer's bytes, and the ways to run it.
//!
//! Does: turn any bytes into a guest that can run, run it in several ways, and panic if they differ.
//! Does not: judge whether an instruction's result is right; the differential tests do.
//!
//! Invariant: the same bytes make the same guest and the same run.

pub mod arena;
pub mod bytes;
pub mod compare;
pub mod rig;
