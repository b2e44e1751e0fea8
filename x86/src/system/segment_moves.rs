//! Instructions that move segment registers: MOV, PUSH, POP, LDS and relatives.
//!
//! Invariant: a load of SS opens the shadow in which neither interrupts nor debug traps are taken.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::core::Core;
use crate::decode::operands::{gpr, is_memory, segment};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Op, SEG_CS, SEG_SS, Selected};

/// Names the handler. `op.dst` or `op.src` is the segment slot, `op.aux` the operand size in bytes.
pub(crate) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    let is_segment = |n: u32| {
        insn.op_count() > n
            && insn.op_kind(n) == OpKind::Register
            && insn.op_register(n).is_segment_register()
    };
    match insn.mnemonic() {
        Mnemonic::Mov if is_segment(0) => {
            op.dst = segment(insn.op0_register());
            if op.dst == SEG_CS {
                return Selected::last(crate::decode::undefined);
            }
            if is_memory(insn, 1) {
                return Selected::last(load_from_memory);
            }
            op.src = gpr(insn.op1_register());
            Selected::last(load_from_register)
        }
        Mnemonic::Mov if is_segment(1) => {
            op.src = segment(insn.op1_register());
            if is_memory(insn, 0) {
                return Selected::inline(store_to_memory);
            }
            op.dst = gpr(insn.op0_register());
            op.aux = insn.op0_register().size() as u8;
            Selected::inline(store_to_register)
        }
        Mnemonic::Push if is_segment(0) => {
            op.src = segment(insn.op0_register());
            op.aux = stack_width(insn, size);
            Selected::inline(push)
        }
        Mnemonic::Pop if is_segment(0) => {
            op.dst = segment(insn.op0_register());
            op.aux = stack_width(insn, size);
            Selected::last(pop)
        }
        Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => {
            op.dst = gpr(insn.op0_register());
            op.aux = insn.op0_register().size() as u8;
            op.src = segment(match insn.mnemonic() {
                Mnemonic::Lds => Register::DS,
                Mnemonic::Les => Register::ES,
                Mnemonic::Lss => Register::SS,
                Mnemonic::Lfs => Register::FS,
                _ => Register::GS,
            });
            Selected::last(load_pointer)
        }
        _ => None,
    }
}

/// Bytes that PUSH and POP of a segment register move the stack pointer by.
fn stack_width(insn: &Instruction, size: CodeSize) -> u8 {
    let moved = insn.stack_pointer_increment().unsigned_abs() as u8;
    match (moved, size) {
        (2 | 4 | 8, _) => moved,
        (_, CodeSize::Bits64) => 8,
        (_, CodeSize::Bits32) => 4,
        _ => 2,
    }
}

fn shadow(core: &mut Core, slot: u8) {
    if slot == SEG_SS {
        core.ss_shadow = true;
        core.fresh_ss_shadow = true;
    }
}

fn load_from_register(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let selector = core.reg::<u16>(op.src);
    core.load_segment(env, op.dst, selector)?;
    shadow(core, op.dst);
    Ok(Flow::Leave)
}

fn load_from_memory(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let selector = core.load::<u16>(env, op)?;
    core.load_segment(env, op.dst, selector)?;
    shadow(core, op.dst);
    Ok(Flow::Leave)
}

fn store_to_register(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let selector = core.segments[usize::from(op.src)].selector;
    match op.aux {
        2 => core.set_reg::<u16>(op.dst, selector),
        4 => core.set_reg::<u32>(op.dst, u32::from(selector)),
        _ => core.set_reg::<u64>(op.dst, u64::from(selector)),
    }
    Ok(Flow::Next)
}

fn store_to_memory(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let selector = core.segments[usize::from(op.src)].selector;
    core.store::<u16>(env, op, selector)?;
    Ok(Flow::Next)
}

fn push(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let selector = core.segments[usize::from(op.src)].selector;
    core.push_here(env, u64::from(op.aux), &[u64::from(selector)])?;
    Ok(Flow::Next)
}

fn pop(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let width = u64::from(op.aux);
    let selector = core.stack_slot(env, width, 0)? as u16;
    // The stack pointer moves by the width of the old stack segment, then SS is loaded.
    let before = core.gpr[4];
    core.set_stack_pointer(before.wrapping_add(width));
    if let Err(raised) = core.load_segment(env, op.dst, selector) {
        core.gpr[4] = before;
        return Err(raised);
    }
    shadow(core, op.dst);
    Ok(Flow::Leave)
}

fn load_pointer(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let size = u64::from(op.aux);
    let linear = core.linear(op, size + 2, false)?;
    core.check_read(env, linear, size as usize + 2, op.seg)?;
    let offset = match op.aux {
        2 => u64::from(core.read::<u16>(env, linear, op.seg)?),
        4 => u64::from(core.read::<u32>(env, linear, op.seg)?),
        _ => core.read::<u64>(env, linear, op.seg)?,
    };
    let selector = core.read::<u16>(env, linear.wrapping_add(size), op.seg)?;
    if op.src == SEG_CS {
        return core.raise(Fault::UNDEFINED);
    }
    core.load_segment(env, op.src, selector)?;
    match op.aux {
        2 => core.set_reg::<u16>(op.dst, offset as u16),
        4 => core.set_reg::<u32>(op.dst, offset as u32),
        _ => core.set_reg::<u64>(op.dst, offset),
    }
    Ok(Flow::Leave)
}
