//! Vectors mixed element by element: BLENDPS, BLENDPD, PBLENDW, VPBLENDD by an immediate; BLENDVPS,
//! BLENDVPD, PBLENDVB by the signs of a third vector.
//!
//! Does: choose. Does not: move elements (`shuffle`, `permute`).

use iced_x86::{Instruction, Mnemonic as M};

use super::lanes::{map_bytes, map_dwords, map_qwords};
use super::operands::{
    Form, Lanes, Memory, Register, Source, WithImmediate, after, by_form, by_source, first, get,
    ready, select_with_immediate, set,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

/// The bits of `b` where `mask` is set, of `a` elsewhere.
#[inline(always)]
fn choose(a: u128, b: u128, mask: u128) -> u128 {
    a & !mask | b & mask
}

/// A mask of elements of `bits` bits, from a bit each.
#[inline(always)]
fn spread(selector: u8, bits: u32) -> u128 {
    let ones = if bits == 64 {
        u64::MAX.into()
    } else {
        (1 << bits) - 1
    };
    (0..128 / bits)
        .filter(|n| selector >> n & 1 != 0)
        .fold(0, |mask, n| mask | ones << (bits * n))
}

/// BLENDPS, VPBLENDD.
struct Dwords;
/// BLENDPD.
struct Qwords;
/// PBLENDW: the same selector for both lanes.
struct Words;

impl WithImmediate for Dwords {
    const UPPER_SHIFT: u32 = 4;
    #[inline(always)]
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        choose(a, b, spread(selector, 32))
    }
}

impl WithImmediate for Qwords {
    const UPPER_SHIFT: u32 = 2;
    #[inline(always)]
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        choose(a, b, spread(selector, 64))
    }
}

impl WithImmediate for Words {
    #[inline(always)]
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        choose(a, b, spread(selector, 16))
    }
}

/// A size of elements.
trait Element: 'static {
    /// A mask of the elements whose sign is set.
    fn signs(value: u128) -> u128;
}

/// PBLENDVB.
struct SignsB;
/// BLENDVPS.
struct SignsD;
/// BLENDVPD.
struct SignsQ;

impl Element for SignsB {
    #[inline(always)]
    fn signs(value: u128) -> u128 {
        map_bytes(value, |x| (x as i8 >> 7) as u8)
    }
}

impl Element for SignsD {
    #[inline(always)]
    fn signs(value: u128) -> u128 {
        map_dwords(value, |x| (x as i32 >> 31) as u32)
    }
}

impl Element for SignsQ {
    #[inline(always)]
    fn signs(value: u128) -> u128 {
        map_qwords(value, |x| (x as i64 >> 63) as u64)
    }
}

/// `dst = S` where the third vector (`Op::extra`; XMM0 in legacy forms) is negative, else the first.
fn by_signs<F: Form, E: Element, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let b = S::load::<F>(core, env, op)?;
    let a = first::<F>(core, op);
    let third = if F::VEX { op.extra as u8 } else { 0 };
    let mask = get::<F>(core, third).map(E::signs);
    let result: Lanes = std::array::from_fn(|n| choose(a[n], b[n], mask[n]));
    set::<F>(core, op.dst, result);
    after::<S>(core, env, op)
}

fn select_by_signs<E: Element>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_form!(insn, by_signs, E, Register),
        by_form!(insn, by_signs, E, Memory),
    )
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Blendps | M::Vblendps | M::Vpblendd => select_with_immediate::<Dwords>(insn),
        M::Blendpd | M::Vblendpd => select_with_immediate::<Qwords>(insn),
        M::Pblendw | M::Vpblendw => select_with_immediate::<Words>(insn),
        M::Pblendvb | M::Vpblendvb => select_by_signs::<SignsB>(insn),
        M::Blendvps | M::Vblendvps => select_by_signs::<SignsD>(insn),
        M::Blendvpd | M::Vblendvpd => select_by_signs::<SignsQ>(insn),
        _ => None,
    }
}
