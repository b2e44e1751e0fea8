//! Lanes that change their places: PSHUF*, SHUFP*, PUNPCK*, UNPCK*, PACK*.
//!
//! Does: name the handler, select lanes by immediates, adapt packing and unpacking to MMX.
//! Does not: pack or interleave (`native`), or cross the halves of a YMM register (`permute`).

use iced_x86::{Instruction, Mnemonic as M};

use super::native::{
    Binary, PackSignedD, PackSignedW, PackUnsignedW, UnpackHighB, UnpackHighD, UnpackHighW,
    UnpackLowB, UnpackLowD, UnpackLowW,
};
use super::operands::{
    Legacy, Mem32, Mem64, Mmx, Source, WithImmediate, after, by_source, mmx_binary, mmx_ready,
    select_mmx, select_vector, select_with_immediate, set_mmx,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

// ---- by immediate --------------------------------------------------------------------------

/// Two bits of a selector: field `n`.
#[inline(always)]
fn field(selector: u8, n: u32) -> u32 {
    u32::from(selector >> (2 * n) & 3)
}

/// Doubleword `n`.
#[inline(always)]
fn dword(value: u128, n: u32) -> u128 {
    u128::from((value >> (32 * n)) as u32)
}

/// The words of a quadword, rearranged.
#[inline(always)]
fn shuffle_words(value: u64, selector: u8) -> u64 {
    let word = |n| u64::from((value >> (16 * field(selector, n))) as u16) << (16 * n);
    word(0) | word(1) | word(2) | word(3)
}

/// PSHUFD.
struct Dwords;
/// PSHUFHW.
struct HighWords;
/// PSHUFLW, PSHUFW.
struct LowWords;
/// SHUFPS.
struct Singles;
/// SHUFPD.
struct Doubles;

impl WithImmediate for Dwords {
    #[inline(always)]
    fn apply(_: u128, b: u128, selector: u8) -> u128 {
        let lane = |n| dword(b, field(selector, n)) << (32 * n);
        lane(0) | lane(1) | lane(2) | lane(3)
    }
}

impl WithImmediate for HighWords {
    #[inline(always)]
    fn apply(_: u128, b: u128, selector: u8) -> u128 {
        u128::from(b as u64) | u128::from(shuffle_words((b >> 64) as u64, selector)) << 64
    }
}

impl WithImmediate for LowWords {
    #[inline(always)]
    fn apply(_: u128, b: u128, selector: u8) -> u128 {
        b >> 64 << 64 | u128::from(shuffle_words(b as u64, selector))
    }
}

impl WithImmediate for Singles {
    #[inline(always)]
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        dword(a, field(selector, 0))
            | dword(a, field(selector, 1)) << 32
            | dword(b, field(selector, 2)) << 64
            | dword(b, field(selector, 3)) << 96
    }
}

impl WithImmediate for Doubles {
    const UPPER_SHIFT: u32 = 2;
    #[inline(always)]
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        let low = (a >> (64 * (selector & 1))) as u64;
        let high = (b >> (64 * (selector >> 1 & 1))) as u64;
        u128::from(low) | u128::from(high) << 64
    }
}

/// PSHUFW.
fn mmx_shuffle<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let [b, _] = S::load::<Legacy>(core, env, op)?;
    set_mmx(core, op.dst, shuffle_words(b as u64, op.imm as u8));
    after::<S>(core, env, op)
}

// ---- packing and unpacking -----------------------------------------------------------------

/// PUNPCKLQDQ, UNPCKLPD, MOVLHPS.
pub(super) struct UnpackLowQ;
/// PUNPCKHQDQ, UNPCKHPD.
struct UnpackHighQ;
/// PACK* of MMX registers: both operands in one vector.
pub(super) struct PackMmx<B>(B);
/// PUNPCKH* of MMX registers: the upper half of what PUNPCKL* makes.
struct UnpackHighMmx<B>(B);

impl Binary for UnpackLowQ {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        u128::from(a as u64) | b << 64
    }
}

impl Binary for UnpackHighQ {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        a >> 64 | b >> 64 << 64
    }
}

impl<B: Binary> Binary for PackMmx<B> {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        let both = a | b << 64;
        B::apply(both, both)
    }
}

impl<B: Binary> Binary for UnpackHighMmx<B> {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        B::apply(a, b) >> 64
    }
}

fn pack<B: Binary>(insn: &Instruction) -> Option<Selected> {
    if insn.op0_register().is_mm() {
        select_mmx::<PackMmx<B>>(insn)
    } else {
        select_vector::<B>(insn)
    }
}

fn unpack_low<B: Binary>(insn: &Instruction) -> Option<Selected> {
    if insn.op0_register().is_mm() {
        by_source(insn, mmx_binary::<B, Mmx>, mmx_binary::<B, Mem32>)
    } else {
        select_vector::<B>(insn)
    }
}

fn unpack_high<Low: Binary, High: Binary>(insn: &Instruction) -> Option<Selected> {
    if insn.op0_register().is_mm() {
        select_mmx::<UnpackHighMmx<Low>>(insn)
    } else {
        select_vector::<High>(insn)
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Pshufd | M::Vpshufd => select_with_immediate::<Dwords>(insn),
        M::Pshufhw | M::Vpshufhw => select_with_immediate::<HighWords>(insn),
        M::Pshuflw | M::Vpshuflw => select_with_immediate::<LowWords>(insn),
        M::Pshufw => by_source(insn, mmx_shuffle::<Mmx>, mmx_shuffle::<Mem64>),
        M::Shufps | M::Vshufps => select_with_immediate::<Singles>(insn),
        M::Shufpd | M::Vshufpd => select_with_immediate::<Doubles>(insn),
        M::Punpcklbw | M::Vpunpcklbw => unpack_low::<UnpackLowB>(insn),
        M::Punpcklwd | M::Vpunpcklwd => unpack_low::<UnpackLowW>(insn),
        M::Punpckldq | M::Vpunpckldq => unpack_low::<UnpackLowD>(insn),
        M::Punpckhbw | M::Vpunpckhbw => unpack_high::<UnpackLowB, UnpackHighB>(insn),
        M::Punpckhwd | M::Vpunpckhwd => unpack_high::<UnpackLowW, UnpackHighW>(insn),
        M::Punpckhdq | M::Vpunpckhdq => unpack_high::<UnpackLowD, UnpackHighD>(insn),
        M::Unpcklps | M::Vunpcklps => select_vector::<UnpackLowD>(insn),
        M::Unpckhps | M::Vunpckhps => select_vector::<UnpackHighD>(insn),
        M::Punpcklqdq | M::Vpunpcklqdq | M::Unpcklpd | M::Vunpcklpd => {
            select_vector::<UnpackLowQ>(insn)
        }
        M::Punpckhqdq | M::Vpunpckhqdq | M::Unpckhpd | M::Vunpckhpd => {
            select_vector::<UnpackHighQ>(insn)
        }
        M::Packsswb | M::Vpacksswb => pack::<PackSignedW>(insn),
        M::Packssdw | M::Vpackssdw => pack::<PackSignedD>(insn),
        M::Packuswb | M::Vpackuswb => pack::<PackUnsignedW>(insn),
        _ => None,
    }
}
