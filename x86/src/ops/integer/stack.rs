//! PUSH POP PUSHA POPA ENTER LEAVE, and the stack as other families use it.
//!
//! Does: push and pop with the width of the stack segment: RSP in 64-bit mode, else ESP or SP as
//! SS.B says. Does not: PUSH and POP of segment registers, far transfers (`system`), flags
//! (`flag_control`).
//!
//! Invariant: the stack pointer moves only after the access that may fault.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::gpr::{RBP, RSP};
use super::{sized_wide, width};
use crate::core::Core;
use crate::decode::operands::{gpr, immediate};
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{CodeSize, Flow, Handler, Op, SEG_SS, Selected};
use crate::word::Word;

impl Core {
    /// Bits of RSP that stack accesses use and change.
    #[inline(always)]
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.in_64bit() {
            u64::MAX
        } else if self.segments[usize::from(SEG_SS)].big() {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Moves the stack pointer; bits above the stack's width stay.
    #[inline(always)]
    pub(crate) fn set_stack_pointer(&mut self, value: u64) {
        match self.stack_mask() {
            u64::MAX => self.set_reg::<u64>(RSP, value),
            0xffff => self.set_reg::<u16>(RSP, value as u16),
            _ => self.set_reg::<u32>(RSP, value as u32),
        }
    }

    /// Linear address of `offset` in the stack segment, after its checks.
    #[inline(always)]
    fn stack_linear(&mut self, offset: u64, size: u64, write: bool) -> Exec<u64> {
        if self.in_64bit() {
            return Ok(offset);
        }
        self.segmented(SEG_SS, offset, size, write)
    }

    /// Pushes `value`.
    #[inline(always)]
    pub(crate) fn push<T: Word>(&mut self, env: &mut Env<'_>, value: T) -> Exec<()> {
        let top = self.gpr[usize::from(RSP)].wrapping_sub(T::BYTES) & self.stack_mask();
        let linear = self.stack_linear(top, T::BYTES, true)?;
        self.write(env, linear, SEG_SS, value)?;
        self.set_stack_pointer(top);
        Ok(())
    }

    /// Reads what a pop would return, with the stack pointer as it would be after it.
    #[inline(always)]
    pub(crate) fn peek<T: Word>(&mut self, env: &mut Env<'_>) -> Exec<(T, u64)> {
        let mask = self.stack_mask();
        let top = self.gpr[usize::from(RSP)] & mask;
        let linear = self.stack_linear(top, T::BYTES, false)?;
        let value = self.read::<T>(env, linear, SEG_SS)?;
        Ok((value, top.wrapping_add(T::BYTES) & mask))
    }

    /// Pops a value.
    #[inline(always)]
    pub(crate) fn pop<T: Word>(&mut self, env: &mut Env<'_>) -> Exec<T> {
        let (value, after) = self.peek::<T>(env)?;
        self.set_stack_pointer(after);
        Ok(value)
    }

    /// Pushes in 64-bit mode if nothing stands in the way; false if it did not.
    #[inline(always)]
    pub(super) fn quick_push(&mut self, value: u64) -> bool {
        let top = self.gpr[usize::from(RSP)].wrapping_sub(8);
        let done = self.quick_write(top, value);
        if done {
            self.gpr[usize::from(RSP)] = top;
        }
        done
    }

    /// The top of the stack in 64-bit mode, if nothing stands in the way.
    #[inline(always)]
    pub(super) fn quick_top(&self) -> Option<u64> {
        self.quick_read(self.gpr[usize::from(RSP)])
    }

    /// Drops `bytes` from the stack in 64-bit mode.
    #[inline(always)]
    pub(super) fn drop64(&mut self, bytes: u64) {
        let slot = &mut self.gpr[usize::from(RSP)];
        *slot = slot.wrapping_add(bytes);
    }

    /// Checks a write of `size` bytes at `offset` in the stack segment without making it.
    fn check_stack_write(&mut self, env: &mut Env<'_>, offset: u64, size: u64) -> Exec<()> {
        let linear = self.stack_linear(offset, size, true)?;
        self.check_write(env, linear, size as usize, SEG_SS)
    }

    /// Reads from `offset` in the stack segment.
    fn read_stack<T: Word>(&mut self, env: &mut Env<'_>, offset: u64) -> Exec<T> {
        let linear = self.stack_linear(offset, T::BYTES, false)?;
        self.read(env, linear, SEG_SS)
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    let run = match insn.mnemonic() {
        Mnemonic::Push => push(insn, op, size)?,
        Mnemonic::Pop => pop(insn, op, size)?,
        Mnemonic::Pusha => push_all::<u16>,
        Mnemonic::Pushad => push_all::<u32>,
        Mnemonic::Popa => pop_all::<u16>,
        Mnemonic::Popad => pop_all::<u32>,
        Mnemonic::Enter => {
            op.imm = immediate(insn, 0);
            op.aux = immediate(insn, 1) as u8 & 31;
            match insn.code() {
                Code::Enterw_imm16_imm8 => enter::<u16>,
                Code::Enterd_imm16_imm8 => enter::<u32>,
                _ => enter::<u64>,
            }
        }
        Mnemonic::Leave => match insn.code() {
            Code::Leavew => leave::<u16>,
            Code::Leaved => leave::<u32>,
            _ => leave::<u64>,
        },
        _ => return None,
    };
    Selected::inline(run)
}

fn push(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Handler> {
    match insn.op0_kind() {
        OpKind::Register if !insn.op0_register().is_gpr() => None,
        OpKind::Register => {
            op.src = gpr(insn.op0_register());
            Some(match width(insn, 0) {
                8 if size == CodeSize::Bits64 => push_register64,
                bytes => sized_wide!(bytes, push_register),
            })
        }
        OpKind::Memory => Some(sized_wide!(width(insn, 0), push_memory)),
        _ => {
            op.imm = immediate(insn, 0);
            Some(sized_wide!(-insn.stack_pointer_increment(), push_immediate))
        }
    }
}

fn pop(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Handler> {
    match insn.op0_kind() {
        OpKind::Register if !insn.op0_register().is_gpr() => None,
        OpKind::Register => {
            op.dst = gpr(insn.op0_register());
            Some(match width(insn, 0) {
                8 if size == CodeSize::Bits64 => pop_register64,
                bytes => sized_wide!(bytes, pop_register),
            })
        }
        _ => Some(sized_wide!(width(insn, 0), pop_memory)),
    }
}

fn push_register64(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.reg::<u64>(op.src);
    if !core.quick_push(value) {
        return push_register::<u64>(core, env, op);
    }
    core.next(env, op)
}

fn pop_register64(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let Some(value) = core.quick_top() else {
        return pop_register::<u64>(core, env, op);
    };
    core.drop64(8);
    core.set_reg(op.dst, value);
    core.next(env, op)
}

fn push_register<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.reg::<T>(op.src);
    core.push(env, value)?;
    core.next_after_access(env, op)
}

fn push_immediate<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    core.push(env, T::from64(op.imm))?;
    core.next_after_access(env, op)
}

fn push_memory<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.load::<T>(env, op)?;
    core.push(env, value)?;
    core.next_after_access(env, op)
}

fn pop_register<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.pop::<T>(env)?;
    core.set_reg(op.dst, value);
    core.next_after_access(env, op)
}

/// The destination's address is computed with the stack pointer already moved.
fn pop_memory<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let before = core.reg::<u64>(RSP);
    let value = core.pop::<T>(env)?;
    let stored = core.store(env, op, value);
    if stored.is_err() {
        core.set_reg(RSP, before);
    }
    stored?;
    core.next_after_access(env, op)
}

fn push_all<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let mask = core.stack_mask();
    let start = core.reg::<u64>(RSP);
    for element in 1..=8 {
        let offset = start.wrapping_sub(element * T::BYTES) & mask;
        core.check_stack_write(env, offset, T::BYTES)?;
    }
    for register in 0..8 {
        let value = if register == RSP {
            T::from64(start)
        } else {
            core.reg::<T>(register)
        };
        core.push(env, value)?;
    }
    core.next_after_access(env, op)
}

/// The stack pointer's image is read and dropped.
fn pop_all<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let mask = core.stack_mask();
    let start = core.reg::<u64>(RSP);
    let mut values = [T::from64(0); 8];
    for (element, value) in values.iter_mut().enumerate() {
        let offset = start.wrapping_add(element as u64 * T::BYTES) & mask;
        *value = core.read_stack::<T>(env, offset)?;
    }
    for (register, value) in (0..8).rev().zip(values) {
        if register != RSP {
            core.set_reg(register, value);
        }
    }
    core.set_stack_pointer(start.wrapping_add(8 * T::BYTES));
    core.next_after_access(env, op)
}

fn enter<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let mask = core.stack_mask();
    let (start, base) = (core.reg::<u64>(RSP), core.reg::<u64>(RBP));
    let level = u64::from(op.aux);
    let pushes = level + 1;
    let end = start.wrapping_sub(pushes * T::BYTES).wrapping_sub(op.imm) & mask;
    // Everything that may fault comes first, in the order of the pushes; then the new top.
    for push in 1..=pushes {
        if (2..pushes).contains(&push) {
            let offset = base.wrapping_sub((push - 1) * T::BYTES) & mask;
            let linear = core.stack_linear(offset, T::BYTES, false)?;
            core.check_read(env, linear, T::BYTES as usize, SEG_SS)?;
        }
        let offset = start.wrapping_sub(push * T::BYTES) & mask;
        core.check_stack_write(env, offset, T::BYTES)?;
    }
    core.check_stack_write(env, end, T::BYTES)?;
    core.push(env, T::from64(base))?;
    let frame = core.reg::<T>(RSP);
    for display in 1..level {
        let offset = base.wrapping_sub(display * T::BYTES) & mask;
        let value = core.read_stack::<T>(env, offset)?;
        core.push(env, value)?;
    }
    if level > 0 {
        core.push(env, frame)?;
    }
    core.set_reg(RBP, frame);
    core.set_stack_pointer(end);
    core.next_after_access(env, op)
}

fn leave<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let top = core.reg::<u64>(RBP) & core.stack_mask();
    let value = core.read_stack::<T>(env, top)?;
    core.set_stack_pointer(top.wrapping_add(T::BYTES));
    core.set_reg(RBP, value);
    core.next_after_access(env, op)
}
