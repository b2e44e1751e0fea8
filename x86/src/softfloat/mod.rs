//! The arithmetic of the x87 FPU, in integers.
//!
//! What it does: every computation that an x87 instruction asks for, in true 80-bit extended
//! precision with all rounding and precision controls, as pure functions from operands and
//! [`Control`] to a result and [`Flags`]. The host's floating point is never used, so the
//! result is the same on every host.
//!
//! What it does not: it knows no register stack, tags, empty registers, status word or #MF.
//! The instruction that calls a function starts with fresh flags and then
//! - writes, pushes and pops nothing if [`Flags::blocks_register`] (an unmasked #IA, #D or #Z),
//!   for a load [`Flags::blocks_load`] (#IA), for a store [`Flags::blocks_store`] (#IA, #O, #U);
//!   only a comparison writes its codes all the same;
//! - otherwise writes the result, which already is what the hardware delivers for masked
//!   exceptions and for unmasked overflow, underflow and inexactness;
//! - ORs [`Flags::exceptions`] into the status word and copies [`Flags::c1`].
//!
//! Invariant: a blocked result is meaningless and has no other effect; a function is total,
//! for every bit pattern of its operands.
//!
//! | file | concept |
//! |---|---|
//! | `format` | the 80-bit format, its classes and encodings |
//! | `control` | control word, exception flags |
//! | `round` | from an exact value to the format: rounding, overflow, underflow |
//! | `operand` | NaN and denormal operands, before anything is computed |
//! | `arithmetic` | add, subtract, multiply, divide, square root |
//! | `remainder`, `scale`, `integer`, `compare` | the instructions that these names suggest |
//! | `convert`, `bcd`, `constants` | memory formats and the built-in constants |
//! | `trig`, `arctan`, `logarithm`, `exponential` | the transcendental functions |
//! | `wide` | the 128-bit numbers that they compute with |

mod arctan;
mod arithmetic;
mod bcd;
mod compare;
mod constants;
mod control;
mod convert;
mod exponential;
mod format;
mod integer;
mod logarithm;
mod operand;
mod remainder;
mod round;
mod scale;
mod trig;
mod wide;

pub use arctan::atan;
pub use arithmetic::{add, div, mul, sqrt, sub};
pub use bcd::{from_bcd, to_bcd};
pub use compare::{Comparison, Ordering, compare};
pub use constants::Constant;
pub use control::{Control, Flags, Precision, Rounding};
pub use exponential::exp2_minus_1;
pub use format::{Class, F80};
pub use integer::round_to_integer;
pub use logarithm::{log2, log2_plus_1};
pub use operand::Operand;
pub use remainder::{Remainder, RemainderKind, remainder};
pub use scale::{Extracted, extract, scale};
pub use trig::{Pair, cos, sin, sincos, tan};

#[cfg(test)]
mod tests;
