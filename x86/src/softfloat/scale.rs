//! FSCALE and FXTRACT: exponents as numbers.
//!
//! What it does not: heed precision control; neither instruction does.
//!
//! Invariant: FSCALE is exact unless it underflows or overflows.

use super::control::{Control, Flags};
use super::format::{BIAS, F80};
use super::operand::{denormal, invalid, screen_one, screen_two};
use super::round::{Unrounded, WRAP, pack};

/// Beyond this every scaling of a finite value overflows or underflows, wrapped or not.
const FAR: i32 = 0x1_0000;

/// `a * 2^trunc(b)` (FSCALE).
pub fn scale(a: F80, b: F80, control: &Control, flags: &mut Flags) -> F80 {
    if let Some(result) = screen_two(a, b, flags) {
        return result;
    }
    if b.is_infinite() {
        let to_zero = b.is_negative();
        if (to_zero && a.is_infinite()) || (!to_zero && a.is_zero()) {
            return invalid(flags);
        }
    }
    if denormal(a.is_denormal() || b.is_denormal(), control, flags) {
        return F80::INDEFINITE;
    }
    if a.is_zero() || a.is_infinite() {
        return a;
    }
    if b.is_infinite() {
        let limit = if b.is_negative() {
            F80::ZERO
        } else {
            F80::INFINITY
        };
        return limit.with_sign(a.is_negative());
    }
    let mut value = Unrounded::from(a.unpack());
    value.exponent += truncated(b);
    pack_scaled(value, &control.extended(), flags)
}

/// The integer part of a finite value, limited to what matters.
fn truncated(b: F80) -> i32 {
    if b.is_zero() {
        return 0;
    }
    let b = b.unpack();
    let magnitude = match b.exponent - BIAS {
        ..0 => 0,
        unbiased @ 0..16 => (b.mantissa >> (63 - unbiased)) as i32,
        _ => FAR,
    };
    if b.negative { -magnitude } else { magnitude }
}

/// Packs a result that can be out of range even with its exponent wrapped: then it is infinity or
/// zero, as if the exception were masked.
fn pack_scaled(value: Unrounded, control: &Control, flags: &mut Flags) -> F80 {
    let unreachable_up = value.exponent - WRAP >= 0x7fff;
    let unreachable_down = value.exponent + WRAP <= 0;
    if unreachable_up && !control.masked(Flags::OVERFLOW) {
        let mut masked = *control;
        masked.masks |= Flags::OVERFLOW;
        pack(value, &masked, flags);
        flags.c1 = true;
        return F80::INFINITY.with_sign(value.negative);
    }
    if unreachable_down && !control.masked(Flags::UNDERFLOW) {
        let mut masked = *control;
        masked.masks |= Flags::UNDERFLOW;
        pack(value, &masked, flags);
        flags.c1 = false;
        return F80::ZERO.with_sign(value.negative);
    }
    pack(value, control, flags)
}

/// The two results of FXTRACT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// The unbiased exponent, which replaces ST0.
    pub exponent: F80,
    /// The significand with the exponent of 1.0, which is then pushed.
    pub significand: F80,
}

/// Takes a value apart into exponent and significand (FXTRACT).
pub fn extract(a: F80, control: &Control, flags: &mut Flags) -> Extracted {
    if let Some(result) = screen_one(a, flags) {
        return Extracted {
            exponent: result,
            significand: result,
        };
    }
    if a.is_zero() {
        flags.raise(Flags::ZERO_DIVIDE);
        return Extracted {
            exponent: F80::INFINITY.negate(),
            significand: a,
        };
    }
    if a.is_infinite() {
        return Extracted {
            exponent: F80::INFINITY,
            significand: a,
        };
    }
    denormal(a.is_denormal(), control, flags);
    let a = a.unpack();
    Extracted {
        exponent: F80::from_i64(i64::from(a.exponent - BIAS)),
        significand: F80::new(a.negative, BIAS as u16, a.mantissa),
    }
}
