//! Floating-point arithmetic: ADD*, SUB*, MUL*, DIV*, SQRT*, MIN*, MAX*.
//!
//! Does: load operands and write results. Does not: compute (`native`), or decide about exceptions
//! (`float`).

use iced_x86::{Instruction, Mnemonic};

use super::float::{Elements, evaluate};
use super::native::{
    AddPd, AddPs, AddSd, AddSs, DivPd, DivPs, DivSd, DivSs, Float, MaxPd, MaxPs, MaxSd, MaxSs,
    MinPd, MinPs, MinSd, MinSs, MulPd, MulPs, MulSd, MulSs, SqrtPd, SqrtPs, SqrtSd, SqrtSs, SubPd,
    SubPs, SubSd, SubSs,
};
use super::operands::{Mem32, Mem64, Mem128, Source, Xmm, by_source, set_xmm, sse_ready, xmm};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

/// `xmm = F(xmm, S)` with exceptions.
pub(super) fn xmm_float<F: Float, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    sse_ready(core)?;
    let b = S::load(core, env, op)?;
    let a = xmm(core, op.dst);
    let result = evaluate::<F>(core, a, b)?;
    set_xmm(core, op.dst, result);
    Ok(Flow::Next)
}

/// `F` with a source as wide as its elements; vectors in memory are aligned.
pub(super) fn select_float<F: Float>(insn: &Instruction) -> Option<Selected> {
    let memory = match F::ELEMENTS {
        Elements::Single => xmm_float::<F, Mem32>,
        Elements::Double => xmm_float::<F, Mem64>,
        Elements::Singles | Elements::Doubles => xmm_float::<F, Mem128>,
    };
    by_source(insn, xmm_float::<F, Xmm>, memory)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        Mnemonic::Addps => select_float::<AddPs>(insn),
        Mnemonic::Addpd => select_float::<AddPd>(insn),
        Mnemonic::Addss => select_float::<AddSs>(insn),
        Mnemonic::Addsd => select_float::<AddSd>(insn),
        Mnemonic::Subps => select_float::<SubPs>(insn),
        Mnemonic::Subpd => select_float::<SubPd>(insn),
        Mnemonic::Subss => select_float::<SubSs>(insn),
        Mnemonic::Subsd => select_float::<SubSd>(insn),
        Mnemonic::Mulps => select_float::<MulPs>(insn),
        Mnemonic::Mulpd => select_float::<MulPd>(insn),
        Mnemonic::Mulss => select_float::<MulSs>(insn),
        Mnemonic::Mulsd => select_float::<MulSd>(insn),
        Mnemonic::Divps => select_float::<DivPs>(insn),
        Mnemonic::Divpd => select_float::<DivPd>(insn),
        Mnemonic::Divss => select_float::<DivSs>(insn),
        Mnemonic::Divsd => select_float::<DivSd>(insn),
        Mnemonic::Sqrtps => select_float::<SqrtPs>(insn),
        Mnemonic::Sqrtpd => select_float::<SqrtPd>(insn),
        Mnemonic::Sqrtss => select_float::<SqrtSs>(insn),
        Mnemonic::Sqrtsd => select_float::<SqrtSd>(insn),
        Mnemonic::Minps => select_float::<MinPs>(insn),
        Mnemonic::Minpd => select_float::<MinPd>(insn),
        Mnemonic::Minss => select_float::<MinSs>(insn),
        Mnemonic::Minsd => select_float::<MinSd>(insn),
        Mnemonic::Maxps => select_float::<MaxPs>(insn),
        Mnemonic::Maxpd => select_float::<MaxPd>(insn),
        Mnemonic::Maxss => select_float::<MaxSs>(insn),
        Mnemonic::Maxsd => select_float::<MaxSd>(insn),
        _ => None,
    }
}
