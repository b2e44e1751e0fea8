//! RCPPS, RCPSS, RSQRTPS, RSQRTSS: approximations, by one definition of ours.
//!
//! Does: compute them in integers, since hosts give different bits. Does not: raise or report
//! anything; MXCSR is neither read nor written.
//!
//! Invariant: for normal operands with a normal result, the result is the exact one rounded to a
//! significand of 13 bits (12 after the point, halves upwards), so its relative error is at most
//! 2^-13; the manuals allow 1.5 × 2^-12. Denormal operands count as zeros, tiny results are zeros.
//! The definition stands in `docs/undefined-results.md`.

use iced_x86::{Instruction, Mnemonic as M};

use super::native::Binary;
use super::operands::{Mem32, Register, binary, by_narrow_form, by_source, select_vector};
use crate::op::Selected;

/// The sign of a single.
const SIGN: u32 = 1 << 31;
/// The exponent field of a single, and plus infinity.
const INFINITY: u32 = 0xff << 23;
/// The bit that makes a NaN quiet.
const QUIET: u32 = 1 << 22;
/// The answer to a negative operand of a square root.
const DEFAULT_NAN: u32 = 0xffc0_0000;
/// Bits after the point of a result.
const FRACTION_BITS: u32 = 12;

/// A single from its sign, biased exponent and significand with [`FRACTION_BITS`]; the significand
/// may be 2 after rounding. Tiny results are zeros.
fn pack(sign: u32, exponent: i32, significand: u32) -> u32 {
    let carry = significand >> (FRACTION_BITS + 1);
    let exponent = exponent + carry as i32;
    if exponent <= 0 {
        return sign;
    }
    let fraction = (significand >> carry) & ((1 << FRACTION_BITS) - 1);
    sign | (exponent as u32) << 23 | fraction << (23 - FRACTION_BITS)
}

/// About 1 / `operand`.
pub(super) fn reciprocal(operand: u32) -> u32 {
    let sign = operand & SIGN;
    let exponent = (operand >> 23 & 0xff) as i32;
    let mantissa = operand & 0x7f_ffff;
    match (exponent, mantissa) {
        (0xff, 0) => return sign,
        (0xff, _) => return operand | QUIET,
        (0, _) => return sign | INFINITY,
        _ => {}
    }
    // 2 / 1.f lies in (1, 2].
    let divisor = u64::from(mantissa | 1 << 23);
    let quotient = ((1 << (24 + FRACTION_BITS)) + divisor / 2) / divisor;
    pack(sign, 253 - exponent, quotient as u32)
}

/// About 1 / √`operand`.
pub(super) fn reciprocal_root(operand: u32) -> u32 {
    let sign = operand & SIGN;
    let exponent = (operand >> 23 & 0xff) as i32;
    let mantissa = operand & 0x7f_ffff;
    match (exponent, mantissa) {
        (0xff, 1..) => return operand | QUIET,
        (0, _) => return sign | INFINITY,
        _ if sign != 0 => return DEFAULT_NAN,
        (0xff, _) => return 0,
        _ => {}
    }
    // The operand is v × 4^half with v in [1, 4), and 2 / √v lies in (1, 2].
    let power = exponent - 127;
    let half = power.div_euclid(2);
    let radicand = u64::from(mantissa | 1 << 23) << power.rem_euclid(2);
    // One bit more than wanted, then rounded.
    let root = ((1 << (23 + 2 * (FRACTION_BITS + 2))) / radicand).isqrt();
    pack(0, 126 - half, (root as u32).div_ceil(2))
}

/// RCPPS.
struct Reciprocals;
/// RCPSS.
struct Reciprocal;
/// RSQRTPS.
struct ReciprocalRoots;
/// RSQRTSS.
struct ReciprocalRoot;

/// `compute` in each lane.
fn each(b: u128, compute: fn(u32) -> u32) -> u128 {
    let lane = |n: u32| u128::from(compute((b >> (32 * n)) as u32)) << (32 * n);
    lane(0) | lane(1) | lane(2) | lane(3)
}

/// `compute` in the low lane of `b`, below the rest of `a`.
fn low(a: u128, b: u128, compute: fn(u32) -> u32) -> u128 {
    a >> 32 << 32 | u128::from(compute(b as u32))
}

impl Binary for Reciprocals {
    fn apply(_: u128, b: u128) -> u128 {
        each(b, reciprocal)
    }
}

impl Binary for Reciprocal {
    fn apply(a: u128, b: u128) -> u128 {
        low(a, b, reciprocal)
    }
}

impl Binary for ReciprocalRoots {
    fn apply(_: u128, b: u128) -> u128 {
        each(b, reciprocal_root)
    }
}

impl Binary for ReciprocalRoot {
    fn apply(a: u128, b: u128) -> u128 {
        low(a, b, reciprocal_root)
    }
}

fn select_scalar<B: Binary>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_narrow_form!(insn, binary, B, Register),
        by_narrow_form!(insn, binary, B, Mem32),
    )
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Rcpps | M::Vrcpps => select_vector::<Reciprocals>(insn),
        M::Rcpss | M::Vrcpss => select_scalar::<Reciprocal>(insn),
        M::Rsqrtps | M::Vrsqrtps => select_vector::<ReciprocalRoots>(insn),
        M::Rsqrtss | M::Vrsqrtss => select_scalar::<ReciprocalRoot>(insn),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1.5 × 2^-12.
    const ALLOWED: f64 = 1.5 / 4096.0;

    fn error(result: u32, exact: f64) -> f64 {
        (f64::from(f32::from_bits(result)) / exact - 1.0).abs()
    }

    #[test]
    fn reciprocals_of_every_mantissa_are_close_enough() {
        for mantissa in 0..1 << 23 {
            let operand = 127 << 23 | mantissa;
            let exact = 1.0 / f64::from(f32::from_bits(operand));
            assert!(
                error(reciprocal(operand), exact) <= ALLOWED / 3.0,
                "{operand:#x}"
            );
        }
    }

    #[test]
    fn roots_of_every_mantissa_are_close_enough() {
        for mantissa in 0..1 << 24 {
            let operand = (126 << 23) + mantissa;
            let exact = 1.0 / f64::from(f32::from_bits(operand)).sqrt();
            assert!(
                error(reciprocal_root(operand), exact) <= ALLOWED / 3.0,
                "{operand:#x}"
            );
        }
    }

    #[test]
    fn every_exponent_is_close_enough() {
        for exponent in 1..255 {
            for mantissa in [0, 1, 0x12_3456, 0x40_0000, 0x7f_f000, 0x7f_ffff] {
                let operand = exponent << 23 | mantissa;
                let value = f64::from(f32::from_bits(operand));
                assert!(error(reciprocal_root(operand), 1.0 / value.sqrt()) <= ALLOWED);
                let result = reciprocal(operand);
                if result == 0 {
                    assert!(
                        value > f64::from(f32::from_bits(0x7e7f_e800)),
                        "{operand:#x}"
                    );
                } else {
                    assert!(error(result, 1.0 / value) <= ALLOWED, "{operand:#x}");
                }
                assert_eq!(reciprocal(operand | SIGN), result | SIGN);
            }
        }
    }

    #[test]
    fn powers_of_two_are_exact() {
        assert_eq!(reciprocal(1.0f32.to_bits()), 1.0f32.to_bits());
        assert_eq!(reciprocal(0.25f32.to_bits()), 4.0f32.to_bits());
        assert_eq!(reciprocal_root(1.0f32.to_bits()), 1.0f32.to_bits());
        assert_eq!(reciprocal_root(4.0f32.to_bits()), 0.5f32.to_bits());
        assert_eq!(reciprocal_root(0.25f32.to_bits()), 2.0f32.to_bits());
    }

    #[test]
    fn special_operands() {
        for sign in [0, SIGN] {
            assert_eq!(reciprocal(sign), sign | INFINITY);
            assert_eq!(reciprocal(sign | 0x7f_ffff), sign | INFINITY);
            assert_eq!(reciprocal(sign | INFINITY), sign);
            assert_eq!(reciprocal(sign | INFINITY | 1), sign | INFINITY | QUIET | 1);
            assert_eq!(reciprocal(sign | 0x7f7f_ffff), sign);
            assert_eq!(reciprocal_root(sign), sign | INFINITY);
            assert_eq!(reciprocal_root(sign | 1), sign | INFINITY);
            assert_eq!(
                reciprocal_root(sign | INFINITY | 1),
                sign | INFINITY | QUIET | 1
            );
        }
        assert_eq!(reciprocal_root(INFINITY), 0);
        assert_eq!(reciprocal_root(SIGN | INFINITY), DEFAULT_NAN);
        assert_eq!(reciprocal_root((-1.0f32).to_bits()), DEFAULT_NAN);
    }
}
