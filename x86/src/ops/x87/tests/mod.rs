//! The family's tests.
//!
//! What instructions compute, and what they do to stack and status, is compared with the host in
//! the differential tests; here is what those cannot reach.

mod environment;
mod exceptions;
mod pointers;
mod stack;

use crate::core::{Core, cr0};
use crate::fault::Fault;
use crate::ops::bench::{Bench, DATA, Mode, REAL_BASE, RIP};
use crate::softfloat::F80;

impl Bench {
    fn push(&mut self, value: F80) {
        self.core.x87.push(value);
    }

    fn st(&self, i: u8) -> Option<F80> {
        self.core.x87.get(i)
    }
}

/// `FLD1`.
const FLD1: &[u8] = &[0xd9, 0xe8];
/// `FNSTENV [RDI]`.
const FNSTENV: &[u8] = &[0xd9, 0x37];

/// Two, which no constant instruction loads.
const TWO: F80 = F80::new(false, 0x4000, 1 << 63);
