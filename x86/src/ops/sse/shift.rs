//! Shifts of elements (PSLL*, PSRL*, PSRA*, VPS*V*) and of whole lanes (PSLLDQ, PSRLDQ).
//!
//! Does: name the handler, shift by bytes. Does not: shift lanes (`native`).
//!
//! Invariant: a count from a register or memory is its low 64 bits; counts beyond the lane give
//! zeros, or the sign.

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use super::lanes::{zip_dwords, zip_qwords};
use super::native::{
    Binary, ShiftLeftD, ShiftLeftQ, ShiftLeftW, ShiftRightD, ShiftRightQ, ShiftRightW,
    ShiftSignedD, ShiftSignedW,
};
use super::operands::{
    Imm8, SameMemory, SameRegister, binary, by_form, by_source, mmx_binary, select_mmx,
    select_vector,
};
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

/// Defines shifts of each element by a count of its own.
macro_rules! variable {
    ($($(#[$doc:meta])* $name:ident: $zip:ident, |$x:ident, $count:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        struct $name;

        impl Binary for $name {
            #[inline(always)]
            fn apply(a: u128, b: u128) -> u128 {
                $zip(a, b, |$x, $count| $body)
            }
        }
    )*};
}

variable! {
    /// VPSLLVD.
    VariableLeftD: zip_dwords, |x, count| x.checked_shl(count).unwrap_or(0);
    /// VPSLLVQ.
    VariableLeftQ: zip_qwords, |x, count| if count > 63 { 0 } else { x << count };
    /// VPSRLVD.
    VariableRightD: zip_dwords, |x, count| x.checked_shr(count).unwrap_or(0);
    /// VPSRLVQ.
    VariableRightQ: zip_qwords, |x, count| if count > 63 { 0 } else { x >> count };
    /// VPSRAVD.
    VariableSignedD: zip_dwords, |x, count| (x as i32 >> count.min(31)) as u32;
}

/// A shift with an immediate or another count, the same for every lane.
fn shift<B: Binary>(insn: &Instruction) -> Option<Selected> {
    let immediate = insn.op_count() > 1 && insn.op_kinds().any(|kind| kind == OpKind::Immediate8);
    match (immediate, insn.op0_register().is_mm()) {
        (true, true) => Selected::inline(mmx_binary::<B, Imm8>),
        (true, false) => Selected::inline(by_form!(insn, binary, B, Imm8)),
        (false, true) => select_mmx::<B>(insn),
        (false, false) => by_source(
            insn,
            by_form!(insn, binary, B, SameRegister),
            by_form!(insn, binary, B, SameMemory),
        ),
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Psllw | M::Vpsllw => shift::<ShiftLeftW>(insn),
        M::Pslld | M::Vpslld => shift::<ShiftLeftD>(insn),
        M::Psllq | M::Vpsllq => shift::<ShiftLeftQ>(insn),
        M::Psrlw | M::Vpsrlw => shift::<ShiftRightW>(insn),
        M::Psrld | M::Vpsrld => shift::<ShiftRightD>(insn),
        M::Psrlq | M::Vpsrlq => shift::<ShiftRightQ>(insn),
        M::Psraw | M::Vpsraw => shift::<ShiftSignedW>(insn),
        M::Psrad | M::Vpsrad => shift::<ShiftSignedD>(insn),
        M::Pslldq | M::Vpslldq => shift::<BytesLeft>(insn),
        M::Psrldq | M::Vpsrldq => shift::<BytesRight>(insn),
        M::Vpsllvd => select_vector::<VariableLeftD>(insn),
        M::Vpsllvq => select_vector::<VariableLeftQ>(insn),
        M::Vpsrlvd => select_vector::<VariableRightD>(insn),
        M::Vpsrlvq => select_vector::<VariableRightQ>(insn),
        M::Vpsravd => select_vector::<VariableSignedD>(insn),
        _ => None,
    }
}
