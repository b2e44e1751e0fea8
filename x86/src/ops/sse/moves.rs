//! Moves: MOVAPS and relatives, MOVSS, MOVSD, halves, duplicates, MOVD, MOVQ, non-temporal and
//! masked byte stores, sign masks.
//!
//! Does: move bits. Does not: convert, or cache anything: non-temporal stores are stores.

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register as R};

use super::native::{Binary, byte_signs};
use super::operands::{
    Aligned, Form, Gpr32, Gpr64, Mem32, Mem64, Mmx, PartOfMemory, Register, Unaligned, binary,
    by_form, by_narrow_form, by_source, enter_mmx, from_memory, get, mixed_ready, mmx, mmx_binary,
    mmx_ready, ready, select_vector, set_mmx, store, xmm,
};
use super::shuffle::UnpackLowQ;
use crate::core::Core;
use crate::decode::operands;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{CodeSize, Flow, Op, SEG_DS, Selected};
use crate::word::Word;

/// The lower 32 bits.
const LOW_32: u128 = 0xffff_ffff;
/// The lower 64 bits.
const LOW_64: u128 = 0xffff_ffff_ffff_ffff;

// ---- into registers ------------------------------------------------------------------------

/// The source as it is.
pub(super) struct Whole;
/// The low doubleword of the source under the rest of the first one.
struct MergeD;
/// The low quadword of the source under the rest of the first one.
struct MergeQ;
/// The low quadword of the source, zeros above.
struct ZeroAbove;
/// The high quadword of the source under that of the first one.
struct HighToLow;
/// MOVDDUP.
struct TwiceLowQ;
/// MOVSLDUP.
struct TwiceEvenD;
/// MOVSHDUP.
struct TwiceOddD;

/// Defines moves.
macro_rules! moves {
    ($($name:ident: |$a:ident, $b:ident| $body:expr;)*) => {$(
        impl Binary for $name {
            #[inline(always)]
            fn apply($a: u128, $b: u128) -> u128 {
                $body
            }
        }
    )*};
}

moves! {
    Whole: |_a, b| b;
    MergeD: |a, b| a & !LOW_32 | b & LOW_32;
    MergeQ: |a, b| a & !LOW_64 | b & LOW_64;
    ZeroAbove: |_a, b| b & LOW_64;
    HighToLow: |a, b| a & !LOW_64 | b >> 64;
    TwiceLowQ: |_a, b| b & LOW_64 | b << 64;
    TwiceEvenD: |_a, b| {
        let even = b & (LOW_32 << 64 | LOW_32);
        even | even << 32
    };
    TwiceOddD: |_a, b| {
        let odd = b & (LOW_32 << 96 | LOW_32 << 32);
        odd | odd >> 32
    };
}

/// MOVDQ2Q.
fn xmm_to_mmx(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mixed_ready(core)?;
    set_mmx(core, op.dst, xmm(core, op.src) as u64);
    core.next(env, op)
}

/// MOVQ2DQ.
fn mmx_to_xmm(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mixed_ready(core)?;
    enter_mmx(core);
    core.xmm[usize::from(op.dst & 15)] = u128::from(mmx(core, op.src));
    core.next(env, op)
}

// ---- into memory ---------------------------------------------------------------------------

/// A whole register, aligned.
fn store_aligned<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    store::<F>(core, env, op, get::<F>(core, op.src), true)?;
    core.next_after_access(env, op)
}

/// A whole register.
fn store_unaligned<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    store::<F>(core, env, op, get::<F>(core, op.src), false)?;
    core.next_after_access(env, op)
}

/// The low `T` of an XMM register.
fn store_low<F: Form, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let low = T::from64(xmm(core, op.src) as u64);
    core.store(env, op, low)?;
    core.next_after_access(env, op)
}

/// The high quadword of an XMM register.
fn store_high<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let high = (xmm(core, op.src) >> 64) as u64;
    core.store(env, op, high)?;
    core.next_after_access(env, op)
}

/// The low `T` of an MMX register.
fn store_mmx<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let low = T::from64(mmx(core, op.src));
    core.store(env, op, low)?;
    enter_mmx(core);
    core.next_after_access(env, op)
}

/// Stores those of `size` bytes of `value` whose `mask` bit is set. The whole operand must be
/// writable, whatever the mask.
fn store_bytes(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    value: u128,
    mask: u32,
    size: u32,
) -> Exec<()> {
    let linear = core.linear(op, u64::from(size), true)?;
    core.check_write(env, linear, size as usize, op.seg)?;
    for i in 0..size {
        if mask >> i & 1 != 0 {
            let byte = (value >> (8 * i)) as u8;
            core.write(env, linear.wrapping_add(u64::from(i)), op.seg, byte)?;
        }
    }
    Ok(())
}

/// MASKMOVDQU.
fn masked_xmm<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let mask = byte_signs(xmm(core, op.src));
    store_bytes(core, env, op, xmm(core, op.dst), mask, 16)?;
    core.next_after_access(env, op)
}

/// MASKMOVQ.
fn masked_mmx(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let mask = byte_signs(u128::from(mmx(core, op.src)));
    store_bytes(core, env, op, u128::from(mmx(core, op.dst)), mask, 8)?;
    enter_mmx(core);
    core.next_after_access(env, op)
}

// ---- into general registers ----------------------------------------------------------------

/// MOVD, MOVQ from an XMM register.
fn xmm_to_general<F: Form, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    core.set_reg(op.dst, T::from64(xmm(core, op.src) as u64));
    core.next(env, op)
}

/// MOVD, MOVQ from an MMX register.
fn mmx_to_general<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    enter_mmx(core);
    core.set_reg(op.dst, T::from64(mmx(core, op.src)));
    core.next(env, op)
}

/// Sign bits of a lane.
trait Signs: 'static {
    /// How many there are in 128 bits.
    const COUNT: u32;
    /// The bits.
    fn of(value: u128) -> u32;
}

/// PMOVMSKB.
struct SignsB;
/// MOVMSKPS.
struct SignsD;
/// MOVMSKPD.
struct SignsQ;

impl Signs for SignsB {
    const COUNT: u32 = 16;
    #[inline(always)]
    fn of(value: u128) -> u32 {
        byte_signs(value)
    }
}

impl Signs for SignsD {
    const COUNT: u32 = 4;
    #[inline(always)]
    fn of(value: u128) -> u32 {
        let sign = |n: u32| (value >> (32 * n + 31)) as u32 & 1;
        sign(0) | sign(1) << 1 | sign(2) << 2 | sign(3) << 3
    }
}

impl Signs for SignsQ {
    const COUNT: u32 = 2;
    #[inline(always)]
    fn of(value: u128) -> u32 {
        (value >> 63) as u32 & 1 | (value >> 126) as u32 & 2
    }
}

/// The sign bits of a vector register.
fn sign_mask<F: Form, S: Signs>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let [low, high] = get::<F>(core, op.src);
    let mask = S::of(low) | if F::WIDE { S::of(high) << S::COUNT } else { 0 };
    core.set_reg(op.dst, u64::from(mask));
    core.next(env, op)
}

/// PMOVMSKB from an MMX register.
fn sign_mask_mmx(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    enter_mmx(core);
    core.set_reg(op.dst, u64::from(byte_signs(u128::from(mmx(core, op.src)))));
    core.next(env, op)
}

// ---- selection -----------------------------------------------------------------------------

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    if insn.op0_kind() == OpKind::Memory {
        return select_store(insn);
    }
    match insn.mnemonic() {
        M::Movaps | M::Vmovaps | M::Movapd | M::Vmovapd | M::Movdqa | M::Vmovdqa => by_source(
            insn,
            by_form!(insn, binary, Whole, Register),
            by_form!(insn, binary, Whole, Aligned),
        ),
        M::Movntdqa | M::Vmovntdqa => Selected::inline(by_form!(insn, binary, Whole, Aligned)),
        M::Movups
        | M::Vmovups
        | M::Movupd
        | M::Vmovupd
        | M::Movdqu
        | M::Vmovdqu
        | M::Lddqu
        | M::Vlddqu => by_source(
            insn,
            by_form!(insn, binary, Whole, Register),
            by_form!(insn, binary, Whole, Unaligned),
        ),
        M::Movlps | M::Vmovlps | M::Movlpd | M::Vmovlpd => {
            Selected::inline(by_narrow_form!(insn, binary, MergeQ, Mem64))
        }
        M::Movhps | M::Vmovhps | M::Movhpd | M::Vmovhpd => {
            Selected::inline(by_narrow_form!(insn, binary, UnpackLowQ, Mem64))
        }
        M::Movhlps | M::Vmovhlps => {
            Selected::inline(by_narrow_form!(insn, binary, HighToLow, Register))
        }
        M::Movlhps | M::Vmovlhps => {
            Selected::inline(by_narrow_form!(insn, binary, UnpackLowQ, Register))
        }
        // The 256-bit form duplicates the low half of each lane.
        M::Movddup | M::Vmovddup if super::operands::is_wide(insn) => {
            select_vector::<TwiceLowQ>(insn)
        }
        M::Movddup | M::Vmovddup => by_source(
            insn,
            by_narrow_form!(insn, binary, TwiceLowQ, Register),
            by_narrow_form!(insn, binary, TwiceLowQ, PartOfMemory<8>),
        ),
        M::Movsldup | M::Vmovsldup => select_vector::<TwiceEvenD>(insn),
        M::Movshdup | M::Vmovshdup => select_vector::<TwiceOddD>(insn),
        M::Pmovmskb if insn.op1_register().is_mm() => Selected::inline(sign_mask_mmx),
        M::Pmovmskb | M::Vpmovmskb => Selected::inline(by_form!(insn, sign_mask, SignsB)),
        M::Movmskps | M::Vmovmskps => Selected::inline(by_form!(insn, sign_mask, SignsD)),
        M::Movmskpd | M::Vmovmskpd => Selected::inline(by_form!(insn, sign_mask, SignsQ)),
        M::Movdq2q => Selected::inline(xmm_to_mmx),
        M::Movq2dq => Selected::inline(mmx_to_xmm),
        M::Maskmovdqu | M::Vmaskmovdqu => {
            set_masked(insn, op, size);
            Selected::inline(by_narrow_form!(insn, masked_xmm))
        }
        M::Maskmovq => {
            set_masked(insn, op, size);
            Selected::inline(masked_mmx)
        }
        _ => select_scalar(insn),
    }
}

/// Moves whose mnemonics are not theirs alone.
fn select_scalar(insn: &Instruction) -> Option<Selected> {
    let memory = from_memory(insn);
    Selected::inline(match insn.code() {
        Code::Movss_xmm_xmmm32 | Code::VEX_Vmovss_xmm_m32 if memory => {
            by_narrow_form!(insn, binary, Whole, Mem32)
        }
        Code::Movss_xmm_xmmm32
        | Code::Movss_xmmm32_xmm
        | Code::VEX_Vmovss_xmm_xmm_xmm
        | Code::VEX_Vmovss_xmm_xmm_xmm_0F11 => by_narrow_form!(insn, binary, MergeD, Register),
        Code::Movsd_xmm_xmmm64 | Code::VEX_Vmovsd_xmm_m64 if memory => {
            by_narrow_form!(insn, binary, Whole, Mem64)
        }
        Code::Movsd_xmm_xmmm64
        | Code::Movsd_xmmm64_xmm
        | Code::VEX_Vmovsd_xmm_xmm_xmm
        | Code::VEX_Vmovsd_xmm_xmm_xmm_0F11 => by_narrow_form!(insn, binary, MergeQ, Register),
        Code::Movq_xmm_xmmm64 | Code::VEX_Vmovq_xmm_xmmm64 if memory => {
            by_narrow_form!(insn, binary, Whole, Mem64)
        }
        Code::Movq_xmm_xmmm64
        | Code::Movq_xmmm64_xmm
        | Code::VEX_Vmovq_xmm_xmmm64
        | Code::VEX_Vmovq_xmmm64_xmm => by_narrow_form!(insn, binary, ZeroAbove, Register),
        Code::Movd_xmm_rm32 | Code::VEX_Vmovd_xmm_rm32 if memory => {
            by_narrow_form!(insn, binary, Whole, Mem32)
        }
        Code::Movd_xmm_rm32 | Code::VEX_Vmovd_xmm_rm32 => {
            by_narrow_form!(insn, binary, Whole, Gpr32)
        }
        Code::Movq_xmm_rm64 | Code::VEX_Vmovq_xmm_rm64 if memory => {
            by_narrow_form!(insn, binary, Whole, Mem64)
        }
        Code::Movq_xmm_rm64 | Code::VEX_Vmovq_xmm_rm64 => {
            by_narrow_form!(insn, binary, Whole, Gpr64)
        }
        Code::Movd_mm_rm32 if memory => mmx_binary::<Whole, Mem32>,
        Code::Movd_mm_rm32 => mmx_binary::<Whole, Gpr32>,
        Code::Movq_mm_rm64 | Code::Movq_mm_mmm64 if memory => mmx_binary::<Whole, Mem64>,
        Code::Movq_mm_rm64 => mmx_binary::<Whole, Gpr64>,
        Code::Movq_mm_mmm64 | Code::Movq_mmm64_mm => mmx_binary::<Whole, Mmx>,
        Code::Movd_rm32_xmm | Code::VEX_Vmovd_rm32_xmm => {
            by_narrow_form!(insn, xmm_to_general, u32)
        }
        Code::Movq_rm64_xmm | Code::VEX_Vmovq_rm64_xmm => {
            by_narrow_form!(insn, xmm_to_general, u64)
        }
        Code::Movd_rm32_mm => mmx_to_general::<u32>,
        Code::Movq_rm64_mm => mmx_to_general::<u64>,
        _ => return None,
    })
}

fn select_store(insn: &Instruction) -> Option<Selected> {
    Selected::inline(match insn.mnemonic() {
        M::Movaps
        | M::Vmovaps
        | M::Movapd
        | M::Vmovapd
        | M::Movdqa
        | M::Vmovdqa
        | M::Movntps
        | M::Vmovntps
        | M::Movntpd
        | M::Vmovntpd
        | M::Movntdq
        | M::Vmovntdq => {
            by_form!(insn, store_aligned)
        }
        M::Movups | M::Vmovups | M::Movupd | M::Vmovupd | M::Movdqu | M::Vmovdqu => {
            by_form!(insn, store_unaligned)
        }
        M::Movlps | M::Vmovlps | M::Movlpd | M::Vmovlpd => {
            by_narrow_form!(insn, store_low, u64)
        }
        M::Movhps | M::Vmovhps | M::Movhpd | M::Vmovhpd => by_narrow_form!(insn, store_high),
        _ => match insn.code() {
            Code::Movss_xmmm32_xmm
            | Code::Movd_rm32_xmm
            | Code::VEX_Vmovss_m32_xmm
            | Code::VEX_Vmovd_rm32_xmm => by_narrow_form!(insn, store_low, u32),
            Code::Movsd_xmmm64_xmm
            | Code::Movq_xmmm64_xmm
            | Code::Movq_rm64_xmm
            | Code::VEX_Vmovsd_m64_xmm
            | Code::VEX_Vmovq_xmmm64_xmm
            | Code::VEX_Vmovq_rm64_xmm => by_narrow_form!(insn, store_low, u64),
            Code::Movd_rm32_mm => store_mmx::<u32>,
            Code::Movq_rm64_mm | Code::Movq_mmm64_mm | Code::Movntq_m64_mm => store_mmx::<u64>,
            _ => return None,
        },
    })
}

/// The operands of a masked store: memory at rDI, then the data and the mask.
fn set_masked(insn: &Instruction, op: &mut Op, size: CodeSize) {
    let width = match insn.op0_kind() {
        OpKind::MemorySegDI => 2,
        OpKind::MemorySegEDI => 4,
        _ => 8,
    };
    op.base = R::RDI.number() as u8;
    op.seg = match insn.segment_prefix() {
        R::None => SEG_DS,
        prefix => operands::segment(prefix),
    };
    operands::set_address_size(op, width, size);
    op.dst = operands::number(insn.op1_register());
    op.src = operands::number(insn.op2_register());
}
