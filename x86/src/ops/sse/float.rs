//! Floating-point exceptions: from what the host reports to MXCSR and #XM.
//!
//! Does: run an operation under the guest's MXCSR, decide which flags the guest sees and whether an
//! unmasked exception stops the instruction.
//! Does not: compute results (`native`), or write destinations.
//!
//! Invariant: on `Err` nothing but the flags of MXCSR has changed.
//!
//! The host always runs with everything masked. What differs when the guest has exceptions unmasked
//! (SDM vol. 1, 4.9.1 and 11.5.2; every rule was checked against a CPU):
//! - An unmasked invalid operation, denormal operand or division by zero in any lane is found before
//!   anything is computed: overflow, underflow and inexactness of other lanes are not reported.
//! - FTZ has no effect while underflow is unmasked.
//! - Unmasked underflow is raised for every tiny result, an exact one too; masked underflow only for
//!   an inexact one.
//! - With unmasked overflow or underflow the result that counts has an unbounded exponent, and a
//!   lane is inexact only if that one is.

use super::native::{Comparison, Float, FromInteger, ToInteger};
use super::operands::{DAZ, FLAGS, FTZ, Form, Lanes, MASKS, ROUNDING};
use crate::core::{Core, cr4};
use crate::fault::{Exec, Fault};

/// Flags that are found before computing: invalid, denormal, division by zero.
const BEFORE: u32 = 0b00_0111;
/// Overflow flag.
const OVERFLOW: u32 = 1 << 3;
/// Underflow flag.
const UNDERFLOW: u32 = 1 << 4;
/// Inexact flag.
const INEXACT: u32 = 1 << 5;
/// MXCSR but for the other flags, when `Float::quick` may answer: everything masked, everything
/// else at its default, an inexact result already on record.
const QUICK: u32 = MASKS | INEXACT;

/// Which lanes of the operands count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elements {
    /// The low single.
    Single,
    /// Four singles.
    Singles,
    /// The low double.
    Double,
    /// Two doubles.
    Doubles,
}

/// What an operation computes, as far as unmasked overflow and underflow need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A sum.
    Add,
    /// A difference.
    Sub,
    /// A product.
    Mul,
    /// A quotient.
    Div,
    /// A double as a single.
    Narrow,
    /// Something that neither overflows nor underflows.
    Other,
}

/// The parts of MXCSR that the host runs under.
#[inline(always)]
fn control(mxcsr: u32) -> u32 {
    let control = mxcsr & (ROUNDING | FTZ | DAZ);
    if mxcsr & UNDERFLOW << 7 == 0 {
        control & !FTZ
    } else {
        control
    }
}

/// The result of `F`, with MXCSR's flags set; #XM or #UD if an exception is unmasked.
#[inline(always)]
pub(super) fn evaluate<F: Float>(core: &mut Core, a: u128, b: u128) -> Exec<u128> {
    if core.mxcsr & !(FLAGS & !INEXACT) == QUICK
        && let Some(result) = F::quick(a, b)
    {
        return Ok(result);
    }
    let (result, flags) = F::run(a, b, control(core.mxcsr));
    if core.mxcsr & MASKS == MASKS {
        core.mxcsr |= flags;
        return Ok(result);
    }
    let flags = refine::<F>(a, b, result, flags, core.mxcsr);
    report(core, flags)?;
    Ok(result)
}

/// The result and the flags that the guest is to see of an operation that is part of an instruction.
#[inline(always)]
pub(super) fn attempt<O: Float>(core: &Core, a: u128, b: u128) -> (u128, u32) {
    let (result, flags) = O::run(a, b, control(core.mxcsr));
    if core.mxcsr & MASKS == MASKS {
        (result, flags)
    } else {
        (result, refine::<O>(a, b, result, flags, core.mxcsr))
    }
}

/// [`evaluate`] in each lane of the form. An exception that one lane finds before it computes hides
/// what others would report.
#[inline(always)]
pub(super) fn evaluate_lanes<F: Form, O: Float>(
    core: &mut Core,
    a: Lanes,
    b: Lanes,
) -> Exec<Lanes> {
    if !F::WIDE {
        return Ok([evaluate::<O>(core, a[0], b[0])?, 0]);
    }
    let (low, flags) = attempt::<O>(core, a[0], b[0]);
    let (high, more) = attempt::<O>(core, a[1], b[1]);
    report(core, flags | more)?;
    Ok([low, high])
}

/// The result of a conversion to a general register, as [`evaluate`].
pub(super) fn evaluate_to_integer<F: ToInteger>(core: &mut Core, b: u128) -> Exec<u64> {
    let (result, flags) = F::run(b, control(core.mxcsr));
    report(core, flags)?;
    Ok(result)
}

/// The result of a conversion from a general register, as [`evaluate`].
pub(super) fn evaluate_from_integer<F: FromInteger>(
    core: &mut Core,
    a: u128,
    b: u64,
) -> Exec<u128> {
    let (result, flags) = F::run(a, b, control(core.mxcsr));
    report(core, flags)?;
    Ok(result)
}

/// ZF, PF and CF of a comparison, as [`evaluate`].
pub(super) fn evaluate_comparison<F: Comparison>(
    core: &mut Core,
    a: u128,
    b: u128,
) -> Exec<[bool; 3]> {
    let (result, flags) = F::run(a, b, control(core.mxcsr));
    report(core, flags)?;
    Ok(result)
}

/// Sets flags in MXCSR and raises the exception if one of them is unmasked.
#[inline(always)]
pub(super) fn report(core: &mut Core, flags: u32) -> Exec<()> {
    let unmasked = !(core.mxcsr >> 7) & FLAGS;
    if flags & unmasked == 0 {
        core.mxcsr |= flags;
        return Ok(());
    }
    raise(core, flags, unmasked)
}

#[cold]
fn raise(core: &mut Core, flags: u32, unmasked: u32) -> Exec<()> {
    core.mxcsr |= if flags & unmasked & BEFORE != 0 {
        flags & BEFORE
    } else {
        flags
    };
    if core.cr4 & cr4::OSXMMEXCPT != 0 {
        core.raise(Fault::SIMD)
    } else {
        core.raise(Fault::UNDEFINED)
    }
}

/// The flags that the guest sees, from those of a run with everything masked.
#[cold]
fn refine<F: Float>(a: u128, b: u128, result: u128, flags: u32, mxcsr: u32) -> u32 {
    let unmasked = !(mxcsr >> 7) & FLAGS;
    if F::KIND == Kind::Other || flags & unmasked & BEFORE != 0 {
        return flags;
    }
    let range = unmasked & (OVERFLOW | UNDERFLOW);
    if range == 0 {
        return flags;
    }
    let lane_bits = match F::ELEMENTS {
        Elements::Single | Elements::Double => {
            return lane::<F>(a, b, result, flags, range);
        }
        Elements::Singles => 32,
        Elements::Doubles => 64,
    };
    let mut all = 0;
    for n in 0..128 / lane_bits {
        // The lane everywhere: the flags are its own, and its result is in lane 0.
        let (x, y) = (spread(a, lane_bits, n), spread(b, lane_bits, n));
        let (result, flags) = F::run(x, y, control(mxcsr));
        all |= lane::<F>(x, y, result, flags, range);
    }
    all
}

/// Lane `n` of `value` in every lane.
fn spread(value: u128, lane_bits: u32, n: u32) -> u128 {
    let lane = value >> (lane_bits * n);
    if lane_bits == 64 {
        u128::from(lane as u64) * ((1 << 64) | 1)
    } else {
        u128::from(lane as u32) * ((1 << 96) | (1 << 64) | (1 << 32) | 1)
    }
}

/// The flags of the low lane; `range` says which of overflow and underflow are unmasked.
fn lane<F: Float>(a: u128, b: u128, result: u128, flags: u32, range: u32) -> u32 {
    let from_doubles = matches!(F::ELEMENTS, Elements::Double | Elements::Doubles);
    let mut flags = flags;
    let double = from_doubles && F::KIND != Kind::Narrow;
    if range & UNDERFLOW != 0 && is_denormal(result, double) {
        flags |= UNDERFLOW;
    }
    if flags & range == 0 {
        return flags;
    }
    let exact = if from_doubles {
        is_exact(
            F::KIND,
            Unpacked::double(a as u64),
            Unpacked::double(b as u64),
        )
    } else {
        is_exact(
            F::KIND,
            Unpacked::single(a as u32),
            Unpacked::single(b as u32),
        )
    };
    if exact {
        flags & !INEXACT
    } else {
        flags | INEXACT
    }
}

/// True for a denormal in the low lane, zero excluded.
fn is_denormal(result: u128, double: bool) -> bool {
    let (magnitude, normal) = if double {
        (result as u64 & 0x7fff_ffff_ffff_ffff, 1 << 52)
    } else {
        (u64::from(result as u32 & 0x7fff_ffff), 1 << 23)
    };
    magnitude != 0 && magnitude < normal
}

/// A finite number: mantissa × 2^exponent.
struct Unpacked {
    negative: bool,
    exponent: i32,
    mantissa: u64,
    /// Bits of the format's mantissa.
    precision: u32,
}

impl Unpacked {
    fn single(bits: u32) -> Unpacked {
        Self::new(
            bits >> 31 != 0,
            bits >> 23 & 0xff,
            u64::from(bits & 0x7f_ffff),
            24,
        )
    }

    fn double(bits: u64) -> Unpacked {
        let exponent = (bits >> 52) as u32 & 0x7ff;
        Self::new(bits >> 63 != 0, exponent, bits & 0xf_ffff_ffff_ffff, 53)
    }

    fn new(negative: bool, field: u32, fraction: u64, precision: u32) -> Unpacked {
        let implied = if field == 0 { 0 } else { 1 << (precision - 1) };
        let exponent = field.max(1) as i32;
        Unpacked {
            negative,
            exponent,
            mantissa: fraction | implied,
            precision,
        }
    }
}

/// True if the result needs no rounding when its exponent has no bounds.
fn is_exact(kind: Kind, a: Unpacked, b: Unpacked) -> bool {
    match kind {
        Kind::Add => is_exact_sum(&a, &b, a.negative == b.negative),
        Kind::Sub => is_exact_sum(&a, &b, a.negative != b.negative),
        Kind::Mul => fits(u128::from(a.mantissa) * u128::from(b.mantissa), a.precision),
        Kind::Div => {
            let divisor = b.mantissa >> b.mantissa.trailing_zeros().min(63);
            divisor != 0 && a.mantissa.is_multiple_of(divisor)
        }
        Kind::Narrow => fits(u128::from(b.mantissa), 24),
        Kind::Other => true,
    }
}

fn is_exact_sum(a: &Unpacked, b: &Unpacked, same_sign: bool) -> bool {
    let (large, small) = if a.exponent >= b.exponent {
        (a, b)
    } else {
        (b, a)
    };
    let distance = (large.exponent - small.exponent) as u32;
    if large.mantissa == 0 || small.mantissa == 0 {
        return true;
    }
    if distance > 64 {
        return false;
    }
    let (large, small) = (
        u128::from(large.mantissa) << distance,
        u128::from(small.mantissa),
    );
    let sum = if same_sign {
        large + small
    } else {
        large.abs_diff(small)
    };
    fits(sum, a.precision)
}

/// True if `value` has at most `precision` significant bits.
fn fits(value: u128, precision: u32) -> bool {
    value == 0 || 128 - value.leading_zeros() - value.trailing_zeros() <= precision
}
