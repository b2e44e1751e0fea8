//! Privileged and system instructions, segments, and the delivery of exceptions and interrupts.
//!
//! One file a chapter of the manuals; each has a `select` that names the handler for an instruction.

mod control;
pub(crate) mod debug;
mod far;
mod identification;
pub(crate) mod interrupt;
mod interruptibility;
mod io;
pub(crate) mod machine_check;
pub(crate) mod msr;
mod segment;
mod segment_bases;
mod segment_moves;
mod syscall;
mod tables;
mod task;
mod virtual_8086;

use iced_x86::Instruction;

use crate::op::{CodeSize, Op, Selected};

/// Asks the files in turn.
pub(crate) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    segment_moves::select(insn, op, size)
        .or_else(|| control::select(insn, op, size))
        .or_else(|| interruptibility::select(insn, op, size))
        .or_else(|| far::select(insn, op, size))
        .or_else(|| segment_bases::select(insn, op, size))
        .or_else(|| syscall::select(insn, op, size))
        .or_else(|| io::select(insn, op, size))
        .or_else(|| msr::select(insn, op, size))
        .or_else(|| tables::select(insn, op, size))
        .or_else(|| identification::select(insn, op, size))
}
