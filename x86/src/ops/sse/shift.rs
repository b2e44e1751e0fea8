//! Shifts of lanes (PSLL*, PSRL*, PSRA*) and of whole registers (PSLLDQ, PSRLDQ).
//!
//! Does: name the handler, shift by bytes. Does not: shift lanes (`native`).
//!
//! Invariant: a count from a register or memory is its low 64 bits; counts beyond the lane give
//! zeros, or the sign.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::native::{
    Binary, ShiftLeftD, ShiftLeftQ, ShiftLeftW, ShiftRightD, ShiftRightQ, ShiftRightW,
    ShiftSignedD, ShiftSignedW,
};
use super::operands::{Imm8, mmx_binary, select_either, xmm_binary};
use crate::op::Selected;

/// PSLLDQ.
struct BytesLeft;
/// PSRLDQ.
struct BytesRight;

impl Binary for BytesLeft {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        if b > 15 { 0 } else { a << (8 * b as u32) }
    }
}

impl Binary for BytesRight {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        if b > 15 { 0 } else { a >> (8 * b as u32) }
    }
}

/// A shift with an immediate or another count.
fn shift<B: Binary>(insn: &Instruction) -> Option<Selected> {
    if insn.op1_kind() != OpKind::Immediate8 {
        return select_either::<B>(insn);
    }
    if insn.op0_register().is_mm() {
        Selected::inline(mmx_binary::<B, Imm8>)
    } else {
        Selected::inline(xmm_binary::<B, Imm8>)
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        Mnemonic::Psllw => shift::<ShiftLeftW>(insn),
        Mnemonic::Pslld => shift::<ShiftLeftD>(insn),
        Mnemonic::Psllq => shift::<ShiftLeftQ>(insn),
        Mnemonic::Psrlw => shift::<ShiftRightW>(insn),
        Mnemonic::Psrld => shift::<ShiftRightD>(insn),
        Mnemonic::Psrlq => shift::<ShiftRightQ>(insn),
        Mnemonic::Psraw => shift::<ShiftSignedW>(insn),
        Mnemonic::Psrad => shift::<ShiftSignedD>(insn),
        Mnemonic::Pslldq => shift::<BytesLeft>(insn),
        Mnemonic::Psrldq => shift::<BytesRight>(insn),
        _ => None,
    }
}
