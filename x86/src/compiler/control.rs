//! Templates of the stack and of branches.
//!
//! Does: PUSH, POP, LEAVE, near CALL, RET, JMP and Jcc. Does not: link blocks (`translate`, `mod`).
//!
//! Invariant: the stack pointer moves after everything that can fail. A branch to where no block is
//! known is left to its handler before anything has changed: it checks the target.

use iced_x86::{Code, Instruction, OpKind};

use super::emit::{cc, mem, reg};
use super::frame;
use super::memory::Access;
use super::registers::number;
use super::translate::{Translator, is_direct};

impl Translator<'_> {
    /// Host address of the slot that a push would write, to R13.
    fn pushed_slot(&mut self) {
        self.expose_flags();
        self.e.lea(reg::R13, mem(reg::R12, -8));
        self.look_up(8, Access::Write);
    }

    /// Host address of the top of the stack, to R13.
    fn top_slot(&mut self) {
        self.expose_flags();
        self.e.copy(reg::R13, reg::R12);
        self.look_up(8, Access::Read);
    }

    pub(super) fn push(&mut self, insn: &Instruction) {
        match insn.op0_kind() {
            OpKind::Memory => {
                self.operand(insn, 8, Access::Read);
                self.e.load(reg::R14, mem(reg::R13, 0));
                self.e.store(mem(reg::RSP, frame::SCRATCH), reg::R14);
                self.pushed_slot();
                self.e.load(reg::R14, mem(reg::RSP, frame::SCRATCH));
                self.e.store(mem(reg::R13, 0), reg::R14);
            }
            OpKind::Register => {
                self.pushed_slot();
                let host = self.source(number(insn.op0_register()).unwrap_or(0), reg::R14);
                self.e.store(mem(reg::R13, 0), host);
            }
            _ => {
                self.pushed_slot();
                // mov qword [r13], imm32
                self.e.memory(true, &[0xc7], 0, mem(reg::R13, 0));
                let value = insn.immediate(0) as u32;
                self.e.bytes(&value.to_le_bytes());
            }
        }
        self.e.advance(reg::R12, -8);
    }

    pub(super) fn pop(&mut self, insn: &Instruction) {
        self.top_slot();
        let guest = number(insn.op0_register()).unwrap_or(0);
        self.write_register(guest, |this, host| this.e.load(host, mem(reg::R13, 0)));
        if guest != 4 {
            self.e.advance(reg::R12, 8);
        }
    }

    pub(super) fn leave_procedure(&mut self) {
        self.expose_flags();
        self.e.copy(reg::R13, reg::RBP);
        self.look_up(8, Access::Read);
        self.e.lea(reg::R12, mem(reg::RBP, 8));
        self.e.load(reg::RBP, mem(reg::R13, 0));
    }

    /// PUSHFQ: the saved flags with the others, but not VM and RF, which cannot be set here: 64-bit
    /// code has no VM, and with RF instructions run alone.
    pub(super) fn push_flags(&mut self) {
        self.pushed_slot();
        self.e.store(mem(reg::RSP, frame::SCRATCH), reg::RAX);
        // movzx r14d, al; shl r14d, 11; movzx eax, ah
        self.e
            .bytes(&[0x44, 0x0f, 0xb6, 0xf0, 0x41, 0xc1, 0xe6, 11]);
        self.e.bytes(&[0x0f, 0xb6, 0xc4]);
        // or r14, rax; or r14, [rsp+system]
        self.e.registers(true, &[0x0b], reg::R14, reg::RAX);
        self.e
            .memory(true, &[0x0b], reg::R14, mem(reg::RSP, frame::SYSTEM));
        self.e.store(mem(reg::R13, 0), reg::R14);
        self.e.load(reg::RAX, mem(reg::RSP, frame::SCRATCH));
        self.e.advance(reg::R12, -8);
    }

    /// CLI at level 0; elsewhere its handler knows.
    pub(super) fn clear_interrupt(&mut self) {
        self.expose_flags();
        let slow = self.slow();
        // cmp qword [rsp+level], 0
        self.e.memory(true, &[0x83], 7, mem(reg::RSP, frame::LEVEL));
        self.e.bytes(&[0]);
        self.e.jcc(cc::NE, slow);
        // and qword [rsp+system], ~IF
        self.e
            .memory(true, &[0x81], 4, mem(reg::RSP, frame::SYSTEM));
        self.e.bytes(&(!(crate::flags::IF as u32)).to_le_bytes());
    }

    /// The target of an indirect branch to R13.
    fn indirect(&mut self, insn: &Instruction) {
        if insn.op0_kind() == OpKind::Memory {
            self.operand(insn, 8, Access::Read);
            self.e.load(reg::R13, mem(reg::R13, 0));
        } else {
            self.expose_flags();
            let host = self.source(number(insn.op0_register()).unwrap_or(0), reg::R13);
            if host != reg::R13 {
                self.e.copy(reg::R13, host);
            }
        }
    }

    pub(super) fn jump(&mut self, insn: &Instruction) {
        let miss = self.slow();
        if is_direct(insn) {
            self.go(insn.near_branch_target() as i64, Some(miss));
            return;
        }
        self.indirect(insn);
        self.find(miss);
        self.arrive();
    }

    pub(super) fn branch(&mut self, insn: &Instruction) {
        self.native_flags(super::flags::read(insn));
        let taken = self.taken(insn.near_branch_target() as i64);
        let condition = match insn.condition_code() {
            iced_x86::ConditionCode::None => 0,
            code => code as u8 - 1,
        };
        self.e.jcc(condition, taken);
    }

    pub(super) fn call(&mut self, insn: &Instruction) {
        let miss = self.slow();
        let back = insn.next_ip() as i32;
        let target = insn.near_branch_target() as i64;
        let local = is_direct(insn) && (0..4096).contains(&target);
        if !local {
            if is_direct(insn) {
                self.expose_flags();
                self.target(target);
            } else {
                self.indirect(insn);
            }
            self.find(miss);
            self.e.store(mem(reg::RSP, frame::SCRATCH), reg::R14);
        }
        self.pushed_slot();
        self.e.load(reg::R14, mem(reg::RSP, frame::PAGE));
        self.e.advance(reg::R14, back);
        self.e.store(mem(reg::R13, 0), reg::R14);
        self.e.advance(reg::R12, -8);
        if local {
            self.go(target, None);
        } else {
            self.e.load(reg::R14, mem(reg::RSP, frame::SCRATCH));
            self.arrive();
        }
    }

    pub(super) fn ret(&mut self, insn: &Instruction) {
        self.top_slot();
        self.e.load(reg::R13, mem(reg::R13, 0));
        let miss = self.slow();
        self.find(miss);
        let dropped = if insn.code() == Code::Retnq_imm16 {
            insn.immediate(0) as i32
        } else {
            0
        };
        self.e.advance(reg::R12, 8 + dropped);
        self.arrive();
    }
}
