//! Rounding to integers in a floating-point format: ROUNDPS, ROUNDPD, ROUNDSS, ROUNDSD.

use iced_x86::{Instruction, Mnemonic as M};

use super::float::report;
use super::ieee::{DOUBLE, SINGLE, flag, round_to_integer};
use super::lanes::{dwords, from_dwords, from_qwords, qwords};
use super::operands::{
    DAZ, Form, Mem32, Mem64, Memory, ROUNDING, Register, Source, after, by_form, by_narrow_form,
    by_source, first, ready, set,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

/// Immediate: round as MXCSR says.
const BY_MXCSR: u32 = 1 << 2;
/// Immediate: inexact results are not reported.
const QUIETLY: u32 = 1 << 3;

/// Which elements are rounded.
trait Elements: 'static {
    /// The result for first source `a` and second source `b`, and the flags.
    fn round(a: u128, b: u128, rounding: u32, daz: bool) -> (u128, u32);
}

/// ROUNDPS.
struct Singles;
/// ROUNDPD.
struct Doubles;
/// ROUNDSS.
struct Single;
/// ROUNDSD.
struct Double;

impl Elements for Singles {
    fn round(_: u128, b: u128, rounding: u32, daz: bool) -> (u128, u32) {
        let mut all = 0;
        let result = dwords(b).map(|element| {
            let (result, flags) = round_to_integer(SINGLE, element.into(), rounding, daz);
            all |= flags;
            result as u32
        });
        (from_dwords(result), all)
    }
}

impl Elements for Doubles {
    fn round(_: u128, b: u128, rounding: u32, daz: bool) -> (u128, u32) {
        let mut all = 0;
        let result = qwords(b).map(|element| {
            let (result, flags) = round_to_integer(DOUBLE, element, rounding, daz);
            all |= flags;
            result
        });
        (from_qwords(result), all)
    }
}

impl Elements for Single {
    fn round(a: u128, b: u128, rounding: u32, daz: bool) -> (u128, u32) {
        let (result, flags) = round_to_integer(SINGLE, u64::from(b as u32), rounding, daz);
        (a >> 32 << 32 | u128::from(result), flags)
    }
}

impl Elements for Double {
    fn round(a: u128, b: u128, rounding: u32, daz: bool) -> (u128, u32) {
        let (result, flags) = round_to_integer(DOUBLE, b as u64, rounding, daz);
        (a >> 64 << 64 | u128::from(result), flags)
    }
}

fn round<F: Form, E: Elements, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let b = S::load::<F>(core, env, op)?;
    let a = first::<F>(core, op);
    let control = op.imm as u32;
    let rounding = if control & BY_MXCSR != 0 {
        (core.mxcsr & ROUNDING) >> 13
    } else {
        control & 3
    };
    let daz = core.mxcsr & DAZ != 0;
    let (low, flags) = E::round(a[0], b[0], rounding, daz);
    let (high, more) = if F::WIDE {
        E::round(a[1], b[1], rounding, daz)
    } else {
        (0, 0)
    };
    let hidden = if control & QUIETLY != 0 {
        flag::INEXACT
    } else {
        0
    };
    report(core, (flags | more) & !hidden)?;
    set::<F>(core, op.dst, [low, high]);
    after::<S>(core, env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Roundps | M::Vroundps => by_source(
            insn,
            by_form!(insn, round, Singles, Register),
            by_form!(insn, round, Singles, Memory),
        ),
        M::Roundpd | M::Vroundpd => by_source(
            insn,
            by_form!(insn, round, Doubles, Register),
            by_form!(insn, round, Doubles, Memory),
        ),
        M::Roundss | M::Vroundss => by_source(
            insn,
            by_narrow_form!(insn, round, Single, Register),
            by_narrow_form!(insn, round, Single, Mem32),
        ),
        M::Roundsd | M::Vroundsd => by_source(
            insn,
            by_narrow_form!(insn, round, Double, Register),
            by_narrow_form!(insn, round, Double, Mem64),
        ),
        _ => None,
    }
}
