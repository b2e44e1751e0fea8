//! Single and double precision in memory.
//!
//! What it does not: integers (see `integer`) and packed BCD (see `bcd`). Loads and stores of 80
//! bits copy the image and need nothing from here.
//!
//! Invariant: widening is exact; narrowing rounds once, to the destination's precision, whatever
//! precision control says.

use super::control::{Control, Flags};
use super::format::{BIAS, Class, EXPONENT_MAX, F80, INTEGER_BIT};
use super::operand::{Operand, screen_one};
use super::round::{Unrounded, note_inexact, overflows_to_infinity, round_at, shift_right_sticky};

/// A memory format without an explicit integer bit.
struct Format {
    /// Significand bits, the implied one included.
    bits: u32,
    /// The width of the exponent field.
    exponent_bits: u32,
}

const SINGLE: Format = Format {
    bits: 24,
    exponent_bits: 8,
};
const DOUBLE: Format = Format {
    bits: 53,
    exponent_bits: 11,
};

impl Format {
    /// The exponent field of infinities and NaNs.
    const fn exponent_max(&self) -> i32 {
        (1 << self.exponent_bits) - 1
    }

    /// What turns an exponent field of this format into one of 80 bits.
    const fn rebias(&self) -> i32 {
        BIAS - (self.exponent_max() >> 1)
    }

    /// The image of the given fields. The fraction is left-aligned below the integer bit, which
    /// is dropped.
    const fn image(&self, negative: bool, exponent: i32, mantissa: u64) -> u64 {
        let fraction = (mantissa & !INTEGER_BIT) >> (64 - self.bits);
        let sign = (negative as u64) << (self.bits + self.exponent_bits - 1);
        sign | ((exponent as u64) << (self.bits - 1)) | fraction
    }

    /// Widens an image; NaNs keep their kind.
    fn widen(&self, image: u64) -> Operand {
        let negative = image >> (self.bits + self.exponent_bits - 1) & 1 != 0;
        let field = (image >> (self.bits - 1)) as i32 & self.exponent_max();
        // Left-aligned, the integer bit left out.
        let fraction = (image << (64 - self.bits)) & !INTEGER_BIT;
        let (value, denormal) = match field {
            0 if fraction == 0 => (F80::ZERO.with_sign(negative), false),
            0 => {
                let shift = fraction.leading_zeros();
                let exponent = 1 + self.rebias() - shift as i32;
                (F80::new(negative, exponent as u16, fraction << shift), true)
            }
            _ if field == self.exponent_max() => (
                F80::new(negative, EXPONENT_MAX, fraction | INTEGER_BIT),
                false,
            ),
            _ => {
                let exponent = (field + self.rebias()) as u16;
                (F80::new(negative, exponent, fraction | INTEGER_BIT), false)
            }
        };
        Operand { value, denormal }
    }

    /// Rounds to this format and gives the image. If an exception blocks the store, the image
    /// has no meaning.
    fn narrow(&self, a: F80, control: &Control, flags: &mut Flags) -> u64 {
        let negative = a.is_negative();
        if let Some(nan) = screen_one(a, flags) {
            return self.image(nan.is_negative(), self.exponent_max(), nan.mantissa);
        }
        match a.class() {
            Class::Zero => self.image(negative, 0, 0),
            Class::Infinity => self.image(negative, self.exponent_max(), 0),
            _ => self.narrow_finite(a.unpack().into(), control, flags),
        }
    }

    fn narrow_finite(&self, value: Unrounded, control: &Control, flags: &mut Flags) -> u64 {
        let negative = value.negative;
        let rounded = round_at(negative, value.significand, self.bits, control.rounding);
        let exponent = value.exponent - self.rebias() + i32::from(rounded.carry);
        if exponent >= self.exponent_max() {
            return self.overflow(negative, control, flags);
        }
        if exponent <= 0 {
            return self.underflow(value, control, flags);
        }
        note_inexact(rounded, flags);
        self.image(negative, exponent, rounded.mantissa)
    }

    fn overflow(&self, negative: bool, control: &Control, flags: &mut Flags) -> u64 {
        flags.raise(Flags::OVERFLOW);
        if !control.masked(Flags::OVERFLOW) {
            // The store is blocked, and nothing is said about a result that is not there.
            return 0;
        }
        flags.raise(Flags::PRECISION);
        flags.c1 = overflows_to_infinity(negative, control.rounding);
        if flags.c1 {
            self.image(negative, self.exponent_max(), 0)
        } else {
            self.image(negative, self.exponent_max() - 1, u64::MAX)
        }
    }

    fn underflow(&self, value: Unrounded, control: &Control, flags: &mut Flags) -> u64 {
        if !control.masked(Flags::UNDERFLOW) {
            flags.raise(Flags::UNDERFLOW);
            return 0;
        }
        let shift = (1 - (value.exponent - self.rebias())) as u32;
        let significand = shift_right_sticky(value.significand, shift);
        let rounded = round_at(value.negative, significand, self.bits, control.rounding);
        if rounded.inexact {
            flags.raise(Flags::UNDERFLOW);
        }
        note_inexact(rounded, flags);
        let field = i32::from(rounded.carry || rounded.mantissa & INTEGER_BIT != 0);
        self.image(value.negative, field, rounded.mantissa)
    }
}

impl Operand {
    /// The single-precision memory operand of an arithmetic instruction.
    #[must_use]
    pub fn from_f32_bits(bits: u32) -> Self {
        SINGLE.widen(u64::from(bits))
    }

    /// The double-precision memory operand of an arithmetic instruction.
    #[must_use]
    pub fn from_f64_bits(bits: u64) -> Self {
        DOUBLE.widen(bits)
    }

    /// Loads the operand into a register (FLD m32 and m64): a denormal is noted, a signaling NaN
    /// is invalid and becomes quiet.
    fn load(self, flags: &mut Flags) -> F80 {
        if self.denormal {
            flags.raise(Flags::DENORMAL);
        }
        screen_one(self.value, flags).unwrap_or(self.value)
    }
}

impl F80 {
    /// Loads a single-precision value (FLD m32).
    pub fn from_f32_bits(bits: u32, flags: &mut Flags) -> Self {
        Operand::from_f32_bits(bits).load(flags)
    }

    /// Loads a double-precision value (FLD m64).
    pub fn from_f64_bits(bits: u64, flags: &mut Flags) -> Self {
        Operand::from_f64_bits(bits).load(flags)
    }

    /// Stores as single precision (FST m32).
    pub fn to_f32_bits(self, control: &Control, flags: &mut Flags) -> u32 {
        SINGLE.narrow(self, control, flags) as u32
    }

    /// Stores as double precision (FST m64).
    pub fn to_f64_bits(self, control: &Control, flags: &mut Flags) -> u64 {
        DOUBLE.narrow(self, control, flags)
    }
}
