//! FPREM and FPREM1: the partial remainder.
//!
//! What it does not: iterate. Software repeats the instruction while [`Remainder::partial`].
//!
//! Invariant: a remainder is exact, so precision and rounding control have no say.

use super::control::{Control, Flags};
use super::format::{F80, Finite};
use super::operand::{denormal, invalid, screen_two};
use super::round::{Unrounded, pack};

/// How the quotient is rounded to an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemainderKind {
    /// Towards zero (FPREM).
    Truncated,
    /// To nearest, ties to even (FPREM1, the remainder of IEEE 754).
    Nearest,
}

/// The outcome of one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// The remainder, or the dividend reduced so far.
    pub value: F80,
    /// The low three bits of the quotient's magnitude: bit 0 goes to C1, bit 1 to C3, bit 2 to C0.
    pub quotient: u8,
    /// The reduction is incomplete (C2).
    pub partial: bool,
}

impl Remainder {
    const fn of(value: F80) -> Self {
        Self {
            value,
            quotient: 0,
            partial: false,
        }
    }
}

/// The partial remainder of `a / b`.
///
/// If the exponents differ by less than 64, the remainder is complete. Otherwise the exponent
/// difference D shrinks by N = 32 + D mod 32 bits, the quotient being truncated.
pub fn remainder(
    a: F80,
    b: F80,
    kind: RemainderKind,
    control: &Control,
    flags: &mut Flags,
) -> Remainder {
    if let Some(result) = screen_two(a, b, flags) {
        return Remainder::of(result);
    }
    if a.is_infinite() || b.is_zero() {
        return Remainder::of(invalid(flags));
    }
    if denormal(a.is_denormal() || b.is_denormal(), control, flags) {
        return Remainder::of(F80::INDEFINITE);
    }
    if a.is_zero() {
        return Remainder::of(a);
    }
    if b.is_infinite() {
        return Remainder {
            value: repack(a.unpack().into(), control, flags),
            quotient: 0,
            partial: false,
        };
    }
    let (a, b) = (a.unpack(), b.unpack());
    let (value, quotient, partial) = reduce(a, b, kind);
    let value = match value {
        Some(value) => repack(value, control, flags),
        None => F80::ZERO.with_sign(a.negative),
    };
    Remainder {
        value,
        quotient,
        partial,
    }
}

/// Packs an exact value.
fn repack(value: Unrounded, control: &Control, flags: &mut Flags) -> F80 {
    pack(value, &control.extended(), flags)
}

/// The remainder of two nonzero values (none if it is zero), the quotient's low bits, and whether
/// the reduction is partial.
fn reduce(a: Finite, b: Finite, kind: RemainderKind) -> (Option<Unrounded>, u8, bool) {
    let difference = a.exponent - b.exponent;
    if difference >= 64 {
        let shift = 32 + difference % 32;
        let rest = (u128::from(a.mantissa) << shift) % u128::from(b.mantissa);
        let exponent = b.exponent + difference - shift;
        return (
            Unrounded::normalize(a.negative, exponent, rest << 64),
            0,
            true,
        );
    }
    if difference < -1 || (difference < 0 && kind == RemainderKind::Truncated) {
        return (Some(a.into()), 0, false);
    }
    // At -1 the dividend is less than the divisor, and is brought to the divisor's scale by
    // doubling the divisor.
    let (dividend, divisor, exponent) = if difference < 0 {
        (
            u128::from(a.mantissa),
            u128::from(b.mantissa) << 1,
            a.exponent,
        )
    } else {
        (
            u128::from(a.mantissa) << difference,
            u128::from(b.mantissa),
            b.exponent,
        )
    };
    let mut quotient = dividend / divisor;
    let mut rest = dividend % divisor;
    let mut negative = a.negative;
    if kind == RemainderKind::Nearest {
        let twice = rest << 1;
        if twice > divisor || (twice == divisor && quotient & 1 != 0) {
            rest = divisor - rest;
            quotient += 1;
            negative = !negative;
        }
    }
    let value = Unrounded::normalize(negative, exponent, rest << 63);
    // `rest` can have 65 bits at -1, hence the shift by 63 and the exponent one higher.
    let value = value.map(|v| Unrounded {
        exponent: v.exponent + 1,
        ..v
    });
    (value, (quotient & 7) as u8, false)
}
