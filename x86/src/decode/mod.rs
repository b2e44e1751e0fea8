//! From bytes to [`Op`]s.
//!
//! Does: let iced-x86 decode one instruction, lay out its operands, ask each family for its handler.
//! Does not: fetch (`cpu`), or execute.
//!
//! Invariant: an `Op` is a function of the instruction's bytes, the code size, the CPU model and its
//! offset in the block alone, so it serves every linear address and every privilege level.

pub(crate) mod operands;

use arch::cpuid::Features;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, OpKind};

use crate::chain::end_of_run;
use crate::core::Core;
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::features;
use crate::op::{CodeSize, Flow, Handler, LOCK, Op, REP, REPNE, SEG_NONE, SLOT_ZERO, Selected};
use crate::{ops, system};

/// Longest instruction (SDM vol. 2, 2.3.11).
pub(crate) const LONGEST: usize = 15;

/// Outcome of decoding at one place.
pub(crate) enum Decoded {
    /// An instruction.
    Op {
        /// What to execute.
        op: Op,
        /// It ends its block.
        ends_block: bool,
    },
    /// The bytes given are a prefix of an instruction: more are needed.
    Short,
}

/// A family's selector: fills in what its handlers want and names the handler, or `None` if the
/// instruction belongs to another family.
type Select = fn(&Instruction, &mut Op, CodeSize) -> Option<Selected>;

/// The families, most frequent first.
const FAMILIES: &[Select] = &[ops::select, system::select];

/// Decodes the instruction at the start of `bytes`, which lies `offset` bytes into its block, for a
/// CPU with `features`. Fifteen bytes are always enough.
pub(crate) fn decode(bytes: &[u8], offset: u16, size: CodeSize, features: Features) -> Decoded {
    let bits = match size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let ip = u64::from(offset);
    let mut decoder = Decoder::with_ip(bits, bytes, ip, features::decoder_options(features));
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => {}
        DecoderError::NoMoreBytes if bytes.len() < LONGEST => return Decoded::Short,
        _ if is_too_long(bytes, bits) => return failing(offset, too_long),
        _ => return failing(offset, undefined),
    }
    if !features::offers(features, &instruction) {
        return failing(offset, undefined);
    }
    let mut op = blank(offset, undefined);
    op.length = instruction.len() as u8;
    for kind in instruction.op_kinds() {
        if kind == OpKind::Memory {
            operands::set_memory(&instruction, &mut op, size);
        }
    }
    op.bits |= if instruction.has_rep_prefix() { REP } else { 0 };
    op.bits |= if instruction.has_repne_prefix() {
        REPNE
    } else {
        0
    };
    op.bits |= if instruction.has_lock_prefix() {
        LOCK
    } else {
        0
    };
    op.extra = ops::x87::opcode(&bytes[..instruction.len()]);
    for select in FAMILIES {
        if let Some(selected) = select(&instruction, &mut op, size) {
            op.run = selected.run;
            return Decoded::Op {
                op,
                ends_block: selected.ends_block,
            };
        }
    }
    failing(offset, undefined)
}

/// True if an instruction that could not be decoded goes on beyond its fifteenth byte. iced-x86
/// calls that invalid; but without one of the prefixes that it has twice, it wants more bytes.
fn is_too_long(bytes: &[u8], bits: u32) -> bool {
    let Some(window) = bytes.first_chunk::<LONGEST>() else {
        return false;
    };
    let is_prefix = |byte: &u8| match byte {
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 => true,
        0x40..=0x4f => bits == 64,
        _ => false,
    };
    let count = window.iter().take_while(|byte| is_prefix(byte)).count();
    let prefixes = &window[..count];
    let Some(twice) = (0..count).find(|&i| prefixes[i + 1..].contains(&prefixes[i])) else {
        return false;
    };
    let mut rest = window.to_vec();
    rest.remove(twice);
    let mut decoder = Decoder::new(bits, &rest, DecoderOptions::NONE);
    let _ = decoder.decode();
    decoder.last_error() == DecoderError::NoMoreBytes
}

/// The mark that follows every run.
pub(crate) fn end_mark() -> Op {
    blank(0, end_of_run)
}

fn blank(offset: u16, run: Handler) -> Op {
    Op {
        run,
        imm: 0,
        disp: 0,
        base: SLOT_ZERO,
        index: SLOT_ZERO,
        scale: 0,
        seg: SEG_NONE,
        dst: 0,
        src: 0,
        aux: 0,
        bits: 0,
        offset,
        length: 0,
        extra: 0,
    }
}

fn failing(offset: u16, run: Handler) -> Decoded {
    Decoded::Op {
        op: blank(offset, run),
        ends_block: true,
    }
}

/// Raises #UD.
pub(crate) fn undefined(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    core.raise(Fault::UNDEFINED)
}

/// More than fifteen bytes: #GP(0).
fn too_long(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    core.raise(Fault::protection(0))
}
