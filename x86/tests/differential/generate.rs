//! Random operands for any instruction that iced-x86 can encode.
//!
//! Memory operands (`addresses`) mostly lie in the data pages, now and then across a page boundary,
//! on the read-only page, or where nothing is; the registers of the address are set to match.

use iced_x86::{
    Code, Encoder, Instruction, MandatoryPrefix, OpCodeInfo, OpCodeOperandKind as Kind, OpKind,
    Register,
};

use crate::context::{Case, Fx, LONGEST, Patch, Registers};
use crate::layout::{CODE, DATA, DATA_BYTES, Mode, PAGE};
use crate::rng::Rng;

/// RSP's number.
pub const RSP: usize = 4;
/// RCX's number.
pub const RCX: usize = 1;

/// True if `code` exists in `mode` on every vendor's processors.
pub fn exists_in(code: Code, mode: Mode) -> bool {
    let info = code.op_code();
    if !info.is_instruction() {
        return false;
    }
    match mode {
        Mode::Long => {
            let narrow = (0..info.op_count())
                .any(|i| matches!(info.op_kind(i), Kind::br16_1 | Kind::br16_2));
            info.mode64() && info.intel_decoder64() && info.amd_decoder64() && !narrow
        }
        Mode::Flat32 => info.mode32() && info.intel_decoder32() && info.amd_decoder32(),
        Mode::Segmented16 => info.mode16() && info.intel_decoder16() && info.amd_decoder16(),
    }
}

/// A random case for `code`, or `None` if the operands drawn cannot be encoded.
pub fn generate(rng: &mut Rng, code: Code, mode: Mode) -> Option<(Instruction, Case)> {
    let mut draft = Draft::new(rng, mode);
    draft.registers();
    let mut insn = Instruction::default();
    insn.set_code(code);
    let info = code.op_code();
    for operand in 0..info.op_count() {
        draft.operand(&mut insn, info, operand)?;
    }
    draft.prefixes(&mut insn, info);
    let mut case = draft.case;
    let bytes = encode(&insn, &mut case)?;
    case.code[..bytes.len()].copy_from_slice(&bytes);
    case.length = bytes.len() as u8;
    let mut decoder = iced_x86::Decoder::with_ip(
        mode.bits(),
        &case.code[..bytes.len()],
        case.before.rip,
        iced_x86::DecoderOptions::NONE,
    );
    let decoded = decoder.decode();
    Some((decoded, case))
}

fn encode(insn: &Instruction, case: &mut Case) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(case.mode.bits());
    // The same instruction has several VEX prefixes.
    let choice = case.memory_seed;
    encoder.set_prevent_vex2(choice & 1 != 0);
    encoder.set_vex_wig((choice >> 1 & 1) as u32);
    encoder.set_vex_lig((choice >> 2 & 1) as u32);
    encoder.encode(insn, case.before.rip).ok()?;
    let bytes = encoder.take_buffer();
    (bytes.len() <= LONGEST).then_some(bytes)
}

/// A case in the making.
pub struct Draft<'a> {
    /// The source of all choices.
    pub rng: &'a mut Rng,
    /// What the case runs as.
    pub mode: Mode,
    /// The case so far.
    pub case: Case,
    immediates: u32,
}

impl Draft<'_> {
    fn new(rng: &mut Rng, mode: Mode) -> Draft<'_> {
        let memory_seed = rng.next();
        let case = Case {
            mode,
            code: [0; LONGEST],
            length: 0,
            whole: false,
            reads_tf: false,
            cold: rng.chance(20),
            before: Registers {
                gpr: [0; 16],
                rip: 0,
                flags: 0,
                fx: Fx::initial(),
                ymm_high: [0; 16],
            },
            memory_seed,
            patches: [Patch::default(); 2],
        };
        Draft {
            rng,
            mode,
            case,
            immediates: 0,
        }
    }

    fn registers(&mut self) {
        let long = self.mode == Mode::Long;
        for n in 0..16 {
            self.case.before.gpr[n] = match (long, n) {
                (true, _) => self.rng.value(),
                (false, 0..8) => self.rng.value() & 0xffff_ffff,
                (false, _) => 0,
            };
        }
        let top = match self.rng.below(30) {
            0 => DATA + self.rng.below(16),
            1 => DATA + DATA_BYTES as u64 - self.rng.below(16),
            2 => DATA + PAGE - self.rng.below(16),
            3..8 => DATA + 0x100 + self.rng.below(0x1e00),
            _ => DATA + 0x100 + (self.rng.below(0x1e00) & !7),
        };
        self.case.before.gpr[RSP] = top - self.mode.data_base();
        let linear = match self.rng.below(20) {
            0 => CODE + PAGE - 1 - self.rng.below(8),
            _ => CODE + 0x400 + self.rng.below(0x800),
        };
        self.case.before.rip = linear - self.mode.code_base();
        self.case.before.flags = self.rng.next() & 0x8d5;
        if self.rng.chance(15) {
            self.case.before.flags |= 0x400;
        }
        for n in 0..16 {
            let wide = u128::from(self.rng.value()) << 64 | u128::from(self.rng.value());
            self.case.before.fx.set_xmm(n, wide);
            self.case.before.ymm_high[n] =
                u128::from(self.rng.next()) << 64 | u128::from(self.rng.value());
        }
    }

    fn operand(&mut self, insn: &mut Instruction, info: &OpCodeInfo, n: u32) -> Option<()> {
        let kind = info.op_kind(n);
        let memory_percent = 50;
        let memory = self.rng.chance(memory_percent);
        match kind {
            Kind::r8_or_mem if !memory => self.byte_register(insn, n),
            Kind::r16_or_mem if !memory => self.register(insn, n, Register::AX),
            Kind::r32_or_mem if !memory => self.register(insn, n, Register::EAX),
            Kind::r64_or_mem if !memory => self.register(insn, n, Register::RAX),
            Kind::mm_or_mem if !memory => self.vector(insn, n, Register::MM0, 8),
            Kind::xmm_or_mem if !memory => self.vector(insn, n, Register::XMM0, 16),
            Kind::ymm_or_mem if !memory => self.vector(insn, n, Register::YMM0, 16),
            Kind::mem_vsib32x | Kind::mem_vsib64x => self.vector_memory(insn, n, Register::XMM0),
            Kind::mem_vsib32y | Kind::mem_vsib64y => self.vector_memory(insn, n, Register::YMM0),
            Kind::mem
            | Kind::mem_mpx
            | Kind::mem_mib
            | Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::mm_or_mem
            | Kind::xmm_or_mem
            | Kind::ymm_or_mem => self.memory(insn, n),
            Kind::mem_offs => self.offset(insn, n),
            Kind::r8_reg | Kind::r8_opcode => self.byte_register(insn, n),
            Kind::r16_reg | Kind::r16_rm | Kind::r16_opcode | Kind::r16_reg_mem => {
                self.register(insn, n, Register::AX);
            }
            Kind::r32_reg
            | Kind::r32_rm
            | Kind::r32_opcode
            | Kind::r32_reg_mem
            | Kind::r32_vvvv => {
                self.register(insn, n, Register::EAX);
            }
            Kind::r64_reg
            | Kind::r64_rm
            | Kind::r64_opcode
            | Kind::r64_reg_mem
            | Kind::r64_vvvv => {
                self.register(insn, n, Register::RAX);
            }
            Kind::mm_reg | Kind::mm_rm => self.vector(insn, n, Register::MM0, 8),
            Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmm_is4 => {
                self.vector(insn, n, Register::XMM0, 16);
            }
            Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 => {
                self.vector(insn, n, Register::YMM0, 16);
            }
            Kind::sti_opcode => self.vector(insn, n, Register::ST0, 8),
            Kind::al => set_register(insn, n, Register::AL),
            Kind::cl => set_register(insn, n, Register::CL),
            Kind::ax => set_register(insn, n, Register::AX),
            Kind::dx => set_register(insn, n, Register::DX),
            Kind::eax => set_register(insn, n, Register::EAX),
            Kind::rax => set_register(insn, n, Register::RAX),
            Kind::st0 => set_register(insn, n, Register::ST0),
            Kind::imm8 | Kind::imm8_const_1 => {
                let first = self.immediates == 0;
                self.immediates += 1;
                insn.set_op_kind(
                    n,
                    if first {
                        OpKind::Immediate8
                    } else {
                        OpKind::Immediate8_2nd
                    },
                );
                let value = if kind == Kind::imm8_const_1 {
                    1
                } else {
                    self.rng.value() as u8
                };
                if first {
                    insn.set_immediate8(value);
                } else {
                    insn.set_immediate8_2nd(value);
                }
            }
            Kind::imm8sex16 => self.immediate(insn, n, OpKind::Immediate8to16, true),
            Kind::imm8sex32 => self.immediate(insn, n, OpKind::Immediate8to32, true),
            Kind::imm8sex64 => self.immediate(insn, n, OpKind::Immediate8to64, true),
            Kind::imm16 => self.immediate(insn, n, OpKind::Immediate16, false),
            Kind::imm32 => self.immediate(insn, n, OpKind::Immediate32, false),
            Kind::imm32sex64 => self.immediate(insn, n, OpKind::Immediate32to64, false),
            Kind::imm64 => self.immediate(insn, n, OpKind::Immediate64, false),
            Kind::seg_rSI | Kind::es_rDI | Kind::seg_rDI => self.string(insn, n, kind)?,
            Kind::seg_rBX_al => self.translate(insn, n),
            Kind::br16_1 | Kind::br32_1 | Kind::br64_1 => self.branch(insn, n, kind, true),
            Kind::br16_2 | Kind::br32_4 | Kind::br64_4 => self.branch(insn, n, kind, false),
            _ => return None,
        }
        Some(())
    }

    // ---- registers and immediates ----------------------------------------------------------

    fn register(&mut self, insn: &mut Instruction, n: u32, first: Register) {
        let registers = if self.mode == Mode::Long { 16 } else { 8 };
        // Register 4 is the stack pointer: good for little but PUSH and POP.
        let mut number = self.rng.below(registers);
        if number == RSP as u64 && self.rng.chance(50) {
            number = 0;
        }
        set_register(insn, n, first + number as u32);
    }

    fn byte_register(&mut self, insn: &mut Instruction, n: u32) {
        let registers = if self.mode == Mode::Long { 20 } else { 8 };
        set_register(insn, n, Register::AL + self.rng.below(registers) as u32);
    }

    fn vector(&mut self, insn: &mut Instruction, n: u32, first: Register, count: u64) {
        let count = if self.mode == Mode::Long {
            count
        } else {
            count.min(8)
        };
        set_register(insn, n, first + self.rng.below(count) as u32);
    }

    fn immediate(&mut self, insn: &mut Instruction, n: u32, kind: OpKind, byte: bool) {
        self.immediates += 1;
        let value = self.rng.value() as i64;
        insn.set_op_kind(n, kind);
        match kind {
            _ if byte => insn.set_immediate_i64(n, i64::from(value as i8)),
            OpKind::Immediate16 => insn.set_immediate16(value as u16),
            OpKind::Immediate32 => insn.set_immediate32(value as u32),
            OpKind::Immediate32to64 => insn.set_immediate32to64(i64::from(value as i32)),
            _ => insn.set_immediate64(value as u64),
        }
    }

    fn branch(&mut self, insn: &mut Instruction, n: u32, kind: Kind, short: bool) {
        let distance = if short {
            2 + self.rng.below(100) as i64 - 50
        } else if self.rng.chance(80) {
            self.rng.below(0x400) as i64 - 0x200
        } else {
            i64::from(self.rng.value() as i32) >> 1
        };
        let target = self.case.before.rip.wrapping_add(distance as u64);
        match kind {
            Kind::br64_1 | Kind::br64_4 => {
                insn.set_op_kind(n, OpKind::NearBranch64);
                insn.set_near_branch64(target);
            }
            Kind::br32_1 | Kind::br32_4 => {
                insn.set_op_kind(n, OpKind::NearBranch32);
                insn.set_near_branch32(target as u32);
            }
            _ => {
                insn.set_op_kind(n, OpKind::NearBranch16);
                insn.set_near_branch16(target as u16);
            }
        }
    }

    // ---- prefixes --------------------------------------------------------------------------

    fn prefixes(&mut self, insn: &mut Instruction, info: &OpCodeInfo) {
        let in_memory = insn.op_count() > 0 && insn.op0_kind() == OpKind::Memory;
        if info.can_use_lock_prefix() && in_memory && self.rng.chance(15) {
            insn.set_has_lock_prefix(true);
        }
        if info.mandatory_prefix() != MandatoryPrefix::None {
            return;
        }
        let repeats = info.can_use_rep_prefix() && is_string(insn);
        if repeats && self.rng.chance(70) {
            if info.can_use_repne_prefix() && self.rng.chance(50) {
                insn.set_has_repne_prefix(true);
            } else {
                insn.set_has_rep_prefix(true);
            }
            self.case.whole = self.rng.chance(60);
        }
    }
}

fn is_string(insn: &Instruction) -> bool {
    insn.op_kinds().any(|kind| {
        matches!(
            kind,
            OpKind::MemorySegSI
                | OpKind::MemorySegESI
                | OpKind::MemorySegRSI
                | OpKind::MemoryESDI
                | OpKind::MemoryESEDI
                | OpKind::MemoryESRDI
        )
    })
}

fn set_register(insn: &mut Instruction, n: u32, register: Register) {
    insn.set_op_kind(n, OpKind::Register);
    insn.set_op_register(n, register);
}
