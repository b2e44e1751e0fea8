//! From an exact value to the 80-bit format: rounding, overflow and underflow.
//!
//! What it does not: memory formats other than the 80-bit one (see `convert`), which share
//! [`round_at`].
//!
//! Invariant: every inexact result of this tree is rounded here and only once; the sticky bit
//! (bit 0 of a significand) stands for all that lies below it.

use super::control::{Control, Flags, Rounding};
use super::format::{EXPONENT_MAX, F80, Finite, INTEGER_BIT};

/// By how much the exponent of an overflowed or underflowed result is wrapped when the exception
/// is unmasked.
pub(super) const WRAP: i32 = 24576;

/// A nonzero value before rounding: `significand / 2^127 * 2^(exponent - BIAS)`, with the top bit
/// of the significand set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unrounded {
    pub(super) negative: bool,
    pub(super) exponent: i32,
    pub(super) significand: u128,
}

impl Unrounded {
    /// Normalises `significand / 2^127 * 2^(exponent - BIAS)`; none if it is zero.
    pub(super) const fn normalize(
        negative: bool,
        exponent: i32,
        significand: u128,
    ) -> Option<Self> {
        if significand == 0 {
            return None;
        }
        let shift = significand.leading_zeros();
        Some(Self {
            negative,
            exponent: exponent - shift as i32,
            significand: significand << shift,
        })
    }
}

impl From<Finite> for Unrounded {
    fn from(value: Finite) -> Self {
        Self {
            negative: value.negative,
            exponent: value.exponent,
            significand: u128::from(value.mantissa) << 64,
        }
    }
}

/// Shifts right and keeps what is lost in the sticky bit.
pub(super) const fn shift_right_sticky(significand: u128, shift: u32) -> u128 {
    match shift {
        0 => significand,
        1..=127 => {
            let lost = significand << (128 - shift) != 0;
            (significand >> shift) | lost as u128
        }
        _ => (significand != 0) as u128,
    }
}

/// A significand that was cut to a number of bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounded {
    /// The kept bits, left-aligned; if rounding carried out, the top bit alone.
    pub(super) mantissa: u64,
    /// Rounding carried out of the top: the value is twice what the mantissa says.
    pub(super) carry: bool,
    /// Something was lost.
    pub(super) inexact: bool,
    /// The magnitude was increased.
    pub(super) up: bool,
}

/// Rounds to the top `bits` (1 to 64) of the significand.
pub(super) const fn round_at(
    negative: bool,
    significand: u128,
    bits: u32,
    rounding: Rounding,
) -> Rounded {
    const HALF: u128 = 1 << 127;
    let kept = significand >> (128 - bits);
    let rest = significand << bits;
    let up = match rounding {
        Rounding::Nearest => rest > HALF || (rest == HALF && kept & 1 != 0),
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
        Rounding::Zero => false,
    };
    let kept = kept + up as u128;
    let carry = kept >> bits != 0;
    let mantissa = if carry {
        INTEGER_BIT
    } else {
        (kept as u64) << (64 - bits)
    };
    Rounded {
        mantissa,
        carry,
        inexact: rest != 0,
        up,
    }
}

/// Whether an overflow is answered by infinity rather than by the largest finite number.
pub(super) const fn overflows_to_infinity(negative: bool, rounding: Rounding) -> bool {
    match rounding {
        Rounding::Nearest => true,
        Rounding::Down => negative,
        Rounding::Up => !negative,
        Rounding::Zero => false,
    }
}

/// Rounds to the 80-bit format under precision control.
///
/// Overflow and underflow that are unmasked give the result with its exponent wrapped by
/// 24576. Tininess is detected after rounding; a masked underflow is one that is also inexact.
pub(super) fn pack(value: Unrounded, control: &Control, flags: &mut Flags) -> F80 {
    let Unrounded {
        negative,
        exponent,
        significand,
    } = value;
    let bits = control.precision.bits();
    let rounded = round_at(negative, significand, bits, control.rounding);
    let exponent = exponent + i32::from(rounded.carry);
    if exponent >= i32::from(EXPONENT_MAX) {
        return overflow(negative, exponent, rounded, control, flags);
    }
    if exponent <= 0 {
        return underflow(value, exponent, rounded, control, flags);
    }
    note_inexact(rounded, flags);
    F80::new(negative, exponent as u16, rounded.mantissa)
}

/// Notes PE and C1.
pub(super) fn note_inexact(rounded: Rounded, flags: &mut Flags) {
    if rounded.inexact {
        flags.raise(Flags::PRECISION);
        flags.c1 = rounded.up;
    }
}

fn overflow(
    negative: bool,
    exponent: i32,
    rounded: Rounded,
    control: &Control,
    flags: &mut Flags,
) -> F80 {
    flags.raise(Flags::OVERFLOW);
    if !control.masked(Flags::OVERFLOW) {
        note_inexact(rounded, flags);
        return wrapped(negative, exponent - WRAP, rounded.mantissa);
    }
    flags.raise(Flags::PRECISION);
    flags.c1 = overflows_to_infinity(negative, control.rounding);
    if flags.c1 {
        F80::INFINITY.with_sign(negative)
    } else {
        let mantissa = u64::MAX << (64 - control.precision.bits());
        F80::new(negative, EXPONENT_MAX - 1, mantissa)
    }
}

fn underflow(
    value: Unrounded,
    exponent: i32,
    rounded: Rounded,
    control: &Control,
    flags: &mut Flags,
) -> F80 {
    let negative = value.negative;
    if !control.masked(Flags::UNDERFLOW) {
        flags.raise(Flags::UNDERFLOW);
        note_inexact(rounded, flags);
        return wrapped(negative, exponent + WRAP, rounded.mantissa);
    }
    // The bits of a denormal have fixed places, and precision control cuts at the same place as
    // for a normal number.
    let significand = shift_right_sticky(value.significand, (1 - value.exponent) as u32);
    let rounded = round_at(
        negative,
        significand,
        control.precision.bits(),
        control.rounding,
    );
    if rounded.inexact {
        flags.raise(Flags::UNDERFLOW);
    }
    note_inexact(rounded, flags);
    let field = u16::from(rounded.carry || rounded.mantissa & INTEGER_BIT != 0);
    F80::new(negative, field, rounded.mantissa)
}

/// A result whose exponent was wrapped. Only FSCALE can still be out of range, and sees to that
/// itself.
fn wrapped(negative: bool, exponent: i32, mantissa: u64) -> F80 {
    debug_assert!(exponent > 0 && exponent < i32::from(EXPONENT_MAX));
    F80::new(negative, exponent as u16, mantissa)
}
