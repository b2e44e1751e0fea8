//! Operands of iced-x86's instructions in the shape of [`Op`].

use iced_x86::{Instruction, OpKind, Register};

use crate::op::{
    ADDRESS_16, ADDRESS_32, ADDRESS_SLOW, CodeSize, HIGH_BYTE, Op, SEG_DS, SEG_SS, SLOT_BLOCK_RIP,
    SLOT_ZERO,
};

/// Number of a general register of any width (0–15), AH–BH with [`HIGH_BYTE`].
pub(crate) fn gpr(register: Register) -> u8 {
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            (register as u32 - Register::AH as u32) as u8 | HIGH_BYTE
        }
        _ => register.full_register().number() as u8,
    }
}

/// Number of any register in its file (XMM3 is 3, ST2 is 2, CR4 is 4, …).
pub(crate) fn number(register: Register) -> u8 {
    register.number() as u8
}

/// Segment slot of a segment register.
pub(crate) fn segment(register: Register) -> u8 {
    match register {
        Register::ES | Register::CS | Register::SS | Register::DS | Register::FS | Register::GS => {
            register.number() as u8
        }
        _ => SEG_DS,
    }
}

/// Segment slot of the memory operand. In 64-bit mode ES, CS, SS and DS prefixes change nothing,
/// not even whether a non-canonical address is #SS.
pub(crate) fn memory_segment(instruction: &Instruction, size: CodeSize) -> u8 {
    let prefix = instruction.segment_prefix();
    let ignored = size == CodeSize::Bits64 && !matches!(prefix, Register::FS | Register::GS);
    if !ignored {
        return segment(instruction.memory_segment());
    }
    match instruction.memory_base() {
        Register::RBP | Register::RSP | Register::EBP | Register::ESP => SEG_SS,
        _ => SEG_DS,
    }
}

/// Fills in the memory operand.
pub(crate) fn set_memory(instruction: &Instruction, op: &mut Op, size: CodeSize) {
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    op.base = match base {
        Register::None => SLOT_ZERO,
        Register::RIP | Register::EIP => SLOT_BLOCK_RIP,
        other => other.full_register().number() as u8,
    };
    op.index = match index {
        Register::None => SLOT_ZERO,
        other => other.full_register().number() as u8,
    };
    op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    op.disp = instruction.memory_displacement64();
    op.seg = memory_segment(instruction, size);
    let width = if base != Register::None {
        base.size()
    } else if index != Register::None {
        index.size()
    } else {
        instruction.memory_displ_size() as usize
    };
    set_address_size(op, width, size);
}

/// Sets the address bits for addresses of `width` bytes (2, 4, 8).
pub(crate) fn set_address_size(op: &mut Op, width: usize, size: CodeSize) {
    match width {
        2 => op.bits |= ADDRESS_16 | ADDRESS_SLOW,
        4 => op.bits |= ADDRESS_32 | ADDRESS_SLOW,
        _ => {}
    }
    if size != CodeSize::Bits64 {
        op.bits |= ADDRESS_SLOW;
    }
}

/// True if operand `n` is in memory.
pub(crate) fn is_memory(instruction: &Instruction, n: u32) -> bool {
    instruction.op_kind(n) == OpKind::Memory
}

/// Immediate operand `n`, sign-extended to 64 bits.
pub(crate) fn immediate(instruction: &Instruction, n: u32) -> u64 {
    instruction.immediate(n)
}
