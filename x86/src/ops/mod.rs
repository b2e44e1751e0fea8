//! What instructions do, by family.
//!
//! Each family has a `select` that names the handler for an instruction, and the handlers. Privileged
//! and system instructions are in `system`.

#[cfg(test)]
mod bench;
pub(crate) mod integer;
pub(crate) mod sse;
#[cfg(test)]
mod tests;
pub(crate) mod x87;

use iced_x86::Instruction;

use crate::op::{CodeSize, Op, Selected};

/// Asks the families in turn.
pub(crate) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    integer::select(insn, op, size)
        .or_else(|| sse::select(insn, op, size))
        .or_else(|| x87::select(insn, op, size))
}
