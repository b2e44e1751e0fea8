//! Templates of SHLD and SHRD, TZCNT and LZCNT, BMI1.
//!
//! Does: the same instruction with the host's operands, with our definition of the flags that the
//! manuals leave undefined (docs/undefined-results.md). Does not: know POPCNT, MULX and others whose
//! flags need nothing (`integer`).

use iced_x86::{Instruction, Mnemonic};

use super::emit::reg;
use super::family::width;
use super::flags::{Fix, Place};
use super::registers::number;
use super::translate::Translator;

impl Translator<'_> {
    /// SHLD and SHRD by a constant, of a register if it is SHRD.
    pub(super) fn double_shift(&mut self, insn: &Instruction) {
        self.memory_operand(insn);
        self.rewrite(insn);
        let count = insn.immediate8() & if width(insn) == 8 { 63 } else { 31 };
        if count == 1 {
            self.flags_written(Fix::ClearAf);
        } else if insn.mnemonic() == Mnemonic::Shld {
            self.flags_written(Fix::ShiftLeft);
        } else if self.needed_after() == 0 {
            self.flags = Place::LOST;
        } else {
            // lahf; and ah, ~AF
            self.e.bytes(&[0x9f, 0x80, 0xe4, 0xef]);
            // OF: whether the two top bits differ, which is bit 1 of what they are and 1 more.
            let bits = width(insn) as u8 * 8;
            let host = self.source(number(insn.op0_register()).unwrap_or(0), reg::R14);
            self.e.copy(reg::R14, host);
            self.e.registers(bits == 64, &[0xc1], 5, reg::R14);
            self.e.bytes(&[bits - 2]);
            self.e.advance(reg::R14, 1);
            // mov al, r14b; shr al, 1; and al, 1
            self.e.bytes(&[0x44, 0x88, 0xf0, 0xd0, 0xe8, 0x24, 1]);
            self.flags = Place::SAVED;
        }
    }

    /// TZCNT and LZCNT: ZF and CF; the other flags are 0.
    pub(super) fn count_zeros(&mut self, insn: &Instruction) {
        self.memory_operand(insn);
        self.rewrite(insn);
        self.flags = Place::LOST;
        if self.needed_after() != 0 {
            // lahf; and ah, ZF | CF; mov al, 0
            self.e.bytes(&[0x9f, 0x80, 0xe4, 0x41, 0xb0, 0]);
            self.flags = Place::SAVED;
        }
    }

    /// ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI: SF, ZF and PF of the result; OF and AF are 0.
    pub(super) fn low_bits(&mut self, insn: &Instruction) {
        self.memory_operand(insn);
        self.rewrite(insn);
        self.flags = Place::LOST;
        if self.needed_after() == 0 {
            return;
        }
        let has_carry = !matches!(insn.mnemonic(), Mnemonic::Andn | Mnemonic::Bextr);
        if has_carry {
            // setc al
            self.e.bytes(&[0x0f, 0x92, 0xc0]);
        }
        let target = insn.op0_register();
        let host = self.source(number(target).unwrap_or(0), reg::R14);
        self.test_itself(host, target.size());
        if has_carry {
            // lahf; or ah, al; mov al, 0
            self.e.bytes(&[0x9f, 0x08, 0xc4, 0xb0, 0]);
            self.flags = Place::SAVED;
        } else {
            self.flags_written(Fix::Exact);
        }
    }
}
