//! Instructions without an effect here: NOP, PAUSE, ENDBR, prefetches, fences; and CLFLUSH.
//!
//! Does: nothing, in order. Memory is always coherent, and every access is already ordered.
//! Does not: fault, but for CLFLUSH, which checks its address like a load of one byte.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{CodeSize, Flow, Op, Selected};

/// Names the handler.
pub(super) fn select(insn: &Instruction, _: &mut Op, _: CodeSize) -> Option<Selected> {
    Selected::inline(match insn.mnemonic() {
        Mnemonic::Nop
        | Mnemonic::Pause
        | Mnemonic::Endbr64
        | Mnemonic::Endbr32
        | Mnemonic::Reservednop
        | Mnemonic::Cldemote
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchit0
        | Mnemonic::Prefetchit1
        | Mnemonic::Lfence
        | Mnemonic::Mfence
        | Mnemonic::Sfence => nothing,
        // Without shadow stacks these are reserved NOPs.
        Mnemonic::Rdsspd | Mnemonic::Rdsspq if insn.op0_kind() == OpKind::Register => nothing,
        Mnemonic::Clflush => flush_line,
        _ => return None,
    })
}

fn nothing(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    core.next(env, op)
}

fn flush_line(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let linear = core.linear(op, 1, false)?;
    core.check_read(env, linear, 1, op.seg)?;
    core.next_after_access(env, op)
}
