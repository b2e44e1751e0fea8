//! Templates of general-purpose instructions without branches and stack.
//!
//! Does: the same instruction with the host's operands where that is exact, else what makes it so.
//! Does not: reach memory by itself (`memory`).

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::emit::{cc, mem, reg};
use super::family::{has_memory, shift_count, width};
use super::flags::{Fix, Place, read, written};
use super::frame;
use super::memory::Access;
use super::registers::{Home, home, named, number};
use super::translate::Translator;

/// The accumulator's short forms as the general ones, which can name other registers.
#[rustfmt::skip]
fn general(code: Code) -> Code {
    use Code as C;
    macro_rules! forms {
        ($($al:ident $ax:ident $eax:ident $rax:ident => $r8:ident $r16:ident $r32:ident $r64:ident;)*) => {
            match code {
                $(C::$al => C::$r8, C::$ax => C::$r16, C::$eax => C::$r32, C::$rax => C::$r64,)*
                C::Xchg_r16_AX => C::Xchg_rm16_r16,
                C::Xchg_r32_EAX => C::Xchg_rm32_r32,
                C::Xchg_r64_RAX => C::Xchg_rm64_r64,
                other => other,
            }
        };
    }
    forms! {
        Add_AL_imm8 Add_AX_imm16 Add_EAX_imm32 Add_RAX_imm32 => Add_rm8_imm8 Add_rm16_imm16 Add_rm32_imm32 Add_rm64_imm32;
        Or_AL_imm8 Or_AX_imm16 Or_EAX_imm32 Or_RAX_imm32 => Or_rm8_imm8 Or_rm16_imm16 Or_rm32_imm32 Or_rm64_imm32;
        Adc_AL_imm8 Adc_AX_imm16 Adc_EAX_imm32 Adc_RAX_imm32 => Adc_rm8_imm8 Adc_rm16_imm16 Adc_rm32_imm32 Adc_rm64_imm32;
        Sbb_AL_imm8 Sbb_AX_imm16 Sbb_EAX_imm32 Sbb_RAX_imm32 => Sbb_rm8_imm8 Sbb_rm16_imm16 Sbb_rm32_imm32 Sbb_rm64_imm32;
        And_AL_imm8 And_AX_imm16 And_EAX_imm32 And_RAX_imm32 => And_rm8_imm8 And_rm16_imm16 And_rm32_imm32 And_rm64_imm32;
        Sub_AL_imm8 Sub_AX_imm16 Sub_EAX_imm32 Sub_RAX_imm32 => Sub_rm8_imm8 Sub_rm16_imm16 Sub_rm32_imm32 Sub_rm64_imm32;
        Xor_AL_imm8 Xor_AX_imm16 Xor_EAX_imm32 Xor_RAX_imm32 => Xor_rm8_imm8 Xor_rm16_imm16 Xor_rm32_imm32 Xor_rm64_imm32;
        Cmp_AL_imm8 Cmp_AX_imm16 Cmp_EAX_imm32 Cmp_RAX_imm32 => Cmp_rm8_imm8 Cmp_rm16_imm16 Cmp_rm32_imm32 Cmp_rm64_imm32;
        Test_AL_imm8 Test_AX_imm16 Test_EAX_imm32 Test_RAX_imm32 => Test_rm8_imm8 Test_rm16_imm16 Test_rm32_imm32 Test_rm64_imm32;
    }
}

/// True if operand `n` is written.
fn writes(insn: &Instruction, n: u32) -> bool {
    let second = matches!(
        insn.mnemonic(),
        Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Mulx
    );
    let none = matches!(
        insn.mnemonic(),
        Mnemonic::Cmp
            | Mnemonic::Test
            | Mnemonic::Bt
            | Mnemonic::Comiss
            | Mnemonic::Comisd
            | Mnemonic::Ucomiss
            | Mnemonic::Ucomisd
    );
    match n {
        0 => !none,
        1 => second,
        _ => false,
    }
}

/// True if operand `n` is a register that is written in full and not read.
fn replaces(insn: &Instruction, n: u32) -> bool {
    let moves = matches!(
        insn.mnemonic(),
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd
    );
    let target = insn.op0_register();
    n == 0
        && moves
        && target.size() >= 4
        && (insn.op1_kind() != OpKind::Register || number(insn.op1_register()) != number(target))
}

impl Translator<'_> {
    /// The memory operand's host address to R13, if there is one.
    pub(super) fn memory_operand(&mut self, insn: &Instruction) {
        if has_memory(insn) {
            let write = insn.op0_kind() == OpKind::Memory && writes(insn, 0)
                || writes(insn, 1) && insn.op1_kind() == OpKind::Memory;
            let access = if write { Access::Write } else { Access::Read };
            self.operand(insn, insn.memory_size().size(), access);
        }
    }

    /// Emits `insn` with the host's operands, once [`Translator::memory_operand`] was called.
    pub(super) fn rewrite(&mut self, insn: &Instruction) {
        let mut new = *insn;
        new.set_code(general(insn.code()));
        new.set_has_lock_prefix(false);
        new.set_has_xacquire_prefix(false);
        new.set_has_xrelease_prefix(false);
        new.set_segment_prefix(Register::None);
        let memory = has_memory(insn);
        if memory {
            new.set_memory_base(Register::R13);
            new.set_memory_index(Register::None);
            new.set_memory_index_scale(1);
            new.set_memory_displacement64(0);
            new.set_memory_displ_size(0);
        }
        // Registers that live in the frame, and the scratch register that stands in for each.
        let mut borrowed: [Option<(u8, u8, bool)>; 2] = [None; 2];
        let scratch: &[u8] = if memory {
            &[reg::R14]
        } else {
            &[reg::R14, reg::R13]
        };
        for n in 0..insn.op_count() {
            if insn.op_kind(n) != OpKind::Register {
                continue;
            }
            let register = insn.op_register(n);
            let Some(guest) = number(register) else {
                continue;
            };
            let host = match home(guest) {
                Home::Host(host) => host,
                Home::Frame => {
                    let known = borrowed.iter().flatten().position(|b| b.0 == guest);
                    let slot = known.unwrap_or(borrowed.iter().flatten().count());
                    let Some(&host) = scratch.get(slot) else {
                        self.failed();
                        return;
                    };
                    if known.is_none() {
                        if !replaces(insn, n) {
                            self.e.load(host, mem(reg::RSP, frame::gpr(guest)));
                        }
                        borrowed[slot] = Some((guest, host, false));
                    }
                    if let Some(entry) = &mut borrowed[slot] {
                        entry.2 |= writes(insn, n);
                    }
                    host
                }
            };
            new.set_op_register(n, named(host, register.size()));
        }
        self.rewritten(&new);
        for (guest, host, written) in borrowed.into_iter().flatten() {
            if written {
                self.e.store(mem(reg::RSP, frame::gpr(guest)), host);
            }
        }
    }

    /// Before an instruction that reads flags, or leaves some that are needed as they are.
    fn want_flags(&mut self, insn: &Instruction) {
        let written = written(insn);
        let kept = if written == 0 {
            0
        } else {
            self.needed_after() & !written
        };
        let wanted = read(insn) | kept;
        if wanted != 0 {
            self.native_flags(wanted);
        }
    }

    /// The same instruction with the host's operands.
    pub(super) fn plain(&mut self, insn: &Instruction) {
        self.memory_operand(insn);
        self.want_flags(insn);
        self.rewrite(insn);
        self.plain_flags(insn);
    }

    pub(super) fn lea(&mut self, insn: &Instruction) {
        let address = self.effective(insn);
        let target = insn.op0_register();
        let wide = target.size() == 8;
        self.write_register(number(target).unwrap_or(0), |this, host| {
            this.e.memory(wide, &[0x8d], host, address);
        });
    }

    /// Lets `emit` write all of a guest register, by a host register that is not R13.
    pub(super) fn write_register(&mut self, guest: u8, emit: impl FnOnce(&mut Self, u8)) {
        match home(guest) {
            Home::Host(host) => emit(self, host),
            Home::Frame => {
                emit(self, reg::R14);
                self.e.store(mem(reg::RSP, frame::gpr(guest)), reg::R14);
            }
        }
    }

    /// CBW to CQO, on the host's accumulator; RAX may hold flags, and comes back.
    pub(super) fn widen(&mut self, insn: &Instruction) {
        // xchg rax, r11
        self.e.bytes(&[0x49, 0x93]);
        self.rewritten(insn);
        self.e.bytes(&[0x49, 0x93]);
    }

    /// IMUL with two or three operands. SF, ZF and PF are those of the product, AF is 0.
    pub(super) fn multiply(&mut self, insn: &Instruction) {
        self.memory_operand(insn);
        self.rewrite(insn);
        let size = insn.op0_register().size();
        let guest = number(insn.op0_register()).unwrap_or(0);
        self.product_flags(guest, size);
    }

    /// After a multiplication, with the low half of the product in a guest register.
    fn product_flags(&mut self, guest: u8, size: usize) {
        self.flags = Place::LOST;
        if self.needed_after() == 0 {
            return;
        }
        // seto al
        self.e.bytes(&[0x0f, 0x90, 0xc0]);
        let host = self.source(guest, reg::R14);
        self.test_itself(host, size);
        // lahf; or ah, al
        self.e.bytes(&[0x9f, 0x08, 0xc4]);
        self.flags = Place::SAVED;
    }

    /// TEST of a host register with itself.
    pub(super) fn test_itself(&mut self, host: u8, size: usize) {
        match size {
            1 if host < 8 => self.e.bytes(&[0x40, 0x84, 0xc0 | host << 3 | host]),
            1 => self.e.registers(false, &[0x84], host, host),
            2 => {
                self.e.bytes(&[0x66]);
                self.e.registers(false, &[0x85], host, host);
            }
            _ => self.e.registers(size == 8, &[0x85], host, host),
        }
    }

    /// MUL and IMUL into rDX:rAX.
    pub(super) fn multiply_wide(&mut self, insn: &Instruction) {
        self.memory_operand(insn);
        self.e.copy(reg::RAX, reg::R11);
        self.rewrite(insn);
        // The frame may have lent R14; RAX is the product.
        self.e.copy(reg::R11, reg::RAX);
        self.product_flags(0, width(insn));
    }

    /// DIV and IDIV of 32 and 64 bits, where it is obvious that the quotient fits. Flags stay.
    pub(super) fn divide(&mut self, insn: &Instruction) {
        let size = width(insn);
        let wide = size == 8;
        let divisor = if has_memory(insn) {
            self.operand(insn, size, Access::Read);
            self.e.memory(wide, &[0x8b], reg::R13, mem(reg::R13, 0));
            reg::R13
        } else {
            self.expose_flags();
            self.source(number(insn.op0_register()).unwrap_or(0), reg::R13)
        };
        let slow = self.slow();
        if insn.mnemonic() == Mnemonic::Div {
            // The high half is below the divisor: cmp rdx, divisor.
            self.e.registers(wide, &[0x3b], reg::RDX, divisor);
            self.e.jcc(cc::AE, slow);
        } else {
            // The high half is the sign of the low one, and the divisor neither 0 nor -1.
            self.e.copy(reg::R14, reg::R11);
            self.e.registers(wide, &[0xc1], 7, reg::R14);
            self.e.bytes(&[size as u8 * 8 - 1]);
            self.e.registers(wide, &[0x3b], reg::R14, reg::RDX);
            self.e.jcc(cc::NE, slow);
            self.e.memory(wide, &[0x8d], reg::R14, mem(divisor, 1));
            self.e.alu_immediate(wide, 7, reg::R14, 1);
            self.e.jcc(cc::BE, slow);
        }
        self.e.store(mem(reg::RSP, frame::SCRATCH), reg::RAX);
        self.e.copy(reg::RAX, reg::R11);
        let operation = if insn.mnemonic() == Mnemonic::Div {
            6
        } else {
            7
        };
        self.e.registers(wide, &[0xf7], operation, divisor);
        self.e.copy(reg::R11, reg::RAX);
        self.e.load(reg::RAX, mem(reg::RSP, frame::SCRATCH));
    }

    /// SHL, SHR and SAR by a constant.
    pub(super) fn shift(&mut self, insn: &Instruction) {
        self.memory_operand(insn);
        self.rewrite(insn);
        self.flags_written(match (shift_count(insn), insn.mnemonic()) {
            (1, _) => Fix::ClearAf,
            (_, Mnemonic::Shr | Mnemonic::Sar) => Fix::ClearAfOf,
            _ => Fix::ShiftLeft,
        });
    }

    /// SHL, SHR and SAR of a register by CL: a count of 0 changes no flag.
    pub(super) fn shift_by_cl(&mut self, insn: &Instruction) {
        if self.needed_after() == 0 {
            self.rewrite(insn);
            self.flags = Place::LOST;
            return;
        }
        self.expose_flags();
        let mask = width(insn) as u8 * 8 - 1;
        self.rewrite(insn);
        let done = self.e.label();
        self.shifted_flags(mask, done);
        match insn.mnemonic() {
            Mnemonic::Shr => {
                // OF is the operand's top bit for a count of 1, else 0.
                let one = self.e.label();
                self.e.alu_immediate(false, 7, reg::R14, 1);
                self.e.jcc(cc::E, one);
                // mov al, 0
                self.e.bytes(&[0xb0, 0]);
                self.e.bind(one);
            }
            Mnemonic::Sar => self.e.bytes(&[0xb0, 0]),
            // mov al, ah; shr al, 7; xor al, ah; and al, 1
            _ => self
                .e
                .bytes(&[0x88, 0xe0, 0xc0, 0xe8, 7, 0x30, 0xe0, 0x24, 1]),
        }
        self.e.bind(done);
        self.flags = Place::SAVED;
    }

    /// After a shift by CL: the flags to AX with AF cleared, the count to R14; to `done` with the old
    /// flags if the count is 0.
    fn shifted_flags(&mut self, mask: u8, done: super::emit::Label) {
        // mov r14, rax (the old flags); lahf; seto al; mov r13, rax
        self.e.copy(reg::R14, reg::RAX);
        self.e.bytes(&[0x9f, 0x0f, 0x90, 0xc0]);
        self.e.copy(reg::R13, reg::RAX);
        self.e.copy(reg::RAX, reg::R14);
        // mov r14d, ecx; and r14d, mask
        self.e.registers(false, &[0x8b], reg::R14, reg::RCX);
        self.e.alu_immediate(false, 4, reg::R14, i32::from(mask));
        self.e.jcc(cc::E, done);
        self.e.copy(reg::RAX, reg::R13);
        // and ah, ~AF
        self.e.bytes(&[0x80, 0xe4, 0xef]);
    }

    /// ROL and ROR of a register by a constant.
    pub(super) fn rotate(&mut self, insn: &Instruction) {
        if self.needed_after() == 0 {
            self.rewrite(insn);
            self.flags = Place::LOST;
            return;
        }
        self.expose_flags();
        self.rewrite(insn);
        self.save_carry();
        // OF is CF ≠ the top bit for ROL; for ROR CF is the top bit, and OF is it ≠ the next one.
        let bits = width(insn) as u8 * 8;
        let bit = if insn.mnemonic() == Mnemonic::Rol {
            bits - 1
        } else {
            bits - 2
        };
        let host = self.source(number(insn.op0_register()).unwrap_or(0), reg::R14);
        // bt host, bit; setc al; xor al, ah; and al, 1
        self.e.registers(bits == 64, &[0x0f, 0xba], 4, host);
        self.e.bytes(&[bit, 0x0f, 0x92, 0xc0, 0x30, 0xe0, 0x24, 1]);
    }

    /// BT, BTS, BTR, BTC: CF is the bit, the other flags stay.
    pub(super) fn bit(&mut self, insn: &Instruction) {
        self.memory_operand(insn);
        let kept = self.needed_after();
        if kept != 0 {
            self.expose_flags();
        }
        self.rewrite(insn);
        if kept == 0 {
            self.flags = Place::LOST;
        } else {
            self.save_carry();
        }
    }

    /// BSF and BSR: flags as TEST of the source; a source of 0 leaves the destination alone.
    pub(super) fn scan(&mut self, insn: &Instruction) {
        self.memory_operand(insn);
        let size = insn.op0_register().size();
        let wide = size == 8;
        let target = number(insn.op0_register()).unwrap_or(0);
        let source = if has_memory(insn) {
            self.e.memory(wide, &[0x8b], reg::R13, mem(reg::R13, 0));
            reg::R13
        } else {
            self.source(number(insn.op1_register()).unwrap_or(0), reg::R13)
        };
        let opcode = if insn.mnemonic() == Mnemonic::Bsf {
            0xbc
        } else {
            0xbd
        };
        self.e.registers(wide, &[0x0f, opcode], reg::R14, source);
        self.test_itself(source, size);
        match home(target) {
            // cmovnz target, r14: all 64 bits, so that nothing is cleared if it does not.
            Home::Host(host) => self.e.registers(true, &[0x0f, 0x45], host, reg::R14),
            Home::Frame => {
                let place = mem(reg::RSP, frame::gpr(target));
                // cmovz r14, [place]; mov [place], r14
                self.e.memory(true, &[0x0f, 0x44], reg::R14, place);
                self.e.store(place, reg::R14);
            }
        }
        self.flags_written(Fix::Exact);
    }

    /// CMPXCHG: the accumulator is RAX on the host too.
    pub(super) fn compare_exchange(&mut self, insn: &Instruction) {
        if has_memory(insn) {
            self.operand(insn, insn.memory_size().size(), Access::Write);
        }
        self.e.copy(reg::RAX, reg::R11);
        self.rewrite(insn);
        self.e.copy(reg::R11, reg::RAX);
        self.flags_written(Fix::Exact);
    }
}
