//! The transcendental functions.
//!
//! Does: FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X, FYL2XP1. Does not: compute.
//!
//! Invariant: C2 is set exactly if an argument was out of range, and then no register changed.

use iced_x86::{Code, Instruction};

use super::arithmetic::{take_for_two, unary};
use super::status::{C1, C2, begin};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Handler, Op};
use crate::softfloat::{self, Control, F80, Flags, Pair};

/// Out of range: C2 alone.
fn out_of_range(core: &mut Core) {
    core.x87.set_codes(C1 | C2, C2);
}

/// `ST0 = compute(ST0)` if in range.
fn of_angle(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    compute: fn(F80, &Control, &mut Flags) -> Option<F80>,
) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    x87.set_codes(C2, 0);
    let Some(a) = x87.get(0) else {
        x87.underflow(0);
        return core.next(env, op);
    };
    let (control, mut flags) = (x87.steering(), Flags::default());
    match compute(a, &control, &mut flags) {
        Some(value) => {
            x87.deliver(0, value, &control, &flags);
        }
        None => out_of_range(core),
    }
    core.next(env, op)
}

/// Replaces ST0 and pushes, if in range.
fn of_angle_twice(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    compute: fn(F80, &Control, &mut Flags) -> Option<Pair>,
) -> Exec<Flow> {
    begin(core, op)?;
    core.x87.set_codes(C2, 0);
    let Some(a) = take_for_two(core) else {
        return core.next(env, op);
    };
    let x87 = &mut core.x87;
    let (control, mut flags) = (x87.steering(), Flags::default());
    match compute(a, &control, &mut flags) {
        Some(pair) => {
            if x87.deliver(0, pair.replaced, &control, &flags) {
                x87.push(pair.pushed);
            }
        }
        None => out_of_range(core),
    }
    core.next(env, op)
}

/// `ST1 = compute(ST0, ST1)`, then a pop.
fn of_two(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    compute: fn(F80, F80, &Control, &mut Flags) -> F80,
) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    let done = match x87.get_with(1) {
        None => x87.underflow(1),
        Some((x, y)) => {
            let (control, mut flags) = (x87.steering(), Flags::default());
            let value = compute(x, y, &control, &mut flags);
            x87.deliver(1, value, &control, &flags)
        }
    };
    if done {
        x87.pop();
    }
    core.next(env, op)
}

/// FSIN.
fn sine(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    of_angle(core, env, op, softfloat::sin)
}

/// FCOS.
fn cosine(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    of_angle(core, env, op, softfloat::cos)
}

/// FSINCOS.
fn sine_and_cosine(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    of_angle_twice(core, env, op, softfloat::sincos)
}

/// FPTAN.
fn tangent(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    of_angle_twice(core, env, op, softfloat::tan)
}

/// FPATAN.
fn arctangent(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    of_two(core, env, op, softfloat::atan)
}

/// F2XM1.
fn power_minus_one(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    unary(core, env, op, softfloat::exp2_minus_1)
}

/// FYL2X.
fn logarithm(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    of_two(core, env, op, softfloat::log2)
}

/// FYL2XP1.
fn logarithm_plus_one(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    of_two(core, env, op, softfloat::log2_plus_1)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Handler> {
    Some(match insn.code() {
        Code::Fsin => sine,
        Code::Fcos => cosine,
        Code::Fsincos => sine_and_cosine,
        Code::Fptan => tangent,
        Code::Fpatan => arctangent,
        Code::F2xm1 => power_minus_one,
        Code::Fyl2x => logarithm,
        Code::Fyl2xp1 => logarithm_plus_one,
        _ => return None,
    })
}
