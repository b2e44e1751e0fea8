//! Moves: MOVAPS and relatives, MOVSS, MOVSD, halves, MOVD, MOVQ, non-temporal and masked stores,
//! sign masks.
//!
//! Does: move bits. Does not: convert, or cache anything: non-temporal stores are stores.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::native::{Binary, byte_signs};
use super::operands::{
    Gpr32, Gpr64, Mem32, Mem64, Mem128, Mem128Unaligned, Mmx, Source, Xmm, by_source, enter_mmx,
    mixed_ready, mmx, mmx_binary, mmx_ready, set_mmx, set_xmm, sse_ready, store_aligned, xmm,
    xmm_binary,
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
struct Whole;
/// The low doubleword of the source under the rest of the destination.
struct MergeD;
/// The low quadword of the source under the rest of the destination.
struct MergeQ;
/// The low quadword of the source, zeros above.
struct ZeroAbove;
/// The high quadword of the source under that of the destination.
struct HighToLow;

impl Binary for Whole {
    #[inline(always)]
    fn apply(_: u128, b: u128) -> u128 {
        b
    }
}

impl Binary for MergeD {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        a & !LOW_32 | b & LOW_32
    }
}

impl Binary for MergeQ {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        a & !LOW_64 | b & LOW_64
    }
}

impl Binary for ZeroAbove {
    #[inline(always)]
    fn apply(_: u128, b: u128) -> u128 {
        b & LOW_64
    }
}

impl Binary for HighToLow {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        a & !LOW_64 | b >> 64
    }
}

/// MOVDQ2Q.
fn xmm_to_mmx(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mixed_ready(core)?;
    set_mmx(core, op.dst, xmm(core, op.src) as u64);
    Ok(Flow::Next)
}

/// MOVQ2DQ.
fn mmx_to_xmm(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mixed_ready(core)?;
    enter_mmx(core);
    set_xmm(core, op.dst, u128::from(mmx(core, op.src)));
    Ok(Flow::Next)
}

// ---- into memory ---------------------------------------------------------------------------

/// Sixteen bytes, aligned.
fn store_whole_aligned(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    store_aligned(core, env, op, xmm(core, op.src))?;
    Ok(Flow::Next)
}

/// Sixteen bytes.
fn store_whole(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let bytes = xmm(core, op.src).to_le_bytes();
    core.store_bytes(env, op, &bytes)?;
    Ok(Flow::Next)
}

/// The low `T` of an XMM register.
fn store_low<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let low = T::from64(xmm(core, op.src) as u64);
    core.store(env, op, low)?;
    Ok(Flow::Next)
}

/// The high quadword of an XMM register.
fn store_high(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let high = (xmm(core, op.src) >> 64) as u64;
    core.store(env, op, high)?;
    Ok(Flow::Next)
}

/// The low `T` of an MMX register.
fn store_mmx<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let low = T::from64(mmx(core, op.src));
    core.store(env, op, low)?;
    enter_mmx(core);
    Ok(Flow::Next)
}

/// MOVNTI: an integer store, which no control register forbids.
fn store_general<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.reg::<T>(op.src);
    core.store(env, op, value)?;
    Ok(Flow::Next)
}

/// Stores those of `size` bytes of `value` whose `mask` bit is set. The whole operand must be
/// writable, whatever the mask.
fn store_masked(
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
fn masked_xmm(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let mask = byte_signs(xmm(core, op.src));
    store_masked(core, env, op, xmm(core, op.dst), mask, 16)?;
    Ok(Flow::Next)
}

/// MASKMOVQ.
fn masked_mmx(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let mask = byte_signs(u128::from(mmx(core, op.src)));
    store_masked(core, env, op, u128::from(mmx(core, op.dst)), mask, 8)?;
    enter_mmx(core);
    Ok(Flow::Next)
}

// ---- into general registers ----------------------------------------------------------------

/// MOVD, MOVQ from an XMM register.
fn xmm_to_general<T: Word>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    core.set_reg(op.dst, T::from64(xmm(core, op.src) as u64));
    Ok(Flow::Next)
}

/// MOVD, MOVQ from an MMX register.
fn mmx_to_general<T: Word>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    enter_mmx(core);
    core.set_reg(op.dst, T::from64(mmx(core, op.src)));
    Ok(Flow::Next)
}

/// PMOVMSKB from an XMM register.
fn byte_mask_xmm(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    core.set_reg(op.dst, u64::from(byte_signs(xmm(core, op.src))));
    Ok(Flow::Next)
}

/// PMOVMSKB from an MMX register.
fn byte_mask_mmx(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    enter_mmx(core);
    core.set_reg(op.dst, u64::from(byte_signs(u128::from(mmx(core, op.src)))));
    Ok(Flow::Next)
}

/// MOVMSKPS.
fn single_mask(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let value = xmm(core, op.src);
    let sign = |n: u32| (value >> (32 * n + 31)) as u64 & 1;
    core.set_reg(op.dst, sign(0) | sign(1) << 1 | sign(2) << 2 | sign(3) << 3);
    Ok(Flow::Next)
}

/// MOVMSKPD.
fn double_mask(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let value = xmm(core, op.src);
    let mask = (value >> 63) as u64 & 1 | (value >> 126) as u64 & 2;
    core.set_reg(op.dst, mask);
    Ok(Flow::Next)
}

// ---- selection -----------------------------------------------------------------------------

/// `xmm = B(xmm, S)`.
fn load<B: Binary, S: Source>() -> Option<Selected> {
    Selected::inline(xmm_binary::<B, S>)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    if insn.op0_kind() == OpKind::Memory {
        return select_store(insn);
    }
    match insn.code() {
        Code::Movaps_xmm_xmmm128 | Code::Movapd_xmm_xmmm128 | Code::Movdqa_xmm_xmmm128 => {
            by_source(insn, xmm_binary::<Whole, Xmm>, xmm_binary::<Whole, Mem128>)
        }
        Code::Movups_xmm_xmmm128 | Code::Movupd_xmm_xmmm128 | Code::Movdqu_xmm_xmmm128 => {
            by_source(
                insn,
                xmm_binary::<Whole, Xmm>,
                xmm_binary::<Whole, Mem128Unaligned>,
            )
        }
        Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movups_xmmm128_xmm
        | Code::Movupd_xmmm128_xmm
        | Code::Movdqu_xmmm128_xmm => load::<Whole, Xmm>(),
        Code::Movss_xmm_xmmm32 | Code::Movss_xmmm32_xmm => {
            by_source(insn, xmm_binary::<MergeD, Xmm>, xmm_binary::<Whole, Mem32>)
        }
        Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm => {
            by_source(insn, xmm_binary::<MergeQ, Xmm>, xmm_binary::<Whole, Mem64>)
        }
        Code::Movq_xmm_xmmm64 | Code::Movq_xmmm64_xmm => by_source(
            insn,
            xmm_binary::<ZeroAbove, Xmm>,
            xmm_binary::<Whole, Mem64>,
        ),
        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => load::<MergeQ, Mem64>(),
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => load::<UnpackLowQ, Mem64>(),
        Code::Movhlps_xmm_xmm => load::<HighToLow, Xmm>(),
        Code::Movlhps_xmm_xmm => load::<UnpackLowQ, Xmm>(),
        Code::Movd_xmm_rm32 => {
            by_source(insn, xmm_binary::<Whole, Gpr32>, xmm_binary::<Whole, Mem32>)
        }
        Code::Movq_xmm_rm64 => {
            by_source(insn, xmm_binary::<Whole, Gpr64>, xmm_binary::<Whole, Mem64>)
        }
        Code::Movd_mm_rm32 => {
            by_source(insn, mmx_binary::<Whole, Gpr32>, mmx_binary::<Whole, Mem32>)
        }
        Code::Movq_mm_rm64 => {
            by_source(insn, mmx_binary::<Whole, Gpr64>, mmx_binary::<Whole, Mem64>)
        }
        Code::Movq_mm_mmm64 | Code::Movq_mmm64_mm => {
            by_source(insn, mmx_binary::<Whole, Mmx>, mmx_binary::<Whole, Mem64>)
        }
        Code::Movd_rm32_xmm => Selected::inline(xmm_to_general::<u32>),
        Code::Movq_rm64_xmm => Selected::inline(xmm_to_general::<u64>),
        Code::Movd_rm32_mm => Selected::inline(mmx_to_general::<u32>),
        Code::Movq_rm64_mm => Selected::inline(mmx_to_general::<u64>),
        Code::Movdq2q_mm_xmm => Selected::inline(xmm_to_mmx),
        Code::Movq2dq_xmm_mm => Selected::inline(mmx_to_xmm),
        Code::Pmovmskb_r32_xmm | Code::Pmovmskb_r64_xmm => Selected::inline(byte_mask_xmm),
        Code::Pmovmskb_r32_mm | Code::Pmovmskb_r64_mm => Selected::inline(byte_mask_mmx),
        Code::Movmskps_r32_xmm | Code::Movmskps_r64_xmm => Selected::inline(single_mask),
        Code::Movmskpd_r32_xmm | Code::Movmskpd_r64_xmm => Selected::inline(double_mask),
        Code::Maskmovdqu_rDI_xmm_xmm => {
            set_masked(insn, op, size);
            Selected::inline(masked_xmm)
        }
        Code::Maskmovq_rDI_mm_mm => {
            set_masked(insn, op, size);
            Selected::inline(masked_mmx)
        }
        _ => None,
    }
}

fn select_store(insn: &Instruction) -> Option<Selected> {
    Selected::inline(match insn.code() {
        Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movntps_m128_xmm
        | Code::Movntpd_m128_xmm
        | Code::Movntdq_m128_xmm => store_whole_aligned,
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => {
            store_whole
        }
        Code::Movss_xmmm32_xmm | Code::Movd_rm32_xmm => store_low::<u32>,
        Code::Movsd_xmmm64_xmm
        | Code::Movq_xmmm64_xmm
        | Code::Movq_rm64_xmm
        | Code::Movlps_m64_xmm
        | Code::Movlpd_m64_xmm => store_low::<u64>,
        Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm => store_high,
        Code::Movd_rm32_mm => store_mmx::<u32>,
        Code::Movq_rm64_mm | Code::Movq_mmm64_mm | Code::Movntq_m64_mm => store_mmx::<u64>,
        Code::Movnti_m32_r32 => store_general::<u32>,
        Code::Movnti_m64_r64 => store_general::<u64>,
        _ => return None,
    })
}

/// The operands of a masked store: memory at rDI, then the data and the mask.
fn set_masked(insn: &Instruction, op: &mut Op, size: CodeSize) {
    let width = match insn.op0_kind() {
        OpKind::MemorySegDI => 2,
        OpKind::MemorySegEDI => 4,
        _ => 8,
    };
    op.base = Register::RDI.number() as u8;
    op.seg = match insn.segment_prefix() {
        Register::None => SEG_DS,
        prefix => operands::segment(prefix),
    };
    operands::set_address_size(op, width, size);
    op.dst = operands::number(insn.op1_register());
    op.src = operands::number(insn.op2_register());
}
