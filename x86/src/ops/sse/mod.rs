//! MMX, SSE and SSE2, and FXSAVE.
//!
//! Does: every instruction of these sets, with their exceptions. Does not: know SSE3 or later,
//! 3DNow! or AVX, which have no handler here and so are undefined.
//!
//! Invariant: results are the same bits on every host. Integer lanes and IEEE 754 arithmetic have
//! one definition and run on the host's own unit (`native`); what CPUs do differently is computed
//! here (`reciprocal`).
//!
//! | file | concept |
//! |---|---|
//! | `operands` | may the unit be used, where operands are, the common handlers |
//! | `moves`, `integer`, `shift`, `shuffle` | instructions that know no MXCSR |
//! | `arithmetic`, `compare`, `convert` | instructions that obey it |
//! | `float`, `quick` | floating-point exceptions, and when there can be none |
//! | `reciprocal` | the approximations |
//! | `state` | FXSAVE, MXCSR, EMMS |
//! | `native` | the host's instructions; all unsafe code |

mod arithmetic;
mod compare;
mod convert;
mod float;
mod integer;
mod moves;
mod native;
mod operands;
mod quick;
mod reciprocal;
mod shift;
mod shuffle;
mod state;
#[cfg(test)]
mod tests;

use iced_x86::{Instruction, OpKind};

use crate::decode::operands::{immediate, number};
use crate::op::{CodeSize, Op, Selected};

/// Names the handler.
pub(crate) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    let mut filled = *op;
    set_operands(insn, &mut filled);
    let selected = moves::select(insn, &mut filled, size)
        .or_else(|| integer::select(insn))
        .or_else(|| shuffle::select(insn))
        .or_else(|| shift::select(insn))
        .or_else(|| arithmetic::select(insn))
        .or_else(|| compare::select(insn))
        .or_else(|| convert::select(insn))
        .or_else(|| state::select(insn))
        .or_else(|| reciprocal::select(insn))?;
    *op = filled;
    Some(selected)
}

/// Registers and the immediate, which lie at the same place in all of these instructions.
fn set_operands(insn: &Instruction, op: &mut Op) {
    if insn.op0_kind() == OpKind::Register {
        op.dst = number(insn.op0_register());
    }
    if insn.op1_kind() == OpKind::Register {
        op.src = number(insn.op1_register());
    }
    for n in 1..insn.op_count() {
        if insn.op_kind(n) == OpKind::Immediate8 {
            op.imm = immediate(insn, n);
        }
    }
}
