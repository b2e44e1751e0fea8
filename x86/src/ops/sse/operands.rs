//! What MMX, SSE and AVX handlers share: whether the unit may be used, where operands are, and what
//! becomes of the upper half of a register.
//!
//! Does: the checks of CR0, CR4 and XCR0, registers as 128-bit lanes, sources by their place, the MMX
//! view of the x87 registers. Does not: compute.
//!
//! An operation is defined once, for 128 bits. A [`Form`] says how an instruction applies it: once,
//! with the upper half of the destination left alone (legacy SSE); once, with the upper half zeroed
//! (VEX.128); or to both halves (VEX.256).
//!
//! Invariant: a handler checks, loads, and only then changes registers, so that a fault leaves
//! everything as it was.

use iced_x86::{EncodingKind, Instruction, OpKind};

use crate::core::{Core, cr0, cr4};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{Flow, Handler, Op, Selected};
use crate::softfloat::F80;
use crate::state::{XCR0_SSE, XCR0_YMM};

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

// ---- forms ---------------------------------------------------------------------------------

/// A register's two lanes of 128 bits, the low one first. In forms of 128 bits the other is 0.
pub(super) type Lanes = [u128; 2];

/// How an instruction is encoded, and how wide it is.
pub(super) trait Form: 'static {
    /// With a VEX prefix.
    const VEX: bool;
    /// On 256 bits.
    const WIDE: bool;
}

/// Legacy SSE: the upper half of the destination stays.
pub(super) struct Legacy;
/// VEX.128: the upper half of the destination becomes zero.
pub(super) struct Vex128;
/// VEX.256.
pub(super) struct Vex256;

impl Form for Legacy {
    const VEX: bool = false;
    const WIDE: bool = false;
}

impl Form for Vex128 {
    const VEX: bool = true;
    const WIDE: bool = false;
}

impl Form for Vex256 {
    const VEX: bool = true;
    const WIDE: bool = true;
}

/// True if the instruction has a VEX prefix.
pub(super) fn is_vex(insn: &Instruction) -> bool {
    insn.code().encoding() == EncodingKind::VEX
}

/// True if the instruction has 256-bit operands.
pub(super) fn is_wide(insn: &Instruction) -> bool {
    let registers = (0..insn.op_count()).any(|n| insn.op_register(n).is_ymm());
    let in_memory = insn.op_kinds().any(|kind| kind == OpKind::Memory);
    is_vex(insn) && (registers || in_memory && insn.memory_size().size() == 32)
}

/// `handler` for the instruction's form, its first parameter.
macro_rules! by_form {
    ($insn:expr, $handler:ident $(, $parameter:ty)*) => {
        match ($crate::ops::sse::operands::is_vex($insn), $crate::ops::sse::operands::is_wide($insn)) {
            (false, _) => $handler::<$crate::ops::sse::operands::Legacy $(, $parameter)*>
                as $crate::op::Handler,
            (true, false) => $handler::<$crate::ops::sse::operands::Vex128 $(, $parameter)*>,
            (true, true) => $handler::<$crate::ops::sse::operands::Vex256 $(, $parameter)*>,
        }
    };
}

/// Like `by_form!`, for instructions without a 256-bit form.
macro_rules! by_narrow_form {
    ($insn:expr, $handler:ident $(, $parameter:ty)*) => {
        if $crate::ops::sse::operands::is_vex($insn) {
            $handler::<$crate::ops::sse::operands::Vex128 $(, $parameter)*>
                as $crate::op::Handler
        } else {
            $handler::<$crate::ops::sse::operands::Legacy $(, $parameter)*>
        }
    };
}

/// Like `by_form!`, for instructions without a legacy form.
macro_rules! by_vex_form {
    ($insn:expr, $handler:ident $(, $parameter:ty)*) => {
        if $crate::ops::sse::operands::is_wide($insn) {
            $handler::<$crate::ops::sse::operands::Vex256 $(, $parameter)*>
                as $crate::op::Handler
        } else {
            $handler::<$crate::ops::sse::operands::Vex128 $(, $parameter)*>
        }
    };
}

pub(super) use {by_form, by_narrow_form, by_vex_form};

// ---- readiness -----------------------------------------------------------------------------

/// Raises what forbids instructions of this form now.
#[inline(always)]
pub(super) fn ready<F: Form>(core: &mut Core) -> Exec<()> {
    if F::VEX {
        vex_ready(core)
    } else {
        sse_ready(core)
    }
}

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

/// Raises what forbids instructions on YMM registers now. CR0.EM and CR4.OSFXSR do not count.
#[inline(always)]
pub(super) fn vex_ready(core: &mut Core) -> Exec<()> {
    if avx_enabled(core) && core.cr0 & cr0::TS == 0 {
        return Ok(());
    }
    vex_refused(core)
}

/// True if the system has enabled AVX, in a mode that has it.
#[inline(always)]
pub(crate) fn avx_enabled(core: &Core) -> bool {
    let state = XCR0_SSE | XCR0_YMM;
    core.cr4 & cr4::OSXSAVE != 0 && core.xcr0 & state == state && core.protected() && !core.v8086()
}

#[cold]
fn vex_refused(core: &mut Core) -> Exec<()> {
    if avx_enabled(core) {
        core.raise(Fault::NO_DEVICE)
    } else {
        core.raise(Fault::UNDEFINED)
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

// ---- XMM and YMM registers -----------------------------------------------------------------

/// XMM register `number`.
#[inline(always)]
pub(super) fn xmm(core: &Core, number: u8) -> u128 {
    core.xmm[usize::from(number & 15)]
}

/// Vector register `number`, as wide as the form.
#[inline(always)]
pub(super) fn get<F: Form>(core: &Core, number: u8) -> Lanes {
    let n = usize::from(number & 15);
    [core.xmm[n], if F::WIDE { core.ymm_high[n] } else { 0 }]
}

/// Sets vector register `number`. Here alone is decided what becomes of its upper half.
#[inline(always)]
pub(super) fn set<F: Form>(core: &mut Core, number: u8, value: Lanes) {
    let n = usize::from(number & 15);
    core.xmm[n] = value[0];
    if F::VEX {
        core.ymm_high[n] = if F::WIDE { value[1] } else { 0 };
    }
}

/// [`set`] of a result of 128 bits, whatever the width of the sources.
#[inline(always)]
pub(super) fn set_narrow<F: Form>(core: &mut Core, number: u8, value: u128) {
    if F::VEX {
        set::<Vex128>(core, number, [value, 0]);
    } else {
        set::<Legacy>(core, number, [value, 0]);
    }
}

/// The first source: what legacy forms overwrite, and VEX.vvvv names.
#[inline(always)]
pub(super) fn first<F: Form>(core: &Core, op: &Op) -> Lanes {
    get::<F>(core, op.aux)
}

// ---- sources -------------------------------------------------------------------------------

/// Where a handler's second source is. Sources that do not fill the lanes are zero-extended.
pub(super) trait Source: 'static {
    /// In memory.
    const MEMORY: bool;
    /// Reads it.
    fn load<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Lanes>;
}

/// Register `Op::src` of the vector file.
pub(super) struct Register;
/// Memory, as wide as the form; aligned in legacy forms.
pub(super) struct Memory;
/// Memory, as wide as the form, aligned.
pub(super) struct Aligned;
/// Memory, as wide as the form.
pub(super) struct Unaligned;
/// XMM register `Op::src` in both lanes.
pub(super) struct SameRegister;
/// Sixteen bytes of memory in both lanes; aligned in legacy forms.
pub(super) struct SameMemory;
/// `BYTES` of XMM register `Op::src` for each lane.
pub(super) struct PartOfRegister<const BYTES: u32>;
/// `BYTES` of memory (2, 4 or 8) for each lane.
pub(super) struct PartOfMemory<const BYTES: u32>;
/// Register `Op::src` of the MMX file.
pub(super) struct Mmx;
/// General register `Op::src`, 32 bits.
pub(super) struct Gpr32;
/// General register `Op::src`, 64 bits.
pub(super) struct Gpr64;
/// Immediate byte, in both lanes.
pub(super) struct Imm8;
/// Sixteen bytes of memory, aligned in every form.
pub(super) struct Mem128;
/// Eight bytes of memory.
pub(super) struct Mem64;
/// Four bytes of memory.
pub(super) struct Mem32;
/// Two bytes of memory.
pub(super) struct Mem16;
/// One byte of memory.
pub(super) struct Mem8;

impl Source for Register {
    const MEMORY: bool = false;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        Ok(get::<F>(core, op.src))
    }
}

impl Source for Memory {
    const MEMORY: bool = true;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        if F::VEX {
            Unaligned::load::<F>(core, env, op)
        } else {
            Aligned::load::<F>(core, env, op)
        }
    }
}

impl Source for Aligned {
    const MEMORY: bool = true;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        if F::WIDE {
            let linear = core.linear(op, 32, false)?;
            if linear & 31 != 0 {
                return core.raise(Fault::protection(0));
            }
            Ok(lanes(core.read_bytes(env, linear, op.seg)?))
        } else {
            Ok([core.load_aligned(env, op)?, 0])
        }
    }
}

impl Source for Unaligned {
    const MEMORY: bool = true;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        if F::WIDE {
            Ok(lanes(core.load_bytes(env, op)?))
        } else {
            Ok([u128::from_le_bytes(core.load_bytes(env, op)?), 0])
        }
    }
}

impl Source for SameRegister {
    const MEMORY: bool = false;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        Ok([xmm(core, op.src); 2])
    }
}

impl Source for SameMemory {
    const MEMORY: bool = true;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        let [value, _] = if F::VEX {
            Unaligned::load::<Vex128>(core, env, op)?
        } else {
            Aligned::load::<Legacy>(core, env, op)?
        };
        Ok([value; 2])
    }
}

/// The low `bytes` of `value` for each lane.
#[inline(always)]
fn parts(value: u128, bytes: u32) -> Lanes {
    let mask = (1 << (8 * bytes)) - 1;
    [value & mask, value >> (8 * bytes) & mask]
}

impl<const BYTES: u32> Source for PartOfRegister<BYTES> {
    const MEMORY: bool = false;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        Ok(parts(xmm(core, op.src), BYTES))
    }
}

impl<const BYTES: u32> Source for PartOfMemory<BYTES> {
    const MEMORY: bool = true;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        let value = match (BYTES, F::WIDE) {
            (2, false) => core.load::<u16>(env, op)?.into(),
            (2, true) | (4, false) => core.load::<u32>(env, op)?.into(),
            (4, true) | (8, false) => core.load::<u64>(env, op)?.into(),
            _ => u128::from_le_bytes(core.load_bytes(env, op)?),
        };
        Ok(parts(value, BYTES))
    }
}

impl Source for Mmx {
    const MEMORY: bool = false;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        Ok([mmx(core, op.src).into(), 0])
    }
}

impl Source for Gpr32 {
    const MEMORY: bool = false;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        Ok([core.reg::<u32>(op.src).into(), 0])
    }
}

impl Source for Gpr64 {
    const MEMORY: bool = false;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        Ok([core.reg::<u64>(op.src).into(), 0])
    }
}

impl Source for Imm8 {
    const MEMORY: bool = false;
    #[inline(always)]
    fn load<F: Form>(_: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        Ok([(op.imm as u8).into(); 2])
    }
}

impl Source for Mem128 {
    const MEMORY: bool = true;
    #[inline(always)]
    fn load<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
        Ok([core.load_aligned(env, op)?, 0])
    }
}

/// Sources of one word of memory.
macro_rules! words {
    ($($name:ident: $word:ty;)*) => {$(
        impl Source for $name {
            const MEMORY: bool = true;
            #[inline(always)]
            fn load<F: Form>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Lanes> {
                Ok([core.load::<$word>(env, op)?.into(), 0])
            }
        }
    )*};
}

words! {
    Mem64: u64;
    Mem32: u32;
    Mem16: u16;
    Mem8: u8;
}

/// The lanes of 32 bytes.
#[inline(always)]
fn lanes(bytes: [u8; 32]) -> Lanes {
    let (low, high) = bytes.split_at(16);
    let lane = |half: &[u8]| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(half);
        u128::from_le_bytes(bytes)
    };
    [lane(low), lane(high)]
}

/// The 32 bytes of two lanes.
#[inline(always)]
fn bytes(value: Lanes) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&value[0].to_le_bytes());
    bytes[16..].copy_from_slice(&value[1].to_le_bytes());
    bytes
}

/// Writes a register of the form's width to the memory operand, which `aligned` says must be
/// aligned (#GP(0) if not).
#[inline(always)]
pub(super) fn store<F: Form>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    value: Lanes,
    aligned: bool,
) -> Exec<()> {
    let size = if F::WIDE { 32 } else { 16 };
    let linear = core.linear(op, size, true)?;
    if aligned && linear & (size - 1) != 0 {
        return core.raise(Fault::protection(0));
    }
    if F::WIDE {
        core.write_bytes(env, linear, op.seg, &bytes(value))
    } else {
        core.write_bytes(env, linear, op.seg, &value[0].to_le_bytes())
    }
}

// ---- the common handlers -------------------------------------------------------------------

/// Goes on with the next instruction after one that read `S`.
#[inline(always)]
pub(super) fn after<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if S::MEMORY {
        core.next_after_access(env, op)
    } else {
        core.next(env, op)
    }
}

/// `B` in each lane of the form.
#[inline(always)]
pub(super) fn each<F: Form, B: Binary>(a: Lanes, b: Lanes) -> Lanes {
    [
        B::apply(a[0], b[0]),
        if F::WIDE { B::apply(a[1], b[1]) } else { 0 },
    ]
}

/// `dst = B(first, S)`.
pub(super) fn binary<F: Form, B: Binary, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let b = S::load::<F>(core, env, op)?;
    let a = first::<F>(core, op);
    set::<F>(core, op.dst, each::<F, B>(a, b));
    after::<S>(core, env, op)
}

/// `mm = B(mm, S)`: the low half of what `B` makes of vectors with zeros above.
pub(super) fn mmx_binary<B: Binary, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    mmx_ready(core)?;
    let [b, _] = S::load::<Legacy>(core, env, op)?;
    let a = u128::from(mmx(core, op.dst));
    set_mmx(core, op.dst, B::apply(a, b) as u64);
    after::<S>(core, env, op)
}

/// An operation with an immediate byte that needs no MXCSR.
pub(super) trait WithImmediate: 'static {
    /// By how many bits the immediate is shifted for the upper lane.
    const UPPER_SHIFT: u32 = 0;
    /// The result for first source `a` and second source `b`.
    fn apply(a: u128, b: u128, immediate: u8) -> u128;
}

/// `dst = I(first, S, imm8)`.
pub(super) fn with_immediate<F: Form, I: WithImmediate, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let b = S::load::<F>(core, env, op)?;
    let a = first::<F>(core, op);
    let immediate = op.imm as u8;
    let low = I::apply(a[0], b[0], immediate);
    let high = if F::WIDE {
        I::apply(a[1], b[1], immediate >> I::UPPER_SHIFT)
    } else {
        0
    };
    set::<F>(core, op.dst, [low, high]);
    after::<S>(core, env, op)
}

// ---- selection -----------------------------------------------------------------------------

/// True if a source is in memory.
pub(super) fn from_memory(insn: &Instruction) -> bool {
    (1..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory)
}

/// One of two handlers, by where the second source is.
pub(super) fn by_source(
    insn: &Instruction,
    register: Handler,
    memory: Handler,
) -> Option<Selected> {
    Selected::inline(if from_memory(insn) { memory } else { register })
}

/// `B` on vector registers, with a source as wide as they are.
pub(super) fn select_vector<B: Binary>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_form!(insn, binary, B, Register),
        by_form!(insn, binary, B, Memory),
    )
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
        select_vector::<B>(insn)
    }
}

/// `I` on vector registers, with a source as wide as they are.
pub(super) fn select_with_immediate<I: WithImmediate>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_form!(insn, with_immediate, I, Register),
        by_form!(insn, with_immediate, I, Memory),
    )
}
