//! FADD, FSUB, FMUL, FDIV and FSQRT with all their variants.
//!
//! What it does not: reversed and popping forms, which are a matter of who passes what.
//!
//! Invariant: the value handed to `round::pack` is exact, or exact up to its sticky bit.

use super::control::{Control, Flags, Rounding};
use super::format::{F80, Finite};
use super::operand::{Operand, denormal, invalid, screen_one, screen_two};
use super::round::{Unrounded, pack, shift_right_sticky};

/// `a + b`.
pub fn add(
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    control: &Control,
    flags: &mut Flags,
) -> F80 {
    add_signed(a.into(), b.into(), false, control, flags)
}

/// `a - b`.
pub fn sub(
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    control: &Control,
    flags: &mut Flags,
) -> F80 {
    add_signed(a.into(), b.into(), true, control, flags)
}

/// `a * b`.
pub fn mul(
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    control: &Control,
    flags: &mut Flags,
) -> F80 {
    multiply(a.into(), b.into(), control, flags)
}

/// `a / b`.
pub fn div(
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    control: &Control,
    flags: &mut Flags,
) -> F80 {
    divide(a.into(), b.into(), control, flags)
}

fn add_signed(a: Operand, b: Operand, negate: bool, control: &Control, flags: &mut Flags) -> F80 {
    let any_denormal = a.denormal || b.denormal;
    let (a, b) = (a.value, b.value);
    if let Some(result) = screen_two(a, b, flags) {
        return result;
    }
    let b = if negate { b.negate() } else { b };
    if a.is_infinite() && b.is_infinite() && a.is_negative() != b.is_negative() {
        return invalid(flags);
    }
    if denormal(any_denormal, control, flags) {
        return F80::INDEFINITE;
    }
    if a.is_infinite() {
        return a;
    }
    if b.is_infinite() {
        return b;
    }
    let sum = match (a.is_zero(), b.is_zero()) {
        (true, true) if a.is_negative() == b.is_negative() => return a,
        (true, true) => None,
        (true, false) => Some(b.unpack().into()),
        (false, true) => Some(a.unpack().into()),
        (false, false) => add_finite(a.unpack(), b.unpack()),
    };
    match sum {
        Some(sum) => pack(sum, control, flags),
        None => F80::ZERO.with_sign(control.rounding == Rounding::Down),
    }
}

/// The sum of two nonzero values; none if it is zero.
fn add_finite(a: Finite, b: Finite) -> Option<Unrounded> {
    let (large, small) = if (a.exponent, a.mantissa) >= (b.exponent, b.mantissa) {
        (a, b)
    } else {
        (b, a)
    };
    // One bit of headroom for the carry; 63 bits below, so that a subtraction that loses bits to
    // the sticky bit cancels at most one leading bit.
    let distance = (large.exponent - small.exponent) as u32;
    let left = u128::from(large.mantissa) << 63;
    let right = shift_right_sticky(u128::from(small.mantissa) << 63, distance);
    let sum = if large.negative == small.negative {
        left + right
    } else {
        left - right
    };
    Unrounded::normalize(large.negative, large.exponent + 1, sum)
}

fn multiply(a: Operand, b: Operand, control: &Control, flags: &mut Flags) -> F80 {
    let any_denormal = a.denormal || b.denormal;
    let (a, b) = (a.value, b.value);
    if let Some(result) = screen_two(a, b, flags) {
        return result;
    }
    let negative = a.is_negative() != b.is_negative();
    let infinite = a.is_infinite() || b.is_infinite();
    let zero = a.is_zero() || b.is_zero();
    if infinite && zero {
        return invalid(flags);
    }
    if denormal(any_denormal, control, flags) {
        return F80::INDEFINITE;
    }
    if infinite {
        return F80::INFINITY.with_sign(negative);
    }
    if zero {
        return F80::ZERO.with_sign(negative);
    }
    let (a, b) = (a.unpack(), b.unpack());
    let product = u128::from(a.mantissa) * u128::from(b.mantissa);
    // 2^126 is 1.0: the top bit of the product weighs twice the product of the top bits.
    let exponent = a.exponent + b.exponent - super::format::BIAS + 1;
    match Unrounded::normalize(negative, exponent, product) {
        Some(product) => pack(product, control, flags),
        None => unreachable!("the product of normalised significands is not zero"),
    }
}

fn divide(a: Operand, b: Operand, control: &Control, flags: &mut Flags) -> F80 {
    let any_denormal = a.denormal || b.denormal;
    let (a, b) = (a.value, b.value);
    if let Some(result) = screen_two(a, b, flags) {
        return result;
    }
    let negative = a.is_negative() != b.is_negative();
    if (a.is_infinite() && b.is_infinite()) || (a.is_zero() && b.is_zero()) {
        return invalid(flags);
    }
    if b.is_zero() && !a.is_infinite() {
        flags.raise(Flags::ZERO_DIVIDE);
        return F80::INFINITY.with_sign(negative);
    }
    if denormal(any_denormal, control, flags) {
        return F80::INDEFINITE;
    }
    if a.is_infinite() {
        return F80::INFINITY.with_sign(negative);
    }
    if a.is_zero() || b.is_infinite() {
        return F80::ZERO.with_sign(negative);
    }
    let (a, b) = (a.unpack(), b.unpack());
    pack(divide_finite(negative, a, b), control, flags)
}

/// The quotient of two nonzero values.
fn divide_finite(negative: bool, a: Finite, b: Finite) -> Unrounded {
    // Halving the dividend where needed makes the first 64 quotient bits start with a one.
    let halve = u32::from(a.mantissa >= b.mantissa);
    let dividend = u128::from(a.mantissa) << (64 - halve);
    let divisor = u128::from(b.mantissa);
    let high = dividend / divisor;
    let rest = (dividend % divisor) << 64;
    let low = rest / divisor;
    let sticky = rest % divisor != 0;
    Unrounded {
        negative,
        exponent: a.exponent - b.exponent + super::format::BIAS - 1 + halve as i32,
        significand: (high << 64) | low | u128::from(sticky),
    }
}

/// The square root of `a`.
pub fn sqrt(a: F80, control: &Control, flags: &mut Flags) -> F80 {
    if let Some(result) = screen_one(a, flags) {
        return result;
    }
    if a.is_zero() {
        return a;
    }
    if a.is_negative() {
        return invalid(flags);
    }
    if denormal(a.is_denormal(), control, flags) {
        return F80::INDEFINITE;
    }
    if a.is_infinite() {
        return a;
    }
    let a = a.unpack();
    let unbiased = a.exponent - super::format::BIAS;
    // An even exponent leaves the radicand in [2^126, 2^127), an odd one doubles it; the root of
    // either has 64 bits.
    let radicand = u128::from(a.mantissa) << (63 + (unbiased & 1));
    let root = radicand.isqrt();
    let rest = radicand - root * root;
    // The next bit of the root is set if the rest exceeds the root; a root is never halfway.
    let significand = (root << 64) | (u128::from(rest > root) << 63) | u128::from(rest != 0);
    let exponent = unbiased.div_euclid(2) + super::format::BIAS;
    pack(
        Unrounded {
            negative: false,
            exponent,
            significand,
        },
        control,
        flags,
    )
}
