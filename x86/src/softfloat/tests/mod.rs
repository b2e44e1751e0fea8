//! Everything against the host's FPU, bit for bit, on seeded random operands that favour edges.
//!
//! What it does not: prove anything on another architecture, where these tests do not exist.

mod arithmetic;
mod convert;
mod edges;
mod host;
mod operands;
