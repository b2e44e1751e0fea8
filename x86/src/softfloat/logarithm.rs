//! FYL2X and FYL2XP1: logarithms to base two, times a factor.
//!
//! What it does not: restrict FYL2XP1 to the range that the manuals define, |x| < 1 - sqrt(1/2).
//! Any x above -1 is computed; for the others, below minus one, which are left undefined, the
//! result is x itself with PE set, as on AMD's processors.
//!
//! Invariant: a result is correctly rounded unless it is within 2^-118 (relative) of where
//! rounding switches, so it is off by less than 0.5 + 2^-50 units in the last place to nearest,
//! and by less than 1 + 2^-50 in the other modes. It is exact for
//! powers of two, but has PE set there too, as on AMD's processors.
//!
//! With `x = 2^k * m` and m near 1, `log2(x) = k + 2/ln 2 * atanh(s)` with `s = (m-1) / (m+1)`,
//! |s| < 0.172, whose numerator and denominator are exact integers.

use super::control::{Control, Flags};
use super::format::{BIAS, F80, Finite, INTEGER_BIT};
use super::operand::{denormal, invalid, screen_two};
use super::round::{Unrounded, pack};
use super::wide::{ONE, constant, from_fixed, inexact, mul_fixed, pack_as_inexact};

/// 2 / ln 2.
const TWO_BY_LN_2: Unrounded = constant(1, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);

/// The square root of two, as a significand.
const SQRT_2: u64 = 0xb504_f333_f9de_6484;

/// The terms of the series: 0.172^(2 * 26) is 2^-132.
const TERMS: u128 = 26;

/// `y * log2(x)` with `x` = ST0 and `y` = ST1 (FYL2X).
pub fn log2(x: F80, y: F80, control: &Control, flags: &mut Flags) -> F80 {
    if let Some(result) = screen_two(x, y, flags) {
        return result;
    }
    if x.is_zero() {
        if y.is_zero() {
            return invalid(flags);
        }
        if !y.is_infinite() {
            flags.raise(Flags::ZERO_DIVIDE);
        }
        return F80::INFINITY.with_sign(!y.is_negative());
    }
    if x.is_negative() || (x.is_infinite() && y.is_zero()) || (y.is_infinite() && x == F80::ONE) {
        return invalid(flags);
    }
    if denormal(x.is_denormal() || y.is_denormal(), control, flags) {
        return F80::INDEFINITE;
    }
    let below_one = x.biased_exponent() < BIAS as u16;
    let negative = y.is_negative() != below_one;
    if x.is_infinite() || y.is_infinite() {
        return F80::INFINITY.with_sign(negative);
    }
    if y.is_zero() || x == F80::ONE {
        return F80::ZERO.with_sign(negative);
    }
    let x = x.unpack();
    let unbiased = x.exponent - BIAS;
    let control = control.extended();
    if x.mantissa == INTEGER_BIT {
        let value = times_factor(integer(unbiased), y, negative);
        return pack_as_inexact(value, &control, flags);
    }
    let value = times_factor(logarithm(x.mantissa, unbiased), y, negative);
    pack(inexact(value), &control, flags)
}

/// `y * log2(x + 1)` with `x` = ST0 and `y` = ST1 (FYL2XP1).
pub fn log2_plus_1(x: F80, y: F80, control: &Control, flags: &mut Flags) -> F80 {
    if let Some(result) = screen_two(x, y, flags) {
        return result;
    }
    let invalid_product = (x.is_zero() && y.is_infinite()) || (x.is_infinite() && y.is_zero());
    if invalid_product || (x.is_infinite() && x.is_negative()) {
        return invalid(flags);
    }
    if denormal(x.is_denormal() || y.is_denormal(), control, flags) {
        return F80::INDEFINITE;
    }
    // log2(x + 1) has the sign of x.
    let negative = x.is_negative() != y.is_negative();
    if x.is_infinite() || y.is_infinite() {
        return F80::INFINITY.with_sign(negative);
    }
    if x.is_zero() || y.is_zero() {
        return F80::ZERO.with_sign(negative);
    }
    let finite = x.unpack();
    if finite.negative && finite.exponent >= BIAS {
        flags.raise(Flags::PRECISION);
        return x;
    }
    let control = control.extended();
    match power_of_two_above(finite) {
        Some(exponent) => {
            let value = times_factor(integer(exponent), y, negative);
            pack_as_inexact(value, &control, flags)
        }
        None => {
            let value = times_factor(logarithm_plus_1(finite), y, negative);
            pack(inexact(value), &control, flags)
        }
    }
}

/// An integer that is not zero.
fn integer(value: i32) -> Unrounded {
    match Unrounded::normalize(value < 0, BIAS + 127, u128::from(value.unsigned_abs())) {
        Some(value) => value,
        None => unreachable!("the logarithm of one is taken care of"),
    }
}

/// A logarithm times a factor, with the given sign.
fn times_factor(logarithm: Unrounded, y: F80, negative: bool) -> Unrounded {
    Unrounded::from(y.unpack())
        .times(logarithm)
        .signed(negative)
}

/// `log2(mantissa / 2^63) + unbiased`, which is not zero.
fn logarithm(mantissa: u64, unbiased: i32) -> Unrounded {
    // m is halved where it is above sqrt(2), by doubling the one.
    let halve = mantissa > SQRT_2;
    let (one, k) = if halve {
        (1 << 64, unbiased + 1)
    } else {
        (1 << 63, unbiased)
    };
    let mantissa = u128::from(mantissa);
    let numerator = Unrounded::normalize(mantissa < one, 0, mantissa.abs_diff(one));
    let denominator = Unrounded::normalize(false, 0, mantissa + one);
    let fraction = match (numerator, denominator) {
        (Some(numerator), Some(denominator)) => series(numerator.over(denominator)),
        _ => unreachable!("a power of two is taken care of"),
    };
    if k == 0 {
        fraction
    } else {
        integer(k).plus(fraction)
    }
}

/// `log2(x + 1)` for an x above -1 that is not zero.
fn logarithm_plus_1(x: Finite) -> Unrounded {
    let one = constant(0, ONE);
    let x = Unrounded::from(x);
    // |x| < 1/4: s = x / (x + 2).
    if x.exponent < BIAS - 2 {
        return series(x.over(x.plus(constant(1, ONE))));
    }
    // Otherwise x + 1 = 2^k * m loses nothing that counts.
    let sum = x.plus(one);
    let halve = (sum.significand >> 64) as u64 > SQRT_2;
    let k = sum.exponent - BIAS + i32::from(halve);
    let m = Unrounded {
        exponent: BIAS - i32::from(halve),
        ..sum
    };
    let below = m.plus(one.signed(true));
    let fraction = series(below.over(m.plus(one)));
    if k == 0 {
        fraction
    } else {
        integer(k).plus(fraction)
    }
}

/// `2 / ln 2 * atanh(s)` for a magnitude of s below 0.172.
fn series(s: Unrounded) -> Unrounded {
    let square = mul_fixed(s.to_fixed(), s.to_fixed());
    let mut sum = 0;
    for k in (0..=TERMS).rev() {
        sum = ONE / (2 * k + 1) + mul_fixed(square, sum);
    }
    s.times(from_fixed(sum)).times(TWO_BY_LN_2)
}

/// The exponent of x + 1 if that is a power of two other than one.
fn power_of_two_above(x: Finite) -> Option<i32> {
    let unbiased = x.exponent - BIAS;
    if x.negative {
        // 1 - x = 2^-n for x = 1 - 2^-n, n leading ones.
        let ones = x.mantissa.leading_ones();
        let only = x.mantissa.unbounded_shl(ones) == 0;
        (unbiased == -1 && only).then_some(-(ones as i32))
    } else if unbiased == 0 && x.mantissa == INTEGER_BIT {
        Some(1)
    } else {
        // x = 2^n - 1 is n leading ones with the last one in the place of 1.
        let ones = x.mantissa.leading_ones() as i32;
        let only = x.mantissa.unbounded_shl(ones as u32) == 0;
        (unbiased == ones - 1 && only).then_some(ones)
    }
}
