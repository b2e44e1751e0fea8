//! F2XM1: two to the power of x, minus one.
//!
//! What it does not: compute anything for |x| > 1, which the manuals leave undefined: the result
//! then is the operand itself with PE set, as on AMD's processors.
//!
//! Invariant: a result is correctly rounded unless it is within 2^-120 (relative) of where
//! rounding switches, so it is off by less than 0.5 + 2^-50 units in the last place to nearest,
//! and by less than 1 + 2^-50 in the other modes. It is exact for
//! 0, 1, -1 and infinities only; 1 and -1 have PE set nevertheless, as on AMD's processors.
//!
//! With `y = x * ln 2` it is `y * P(y)`, with the Taylor polynomial P in fixed point.

use super::control::{Control, Flags};
use super::format::{BIAS, F80};
use super::operand::{denormal, screen_one};
use super::round::{Unrounded, pack};
use super::wide::{ONE, constant, from_fixed, inexact, mul_fixed};

/// The natural logarithm of two.
const LN_2: Unrounded = constant(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);

/// The terms of the Taylor polynomial: (ln 2)^34 / 35! is below 2^-150.
const TERMS: u128 = 35;

/// `2^a - 1` (F2XM1).
pub fn exp2_minus_1(a: F80, control: &Control, flags: &mut Flags) -> F80 {
    if let Some(result) = screen_one(a, flags) {
        return result;
    }
    if a.is_zero() {
        return a;
    }
    if a.is_infinite() {
        return if a.is_negative() {
            F80::ONE.negate()
        } else {
            a
        };
    }
    if denormal(a.is_denormal(), control, flags) {
        return F80::INDEFINITE;
    }
    let x = a.unpack();
    if x.exponent >= BIAS {
        flags.raise(Flags::PRECISION);
        // 2^-1 - 1 = -1/2; 2^1 - 1 = 1.
        let minus_half = F80::new(true, BIAS as u16 - 1, 1 << 63);
        return if a == F80::ONE.negate() {
            minus_half
        } else {
            a
        };
    }
    let y = Unrounded::from(x).times(LN_2);
    let fixed = y.to_fixed();
    let mut sum = ONE;
    for n in (2..=TERMS).rev() {
        let term = mul_fixed(fixed, sum) / n;
        sum = if x.negative { ONE - term } else { ONE + term };
    }
    pack(
        inexact(y.times(from_fixed(sum))),
        &control.extended(),
        flags,
    )
}
