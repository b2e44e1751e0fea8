//! Memory operands: where they lie, and addresses that lead there.
//!
//! Does: choose a linear address and set registers, displacement and prefixes to match, in each
//! address size; string operands, XLAT, vectors of indices.

use iced_x86::{Instruction, MemorySize, OpCodeOperandKind as Kind, OpKind, Register};

use crate::generate::{Draft, RCX, RSP};
use crate::layout::{DATA, DATA_BYTES, GS_BASE, Mode, PAGE, READ_ONLY};
use crate::rng::Rng;

impl Draft<'_> {
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
    pub fn vector_memory(&mut self, insn: &mut Instruction, n: u32, first: Register) {
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

    /// A memory operand of the instruction's size.
    pub fn memory(&mut self, insn: &mut Instruction, n: u32) {
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
    pub fn offset(&mut self, insn: &mut Instruction, n: u32) {
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
    pub fn string(&mut self, insn: &mut Instruction, n: u32, kind: Kind) -> Option<()> {
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
    pub fn translate(&mut self, insn: &mut Instruction, n: u32) {
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
}
