//! FRNDINT, and the stores of integers.
//!
//! What it does not: packed BCD (see `bcd`).
//!
//! Invariant: a value that does not fit is #IA alone, without PE.

use super::control::{Control, Flags, Rounding};
use super::format::{BIAS, Class, F80};
use super::operand::{denormal, screen_one};
use super::round::{Rounded, Unrounded, note_inexact, pack, round_at, shift_right_sticky};

/// The smallest exponent at which every value is an integer.
const INTEGRAL: i32 = BIAS + 63;

/// The integer nearest in the sense of the rounding control (FRNDINT).
pub fn round_to_integer(a: F80, control: &Control, flags: &mut Flags) -> F80 {
    if let Some(result) = screen_one(a, flags) {
        return result;
    }
    if a.is_zero() || a.is_infinite() {
        return a;
    }
    if denormal(a.is_denormal(), control, flags) {
        return F80::INDEFINITE;
    }
    if a.unpack().exponent >= INTEGRAL {
        return a;
    }
    let (magnitude, rounded) = integral(a, control.rounding);
    note_inexact(rounded, flags);
    let significand = u128::from(magnitude) << 64;
    match Unrounded::normalize(a.is_negative(), INTEGRAL, significand) {
        // Exact: an integer of at most 64 bits.
        Some(value) => pack(value, &control.extended(), &mut Flags::default()),
        None => F80::ZERO.with_sign(a.is_negative()),
    }
}

/// The magnitude of a nonzero finite value below 2^64, rounded to an integer. It cannot carry out
/// of 64 bits, because a value with a fraction is below 2^63.
fn integral(a: F80, rounding: Rounding) -> (u64, Rounded) {
    let a = a.unpack();
    let significand =
        shift_right_sticky(u128::from(a.mantissa) << 64, (INTEGRAL - a.exponent) as u32);
    let rounded = round_at(a.negative, significand, 64, rounding);
    (rounded.mantissa, rounded)
}

impl F80 {
    /// The value of an integer (FILD, and the integer operand of FIADD and its relatives).
    #[must_use]
    pub fn from_i64(value: i64) -> Self {
        let significand = u128::from(value.unsigned_abs()) << 64;
        match Unrounded::normalize(value < 0, INTEGRAL, significand) {
            Some(v) => Self::new(v.negative, v.exponent as u16, (v.significand >> 64) as u64),
            None => Self::ZERO,
        }
    }

    /// The integer that FIST and FISTP store as 16 bits, rounded as told (FISTTP: towards zero).
    pub fn to_i16(self, rounding: Rounding, flags: &mut Flags) -> i16 {
        // The indefinite integer of 64 bits has to become that of 16.
        self.to_integer(16, rounding, flags)
            .try_into()
            .unwrap_or(i16::MIN)
    }

    /// The integer that FIST and FISTP store as 32 bits, rounded as told (FISTTP: towards zero).
    pub fn to_i32(self, rounding: Rounding, flags: &mut Flags) -> i32 {
        self.to_integer(32, rounding, flags)
            .try_into()
            .unwrap_or(i32::MIN)
    }

    /// The integer that FISTP stores as 64 bits, rounded as told (FISTTP: towards zero).
    pub fn to_i64(self, rounding: Rounding, flags: &mut Flags) -> i64 {
        self.to_integer(64, rounding, flags)
    }

    /// The integer, or the most negative 64-bit one (with #IA) if it does not fit `bits`.
    fn to_integer(self, bits: u32, rounding: Rounding, flags: &mut Flags) -> i64 {
        let limit = (1_u64 << (bits - 1)) - u64::from(!self.is_negative());
        match self.to_magnitude(rounding, limit) {
            Some((magnitude, rounded)) => {
                note_inexact(rounded, flags);
                let value = magnitude as i64;
                if self.is_negative() {
                    value.wrapping_neg()
                } else {
                    value
                }
            }
            None => {
                flags.raise(Flags::INVALID);
                i64::MIN
            }
        }
    }

    /// The magnitude rounded to an integer; none if there is none or it is above the limit.
    pub(super) fn to_magnitude(self, rounding: Rounding, limit: u64) -> Option<(u64, Rounded)> {
        match self.class() {
            Class::Unsupported | Class::Nan | Class::Infinity => None,
            Class::Zero => Some((0, round_at(false, 0, 64, rounding))),
            Class::Normal | Class::Denormal if self.unpack().exponent > INTEGRAL => None,
            Class::Normal | Class::Denormal => {
                Some(integral(self, rounding)).filter(|(magnitude, _)| *magnitude <= limit)
            }
        }
    }
}
