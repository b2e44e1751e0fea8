//! MMX, SSE up to SSE4.2, AVX, AVX2, FMA, F16C, AES, PCLMULQDQ and SHA, and FXSAVE.
//!
//! Does: every instruction of these sets, with their exceptions. Does not: know 3DNow!, SSE4a or
//! AVX-512, which have no handler here and so are undefined; know which of these sets the CPU model
//! has (`features`).
//!
//! Invariant: results are the same bits on every host. An operation is defined once, on 128 bits,
//! for its legacy and its VEX forms. Integer lanes and IEEE 754 arithmetic of SSE2 run on the host's
//! own unit (`native`), since they have one definition there and every host has them; all else is
//! computed here.
//!
//! | file | concept |
//! |---|---|
//! | `operands` | may the unit be used, where operands are, the forms, the common handlers |
//! | `moves`, `integer`, `packed`, `shift`, `shuffle`, `blend`, `extend`, `elements`, `permute`, `test` | instructions that know no MXCSR |
//! | `masked`, `gather` | accesses to chosen elements of memory |
//! | `text`, `aes`, `carryless`, `sha` | strings and cryptography |
//! | `arithmetic`, `compare`, `convert`, `horizontal`, `round`, `fused`, `half` | instructions that obey MXCSR |
//! | `float`, `quick` | floating-point exceptions, and when there can be none |
//! | `ieee` | IEEE 754 in integers, for what SSE2 lacks |
//! | `reciprocal` | the approximations |
//! | `state`, `xsave` | FXSAVE, MXCSR, EMMS, VZEROUPPER; XSAVE and XCR0 |
//! | `native` | the host's instructions; all unsafe code |
//! | `lanes` | vectors as elements |

mod aes;
mod arithmetic;
mod blend;
mod carryless;
mod compare;
mod convert;
mod elements;
mod extend;
mod float;
mod fused;
mod gather;
mod half;
mod horizontal;
mod ieee;
mod integer;
mod lanes;
mod masked;
mod moves;
mod native;
mod operands;
mod packed;
mod permute;
mod quick;
mod reciprocal;
mod round;
mod sha;
mod shift;
mod shuffle;
mod state;
mod test;
#[cfg(test)]
mod tests;
mod text;
mod xsave;

use iced_x86::{Instruction, OpKind};

pub(crate) use self::operands::avx_enabled;
use crate::decode::operands::{immediate, number};
use crate::op::{CodeSize, Op, Selected};

/// Names the handler.
pub(crate) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    let mut filled = *op;
    set_operands(insn, &mut filled);
    let selected = moves::select(insn, &mut filled, size)
        .or_else(|| integer::select(insn))
        .or_else(|| shuffle::select(insn))
        .or_else(|| shift::select(insn))
        .or_else(|| arithmetic::select(insn))
        .or_else(|| compare::select(insn))
        .or_else(|| convert::select(insn))
        .or_else(|| packed::select(insn))
        .or_else(|| blend::select(insn))
        .or_else(|| extend::select(insn))
        .or_else(|| elements::select(insn))
        .or_else(|| permute::select(insn))
        .or_else(|| test::select(insn))
        .or_else(|| horizontal::select(insn))
        .or_else(|| round::select(insn))
        .or_else(|| masked::select(insn))
        .or_else(|| gather::select(insn, &mut filled, size))
        .or_else(|| fused::select(insn, &mut filled))
        .or_else(|| half::select(insn))
        .or_else(|| text::select(insn, &mut filled))
        .or_else(|| aes::select(insn))
        .or_else(|| carryless::select(insn))
        .or_else(|| sha::select(insn))
        .or_else(|| state::select(insn))
        .or_else(|| xsave::select(insn))
        .or_else(|| reciprocal::select(insn))?;
    *op = filled;
    Some(selected)
}

/// Registers and the immediate, which lie at the same places in nearly all of these instructions:
/// destination, first source (`Op::aux`), second source, and with VEX a fourth register
/// (`Op::extra`). The first source of legacy forms is the destination.
fn set_operands(insn: &Instruction, op: &mut Op) {
    let register = |n: u32| {
        let is_register = n < insn.op_count() && insn.op_kind(n) == OpKind::Register;
        is_register.then(|| number(insn.op_register(n)))
    };
    op.dst = register(0).unwrap_or(0);
    op.aux = op.dst;
    let three = operands::is_vex(insn)
        && insn.op_count() > 2
        && matches!(insn.op_kind(2), OpKind::Register | OpKind::Memory);
    if three {
        op.aux = register(1).unwrap_or(0);
        op.src = register(2).unwrap_or(0);
        op.extra = register(3).unwrap_or(0).into();
    } else {
        op.src = register(1).unwrap_or(0);
        if operands::is_vex(insn) {
            // Shifts by an immediate; the others have one source.
            op.aux = op.src;
        }
    }
    for n in 1..insn.op_count() {
        if insn.op_kind(n) == OpKind::Immediate8 {
            op.imm = immediate(insn, n);
        }
    }
}
