//! SETcc and CMOVcc.
//!
//! Does: one handler for each condition, so that only the flags it asks for are computed.
//!
//! Invariant: CMOVcc reads its memory operand, and a 32-bit CMOVcc clears the upper half of its
//! destination, whether the condition holds or not.

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind};

use super::memory::{self, with_loaded};
use super::{by_condition, width};
use crate::core::Core;
use crate::decode::operands::gpr;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{CodeSize, Flow, Op, Selected};
use crate::word::Word;

/// Condition code (0–15) of a conditional instruction.
pub(super) fn code_of(insn: &Instruction) -> u8 {
    (insn.condition_code() as u8).saturating_sub(ConditionCode::o as u8)
}

/// Names the handler.
#[rustfmt::skip]
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Seto | M::Setno | M::Setb | M::Setae | M::Sete | M::Setne | M::Setbe | M::Seta
        | M::Sets | M::Setns | M::Setp | M::Setnp | M::Setl | M::Setge | M::Setle | M::Setg => {
            setcc(insn, op)
        }
        M::Cmovo | M::Cmovno | M::Cmovb | M::Cmovae | M::Cmove | M::Cmovne | M::Cmovbe | M::Cmova
        | M::Cmovs | M::Cmovns | M::Cmovp | M::Cmovnp | M::Cmovl | M::Cmovge | M::Cmovle
        | M::Cmovg => cmov(insn, op),
        _ => None,
    }
}

fn setcc(insn: &Instruction, op: &mut Op) -> Option<Selected> {
    let code = code_of(insn);
    if insn.op0_kind() == OpKind::Memory {
        return Selected::inline(by_condition!(code, set_memory));
    }
    op.dst = gpr(insn.op0_register());
    Selected::inline(by_condition!(code, set_register))
}

fn cmov(insn: &Instruction, op: &mut Op) -> Option<Selected> {
    let code = code_of(insn);
    op.dst = gpr(insn.op0_register());
    let bytes = width(insn, 0);
    if insn.op1_kind() == OpKind::Memory {
        return Selected::inline(match bytes {
            2 => by_condition!(code, move_memory, u16),
            4 => by_condition!(code, move_memory, u32),
            _ => by_condition!(code, move_memory, u64),
        });
    }
    op.src = gpr(insn.op1_register());
    Selected::inline(match bytes {
        2 => by_condition!(code, move_register, u16),
        4 => by_condition!(code, move_register, u32),
        _ => by_condition!(code, move_register, u64),
    })
}

fn set_register<const CODE: u8>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = u8::from(core.flags.condition(CODE));
    core.set_operand(op.dst, value);
    core.next(env, op)
}

fn set_memory<const CODE: u8>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = u8::from(core.flags.condition(CODE));
    memory::store(core, env, op, value)
}

fn move_register<T: Word, const CODE: u8>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let chosen = if core.flags.condition(CODE) {
        op.src
    } else {
        op.dst
    };
    let value = core.reg::<T>(chosen);
    core.set_reg(op.dst, value);
    core.next(env, op)
}

fn move_memory<T: Word, const CODE: u8>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_loaded::<T>(core, env, op, |core, op, loaded| {
        let value = if core.flags.condition(CODE) {
            loaded
        } else {
            core.reg::<T>(op.dst)
        };
        core.set_reg(op.dst, value);
    })
}
