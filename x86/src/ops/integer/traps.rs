//! UD0 UD1 UD2 and BOUND: instructions that exist to raise an exception.
//!
//! Does not: INT n, INT3, INTO (`system`).

use iced_x86::{Instruction, Mnemonic};

use super::width;
use crate::core::Core;
use crate::decode::operands::gpr;
use crate::decode::undefined;
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Op, Selected};
use crate::word::Word;

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    match insn.mnemonic() {
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => Selected::last(undefined),
        Mnemonic::Bound => {
            op.dst = gpr(insn.op0_register());
            Selected::inline(if width(insn, 0) == 2 {
                bound16
            } else {
                bound32
            })
        }
        _ => None,
    }
}

/// BOUND r16: two words in one access.
fn bound16(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let bounds = core.load::<u32>(env, op)?;
    check_bounds::<u16>(core, op, bounds as u16, (bounds >> 16) as u16)
}

/// BOUND r32: two double words in one access.
fn bound32(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let bounds = core.load::<u64>(env, op)?;
    check_bounds::<u32>(core, op, bounds as u32, (bounds >> 32) as u32)
}

fn check_bounds<T: Word>(core: &mut Core, op: &Op, lower: T, upper: T) -> Exec<Flow> {
    let index = core.reg::<T>(op.dst).sign64() as i64;
    if index < lower.sign64() as i64 || index > upper.sign64() as i64 {
        return core.raise(Fault::BOUND);
    }
    Ok(Flow::Next)
}
