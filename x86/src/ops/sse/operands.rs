//! What MMX, SSE and SSE2 handlers share: whether the unit may be used, and where operands are.
//!
//! Does: the checks of CR0 and CR4, sources by their place, the MMX view of the x87 registers.
//! Does not: compute.
//!
//! Invariant: a handler checks, loads, and only then changes registers, so that a fault leaves
//! everything as it was.

use iced_x86::{Instruction, OpKind};

use crate::core::{Core, cr0, cr4};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{Flow, Handler, Op, Selected};
use crate::softfloat::F80;

use super::native::Binary;

/// MXCSR: the six exception flags; their masks are seven bits higher.
pub(super) const FLAGS: u32 = 0x3f;
/// MXCSR: denormals are zeros.
pub(super) const DAZ: u32 = 1 << 6;
/// MXCSR: the six masks.
pub(super) const MASKS: u32 = FLAGS << 7;
/// MXCSR: flush to zero.
pub(super) const FTZ: u32 = 1 << 15;
/// MXCSR: rounding control.
pub(super) const ROUNDING: u32 = 3 << 13;
/// MXCSR: the bits that can be set.
pub(super) const MXCSR_MASK: u32 = 0xffff;

/// x87 status: an unmasked exception waits (ES).
const STATUS_SUMMARY: u16 = 1 << 7;
/// x87 status: TOP.
const STATUS_TOP: u16 = 7 << 11;
/// Sign and exponent of an x87 register that an MMX instruction wrote.
const MMX_EXPONENT: u16 = 0xffff;

// ---- readiness -----------------------------------------------------------------------------

/// Raises what forbids SSE instructions now.
#[inline(always)]
pub(super) fn sse_ready(core: &mut Core) -> Exec<()> {
    if core.cr0 & (cr0::EM | cr0::TS) == 0 && core.cr4 & cr4::OSFXSR != 0 {
        return Ok(());
    }
    sse_refused(core)
}

#[cold]
fn sse_refused(core: &mut Core) -> Exec<()> {
    if core.cr0 & cr0::EM != 0 || core.cr4 & cr4::OSFXSR == 0 {
        core.raise(Fault::UNDEFINED)
    } else {
        core.raise(Fault::NO_DEVICE)
    }
}

/// Raises what forbids MMX instructions now.
#[inline(always)]
pub(super) fn mmx_ready(core: &mut Core) -> Exec<()> {
    if core.cr0 & (cr0::EM | cr0::TS) == 0 && core.x87.status & STATUS_SUMMARY == 0 {
        return Ok(());
    }
    mmx_refused(core)
}

#[cold]
fn mmx_refused(core: &mut Core) -> Exec<()> {
    if core.cr0 & cr0::EM != 0 {
        core.raise(Fault::UNDEFINED)
    } else if core.cr0 & cr0::TS != 0 {
        core.raise(Fault::NO_DEVICE)
    } else {
        core.raise(Fault::X87)
    }
}

/// Raises what forbids instructions that use both kinds of registers.
#[inline(always)]
pub(super) fn mixed_ready(core: &mut Core) -> Exec<()> {
    sse_ready(core)?;
    mmx_ready(core)
}

// ---- MMX registers -------------------------------------------------------------------------

/// An MMX instruction leaves the x87 stack with TOP 0 and no empty register.
#[inline(always)]
pub(super) fn enter_mmx(core: &mut Core) {
    core.x87.status &= !STATUS_TOP;
    core.x87.valid = 0xff;
}

/// [`enter_mmx`] for EMMS: every register is empty.
pub(super) fn leave_mmx(core: &mut Core) {
    core.x87.status &= !STATUS_TOP;
    core.x87.valid = 0;
}

/// MMX register `number`.
#[inline(always)]
pub(super) fn mmx(core: &Core, number: u8) -> u64 {
    core.x87.registers[usize::from(number & 7)].mantissa
}

/// Sets MMX register `number`, and the x87 stack as [`enter_mmx`].
#[inline(always)]
pub(super) fn set_mmx(core: &mut Core, number: u8, value: u64) {
    enter_mmx(core);
    core.x87.registers[usize::from(number & 7)] = F80 {
        mantissa: value,
        sign_exponent: MMX_EXPONENT,
    };
}

// ---- XMM registers -------------------------------------------------------------------------

/// XMM register `number`.
#[inline(always)]
pub(super) fn xmm(core: &Core, number: u8) -> u128 {
    core.xmm[usize::from(number & 15)]
}

/// Sets XMM register `number`.
#[inline(always)]
pub(super) fn set_xmm(core: &mut Core, number: u8, value: u128) {
    core.xmm[usize::from(number & 15)] = value;
}

// ---- sources -------------------------------------------------------------------------------

/// Where a handler's source operand is. Sources of fewer than 16 bytes are zero-extended.
pub(super) trait Source {
    /// Reads it.
    fn load(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<u128>;
}

/// Register `Op::src` of the XMM file.
pub(super) struct Xmm;
/// Register `Op::src` of the MMX file.
pub(super) struct Mmx;
/// General register `Op::src`, 32 bits.
pub(super) struct Gpr32;
/// General register `Op::src`, 64 bits.
pub(super) struct Gpr64;
/// Immediate byte.
pub(super) struct Imm8;
/// Sixteen bytes of memory, aligned.
pub(super) struct Mem128;
/// Sixteen bytes of memory.
pub(super) struct Mem128Unaligned;
/// Eight bytes of memory.
pub(super) struct Mem64;
/// Four bytes of memory.
pub(super) struct Mem32;
/// Two bytes of memory.
pub(super) struct Mem16;

impl Source for Xmm {
    #[inline(always)]
    fn load(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<u128> {
        Ok(xmm(core, op.src))
    }
}

impl Source for Mmx {
    #[inline(always)]
    fn load(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<u128> {
        Ok(u128::from(mmx(core, op.src)))
    }
}

impl Source for Gpr32 {
    #[inline(always)]
    fn load(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<u128> {
        Ok(u128::from(core.reg::<u32>(op.src)))
    }
}

impl Source for Gpr64 {
    #[inline(always)]
    fn load(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<u128> {
        Ok(u128::from(core.reg::<u64>(op.src)))
    }
}

impl Source for Imm8 {
    #[inline(always)]
    fn load(_: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<u128> {
        Ok(u128::from(op.imm as u8))
    }
}

impl Source for Mem128 {
    #[inline(always)]
    fn load(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<u128> {
        core.load_aligned(env, op)
    }
}

impl Source for Mem128Unaligned {
    #[inline(always)]
    fn load(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<u128> {
        Ok(u128::from_le_bytes(core.load_bytes(env, op)?))
    }
}

impl Source for Mem64 {
    #[inline(always)]
    fn load(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<u128> {
        Ok(u128::from(core.load::<u64>(env, op)?))
    }
}

impl Source for Mem32 {
    #[inline(always)]
    fn load(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<u128> {
        Ok(u128::from(core.load::<u32>(env, op)?))
    }
}

impl Source for Mem16 {
    #[inline(always)]
    fn load(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<u128> {
        Ok(u128::from(core.load::<u16>(env, op)?))
    }
}

/// Writes 16 bytes to the memory operand, which must be aligned (#GP(0) if not).
#[inline(always)]
pub(super) fn store_aligned(core: &mut Core, env: &mut Env<'_>, op: &Op, value: u128) -> Exec<()> {
    let linear = core.linear(op, 16, true)?;
    if linear & 15 != 0 {
        return core.raise(Fault::protection(0));
    }
    core.write_bytes(env, linear, op.seg, &value.to_le_bytes())
}

// ---- the common handlers -------------------------------------------------------------------

/// `xmm = B(xmm, S)`.
pub(super) fn xmm_binary<B: Binary, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    sse_ready(core)?;
    let b = S::load(core, env, op)?;
    let a = xmm(core, op.dst);
    set_xmm(core, op.dst, B::apply(a, b));
    Ok(Flow::Next)
}

/// `mm = B(mm, S)`: the low half of what `B` makes of vectors with zeros above.
pub(super) fn mmx_binary<B: Binary, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    mmx_ready(core)?;
    let b = S::load(core, env, op)?;
    let a = u128::from(mmx(core, op.dst));
    set_mmx(core, op.dst, B::apply(a, b) as u64);
    Ok(Flow::Next)
}

// ---- selection -----------------------------------------------------------------------------

/// True if operand 1 is in memory.
pub(super) fn from_memory(insn: &Instruction) -> bool {
    insn.op1_kind() == OpKind::Memory
}

/// One of two handlers, by where operand 1 is.
pub(super) fn by_source(
    insn: &Instruction,
    register: Handler,
    memory: Handler,
) -> Option<Selected> {
    Selected::inline(if from_memory(insn) { memory } else { register })
}

/// `B` on XMM registers, with an aligned source.
pub(super) fn select_xmm<B: Binary>(insn: &Instruction) -> Option<Selected> {
    by_source(insn, xmm_binary::<B, Xmm>, xmm_binary::<B, Mem128>)
}

/// `B` on MMX registers.
pub(super) fn select_mmx<B: Binary>(insn: &Instruction) -> Option<Selected> {
    by_source(insn, mmx_binary::<B, Mmx>, mmx_binary::<B, Mem64>)
}

/// `B` on whichever registers the instruction names.
pub(super) fn select_either<B: Binary>(insn: &Instruction) -> Option<Selected> {
    if insn.op0_register().is_mm() {
        select_mmx::<B>(insn)
    } else {
        select_xmm::<B>(insn)
    }
}
