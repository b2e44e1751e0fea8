//! Memory operands: from the guest's address to a host pointer.
//!
//! Does: compute the address, look it up in the TLB, leave the instruction to its handler where that
//! does not answer. Does not: walk, fault or reach devices; handlers do.
//!
//! Invariant: up to the lookup a template has changed nothing but scratch registers, so its handler
//! can execute the instruction from the start.
//!
//! For 8 bytes at `[rbx + rcx*4 + 16]`, to be read:
//!
//! ```text
//! lea  r13, [rbx+rcx*4+16]     the linear address
//! rorx r14, r13, 10            fold bits 31-22 onto bits 21-12
//! xor  r14, r13
//! shr  r14d, 7                 32 bytes an entry
//! and  r14d, 7FE0h
//! add  r14, [rsp+tlb]
//! sub  r13, [r14+read]         offset in the page, if it is that page
//! cmp  r13, 4096-8             else far above
//! ja   slow
//! add  r13, [r14+host]
//! ```

use arch::cpuid::Features;
use iced_x86::{Instruction, Register};

use super::emit::{Mem, cc, mem, reg};
use super::frame;
use super::registers::{Home, home, number};
use super::translate::Translator;
use crate::mmu::Entry;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// Also for what is read and written.
    Write,
}

impl Translator<'_> {
    /// The host register with guest register `number`; from the frame it is brought to `scratch`.
    pub(super) fn source(&mut self, number: u8, scratch: u8) -> u8 {
        match home(number) {
            Home::Host(host) => host,
            Home::Frame => {
                self.e.load(scratch, mem(reg::RSP, frame::gpr(number)));
                scratch
            }
        }
    }

    /// The effective address of the memory operand as the host would name it; clobbers R13 and R14.
    pub(super) fn effective(&mut self, insn: &Instruction) -> Mem {
        let base = match insn.memory_base() {
            Register::None => None,
            Register::RIP => {
                self.e.load(reg::R13, mem(reg::RSP, frame::PAGE));
                Some(reg::R13)
            }
            register => number(register).map(|n| self.source(n, reg::R13)),
        };
        let index = number(insn.memory_index()).map(|n| {
            let shift = insn.memory_index_scale().trailing_zeros() as u8;
            (self.source(n, reg::R14), shift)
        });
        Mem {
            base,
            index,
            disp: insn.memory_displacement64() as i32,
        }
    }

    /// The memory operand's host address to R13, for `size` bytes.
    pub(super) fn operand(&mut self, insn: &Instruction, size: usize, access: Access) {
        self.linear(insn);
        self.look_up(size, access);
    }

    /// As [`Translator::operand`], for 16 or 32 bytes at a multiple of their number.
    pub(super) fn aligned_operand(&mut self, insn: &Instruction, size: usize, access: Access) {
        self.linear(insn);
        let slow = self.slow();
        // test r13b, size - 1
        self.e.bytes(&[0x41, 0xf6, 0xc5, size as u8 - 1]);
        self.e.jcc(cc::NE, slow);
        self.look_up(size, access);
    }

    /// The memory operand's linear address to R13.
    fn linear(&mut self, insn: &Instruction) {
        self.expose_flags();
        let address = self.effective(insn);
        self.e.lea(reg::R13, address);
        match insn.memory_segment() {
            Register::FS => self.add_from_frame(reg::R13, frame::FS_BASE),
            Register::GS => self.add_from_frame(reg::R13, frame::GS_BASE),
            _ => {}
        }
    }

    /// Adds a field of the frame.
    pub(super) fn add_from_frame(&mut self, register: u8, field: i32) {
        self.e.memory(true, &[0x03], register, mem(reg::RSP, field));
    }

    /// From the linear address in R13 to the host address in R13; clobbers R14 and RFLAGS.
    pub(super) fn look_up(&mut self, size: usize, access: Access) {
        debug_assert!(self.flags.native.is_none(), "flags are saved");
        let slow = self.slow();
        if self.host.features.contains(Features::BMI2) {
            // rorx r14, r13, 10
            self.e.bytes(&[0xc4, 0x43, 0xfb, 0xf0, 0xf5, 10]);
        } else {
            self.e.copy(reg::R14, reg::R13);
            // shr r14, 10
            self.e.bytes(&[0x49, 0xc1, 0xee, 10]);
        }
        self.e.registers(true, &[0x33], reg::R14, reg::R13);
        // shr r14d, 7
        self.e.bytes(&[0x41, 0xc1, 0xee, 7]);
        self.e
            .alu_immediate(false, 4, reg::R14, (Entry::COUNT as i32 - 1) << 5);
        self.add_from_frame(reg::R14, frame::TLB);
        let tag = match access {
            Access::Read => std::mem::offset_of!(Entry, read),
            Access::Write => std::mem::offset_of!(Entry, write),
        };
        // sub r13, [r14+tag]
        self.e
            .memory(true, &[0x2b], reg::R13, mem(reg::R14, tag as i32));
        self.e.alu_immediate(true, 7, reg::R13, 4096 - size as i32);
        self.e.jcc(cc::A, slow);
        let host = std::mem::offset_of!(Entry, host) as i32;
        self.e.memory(true, &[0x03], reg::R13, mem(reg::R14, host));
    }
}
