//! IN, OUT, INS, OUTS and the I/O permission bitmap (SDM vol. 1, chapter 19).
//!
//! Invariant: a port is reached at most once in a step; the step ends the block, so that what the
//! device did is seen at the next boundary.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::core::Core;
use crate::decode::operands::{segment, set_address_size};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags;
use crate::op::{
    ADDRESS_16, ADDRESS_32, CodeSize, Flow, Op, REP, REPNE, SEG_ES, SEG_NONE, Selected,
};
use crate::word::Word;

/// Names the handler. `op.aux` is 1 if the port is an immediate.
pub(crate) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    match insn.mnemonic() {
        Mnemonic::In | Mnemonic::Out => {
            let port = if insn.mnemonic() == Mnemonic::In {
                1
            } else {
                0
            };
            if insn.op_kind(port) == OpKind::Immediate8 {
                op.aux = 1;
                op.imm = u64::from(insn.immediate8());
            }
        }
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => {
            op.seg = SEG_ES;
            let width = match insn.op0_kind() {
                OpKind::MemoryESDI => 2,
                OpKind::MemoryESEDI => 4,
                _ => 8,
            };
            set_address_size(op, width, size);
        }
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => {
            op.seg = segment(insn.memory_segment());
            let width = match insn.op1_kind() {
                OpKind::MemorySegSI => 2,
                OpKind::MemorySegESI => 4,
                _ => 8,
            };
            set_address_size(op, width, size);
        }
        _ => return None,
    }
    match insn.code() {
        Code::In_AL_imm8 | Code::In_AL_DX => Selected::last(input::<u8>),
        Code::In_AX_imm8 | Code::In_AX_DX => Selected::last(input::<u16>),
        Code::In_EAX_imm8 | Code::In_EAX_DX => Selected::last(input::<u32>),
        Code::Out_imm8_AL | Code::Out_DX_AL => Selected::last(output::<u8>),
        Code::Out_imm8_AX | Code::Out_DX_AX => Selected::last(output::<u16>),
        Code::Out_imm8_EAX | Code::Out_DX_EAX => Selected::last(output::<u32>),
        Code::Insb_m8_DX => Selected::last(string::<u8, true>),
        Code::Insw_m16_DX => Selected::last(string::<u16, true>),
        Code::Insd_m32_DX => Selected::last(string::<u32, true>),
        Code::Outsb_DX_m8 => Selected::last(string::<u8, false>),
        Code::Outsw_DX_m16 => Selected::last(string::<u16, false>),
        Code::Outsd_DX_m32 => Selected::last(string::<u32, false>),
        _ => None,
    }
}

fn port_of(core: &Core, op: &Op) -> u16 {
    if op.aux == 1 {
        op.imm as u16
    } else {
        core.gpr[2] as u16
    }
}

fn input<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let port = port_of(core, op);
    core.check_port(env, port, T::BYTES)?;
    let value = core.port_read::<T>(env, port);
    core.set_reg::<T>(0, value);
    Ok(Flow::Leave)
}

fn output<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let port = port_of(core, op);
    core.check_port(env, port, T::BYTES)?;
    let value = core.reg::<T>(0);
    core.port_write(env, port, value);
    Ok(Flow::Leave)
}

/// One iteration of INS or OUTS, with or without REP.
fn string<T: Word, const INPUT: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let port = core.gpr[2] as u16;
    let mask = if op.bits & ADDRESS_16 != 0 {
        0xffff
    } else if op.bits & ADDRESS_32 != 0 {
        0xffff_ffff
    } else {
        u64::MAX
    };
    let repeated = op.bits & (REP | REPNE) != 0;
    if repeated && core.gpr[1] & mask == 0 {
        return Ok(Flow::Leave);
    }
    core.check_port(env, port, T::BYTES)?;
    let pointer = if INPUT { 7 } else { 6 };
    let offset = core.gpr[pointer] & mask;
    let linear = core.segmented(op.seg, offset, T::BYTES, INPUT)?;
    if INPUT {
        core.check_write(env, linear, T::BYTES as usize, op.seg)?;
        let value = core.port_read::<T>(env, port);
        core.write::<T>(env, linear, op.seg, value)?;
    } else {
        let value = core.read::<T>(env, linear, op.seg)?;
        core.port_write(env, port, value);
    }
    let step = if core.flags.has(flags::DF) {
        T::BYTES.wrapping_neg()
    } else {
        T::BYTES
    };
    set_masked(&mut core.gpr[pointer], offset.wrapping_add(step), mask);
    if !repeated {
        return Ok(Flow::Leave);
    }
    let left = (core.gpr[1] & mask).wrapping_sub(1) & mask;
    set_masked(&mut core.gpr[1], left, mask);
    core.count_iterations(1);
    Ok(if left == 0 { Flow::Leave } else { Flow::Repeat })
}

/// Writes a register at an address size: 16 bits keep the rest, 32 bits zero it.
fn set_masked(register: &mut u64, value: u64, mask: u64) {
    *register = match mask {
        0xffff => (*register & !mask) | (value & mask),
        _ => value & mask,
    };
}

impl Core {
    fn port_read<T: Word>(&mut self, env: &mut Env<'_>, port: u16) -> T {
        self.note_port_access(port, T::BYTES as u8);
        let at = self.progress();
        let value = env.bus.io_read(env.ram, at, port, T::BYTES as u8);
        self.follow_device(env.ram);
        T::from64(u64::from(value))
    }

    fn port_write<T: Word>(&mut self, env: &mut Env<'_>, port: u16, value: T) {
        self.note_port_access(port, T::BYTES as u8);
        let at = self.progress();
        env.bus
            .io_write(env.ram, at, port, T::BYTES as u8, value.to64() as u32);
        self.follow_device(env.ram);
    }

    /// IOPL, or the permission bitmap of the TSS.
    fn check_port(&mut self, env: &mut Env<'_>, port: u16, size: u64) -> Exec<()> {
        if !self.protected() || (self.cpl <= self.iopl() && !self.v8086()) {
            return Ok(());
        }
        let base = self.tr.base;
        let limit = u64::from(self.tr.limit);
        if !self.tr.present() || self.tr.kind() & 8 == 0 || limit < 103 {
            return self.raise(Fault::protection(0));
        }
        let map = self.system(|core| core.read::<u16>(env, base.wrapping_add(102), SEG_NONE))?;
        let at = u64::from(map) + u64::from(port) / 8;
        if at + 1 > limit {
            return self.raise(Fault::protection(0));
        }
        let bits = self.system(|core| core.read::<u16>(env, base.wrapping_add(at), SEG_NONE))?;
        let wanted = ((1u32 << size) - 1) << (port % 8);
        if u32::from(bits) & wanted != 0 {
            return self.raise(Fault::protection(0));
        }
        Ok(())
    }
}
