//! Lanes that change their places: PSHUF*, SHUFP*, PUNPCK*, UNPCK*, PACK*, PEXTRW, PINSRW.
//!
//! Does: name the handler, select lanes by immediates, adapt packing and unpacking to MMX.
//! Does not: pack or interleave (`native`).

use iced_x86::{Code, Instruction, Mnemonic};

use super::native::{
    Binary, PackSignedD, PackSignedW, PackUnsignedW, UnpackHighB, UnpackHighD, UnpackHighW,
    UnpackLowB, UnpackLowD, UnpackLowW,
};
use super::operands::{
    Gpr32, Mem16, Mem32, Mem64, Mem128, Mmx, Source, Xmm, by_source, enter_mmx, mmx, mmx_binary,
    mmx_ready, select_mmx, select_xmm, set_mmx, set_xmm, sse_ready, xmm,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

// ---- by immediate --------------------------------------------------------------------------

/// A selection of lanes by an immediate.
trait Shuffle {
    /// The result for destination `a` and source `b`.
    fn apply(a: u128, b: u128, selector: u8) -> u128;
}

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

impl Shuffle for Dwords {
    #[inline(always)]
    fn apply(_: u128, b: u128, selector: u8) -> u128 {
        let lane = |n| dword(b, field(selector, n)) << (32 * n);
        lane(0) | lane(1) | lane(2) | lane(3)
    }
}

impl Shuffle for HighWords {
    #[inline(always)]
    fn apply(_: u128, b: u128, selector: u8) -> u128 {
        u128::from(b as u64) | u128::from(shuffle_words((b >> 64) as u64, selector)) << 64
    }
}

impl Shuffle for LowWords {
    #[inline(always)]
    fn apply(_: u128, b: u128, selector: u8) -> u128 {
        b >> 64 << 64 | u128::from(shuffle_words(b as u64, selector))
    }
}

impl Shuffle for Singles {
    #[inline(always)]
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        dword(a, field(selector, 0))
            | dword(a, field(selector, 1)) << 32
            | dword(b, field(selector, 2)) << 64
            | dword(b, field(selector, 3)) << 96
    }
}

impl Shuffle for Doubles {
    #[inline(always)]
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        let low = (a >> (64 * (selector & 1))) as u64;
        let high = (b >> (64 * (selector >> 1 & 1))) as u64;
        u128::from(low) | u128::from(high) << 64
    }
}

/// `xmm = F(xmm, S, imm8)`.
fn xmm_shuffle<F: Shuffle, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let b = S::load(core, env, op)?;
    let a = xmm(core, op.dst);
    set_xmm(core, op.dst, F::apply(a, b, op.imm as u8));
    Ok(Flow::Next)
}

/// PSHUFW.
fn mmx_shuffle<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let b = S::load(core, env, op)?;
    set_mmx(core, op.dst, shuffle_words(b as u64, op.imm as u8));
    Ok(Flow::Next)
}

fn select_shuffle<F: Shuffle>(insn: &Instruction) -> Option<Selected> {
    by_source(insn, xmm_shuffle::<F, Xmm>, xmm_shuffle::<F, Mem128>)
}

// ---- words in and out ----------------------------------------------------------------------

/// PEXTRW from an XMM register.
fn extract_xmm(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let word = (xmm(core, op.src) >> (16 * (op.imm & 7))) as u16;
    core.set_reg(op.dst, u64::from(word));
    Ok(Flow::Next)
}

/// PEXTRW from an MMX register.
fn extract_mmx(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let word = (mmx(core, op.src) >> (16 * (op.imm & 3))) as u16;
    enter_mmx(core);
    core.set_reg(op.dst, u64::from(word));
    Ok(Flow::Next)
}

/// PINSRW into an XMM register.
fn insert_xmm<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let word = S::load(core, env, op)? & 0xffff;
    let shift = 16 * (op.imm & 7);
    let rest = xmm(core, op.dst) & !(0xffff << shift);
    set_xmm(core, op.dst, rest | word << shift);
    Ok(Flow::Next)
}

/// PINSRW into an MMX register.
fn insert_mmx<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let word = S::load(core, env, op)? as u64 & 0xffff;
    let shift = 16 * (op.imm & 3);
    let rest = mmx(core, op.dst) & !(0xffff << shift);
    set_mmx(core, op.dst, rest | word << shift);
    Ok(Flow::Next)
}

// ---- packing and unpacking -----------------------------------------------------------------

/// PUNPCKLQDQ, UNPCKLPD, MOVLHPS.
pub(super) struct UnpackLowQ;
/// PUNPCKHQDQ, UNPCKHPD.
struct UnpackHighQ;
/// PACK* of MMX registers: both operands in one vector.
struct PackMmx<B>(B);
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
        select_xmm::<B>(insn)
    }
}

fn unpack_low<B: Binary>(insn: &Instruction) -> Option<Selected> {
    if insn.op0_register().is_mm() {
        by_source(insn, mmx_binary::<B, Mmx>, mmx_binary::<B, Mem32>)
    } else {
        select_xmm::<B>(insn)
    }
}

fn unpack_high<Low: Binary, High: Binary>(insn: &Instruction) -> Option<Selected> {
    if insn.op0_register().is_mm() {
        select_mmx::<UnpackHighMmx<Low>>(insn)
    } else {
        select_xmm::<High>(insn)
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        Mnemonic::Pshufd => select_shuffle::<Dwords>(insn),
        Mnemonic::Pshufhw => select_shuffle::<HighWords>(insn),
        Mnemonic::Pshuflw => select_shuffle::<LowWords>(insn),
        Mnemonic::Pshufw => by_source(insn, mmx_shuffle::<Mmx>, mmx_shuffle::<Mem64>),
        Mnemonic::Shufps => select_shuffle::<Singles>(insn),
        Mnemonic::Shufpd => select_shuffle::<Doubles>(insn),
        Mnemonic::Punpcklbw => unpack_low::<UnpackLowB>(insn),
        Mnemonic::Punpcklwd => unpack_low::<UnpackLowW>(insn),
        Mnemonic::Punpckldq => unpack_low::<UnpackLowD>(insn),
        Mnemonic::Punpckhbw => unpack_high::<UnpackLowB, UnpackHighB>(insn),
        Mnemonic::Punpckhwd => unpack_high::<UnpackLowW, UnpackHighW>(insn),
        Mnemonic::Punpckhdq => unpack_high::<UnpackLowD, UnpackHighD>(insn),
        Mnemonic::Unpcklps => select_xmm::<UnpackLowD>(insn),
        Mnemonic::Unpckhps => select_xmm::<UnpackHighD>(insn),
        Mnemonic::Punpcklqdq | Mnemonic::Unpcklpd => select_xmm::<UnpackLowQ>(insn),
        Mnemonic::Punpckhqdq | Mnemonic::Unpckhpd => select_xmm::<UnpackHighQ>(insn),
        Mnemonic::Packsswb => pack::<PackSignedW>(insn),
        Mnemonic::Packssdw => pack::<PackSignedD>(insn),
        Mnemonic::Packuswb => pack::<PackUnsignedW>(insn),
        _ => select_word(insn),
    }
}

fn select_word(insn: &Instruction) -> Option<Selected> {
    match insn.code() {
        Code::Pextrw_r32_xmm_imm8 | Code::Pextrw_r64_xmm_imm8 => Selected::inline(extract_xmm),
        Code::Pextrw_r32_mm_imm8 | Code::Pextrw_r64_mm_imm8 => Selected::inline(extract_mmx),
        Code::Pinsrw_xmm_r32m16_imm8 | Code::Pinsrw_xmm_r64m16_imm8 => {
            by_source(insn, insert_xmm::<Gpr32>, insert_xmm::<Mem16>)
        }
        Code::Pinsrw_mm_r32m16_imm8 | Code::Pinsrw_mm_r64m16_imm8 => {
            by_source(insn, insert_mmx::<Gpr32>, insert_mmx::<Mem16>)
        }
        _ => None,
    }
}
