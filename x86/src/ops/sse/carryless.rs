//! Carry-less multiplication: PCLMULQDQ.

use iced_x86::{Instruction, Mnemonic as M};

use super::operands::{WithImmediate, select_with_immediate};
use crate::op::Selected;

/// PCLMULQDQ: immediate bits 0 and 4 choose the quadwords.
struct Product;

impl WithImmediate for Product {
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        let a = (a >> (64 * (selector & 1))) as u64;
        let b = (b >> (64 * (selector >> 4 & 1))) as u64;
        (0..64)
            .filter(|n| b >> n & 1 != 0)
            .fold(0, |product, n| product ^ u128::from(a) << n)
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Pclmulqdq | M::Vpclmulqdq => select_with_immediate::<Product>(insn),
        _ => None,
    }
}
