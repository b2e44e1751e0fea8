//! A decoded instruction, and what its handler can tell the run loop.
//!
//! Does: carry operands in the shape handlers want them. Does not: hold addresses: everything
//! relative to RIP is relative to the start of the block, since the same bytes can be reached
//! through several linear addresses.

use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;

/// Register-file slot that always reads as zero: no base, no index.
pub const SLOT_ZERO: u8 = 16;
/// Register-file slot that holds the RIP of the running block: base of RIP-relative operands.
pub const SLOT_BLOCK_RIP: u8 = 17;

/// Segment slots of an operand. [`SEG_NONE`] has base 0 and no checks.
pub const SEG_ES: u8 = 0;
/// CS.
pub const SEG_CS: u8 = 1;
/// SS.
pub const SEG_SS: u8 = 2;
/// DS.
pub const SEG_DS: u8 = 3;
/// FS.
pub const SEG_FS: u8 = 4;
/// GS.
pub const SEG_GS: u8 = 5;
/// No segment: a linear address.
pub const SEG_NONE: u8 = 6;

/// What code the CPU is executing; together with the physical address it names a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// 16-bit default sizes.
    Bits16,
    /// 32-bit default sizes.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// What the run loop does after a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with the next instruction of the block.
    Next,
    /// RIP was set by the handler; the block is over.
    Jump,
    /// RIP goes to the next instruction; the block is over (mode, privileges or shadows changed).
    Leave,
    /// RIP stays: a REP instruction has iterations left.
    Repeat,
}

/// Executes one instruction. On `Err` nothing but what the manuals allow has changed.
pub type Handler = fn(&mut Core, &mut Env<'_>, &Op) -> Exec<Flow>;

/// A decoded instruction.
#[derive(Clone, Copy)]
pub struct Op {
    /// What executes it.
    pub run: Handler,
    /// Immediate, sign-extended; for branches the target relative to the start of the block.
    pub imm: u64,
    /// Displacement of the memory operand, sign-extended.
    pub disp: u64,
    /// Base register slot.
    pub base: u8,
    /// Index register slot.
    pub index: u8,
    /// Shift of the index.
    pub scale: u8,
    /// Segment slot of the memory operand.
    pub seg: u8,
    /// First register operand: number, or for high bytes number with [`HIGH_BYTE`].
    pub dst: u8,
    /// Second register operand, likewise.
    pub src: u8,
    /// Third operand or a family's own detail (condition code, count, …).
    pub aux: u8,
    /// Bits [`ADDRESS_SLOW`], [`ADDRESS_32`], [`ADDRESS_16`], [`REP`], [`REPNE`], [`LOCK`].
    pub bits: u8,
    /// Bytes from the start of the block to the instruction.
    pub offset: u16,
    /// Length in bytes.
    pub length: u8,
    /// The x87 opcode bits or whatever a family needs.
    pub extra: u16,
}

/// `dst`/`src`: AH, CH, DH, BH (number 0–3 with this bit).
pub const HIGH_BYTE: u8 = 0x80;

/// `bits`: the address is not simply base + index + displacement + segment base in 64 bits:
/// truncation or segment checks apply (all of legacy mode, and 67h in 64-bit mode).
pub const ADDRESS_SLOW: u8 = 1 << 0;
/// `bits`: effective addresses wrap at 32 bits.
pub const ADDRESS_32: u8 = 1 << 1;
/// `bits`: effective addresses wrap at 16 bits.
pub const ADDRESS_16: u8 = 1 << 2;
/// `bits`: F3 prefix that means REP or REPE.
pub const REP: u8 = 1 << 3;
/// `bits`: F2 prefix that means REPNE.
pub const REPNE: u8 = 1 << 4;
/// `bits`: LOCK prefix.
pub const LOCK: u8 = 1 << 5;

/// What a family's selector answers for an instruction.
#[derive(Clone, Copy)]
pub struct Selected {
    /// The handler.
    pub run: Handler,
    /// The block ends with this instruction.
    pub ends_block: bool,
}

impl Selected {
    /// A handler that goes on with the next instruction.
    pub fn inline(run: Handler) -> Option<Selected> {
        Some(Selected {
            run,
            ends_block: false,
        })
    }

    /// A handler that ends its block.
    pub fn last(run: Handler) -> Option<Selected> {
        Some(Selected {
            run,
            ends_block: true,
        })
    }
}
