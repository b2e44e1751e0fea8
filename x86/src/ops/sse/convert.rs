//! Conversions: CVT* between singles, doubles and integers, in XMM, MMX and general registers.
//!
//! Does: load operands and write results, build the MMX forms from those of XMM registers.
//! Does not: convert (`native`), or decide about exceptions (`float`).

use iced_x86::{Code, Instruction};

use super::arithmetic::{select_float, xmm_float};
use super::float::{evaluate, evaluate_from_integer, evaluate_to_integer};
use super::native::{
    DToDouble, DToSingle, DoubleToD, DoubleToQ, DoubleToSingle, DoublesToIntegers,
    DoublesToSingles, Float, FromInteger, IntegersToDoubles, IntegersToSingles, QToDouble,
    QToSingle, SingleToD, SingleToDouble, SingleToQ, SinglesToDoubles, SinglesToIntegers,
    ToInteger, TruncateDoubleToD, TruncateDoubleToQ, TruncateDoubles, TruncateSingleToD,
    TruncateSingleToQ, TruncateSingles,
};
use super::operands::{
    Gpr32, Gpr64, Mem32, Mem64, Mem128, Mmx, Source, Xmm, by_source, enter_mmx, from_memory,
    mixed_ready, set_mmx, set_xmm, sse_ready, xmm,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

/// To a general register: 32-bit results come zero-extended.
fn to_general<F: ToInteger, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let b = S::load(core, env, op)?;
    let result = evaluate_to_integer::<F>(core, b)?;
    core.set_reg(op.dst, result);
    Ok(Flow::Next)
}

/// From a general register or memory.
fn from_general<F: FromInteger, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    sse_ready(core)?;
    let b = S::load(core, env, op)? as u64;
    let a = xmm(core, op.dst);
    let result = evaluate_from_integer::<F>(core, a, b)?;
    set_xmm(core, op.dst, result);
    Ok(Flow::Next)
}

/// CVTPI2PS: two integers to the low two singles.
fn mmx_to_singles<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mixed_ready(core)?;
    let b = S::load(core, env, op)?;
    let low = evaluate::<IntegersToSingles>(core, 0, b)?;
    enter_mmx(core);
    let a = xmm(core, op.dst);
    set_xmm(core, op.dst, a >> 64 << 64 | u128::from(low as u64));
    Ok(Flow::Next)
}

/// CVTPI2PD from an MMX register.
fn mmx_to_doubles(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mixed_ready(core)?;
    let b = Mmx::load(core, env, op)?;
    let result = evaluate::<IntegersToDoubles>(core, 0, b)?;
    enter_mmx(core);
    set_xmm(core, op.dst, result);
    Ok(Flow::Next)
}

/// CVTPS2PI, CVTTPS2PI, CVTPD2PI, CVTTPD2PI: the low half of `F`.
fn to_mmx<F: Float, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mixed_ready(core)?;
    let b = S::load(core, env, op)?;
    let result = evaluate::<F>(core, 0, b)?;
    set_mmx(core, op.dst, result as u64);
    Ok(Flow::Next)
}

/// The low half of the source alone: what lies above must raise nothing.
struct LowHalf;

impl Source for LowHalf {
    #[inline(always)]
    fn load(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<u128> {
        Ok(u128::from(xmm(core, op.src) as u64))
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.code() {
        Code::Cvtss2sd_xmm_xmmm32 => select_float::<SingleToDouble>(insn),
        Code::Cvtsd2ss_xmm_xmmm64 => select_float::<DoubleToSingle>(insn),
        Code::Cvtpd2ps_xmm_xmmm128 => select_float::<DoublesToSingles>(insn),
        Code::Cvtps2dq_xmm_xmmm128 => select_float::<SinglesToIntegers>(insn),
        Code::Cvttps2dq_xmm_xmmm128 => select_float::<TruncateSingles>(insn),
        Code::Cvtpd2dq_xmm_xmmm128 => select_float::<DoublesToIntegers>(insn),
        Code::Cvttpd2dq_xmm_xmmm128 => select_float::<TruncateDoubles>(insn),
        Code::Cvtdq2ps_xmm_xmmm128 => select_float::<IntegersToSingles>(insn),
        Code::Cvtps2pd_xmm_xmmm64 => widen::<SinglesToDoubles>(insn),
        Code::Cvtdq2pd_xmm_xmmm64 => widen::<IntegersToDoubles>(insn),
        Code::Cvtss2si_r32_xmmm32 => single_to::<SingleToD>(insn),
        Code::Cvtss2si_r64_xmmm32 => single_to::<SingleToQ>(insn),
        Code::Cvttss2si_r32_xmmm32 => single_to::<TruncateSingleToD>(insn),
        Code::Cvttss2si_r64_xmmm32 => single_to::<TruncateSingleToQ>(insn),
        Code::Cvtsd2si_r32_xmmm64 => double_to::<DoubleToD>(insn),
        Code::Cvtsd2si_r64_xmmm64 => double_to::<DoubleToQ>(insn),
        Code::Cvttsd2si_r32_xmmm64 => double_to::<TruncateDoubleToD>(insn),
        Code::Cvttsd2si_r64_xmmm64 => double_to::<TruncateDoubleToQ>(insn),
        Code::Cvtsi2ss_xmm_rm32 => from_dword::<DToSingle>(insn),
        Code::Cvtsi2sd_xmm_rm32 => from_dword::<DToDouble>(insn),
        Code::Cvtsi2ss_xmm_rm64 => from_qword::<QToSingle>(insn),
        Code::Cvtsi2sd_xmm_rm64 => from_qword::<QToDouble>(insn),
        _ => select_mmx(insn),
    }
}

fn select_mmx(insn: &Instruction) -> Option<Selected> {
    match insn.code() {
        Code::Cvtpi2ps_xmm_mmm64 => by_source(insn, mmx_to_singles::<Mmx>, mmx_to_singles::<Mem64>),
        // From memory this one has nothing to do with MMX.
        Code::Cvtpi2pd_xmm_mmm64 if from_memory(insn) => widen::<IntegersToDoubles>(insn),
        Code::Cvtpi2pd_xmm_mmm64 => Selected::inline(mmx_to_doubles),
        Code::Cvtps2pi_mm_xmmm64 => by_source(
            insn,
            to_mmx::<SinglesToIntegers, LowHalf>,
            to_mmx::<SinglesToIntegers, Mem64>,
        ),
        Code::Cvttps2pi_mm_xmmm64 => by_source(
            insn,
            to_mmx::<TruncateSingles, LowHalf>,
            to_mmx::<TruncateSingles, Mem64>,
        ),
        Code::Cvtpd2pi_mm_xmmm128 => by_source(
            insn,
            to_mmx::<DoublesToIntegers, Xmm>,
            to_mmx::<DoublesToIntegers, Mem128>,
        ),
        Code::Cvttpd2pi_mm_xmmm128 => by_source(
            insn,
            to_mmx::<TruncateDoubles, Xmm>,
            to_mmx::<TruncateDoubles, Mem128>,
        ),
        _ => None,
    }
}

fn widen<F: Float>(insn: &Instruction) -> Option<Selected> {
    by_source(insn, xmm_float::<F, Xmm>, xmm_float::<F, Mem64>)
}

fn single_to<F: ToInteger>(insn: &Instruction) -> Option<Selected> {
    by_source(insn, to_general::<F, Xmm>, to_general::<F, Mem32>)
}

fn double_to<F: ToInteger>(insn: &Instruction) -> Option<Selected> {
    by_source(insn, to_general::<F, Xmm>, to_general::<F, Mem64>)
}

fn from_dword<F: FromInteger>(insn: &Instruction) -> Option<Selected> {
    by_source(insn, from_general::<F, Gpr32>, from_general::<F, Mem32>)
}

fn from_qword<F: FromInteger>(insn: &Instruction) -> Option<Selected> {
    by_source(insn, from_general::<F, Gpr64>, from_general::<F, Mem64>)
}
