//! Random operands for any instruction that iced-x86 can encode.
//!
//! Memory operands mostly lie in the data pages, now and then across a page boundary, on the
//! read-only page, or where nothing is; the registers of the address are set to match.

use iced_x86::{
    Code, Encoder, Instruction, MandatoryPrefix, MemorySize, OpCodeInfo, OpCodeOperandKind as Kind,
    OpKind, Register,
};

use crate::context::{Case, Fx, LONGEST, Patch, Registers};
use crate::layout::{CODE, DATA, DATA_BYTES, GS_BASE, Mode, PAGE, READ_ONLY};
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
struct Draft<'a> {
    rng: &'a mut Rng,
    mode: Mode,
    case: Case,
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

    // ---- memory ----------------------------------------------------------------------------

    /// Linear address for an operand of `size` bytes.
    fn target(&mut self, size: u64) -> u64 {
        let size = size.max(1);
        let end = DATA + DATA_BYTES as u64;
        let aligned = self.rng.chance(60);
        let at = match self.rng.below(100) {
            0..5 if size > 1 => return DATA + PAGE - 1 - self.rng.below(size - 1),
            5..8 if size > 1 => return end - 1 - self.rng.below(size - 1),
            8 => DATA - 64 + self.rng.below(64),
            9..11 => READ_ONLY + self.rng.below(PAGE - size),
            11..13 => end - size,
            _ => DATA + self.rng.below(DATA_BYTES as u64 - size),
        };
        if aligned {
            at & !(size.next_power_of_two() - 1)
        } else {
            at
        }
    }

    /// Linear address of an XSAVE area.
    fn xsave_target(&mut self) -> u64 {
        let at = self.target(1024);
        if self.rng.chance(95) { at & !63 } else { at }
    }

    /// A base, and a vector of indices that mostly lead into the data pages.
    fn vector_memory(&mut self, insn: &mut Instruction, n: u32, first: Register) {
        insn.set_op_kind(n, OpKind::Memory);
        let registers = if self.mode == Mode::Long { 16 } else { 8 };
        let index = self.rng.below(registers) as usize;
        let scale = 1u64 << self.rng.below(4);
        insn.set_memory_index(first + index as u32);
        insn.set_memory_index_scale(scale as u32);
        let wide = self.rng.chance(50);
        let range = if wide { DATA_BYTES as u64 } else { 256 };
        let element = |rng: &mut Rng| match rng.below(40) {
            0 => rng.value(),
            1 => range / scale,
            _ => (rng.below(range) / scale).wrapping_sub(range / scale / 2),
        };
        let dwords = matches!(
            insn.code().op_code().op_kind(n),
            Kind::mem_vsib32x | Kind::mem_vsib32y
        );
        let lane = |rng: &mut Rng| {
            let (bits, mask) = if dwords {
                (32, 0xffff_ffff)
            } else {
                (64, u64::MAX)
            };
            (0..128 / bits).fold(0, |lane, n| {
                lane | u128::from(element(rng) & mask) << (bits * n)
            })
        };
        let (low, high) = (lane(self.rng), lane(self.rng));
        self.case.before.fx.set_xmm(index, low);
        self.case.before.ymm_high[index] = high;
        let middle = (DATA + DATA_BYTES as u64 / 2).wrapping_sub(self.mode.data_base());
        let base = (0..)
            .map(|_| self.rng.below(registers) as usize)
            .find(|&base| base != RSP)
            .expect("an endless iterator");
        let (mask, register) = match self.mode {
            Mode::Long if self.rng.chance(90) => (u64::MAX, Register::RAX),
            _ => (0xffff_ffff, Register::EAX),
        };
        insn.set_memory_base(register + base as u32);
        let displacement = if self.rng.chance(50) {
            i64::from(self.rng.next() as i8)
        } else {
            0
        };
        insn.set_memory_displacement64(displacement as u64 & mask);
        insn.set_memory_displ_size(match (displacement, mask) {
            (0, _) => 0,
            _ => 1,
        });
        self.case.before.gpr[base] = middle.wrapping_sub(displacement as u64) & mask;
    }

    fn memory(&mut self, insn: &mut Instruction, n: u32) {
        insn.set_op_kind(n, OpKind::Memory);
        let linear = match insn.memory_size() {
            MemorySize::Xsave | MemorySize::Xsave64 => self.xsave_target(),
            size => self.target(size.size() as u64),
        };
        let mut offset = linear.wrapping_sub(self.mode.data_base());
        if self.rng.chance(8) {
            let segment = match self.mode {
                Mode::Long => self.rng.pick(&[
                    Register::GS,
                    Register::GS,
                    Register::GS,
                    Register::ES,
                    Register::SS,
                    Register::DS,
                    Register::CS,
                ]),
                _ => self.rng.pick(&[Register::ES, Register::SS, Register::DS]),
            };
            if segment == Register::GS {
                offset = linear.wrapping_sub(GS_BASE);
            }
            insn.set_segment_prefix(segment);
        }
        match self.mode {
            Mode::Long if self.rng.chance(90) => {
                if self.rng.chance(1) {
                    offset ^= 1 << self.rng.pick(&[47, 48, 63]);
                }
                self.address64(insn, offset);
            }
            Mode::Segmented16 if self.rng.chance(75) => self.address16(insn, offset),
            Mode::Flat32 if self.rng.chance(5) => self.address16(insn, offset),
            _ => self.address32(insn, offset),
        }
    }

    /// Scale, index and displacement of an address; what remains for the base.
    fn index_and_displacement(
        &mut self,
        insn: &mut Instruction,
        first: Register,
        base: u32,
        registers: u64,
        wide: u32,
        offset: u64,
    ) -> u64 {
        let mut rest = offset;
        let index = self.rng.below(registers) as u32;
        if self.rng.chance(50) && index != base && index != RSP as u32 {
            let scale = 1 << self.rng.below(4);
            insn.set_memory_index(first + index);
            insn.set_memory_index_scale(scale);
            rest = rest
                .wrapping_sub(self.case.before.gpr[index as usize].wrapping_mul(u64::from(scale)));
        }
        let displacement = match self.rng.below(3) {
            0 => 0,
            1 => self.rng.next() as i8 as i64,
            _ => i64::from(self.rng.value() as i32),
        };
        let value = if wide == 4 {
            displacement as u64 & 0xffff_ffff
        } else {
            displacement as u64
        };
        insn.set_memory_displacement64(value);
        insn.set_memory_displ_size(match displacement {
            0 => 0,
            -128..128 => 1,
            _ => wide,
        });
        rest.wrapping_sub(displacement as u64)
    }

    fn address64(&mut self, insn: &mut Instruction, offset: u64) {
        match self.rng.below(10) {
            0 => {
                insn.set_memory_base(Register::RIP);
                insn.set_memory_displacement64(offset);
                insn.set_memory_displ_size(8);
            }
            1 if offset as i32 as u64 == offset => {
                insn.set_memory_displacement64(offset);
                insn.set_memory_displ_size(8);
            }
            _ => {
                let base = self.rng.below(16) as u32;
                insn.set_memory_base(Register::RAX + base);
                if base as usize == RSP {
                    let rsp = self.case.before.gpr[RSP];
                    insn.set_memory_displacement64(
                        i64::from(offset.wrapping_sub(rsp) as i32) as u64
                    );
                    insn.set_memory_displ_size(8);
                    return;
                }
                let rest = self.index_and_displacement(insn, Register::RAX, base, 16, 8, offset);
                self.case.before.gpr[base as usize] = rest;
            }
        }
    }

    fn address32(&mut self, insn: &mut Instruction, offset: u64) {
        let offset = offset & 0xffff_ffff;
        let registers = if self.mode == Mode::Long { 16 } else { 8 };
        if self.rng.chance(15) {
            insn.set_memory_displacement64(offset);
            insn.set_memory_displ_size(4);
            return;
        }
        let base = self.rng.below(registers) as u32;
        insn.set_memory_base(Register::EAX + base);
        if base as usize == RSP {
            let rsp = self.case.before.gpr[RSP];
            insn.set_memory_displacement64(offset.wrapping_sub(rsp) & 0xffff_ffff);
            insn.set_memory_displ_size(4);
            return;
        }
        let rest = self.index_and_displacement(insn, Register::EAX, base, registers, 4, offset);
        let upper = if self.mode == Mode::Long {
            self.rng.next() << 32
        } else {
            0
        };
        self.case.before.gpr[base as usize] = rest & 0xffff_ffff | upper;
    }

    fn address16(&mut self, insn: &mut Instruction, offset: u64) {
        let offset = offset & 0xffff;
        let (base, index) = self.rng.pick(&[
            (Some(3), Some(6)),
            (Some(3), Some(7)),
            (Some(5), Some(6)),
            (Some(5), Some(7)),
            (None, Some(6)),
            (None, Some(7)),
            (Some(5), None),
            (Some(3), None),
            (None, None),
        ]);
        let Some(solved) = base.or(index) else {
            insn.set_memory_displacement64(offset);
            insn.set_memory_displ_size(2);
            return;
        };
        let mut rest = offset;
        if let Some(base) = base {
            insn.set_memory_base(Register::AX + base);
            if let Some(index) = index {
                rest = rest.wrapping_sub(self.case.before.gpr[index as usize]);
            }
        }
        if let Some(index) = index {
            // A lone SI or DI is a base to iced-x86.
            if base.is_some() {
                insn.set_memory_index(Register::AX + index);
            } else {
                insn.set_memory_base(Register::AX + index);
            }
        }
        let displacement = match self.rng.below(3) {
            0 => 0,
            1 => self.rng.next() as i8 as i16,
            _ => self.rng.next() as i16,
        };
        insn.set_memory_displacement64(displacement as u16 as u64);
        insn.set_memory_displ_size(match displacement {
            0 => 0,
            -128..128 => 1,
            _ => 2,
        });
        rest = rest.wrapping_sub(displacement as u64);
        let slot = &mut self.case.before.gpr[solved as usize];
        *slot = *slot & !0xffff | rest & 0xffff;
    }

    /// MOV between the accumulator and an absolute offset.
    fn offset(&mut self, insn: &mut Instruction, n: u32) {
        insn.set_op_kind(n, OpKind::Memory);
        let linear = self.target(insn.memory_size().size() as u64);
        let offset = linear.wrapping_sub(self.mode.data_base());
        insn.set_memory_displacement64(offset);
        insn.set_memory_displ_size(match self.mode {
            Mode::Long => self.rng.pick(&[8, 8, 4]),
            Mode::Flat32 => 4,
            Mode::Segmented16 => self.rng.pick(&[2, 2, 4]),
        });
    }

    /// Operands of string instructions: rSI and rDI.
    fn string(&mut self, insn: &mut Instruction, n: u32, kind: Kind) -> Option<()> {
        let narrow = match n {
            0 => self.rng.chance(20),
            // Both operands have one address size.
            _ => matches!(
                insn.op0_kind(),
                OpKind::MemoryESDI
                    | OpKind::MemorySegSI
                    | OpKind::MemorySegESI
                    | OpKind::MemoryESEDI
            ),
        };
        let bits = match (self.mode, insn.op0_kind(), n) {
            (_, OpKind::MemoryESDI | OpKind::MemorySegSI, 1) => 16,
            (_, OpKind::MemoryESEDI | OpKind::MemorySegESI, 1) => 32,
            (Mode::Long, ..) => {
                if narrow {
                    32
                } else {
                    64
                }
            }
            (Mode::Flat32, ..) => {
                if narrow && self.rng.chance(20) {
                    16
                } else {
                    32
                }
            }
            (Mode::Segmented16, ..) => {
                if narrow {
                    32
                } else {
                    16
                }
            }
        };
        let (register, kinds) = match kind {
            Kind::seg_rSI => (
                6,
                [
                    OpKind::MemorySegSI,
                    OpKind::MemorySegESI,
                    OpKind::MemorySegRSI,
                ],
            ),
            Kind::es_rDI => (
                7,
                [OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI],
            ),
            Kind::seg_rDI => (
                7,
                [
                    OpKind::MemorySegDI,
                    OpKind::MemorySegEDI,
                    OpKind::MemorySegRDI,
                ],
            ),
            _ => return None,
        };
        insn.set_op_kind(n, kinds[bits / 32]);
        let size = insn.memory_size().size() as u64;
        let near = n == 1 && self.rng.chance(40);
        let linear = if near {
            let other = self.case.before.gpr[13 - register].wrapping_add(self.mode.data_base());
            let distance = self.rng.below(64) as i64 - 32;
            let distance = if self.rng.chance(50) {
                distance * size as i64
            } else {
                distance
            };
            (other & 0xffff_ffff).wrapping_add(distance as u64)
        } else {
            self.target(size)
        };
        let offset = linear.wrapping_sub(self.mode.data_base());
        let junk = if self.mode == Mode::Long {
            self.rng.next()
        } else {
            0
        };
        self.case.before.gpr[register] = match bits {
            64 => offset,
            32 => offset & 0xffff_ffff | junk << 32,
            _ => offset & 0xffff | self.rng.next() << 16 & 0xffff_0000,
        };
        let count = match self.rng.below(8) {
            0 => 0,
            1 => 1,
            2 => self.rng.below(0x3000),
            3 => self.rng.value(),
            _ => self.rng.below(40),
        };
        self.case.before.gpr[RCX] = match bits {
            64 => count,
            32 => count & 0xffff_ffff | junk << 32,
            _ => count & 0xffff | self.rng.next() << 16 & 0xffff_0000,
        };
        Some(())
    }

    /// XLAT's operand.
    fn translate(&mut self, insn: &mut Instruction, n: u32) {
        insn.set_op_kind(n, OpKind::Memory);
        let linear = self.target(1);
        let offset = linear.wrapping_sub(self.mode.data_base());
        let (base, mask) = match (self.mode, self.rng.chance(20)) {
            (Mode::Long, false) => (Register::RBX, u64::MAX),
            (Mode::Segmented16, false) => (Register::BX, 0xffff),
            _ => (Register::EBX, 0xffff_ffff),
        };
        insn.set_memory_base(base);
        insn.set_memory_index(Register::AL);
        let al = self.case.before.gpr[0] & 0xff;
        let junk = if self.mode == Mode::Long {
            self.rng.next()
        } else {
            0
        };
        let junk = if mask == 0xffff {
            self.rng.next() & 0xffff_0000
        } else {
            junk & !mask
        };
        self.case.before.gpr[3] = offset.wrapping_sub(al) & mask | junk;
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
