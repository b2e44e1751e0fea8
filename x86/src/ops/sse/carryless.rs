//! Carry-less multiplication: PCLMULQDQ.

use iced_x86::{Instruction, Mnemonic as M};

use super::native::carryless_product;
use super::operands::{WithImmediate, select_with_immediate};
use crate::op::Selected;

/// PCLMULQDQ: immediate bits 0 and 4 choose the quadwords.
struct Product;

impl WithImmediate for Product {
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        let a = (a >> (64 * (selector & 1))) as u64;
        let b = (b >> (64 * (selector >> 4 & 1))) as u64;
        carryless_product(a.into(), b.into()).unwrap_or_else(|| product(a, b))
    }
}

/// The product of polynomials over GF(2).
fn product(a: u64, b: u64) -> u128 {
    (0..64)
        .filter(|n| b >> n & 1 != 0)
        .fold(0, |product, n| product ^ u128::from(a) << n)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Pclmulqdq | M::Vpclmulqdq => select_with_immediate::<Product>(insn),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sse::tests::Random;

    #[test]
    fn hosts_with_and_without_pclmulqdq_agree() {
        let mut random = Random(23);
        for _ in 0..2000 {
            let (a, b) = (random.next(), random.next());
            let computed = product(a, b);
            assert_eq!(
                computed,
                carryless_product(a.into(), b.into()).unwrap_or(computed)
            );
        }
        assert_eq!(product(0b101, 0b11), 0b1111);
    }
}
