//! Half precision: VCVTPH2PS, VCVTPS2PH.
//!
//! Does: convert in integers. Denormal halves are ordinary numbers here: neither DAZ nor FTZ
//! concerns them.

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use super::float::report;
use super::ieee::{Class, Environment, Format, HALF, SINGLE, flag, round};
use super::lanes::{dwords, from_dwords, words};
use super::operands::{
    Form, PartOfMemory, PartOfRegister, ROUNDING, Source, Vex128, after, by_source, by_vex_form,
    get, ready, set, store,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

/// Immediate: round as MXCSR says.
const BY_MXCSR: u32 = 1 << 2;

/// A number in another format.
fn convert(bits: u64, from: Format, to: Format, environment: Environment) -> (u64, u32) {
    let negative = bits & from.sign() != 0;
    let sign = if negative { to.sign() } else { 0 };
    match from.class(bits) {
        Class::Zero => (sign, 0),
        Class::Infinity => (sign | to.infinity(), 0),
        Class::Nan => {
            let flags = if from.is_signalling(bits) {
                flag::INVALID
            } else {
                0
            };
            let fraction = from.fraction_of(bits);
            let payload = if to.fraction > from.fraction {
                fraction << (to.fraction - from.fraction)
            } else {
                fraction >> (from.fraction - to.fraction)
            };
            (sign | to.infinity() | to.quiet() | payload, flags)
        }
        Class::Denormal | Class::Normal => round(to, from.unpack(bits), environment),
    }
}

/// VCVTPH2PS.
fn to_singles<F: Form, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let source = S::load::<F>(core, env, op)?;
    let mut all = 0;
    let mut lane = |value: u128| {
        let halves = words(value);
        from_dwords(std::array::from_fn(|n| {
            let environment = Environment::of(core.mxcsr);
            let (single, flags) = convert(halves[n].into(), HALF, SINGLE, environment);
            all |= flags;
            single as u32
        }))
    };
    let low = lane(source[0]);
    let high = if F::WIDE { lane(source[1]) } else { 0 };
    report(core, all)?;
    set::<F>(core, op.dst, [low, high]);
    after::<S>(core, env, op)
}

/// The halves of a register's singles, and their flags.
fn halves<F: Form>(core: &Core, op: &Op) -> (u128, u32) {
    let control = op.imm as u32;
    let environment = Environment {
        rounding: if control & BY_MXCSR != 0 {
            (core.mxcsr & ROUNDING) >> 13
        } else {
            control & 3
        },
        flush: false,
        ..Environment::of(core.mxcsr)
    };
    let mut all = 0;
    let mut lane = |value: u128| {
        dwords(value).into_iter().rev().fold(0, |halves, single| {
            let single = u64::from(single);
            let denormal = SINGLE.class(single) == Class::Denormal;
            let operand = SINGLE.flushed(single, core.mxcsr);
            let (half, flags) = convert(operand, SINGLE, HALF, environment);
            all |= flags;
            if denormal && operand == single {
                all |= flag::DENORMAL;
            }
            halves << 16 | u128::from(half)
        })
    };
    let [low, high] = get::<F>(core, op.src);
    let result = lane(low) | if F::WIDE { lane(high) << 64 } else { 0 };
    (result, all)
}

/// VCVTPS2PH to a register.
fn to_halves<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let (result, flags) = halves::<F>(core, op);
    report(core, flags)?;
    set::<Vex128>(core, op.dst, [result, 0]);
    core.next(env, op)
}

/// VCVTPS2PH to memory, whose faults come before exceptions of the conversion.
fn store_halves<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let size = if F::WIDE { 16 } else { 8 };
    let linear = core.linear(op, size, true)?;
    core.check_write(env, linear, size as usize, op.seg)?;
    let (result, flags) = halves::<F>(core, op);
    report(core, flags)?;
    if F::WIDE {
        store::<Vex128>(core, env, op, [result, 0], false)?;
    } else {
        core.store(env, op, result as u64)?;
    }
    core.next_after_access(env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Vcvtph2ps => by_source(
            insn,
            by_vex_form!(insn, to_singles, PartOfRegister<8>),
            by_vex_form!(insn, to_singles, PartOfMemory<8>),
        ),
        M::Vcvtps2ph if insn.op0_kind() == OpKind::Memory => {
            Selected::inline(by_vex_form!(insn, store_halves))
        }
        M::Vcvtps2ph => Selected::inline(by_vex_form!(insn, to_halves)),
        _ => None,
    }
}
