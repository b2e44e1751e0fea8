//! Floating-point arithmetic: ADD*, SUB*, MUL*, DIV*, SQRT*, MIN*, MAX*.
//!
//! Does: load operands and write results. Does not: compute (`native`), or decide about exceptions
//! (`float`).

use iced_x86::{Instruction, Mnemonic as M};

use super::float::{Elements, evaluate_lanes};
use super::native::{
    AddPd, AddPs, AddSd, AddSs, DivPd, DivPs, DivSd, DivSs, Float, MaxPd, MaxPs, MaxSd, MaxSs,
    MinPd, MinPs, MinSd, MinSs, MulPd, MulPs, MulSd, MulSs, SqrtPd, SqrtPs, SqrtSd, SqrtSs, SubPd,
    SubPs, SubSd, SubSs,
};
use super::operands::{
    Form, Mem32, Mem64, Memory, Register, Source, after, by_form, by_narrow_form, by_source, first,
    ready, set,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

/// `dst = O(first, S)` with exceptions.
pub(super) fn float<F: Form, O: Float, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let b = S::load::<F>(core, env, op)?;
    let a = first::<F>(core, op);
    let result = evaluate_lanes::<F, O>(core, a, b)?;
    set::<F>(core, op.dst, result);
    after::<S>(core, env, op)
}

/// `O` with a source as wide as its elements.
pub(super) fn select_float<O: Float>(insn: &Instruction) -> Option<Selected> {
    match O::ELEMENTS {
        Elements::Single => by_source(
            insn,
            by_narrow_form!(insn, float, O, Register),
            by_narrow_form!(insn, float, O, Mem32),
        ),
        Elements::Double => by_source(
            insn,
            by_narrow_form!(insn, float, O, Register),
            by_narrow_form!(insn, float, O, Mem64),
        ),
        Elements::Singles | Elements::Doubles => by_source(
            insn,
            by_form!(insn, float, O, Register),
            by_form!(insn, float, O, Memory),
        ),
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Addps | M::Vaddps => select_float::<AddPs>(insn),
        M::Addpd | M::Vaddpd => select_float::<AddPd>(insn),
        M::Addss | M::Vaddss => select_float::<AddSs>(insn),
        M::Addsd | M::Vaddsd => select_float::<AddSd>(insn),
        M::Subps | M::Vsubps => select_float::<SubPs>(insn),
        M::Subpd | M::Vsubpd => select_float::<SubPd>(insn),
        M::Subss | M::Vsubss => select_float::<SubSs>(insn),
        M::Subsd | M::Vsubsd => select_float::<SubSd>(insn),
        M::Mulps | M::Vmulps => select_float::<MulPs>(insn),
        M::Mulpd | M::Vmulpd => select_float::<MulPd>(insn),
        M::Mulss | M::Vmulss => select_float::<MulSs>(insn),
        M::Mulsd | M::Vmulsd => select_float::<MulSd>(insn),
        M::Divps | M::Vdivps => select_float::<DivPs>(insn),
        M::Divpd | M::Vdivpd => select_float::<DivPd>(insn),
        M::Divss | M::Vdivss => select_float::<DivSs>(insn),
        M::Divsd | M::Vdivsd => select_float::<DivSd>(insn),
        M::Sqrtps | M::Vsqrtps => select_float::<SqrtPs>(insn),
        M::Sqrtpd | M::Vsqrtpd => select_float::<SqrtPd>(insn),
        M::Sqrtss | M::Vsqrtss => select_float::<SqrtSs>(insn),
        M::Sqrtsd | M::Vsqrtsd => select_float::<SqrtSd>(insn),
        M::Minps | M::Vminps => select_float::<MinPs>(insn),
        M::Minpd | M::Vminpd => select_float::<MinPd>(insn),
        M::Minss | M::Vminss => select_float::<MinSs>(insn),
        M::Minsd | M::Vminsd => select_float::<MinSd>(insn),
        M::Maxps | M::Vmaxps => select_float::<MaxPs>(insn),
        M::Maxpd | M::Vmaxpd => select_float::<MaxPd>(insn),
        M::Maxss | M::Vmaxss => select_float::<MaxSs>(insn),
        M::Maxsd | M::Vmaxsd => select_float::<MaxSd>(insn),
        _ => None,
    }
}
