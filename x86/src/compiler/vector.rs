//! Templates of SSE and SSE2: the same instruction on the host's registers.
//!
//! Does: make sure that XMM and MXCSR are the guest's, check alignment. Does not: run with an
//! unmasked exception; then the interpreter does (`run::load_xmm`).

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::family::has_memory;
use super::flags::{Fix, written};
use super::memory::Access;
use super::translate::Translator;

impl Translator<'_> {
    pub(super) fn vector(&mut self, insn: &Instruction) {
        self.want_xmm();
        if has_memory(insn) {
            self.vector_operand(insn);
        }
        let mut insn = *insn;
        if matches!(
            insn.mnemonic(),
            Mnemonic::Cmpps | Mnemonic::Cmppd | Mnemonic::Cmpss | Mnemonic::Cmpsd
        ) {
            insn.set_immediate8(insn.immediate8() & 7);
        }
        self.rewrite(&insn);
        if written(&insn) != 0 {
            self.flags_written(Fix::Exact);
        }
    }

    fn vector_operand(&mut self, insn: &Instruction) {
        let access = if insn.op0_kind() == OpKind::Memory {
            Access::Write
        } else {
            Access::Read
        };
        let size = insn.memory_size().size();
        let unaligned = matches!(
            insn.mnemonic(),
            Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu
        );
        if size == 16 && !unaligned {
            self.aligned_operand(insn, access);
        } else {
            self.operand(insn, size, access);
        }
    }
}
