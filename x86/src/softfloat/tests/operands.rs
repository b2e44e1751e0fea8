//! Random operands that favour the edges of the format.

use super::super::F80;

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A control word: any rounding, any precision, and masks that are all set half of the time.
    pub fn control_word(&mut self) -> u16 {
        let bits = self.next() as u16;
        let masks = if bits & 0x1000 != 0 {
            0x3f
        } else {
            bits & 0x3f
        };
        0x40 | (bits & 0x0f00) | masks
    }

    /// A significand: random, sparse, dense at one end, or close to where rounding cuts.
    pub fn mantissa(&mut self) -> u64 {
        let bits = self.next();
        match self.below(8) {
            0..=2 => bits,
            3 => 1_u64.wrapping_shl(bits as u32) | 1_u64.wrapping_shl((bits >> 8) as u32),
            4 => u64::MAX.wrapping_shl(bits as u32),
            5 => u64::MAX.wrapping_shr(bits as u32),
            6 => {
                (bits & !0xfff)
                    | [0, 1, 0x3ff, 0x400, 0x401, 0x7ff, 0x800, 0xfff][bits as usize & 7]
            }
            _ => (bits & !0xff_ffff_ffff) | [0, 1, 1 << 39, (1 << 39) + 1][bits as usize & 3],
        }
    }

    /// An exponent field: anywhere, near 1.0, or near an end.
    pub fn exponent(&mut self) -> u16 {
        let bits = self.next();
        match self.below(8) {
            0 | 1 => (bits & 0x7fff) as u16,
            2 => (bits % 70) as u16,
            3 => 0x7fff - (bits % 70) as u16,
            _ => (0x3fff - 80 + bits % 160) as u16,
        }
    }

    /// Any encoding.
    pub fn value(&mut self) -> F80 {
        const INTEGER_BIT: u64 = 1 << 63;
        let negative = self.next() & 1 != 0;
        let (exponent, mantissa) = match self.below(32) {
            0 => (0, 0),
            1 => (0x7fff, INTEGER_BIT),
            // NaNs, quiet and signaling, some with equal payloads.
            2 => (0x7fff, INTEGER_BIT | self.mantissa()),
            3 => (0x7fff, INTEGER_BIT | self.below(4) | (self.below(2) << 62)),
            // Unsupported encodings.
            4 => (self.exponent().max(1), self.mantissa() & !INTEGER_BIT),
            // Denormals and pseudo-denormals.
            5 | 6 => (0, self.mantissa()),
            7 => (0x3fff, INTEGER_BIT),
            _ => (self.exponent(), self.mantissa() | INTEGER_BIT),
        };
        F80::new(negative, exponent, mantissa)
    }

    /// A second operand, sometimes close to the first.
    pub fn partner(&mut self, of: F80) -> F80 {
        let negative = self.next() & 1 != 0;
        match self.below(6) {
            0 => F80::new(negative, of.biased_exponent(), of.mantissa),
            1 => {
                let step = self.below(70) as u16;
                let exponent = of.biased_exponent().wrapping_add(step).wrapping_sub(35) & 0x7fff;
                F80::new(negative, exponent, of.mantissa.wrapping_add(self.below(5)))
            }
            _ => self.value(),
        }
    }

    /// The image of a single or double: any class, denormals, and values that a mask of the
    /// fraction brings close to the format's edges.
    pub fn image(&mut self, exponent_bits: u32, fraction_bits: u32) -> u64 {
        let exponent_max = (1_u64 << exponent_bits) - 1;
        let exponent = match self.below(6) {
            0 => 0,
            1 => exponent_max,
            2 => self.below(4),
            _ => self.below(exponent_max + 1),
        };
        let fraction = match self.below(4) {
            0 => 0,
            1 => self.below(4),
            _ => self.mantissa(),
        } & ((1 << fraction_bits) - 1);
        let sign = self.below(2);
        (((sign << exponent_bits) | exponent) << fraction_bits) | fraction
    }
}
