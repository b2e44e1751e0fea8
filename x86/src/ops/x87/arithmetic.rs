//! Arithmetic between ST0 and another operand, and on ST0 alone.
//!
//! Does: FADD, FSUB, FMUL, FDIV in every form, FSQRT, FCHS, FABS, FRNDINT, FSCALE, FXTRACT, FPREM,
//! FPREM1. Does not: compute; that is `softfloat`.
//!
//! Invariant: an empty operand comes before everything that operands' values can raise.

use iced_x86::{Code, Instruction};

use super::formats::{Double, Int16, Int32, Single, Source};
use super::status::{C0, C1, C2, C3, begin, note_with_operand, ready};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Handler, Op};
use crate::softfloat::{self, Control, F80, Flags, Operand, RemainderKind};

// ---- two operands --------------------------------------------------------------------------

/// An operation on the destination `a` and another operand `b`.
trait Binary: 'static {
    fn apply(a: Operand, b: Operand, control: &Control, flags: &mut Flags) -> F80;
}

macro_rules! binaries {
    ($($name:ident: $function:ident($a:ident, $b:ident);)*) => {
        $(
            struct $name;
            impl Binary for $name {
                fn apply(a: Operand, b: Operand, control: &Control, flags: &mut Flags) -> F80 {
                    let operands = Operands { a, b };
                    softfloat::$function(operands.$a, operands.$b, control, flags)
                }
            }
        )*
    };
}

/// What [`binaries`] chooses from.
struct Operands {
    a: Operand,
    b: Operand,
}

binaries! {
    Add: add(a, b);
    Sub: sub(a, b);
    SubReversed: sub(b, a);
    Mul: mul(a, b);
    Div: div(a, b);
    DivReversed: div(b, a);
}

/// `ST0 = B(ST0, memory)`.
fn with_memory<B: Binary, M: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready(core)?;
    let image = M::read(core, env, op)?;
    note_with_operand(core, op);
    let x87 = &mut core.x87;
    let Some(a) = x87.get(0) else {
        x87.underflow(0);
        return core.next_after_access(env, op);
    };
    let (control, mut flags) = (x87.steering(), Flags::default());
    let value = B::apply(a.into(), M::operand(image), &control, &mut flags);
    x87.deliver(0, value, &control, &flags);
    core.next_after_access(env, op)
}

/// `ST0 = B(ST0, ST(i))`.
fn to_top<B: Binary>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    let Some((a, b)) = x87.get_with(op.src) else {
        x87.underflow(0);
        return core.next(env, op);
    };
    let (control, mut flags) = (x87.steering(), Flags::default());
    let value = B::apply(a.into(), b.into(), &control, &mut flags);
    x87.deliver(0, value, &control, &flags);
    core.next(env, op)
}

/// `ST(i) = B(ST(i), ST0)`, then a pop if so told.
fn to_register<B: Binary, const POP: bool>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    let done = match x87.get_with(op.src) {
        None => x87.underflow(op.src),
        Some((b, a)) => {
            let (control, mut flags) = (x87.steering(), Flags::default());
            let value = B::apply(a.into(), b.into(), &control, &mut flags);
            x87.deliver(op.src, value, &control, &flags)
        }
    };
    if POP && done {
        x87.pop();
    }
    core.next(env, op)
}

// ---- ST0 alone -----------------------------------------------------------------------------

/// `ST0 = compute(ST0)`.
pub(super) fn unary(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    compute: impl Fn(F80, &Control, &mut Flags) -> F80,
) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    let Some(a) = x87.get(0) else {
        x87.underflow(0);
        return core.next_after_access(env, op);
    };
    let (control, mut flags) = (x87.steering(), Flags::default());
    let value = compute(a, &control, &mut flags);
    x87.deliver(0, value, &control, &flags);
    core.next_after_access(env, op)
}

/// FSQRT.
fn square_root(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    unary(core, env, op, softfloat::sqrt)
}

/// FRNDINT.
fn round_to_integer(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    unary(core, env, op, softfloat::round_to_integer)
}

/// FCHS.
fn change_sign(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    unary(core, env, op, |a, _, _| a.negate())
}

/// FABS.
fn absolute(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    unary(core, env, op, |a, _, _| a.abs())
}

/// FXTRACT: the exponent replaces ST0, the significand is pushed.
fn extract(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let Some(a) = take_for_two(core) else {
        return core.next(env, op);
    };
    let x87 = &mut core.x87;
    let (control, mut flags) = (x87.steering(), Flags::default());
    let parts = softfloat::extract(a, &control, &mut flags);
    if x87.deliver(0, parts.exponent, &control, &flags) {
        x87.push(parts.significand);
    }
    core.next(env, op)
}

/// ST0 for an instruction that replaces it and pushes another result. None if ST0 is empty or the
/// stack is full, which is dealt with then: both results are indefinites, if that is masked.
pub(super) fn take_for_two(core: &mut Core) -> Option<F80> {
    let x87 = &mut core.x87;
    let source = x87.get(0);
    if source.is_some() && !x87.full() {
        return source;
    }
    if x87.stack_fault(source.is_some()) {
        x87.set(0, F80::INDEFINITE);
        x87.push(F80::INDEFINITE);
    }
    None
}

// ---- ST0 and ST1 ---------------------------------------------------------------------------

/// FSCALE.
fn scale(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    let Some((a, b)) = x87.get_with(1) else {
        x87.underflow(0);
        return core.next(env, op);
    };
    let (control, mut flags) = (x87.steering(), Flags::default());
    let value = softfloat::scale(a, b, &control, &mut flags);
    x87.deliver(0, value, &control, &flags);
    core.next(env, op)
}

/// FPREM, and FPREM1 if `NEAREST`. The quotient's low bits go into C1, C3 and C0; if there is no
/// quotient, C3 and C0 stay.
fn remainder<const NEAREST: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    x87.set_codes(C2, 0);
    let Some((a, b)) = x87.get_with(1) else {
        x87.underflow(0);
        return core.next(env, op);
    };
    let kind = if NEAREST {
        RemainderKind::Nearest
    } else {
        RemainderKind::Truncated
    };
    let (control, mut flags) = (x87.steering(), Flags::default());
    let outcome = softfloat::remainder(a, b, kind, &control, &mut flags);
    if x87.deliver(0, outcome.value, &control, &flags) && !outcome.value.is_nan() {
        let code = |set: bool, code: u16| if set { code } else { 0 };
        let codes = code(outcome.partial, C2)
            | code(outcome.quotient & 1 != 0, C1)
            | code(outcome.quotient & 2 != 0, C3)
            | code(outcome.quotient & 4 != 0, C0);
        x87.set_codes(C0 | C1 | C2 | C3, codes);
    }
    core.next(env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Handler> {
    Some(match insn.code() {
        Code::Fadd_m32fp => with_memory::<Add, Single>,
        Code::Fmul_m32fp => with_memory::<Mul, Single>,
        Code::Fsub_m32fp => with_memory::<Sub, Single>,
        Code::Fsubr_m32fp => with_memory::<SubReversed, Single>,
        Code::Fdiv_m32fp => with_memory::<Div, Single>,
        Code::Fdivr_m32fp => with_memory::<DivReversed, Single>,
        Code::Fadd_m64fp => with_memory::<Add, Double>,
        Code::Fmul_m64fp => with_memory::<Mul, Double>,
        Code::Fsub_m64fp => with_memory::<Sub, Double>,
        Code::Fsubr_m64fp => with_memory::<SubReversed, Double>,
        Code::Fdiv_m64fp => with_memory::<Div, Double>,
        Code::Fdivr_m64fp => with_memory::<DivReversed, Double>,
        Code::Fiadd_m16int => with_memory::<Add, Int16>,
        Code::Fimul_m16int => with_memory::<Mul, Int16>,
        Code::Fisub_m16int => with_memory::<Sub, Int16>,
        Code::Fisubr_m16int => with_memory::<SubReversed, Int16>,
        Code::Fidiv_m16int => with_memory::<Div, Int16>,
        Code::Fidivr_m16int => with_memory::<DivReversed, Int16>,
        Code::Fiadd_m32int => with_memory::<Add, Int32>,
        Code::Fimul_m32int => with_memory::<Mul, Int32>,
        Code::Fisub_m32int => with_memory::<Sub, Int32>,
        Code::Fisubr_m32int => with_memory::<SubReversed, Int32>,
        Code::Fidiv_m32int => with_memory::<Div, Int32>,
        Code::Fidivr_m32int => with_memory::<DivReversed, Int32>,
        Code::Fadd_st0_sti => to_top::<Add>,
        Code::Fmul_st0_sti => to_top::<Mul>,
        Code::Fsub_st0_sti => to_top::<Sub>,
        Code::Fsubr_st0_sti => to_top::<SubReversed>,
        Code::Fdiv_st0_sti => to_top::<Div>,
        Code::Fdivr_st0_sti => to_top::<DivReversed>,
        Code::Fadd_sti_st0 => to_register::<Add, false>,
        Code::Fmul_sti_st0 => to_register::<Mul, false>,
        Code::Fsub_sti_st0 => to_register::<Sub, false>,
        Code::Fsubr_sti_st0 => to_register::<SubReversed, false>,
        Code::Fdiv_sti_st0 => to_register::<Div, false>,
        Code::Fdivr_sti_st0 => to_register::<DivReversed, false>,
        Code::Faddp_sti_st0 => to_register::<Add, true>,
        Code::Fmulp_sti_st0 => to_register::<Mul, true>,
        Code::Fsubp_sti_st0 => to_register::<Sub, true>,
        Code::Fsubrp_sti_st0 => to_register::<SubReversed, true>,
        Code::Fdivp_sti_st0 => to_register::<Div, true>,
        Code::Fdivrp_sti_st0 => to_register::<DivReversed, true>,
        Code::Fsqrt => square_root,
        Code::Frndint => round_to_integer,
        Code::Fchs => change_sign,
        Code::Fabs => absolute,
        Code::Fxtract => extract,
        Code::Fscale => scale,
        Code::Fprem => remainder::<false>,
        Code::Fprem1 => remainder::<true>,
        _ => return None,
    })
}
