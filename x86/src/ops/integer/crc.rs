//! CRC32: the checksum of iSCSI (polynomial 11EDC6F41, reflected).

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::memory::with_loaded;
use super::{sized, width};
use crate::core::Core;
use crate::decode::operands::gpr;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{CodeSize, Flow, Op, Selected};
use crate::word::Word;

/// The polynomial without its highest power, its bits in reverse.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What a byte does to the checksum.
static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut rest = n as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = rest >> 1 ^ if rest & 1 != 0 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[n] = rest;
        n += 1;
    }
    table
}

/// Names the handler. The destination has 32 bits, or 64 with zeros above.
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    if insn.mnemonic() != Mnemonic::Crc32 {
        return None;
    }
    op.dst = gpr(insn.op0_register());
    let bytes = width(insn, 1);
    Selected::inline(if insn.op1_kind() == OpKind::Memory {
        sized!(bytes, from_memory)
    } else {
        op.src = gpr(insn.op1_register());
        sized!(bytes, from_register)
    })
}

#[inline(always)]
fn accumulate<T: Word>(core: &mut Core, op: &Op, value: T) {
    let bytes = value.to64().to_le_bytes();
    let sum = bytes[..T::BYTES as usize]
        .iter()
        .fold(core.reg::<u32>(op.dst), |sum, byte| {
            sum >> 8 ^ TABLE[usize::from(sum as u8 ^ byte)]
        });
    core.set_reg(op.dst, sum);
}

fn from_register<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.operand::<T>(op.src);
    accumulate(core, op, value);
    core.next(env, op)
}

fn from_memory<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_loaded::<T>(core, env, op, accumulate::<T>)
}
