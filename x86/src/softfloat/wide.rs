//! Arithmetic on 128-bit significands, for the transcendental functions.
//!
//! What it does not: round to nearest. Products, quotients and sums are cut off, with a relative
//! error below 2^-126; signs are the caller's business except in sums.
//!
//! Invariant: [`inexact`] marks a value as not exact before it is packed, so that PE is set and
//! the directed roundings go the right way even where the 128 bits look exact.

use super::control::{Control, Flags};
use super::format::{BIAS, F80};
use super::round::{Unrounded, pack, shift_right_sticky};

/// 1.0 in fixed point with 127 fraction bits.
pub(super) const ONE: u128 = 1 << 127;

/// The upper 128 bits of a product.
const fn mul_high(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0) = (a >> 64, a & LOW);
    let (b1, b0) = (b >> 64, b & LOW);
    let middle = a1 * b0 + ((a0 * b0) >> 64);
    let other = a0 * b1 + (middle & LOW);
    a1 * b1 + (middle >> 64) + (other >> 64)
}

/// A product in fixed point with 127 fraction bits; it has to be below 2.
pub(super) const fn mul_fixed(a: u128, b: u128) -> u128 {
    mul_high(a, b) << 1
}

/// A value that is at hand with 128 bits.
pub(super) const fn constant(exponent: i32, significand: u128) -> Unrounded {
    Unrounded {
        negative: false,
        exponent: BIAS + exponent,
        significand,
    }
}

/// A nonzero fixed-point number.
pub(super) const fn from_fixed(fixed: u128) -> Unrounded {
    match Unrounded::normalize(false, BIAS, fixed) {
        Some(value) => value,
        None => unreachable!(),
    }
}

/// Marks a value as cut off from something greater in magnitude.
pub(super) const fn inexact(value: Unrounded) -> Unrounded {
    Unrounded {
        significand: value.significand | 1,
        ..value
    }
}

/// Packs a value that is exact, but of a function whose results count as inexact.
pub(super) fn pack_as_inexact(value: Unrounded, control: &Control, flags: &mut Flags) -> F80 {
    let result = pack(value, control, flags);
    flags.raise(Flags::PRECISION);
    if result.is_denormal() {
        flags.raise(Flags::UNDERFLOW);
    }
    result
}

impl Unrounded {
    /// The magnitude, below 2, in fixed point.
    pub(super) const fn to_fixed(self) -> u128 {
        debug_assert!(self.exponent <= BIAS);
        self.significand
            .unbounded_shr((BIAS - self.exponent) as u32)
    }

    /// The value with its magnitude's sign replaced.
    pub(super) const fn signed(self, negative: bool) -> Self {
        Self { negative, ..self }
    }

    /// The product of the magnitudes, with this sign.
    pub(super) const fn times(self, other: Self) -> Self {
        let product = mul_high(self.significand, other.significand);
        let shift = product.leading_zeros();
        Self {
            negative: self.negative,
            exponent: self.exponent + other.exponent - BIAS + 1 - shift as i32,
            significand: product << shift,
        }
    }

    /// The quotient of the magnitudes, with this sign.
    pub(super) const fn over(self, divisor: Self) -> Self {
        let below = self.significand < divisor.significand;
        let mut rest = if below {
            self.significand
        } else {
            self.significand - divisor.significand
        };
        let mut quotient = !below as u128;
        // The first bit is a one: at once, or after the first doubling.
        let mut bits = if below { 128 } else { 127 };
        while bits > 0 {
            let carry = rest >> 127 != 0;
            rest <<= 1;
            quotient <<= 1;
            if carry || rest >= divisor.significand {
                rest = rest.wrapping_sub(divisor.significand);
                quotient |= 1;
            }
            bits -= 1;
        }
        Self {
            negative: self.negative,
            exponent: self.exponent - divisor.exponent + BIAS - below as i32,
            significand: quotient,
        }
    }

    /// The sum; it must not cancel to zero.
    pub(super) const fn plus(self, other: Self) -> Self {
        let (large, small) = if self.exponent > other.exponent
            || (self.exponent == other.exponent && self.significand >= other.significand)
        {
            (self, other)
        } else {
            (other, self)
        };
        // One bit of headroom for the carry.
        let left = large.significand >> 1;
        let distance = (large.exponent - small.exponent) as u32;
        let right = shift_right_sticky(small.significand >> 1, distance);
        let sum = if large.negative == small.negative {
            left + right
        } else {
            left - right
        };
        match Self::normalize(large.negative, large.exponent + 1, sum) {
            Some(sum) => sum,
            None => unreachable!(),
        }
    }
}
