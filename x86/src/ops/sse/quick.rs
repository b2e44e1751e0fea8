//! Scalar double arithmetic without reading MXCSR.
//!
//! Does: answer when operands and result are so ordinary that at most inexactness is to be reported.
//! Does not: answer otherwise; then `native` decides.
//!
//! Invariant: the caller has the default control, everything masked and the inexact flag already
//! set, so that an answer needs no change of MXCSR. Rust's arithmetic is IEEE 754 to the bit here,
//! as neither operands nor results are NaNs.

/// The sign.
const SIGN: u64 = 1 << 63;
/// The exponent field of 1 with no fraction: the smallest normal number.
const SMALLEST_NORMAL: u64 = 1 << 52;
/// Infinity.
const INFINITY: u64 = 0x7ff << 52;

/// True for zeros and normal numbers.
#[inline(always)]
fn ordinary(bits: u64) -> bool {
    let magnitude = bits & !SIGN;
    magnitude == 0 || magnitude.wrapping_sub(SMALLEST_NORMAL) < INFINITY - SMALLEST_NORMAL
}

/// True for numbers that neither overflowed nor came near underflow: the smallest binade is left
/// out, since a tiny result can be rounded into it.
#[inline(always)]
fn clear(bits: u64) -> bool {
    let least = 2 * SMALLEST_NORMAL;
    (bits & !SIGN).wrapping_sub(least) < INFINITY - least
}

#[inline(always)]
fn scalar(a: u128, b: u128, compute: impl Fn(f64, f64) -> f64) -> Option<u128> {
    let (x, y) = (a as u64, b as u64);
    let result = compute(f64::from_bits(x), f64::from_bits(y)).to_bits();
    (ordinary(x) && ordinary(y) && clear(result)).then(|| a >> 64 << 64 | u128::from(result))
}

/// ADDSD.
#[inline(always)]
pub(super) fn add_sd(a: u128, b: u128) -> Option<u128> {
    scalar(a, b, |x, y| x + y)
}

/// SUBSD.
#[inline(always)]
pub(super) fn sub_sd(a: u128, b: u128) -> Option<u128> {
    scalar(a, b, |x, y| x - y)
}

/// MULSD.
#[inline(always)]
pub(super) fn mul_sd(a: u128, b: u128) -> Option<u128> {
    scalar(a, b, |x, y| x * y)
}

/// DIVSD.
#[inline(always)]
pub(super) fn div_sd(a: u128, b: u128) -> Option<u128> {
    scalar(a, b, |x, y| x / y)
}
