//! The x87 FPU: every instruction of it that x86-64-v1 has.
//!
//! Does: the register stack, status, tags and pointers, #NM and #MF, and the memory layouts around
//! the arithmetic of `softfloat`. Does not: compute, or know FISTTP, which belongs to SSE3 and is
//! undefined here; FXSAVE is in `sse`.
//!
//! Invariant: an instruction raises #NM or #MF first, then what its memory operand raises, and
//! only then changes anything; FSW.ES and FSW.B say whether an unmasked exception waits. What the
//! manuals leave undefined has one definition: `docs/undefined-results.md`.
//!
//! | file | concept |
//! |---|---|
//! | `status` | status word, exceptions, whether the unit may be used, the last instruction |
//! | `register_stack` | TOP, tags, and the instructions that only move registers |
//! | `formats` | how values lie in memory |
//! | `load_store` | loads, stores and constants |
//! | `arithmetic`, `compare`, `transcendental` | the instructions that these names suggest |
//! | `control`, `environment` | control and status words; FSTENV, FSAVE and their inverses |

mod arithmetic;
mod compare;
mod control;
mod environment;
mod formats;
mod load_store;
mod register_stack;
mod status;
#[cfg(test)]
mod tests;
mod transcendental;

use iced_x86::{Instruction, OpKind, Register};

use crate::decode::operands::number;
use crate::op::{CodeSize, Handler, Op, Selected};

/// A sub-family's selector.
type Select = fn(&Instruction) -> Option<Handler>;

/// The sub-families, most frequent first.
const SUB_FAMILIES: &[Select] = &[
    load_store::select,
    arithmetic::select,
    compare::select,
    register_stack::select,
    control::select,
    transcendental::select,
    environment::select,
];

/// Names the handler. `Op::src` is the number of the stack register that is not simply ST0, and
/// [`opcode`] is expected in `Op::extra`.
pub(crate) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    let run = SUB_FAMILIES.iter().find_map(|select| select(insn))?;
    for n in 0..insn.op_count() {
        if insn.op_kind(n) == OpKind::Register && insn.op_register(n) != Register::ST0 {
            op.src = number(insn.op_register(n));
        }
    }
    Selected::inline(run)
}

/// The eleven opcode bits of an x87 instruction, as FSTENV stores them; 0 for other instructions.
pub(crate) fn opcode(instruction: &[u8]) -> u16 {
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 | 0x40..=0x4f);
    let prefixes = instruction
        .iter()
        .take_while(|byte| is_prefix(byte))
        .count();
    match instruction[prefixes..] {
        [escape @ 0xd8..=0xdf, modrm, ..] => u16::from(escape & 7) << 8 | u16::from(modrm),
        _ => 0,
    }
}
