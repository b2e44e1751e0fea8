//! Vectors tested for zero: PTEST, VTESTPS, VTESTPD.

use iced_x86::{Instruction, Mnemonic as M};

use super::operands::{
    Form, Memory, Register, Source, after, by_form, by_source, by_vex_form, get, ready,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::flags::{CF, ZF};
use crate::op::{Flow, Op, Selected};

/// The bits that PTEST looks at.
const ALL: u128 = u128::MAX;
/// The signs of singles.
const SINGLES: u128 = 0x8000_0000_8000_0000_8000_0000_8000_0000;
/// The signs of doubles.
const DOUBLES: u128 = 0x8000_0000_0000_0000_8000_0000_0000_0000;

/// ZF: no bit of `BITS` is in both; CF: none is in the source alone. The other flags are cleared.
fn test<F: Form, S: Source, B: Bits>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let b = S::load::<F>(core, env, op)?;
    let a = get::<F>(core, op.dst);
    let none = |x: u128, y: u128| (x | y) & B::BITS == 0;
    let zero = none(a[0] & b[0], a[1] & b[1]);
    let carry = none(!a[0] & b[0], !a[1] & b[1]);
    let flag = |set: bool, bit| if set { bit } else { 0 };
    core.flags.set_arithmetic(flag(zero, ZF) | flag(carry, CF));
    after::<S>(core, env, op)
}

/// The bits that count, in each lane.
trait Bits: 'static {
    const BITS: u128;
}

/// PTEST.
struct Every;
/// VTESTPS.
struct SignsD;
/// VTESTPD.
struct SignsQ;

impl Bits for Every {
    const BITS: u128 = ALL;
}

impl Bits for SignsD {
    const BITS: u128 = SINGLES;
}

impl Bits for SignsQ {
    const BITS: u128 = DOUBLES;
}

fn select_signs<B: Bits>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_vex_form!(insn, test, Register, B),
        by_vex_form!(insn, test, Memory, B),
    )
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Ptest | M::Vptest => by_source(
            insn,
            by_form!(insn, test, Register, Every),
            by_form!(insn, test, Memory, Every),
        ),
        M::Vtestps => select_signs::<SignsD>(insn),
        M::Vtestpd => select_signs::<SignsQ>(insn),
        _ => None,
    }
}
