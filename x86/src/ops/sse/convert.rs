//! Conversions: CVT* between singles, doubles and integers, in vector, MMX and general registers.
//!
//! Does: load operands and write results, build the MMX forms from those of XMM registers.
//! Does not: convert (`native`), or decide about exceptions (`float`).

use iced_x86::{Code, Instruction, Mnemonic as M};

use super::arithmetic::{float, select_float};
use super::float::{evaluate, evaluate_from_integer, evaluate_lanes, evaluate_to_integer};
use super::native::{
    DToDouble, DToSingle, DoubleToD, DoubleToQ, DoubleToSingle, DoublesToIntegers,
    DoublesToSingles, Float, FromInteger, IntegersToDoubles, IntegersToSingles, QToDouble,
    QToSingle, SingleToD, SingleToDouble, SingleToQ, SinglesToDoubles, SinglesToIntegers,
    ToInteger, TruncateDoubleToD, TruncateDoubleToQ, TruncateDoubles, TruncateSingleToD,
    TruncateSingleToQ, TruncateSingles,
};
use super::operands::{
    Form, Gpr32, Gpr64, Legacy, Mem32, Mem64, Mem128, Memory, Mmx, PartOfMemory, PartOfRegister,
    Register, Source, after, by_form, by_narrow_form, by_source, enter_mmx, first, from_memory,
    mixed_ready, ready, set, set_mmx, set_narrow, xmm,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

/// To a general register: 32-bit results come zero-extended.
fn to_general<F: Form, I: ToInteger, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let [b, _] = S::load::<F>(core, env, op)?;
    let result = evaluate_to_integer::<I>(core, b)?;
    core.set_reg(op.dst, result);
    after::<S>(core, env, op)
}

/// From a general register or memory.
fn from_general<F: Form, I: FromInteger, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let [b, _] = S::load::<F>(core, env, op)?;
    let [a, _] = first::<F>(core, op);
    let result = evaluate_from_integer::<I>(core, a, b as u64)?;
    set::<F>(core, op.dst, [result, 0]);
    after::<S>(core, env, op)
}

/// Elements of 64 bits to 32 bits: those of all lanes come side by side.
fn narrow<F: Form, O: Float, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let b = S::load::<F>(core, env, op)?;
    let [low, high] = evaluate_lanes::<F, O>(core, [0; 2], b)?;
    set_narrow::<F>(core, op.dst, low | high << 64);
    after::<S>(core, env, op)
}

/// CVTPI2PS: two integers to the low two singles.
fn mmx_to_singles<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mixed_ready(core)?;
    let [b, _] = S::load::<Legacy>(core, env, op)?;
    let low = evaluate::<IntegersToSingles>(core, 0, b)?;
    enter_mmx(core);
    let a = xmm(core, op.dst);
    set::<Legacy>(core, op.dst, [a >> 64 << 64 | u128::from(low as u64), 0]);
    after::<S>(core, env, op)
}

/// CVTPI2PD from an MMX register.
fn mmx_to_doubles(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mixed_ready(core)?;
    let [b, _] = Mmx::load::<Legacy>(core, env, op)?;
    let result = evaluate::<IntegersToDoubles>(core, 0, b)?;
    enter_mmx(core);
    set::<Legacy>(core, op.dst, [result, 0]);
    core.next(env, op)
}

/// CVTPS2PI, CVTTPS2PI, CVTPD2PI, CVTTPD2PI: the low half of `O`.
fn to_mmx<O: Float, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mixed_ready(core)?;
    let [b, _] = S::load::<Legacy>(core, env, op)?;
    let result = evaluate::<O>(core, 0, b)?;
    set_mmx(core, op.dst, result as u64);
    after::<S>(core, env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Cvtss2sd | M::Vcvtss2sd => select_float::<SingleToDouble>(insn),
        M::Cvtsd2ss | M::Vcvtsd2ss => select_float::<DoubleToSingle>(insn),
        M::Cvtpd2ps | M::Vcvtpd2ps => select_narrow::<DoublesToSingles>(insn),
        M::Cvtpd2dq | M::Vcvtpd2dq => select_narrow::<DoublesToIntegers>(insn),
        M::Cvttpd2dq | M::Vcvttpd2dq => select_narrow::<TruncateDoubles>(insn),
        M::Cvtps2dq | M::Vcvtps2dq => select_float::<SinglesToIntegers>(insn),
        M::Cvttps2dq | M::Vcvttps2dq => select_float::<TruncateSingles>(insn),
        M::Cvtdq2ps | M::Vcvtdq2ps => select_float::<IntegersToSingles>(insn),
        M::Cvtps2pd | M::Vcvtps2pd => widen::<SinglesToDoubles>(insn),
        M::Cvtdq2pd | M::Vcvtdq2pd => widen::<IntegersToDoubles>(insn),
        M::Cvtss2si | M::Vcvtss2si => to_integer::<SingleToD, SingleToQ, Mem32>(insn),
        M::Cvttss2si | M::Vcvttss2si => {
            to_integer::<TruncateSingleToD, TruncateSingleToQ, Mem32>(insn)
        }
        M::Cvtsd2si | M::Vcvtsd2si => to_integer::<DoubleToD, DoubleToQ, Mem64>(insn),
        M::Cvttsd2si | M::Vcvttsd2si => {
            to_integer::<TruncateDoubleToD, TruncateDoubleToQ, Mem64>(insn)
        }
        M::Cvtsi2ss | M::Vcvtsi2ss => from_integer::<DToSingle, QToSingle>(insn),
        M::Cvtsi2sd | M::Vcvtsi2sd => from_integer::<DToDouble, QToDouble>(insn),
        _ => select_mmx(insn),
    }
}

fn select_mmx(insn: &Instruction) -> Option<Selected> {
    match insn.code() {
        Code::Cvtpi2ps_xmm_mmm64 => by_source(insn, mmx_to_singles::<Mmx>, mmx_to_singles::<Mem64>),
        // From memory this one has nothing to do with MMX.
        Code::Cvtpi2pd_xmm_mmm64 if from_memory(insn) => widen::<IntegersToDoubles>(insn),
        Code::Cvtpi2pd_xmm_mmm64 => Selected::inline(mmx_to_doubles),
        // What lies above the two singles must raise nothing.
        Code::Cvtps2pi_mm_xmmm64 => by_source(
            insn,
            to_mmx::<SinglesToIntegers, PartOfRegister<8>>,
            to_mmx::<SinglesToIntegers, Mem64>,
        ),
        Code::Cvttps2pi_mm_xmmm64 => by_source(
            insn,
            to_mmx::<TruncateSingles, PartOfRegister<8>>,
            to_mmx::<TruncateSingles, Mem64>,
        ),
        Code::Cvtpd2pi_mm_xmmm128 => by_source(
            insn,
            to_mmx::<DoublesToIntegers, Register>,
            to_mmx::<DoublesToIntegers, Mem128>,
        ),
        Code::Cvttpd2pi_mm_xmmm128 => by_source(
            insn,
            to_mmx::<TruncateDoubles, Register>,
            to_mmx::<TruncateDoubles, Mem128>,
        ),
        _ => None,
    }
}

fn widen<O: Float>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_form!(insn, float, O, PartOfRegister<8>),
        by_form!(insn, float, O, PartOfMemory<8>),
    )
}

fn select_narrow<O: Float>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_form!(insn, narrow, O, Register),
        by_form!(insn, narrow, O, Memory),
    )
}

/// `D` to a general register of 32 bits, `Q` to one of 64; `S` is the source in memory.
fn to_integer<D: ToInteger, Q: ToInteger, S: Source>(insn: &Instruction) -> Option<Selected> {
    if insn.op0_register().is_gpr64() {
        by_source(
            insn,
            by_narrow_form!(insn, to_general, Q, Register),
            by_narrow_form!(insn, to_general, Q, S),
        )
    } else {
        by_source(
            insn,
            by_narrow_form!(insn, to_general, D, Register),
            by_narrow_form!(insn, to_general, D, S),
        )
    }
}

/// `D` from 32 bits, `Q` from 64.
fn from_integer<D: FromInteger, Q: FromInteger>(insn: &Instruction) -> Option<Selected> {
    let last = insn.op_count() - 1;
    let wide = if from_memory(insn) {
        insn.memory_size().size() == 8
    } else {
        insn.op_register(last).is_gpr64()
    };
    if wide {
        by_source(
            insn,
            by_narrow_form!(insn, from_general, Q, Gpr64),
            by_narrow_form!(insn, from_general, Q, Mem64),
        )
    } else {
        by_source(
            insn,
            by_narrow_form!(insn, from_general, D, Gpr32),
            by_narrow_form!(insn, from_general, D, Mem32),
        )
    }
}
