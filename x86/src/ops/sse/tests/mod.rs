//! The family's tests.
//!
//! What instructions compute is compared with independent definitions (`lanes`), with a CPU's
//! recorded answers (`exceptions`) and, in the differential tests, with the host.

mod exceptions;
mod lanes;
mod memory;
mod moves;
mod rights;
mod vex;
mod xsave;

use iced_x86::{Decoder, DecoderOptions};

use crate::op::CodeSize;
use crate::ops::bench::{Bench, DATA};

impl Bench {
    fn mmx(&self, n: usize) -> u64 {
        self.core.x87.registers[n].mantissa
    }

    fn set_mmx(&mut self, n: usize, value: u64) {
        self.core.x87.registers[n].mantissa = value;
    }
}

/// Random numbers that are the same every time.
pub(in crate::ops::sse) struct Random(pub(in crate::ops::sse) u64);

impl Random {
    pub(in crate::ops::sse) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A vector whose bytes are often extremes.
    pub(in crate::ops::sse) fn vector(&mut self) -> u128 {
        let mut bytes = [0u8; 16];
        for byte in &mut bytes {
            let random = self.next();
            *byte = match random & 7 {
                0 => 0x00,
                1 => 0xff,
                2 => 0x80,
                3 => 0x7f,
                _ => (random >> 8) as u8,
            };
        }
        u128::from_le_bytes(bytes)
    }
}

/// The whole instruction's name as iced-x86 knows it, to see that a test encodes what it means.
fn code(bytes: &[u8], size: CodeSize) -> String {
    let bits = match size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    format!(
        "{:?}",
        Decoder::new(bits, bytes, DecoderOptions::NONE)
            .decode()
            .code()
    )
}
