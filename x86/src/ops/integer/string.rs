//! MOVS STOS LODS CMPS SCAS, with REP, REPE and REPNE.
//!
//! Does: one iteration at a time, each of them a step; whole runs within a page at once where the
//! result is the same. Does not: INS and OUTS (`system`).
//!
//! Invariant: after every iteration rCX, rSI, rDI, the flags and the progress of the CPU are those
//! of an instruction that stopped there, so a fault, a budget or a watched store can end the
//! instruction after any of them.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::gpr::{RAX, RCX, RDI, RSI};
use super::sized;
use crate::core::Core;
use crate::decode::operands::memory_segment;
use crate::env::Env;
use crate::fault::Exec;
use crate::flags::DF;
use crate::op::{CodeSize, Flow, Handler, Op, REP, REPNE, SEG_ES, Selected};
use crate::word::Word;

/// What one iteration does. `A` is the address size, `T` the element.
trait Iteration: 'static {
    /// ZF decides whether REPE and REPNE go on.
    const COMPARES: bool = false;

    /// One iteration, all or nothing, but for the count.
    fn step<A: Word, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<()>;

    /// Up to `limit` iterations at once if that is possible; how many were done.
    #[inline(always)]
    fn bulk<A: Word, T: Word>(_: &mut Core, _: &Op, _limit: u64) -> u64 {
        0
    }
}

/// Linear address of the element that index `register` points at.
#[inline(always)]
fn linear<A: Word, T: Word>(core: &mut Core, seg: u8, register: u8, write: bool) -> Exec<u64> {
    let offset = core.reg::<A>(register).to64();
    if A::BITS == 64 {
        return Ok(offset.wrapping_add(core.seg_base[usize::from(seg) & 7]));
    }
    core.segmented(seg, offset, T::BYTES, write)
}

#[inline(always)]
fn read<A: Word, T: Word>(core: &mut Core, env: &mut Env<'_>, seg: u8, register: u8) -> Exec<T> {
    let linear = linear::<A, T>(core, seg, register, false)?;
    core.read(env, linear, seg)
}

#[inline(always)]
fn write<A: Word, T: Word>(core: &mut Core, env: &mut Env<'_>, value: T) -> Exec<()> {
    let linear = linear::<A, T>(core, SEG_ES, RDI, true)?;
    core.write(env, linear, SEG_ES, value)
}

/// Moves an index register by `bytes`, forwards or backwards as DF says.
#[inline(always)]
fn advance<A: Word>(core: &mut Core, register: u8, bytes: u64) {
    let old = core.reg::<A>(register).to64();
    let new = if core.flags.has(DF) {
        old.wrapping_sub(bytes)
    } else {
        old.wrapping_add(bytes)
    };
    core.set_reg(register, A::from64(new));
}

/// Linear address and length of the bytes at index `register` that a run may cover: at most `most`,
/// and no further than the offset can go without wrapping or leaving its segment.
#[inline(always)]
fn run<A: Word>(
    core: &mut Core,
    seg: u8,
    register: u8,
    most: u64,
    write: bool,
) -> Option<(u64, u64)> {
    let offset = core.reg::<A>(register).to64();
    if A::BITS == 64 {
        return Some((
            offset.wrapping_add(core.seg_base[usize::from(seg) & 7]),
            most,
        ));
    }
    let most = most.min(A::MASK - offset);
    if most == 0 {
        return None;
    }
    Some((core.segmented(seg, offset, most, write).ok()?, most))
}

/// Bytes that a run may cover at most: a page.
const LONGEST_RUN: u64 = 4096;

struct Movs;
impl Iteration for Movs {
    #[inline(always)]
    fn step<A: Word, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<()> {
        let value = read::<A, T>(core, env, op.seg, RSI)?;
        write::<A, T>(core, env, value)?;
        advance::<A>(core, RSI, T::BYTES);
        advance::<A>(core, RDI, T::BYTES);
        Ok(())
    }

    #[inline(always)]
    fn bulk<A: Word, T: Word>(core: &mut Core, op: &Op, limit: u64) -> u64 {
        if core.flags.has(DF) {
            return 0;
        }
        let most = limit.saturating_mul(T::BYTES).min(LONGEST_RUN);
        let Some((target, most)) = run::<A>(core, SEG_ES, RDI, most, true) else {
            return 0;
        };
        let Some((source, most)) = run::<A>(core, op.seg, RSI, most, false) else {
            return 0;
        };
        let bytes = core.copy_run::<T>(source, target, most);
        if bytes == 0 {
            return 0;
        }
        advance::<A>(core, RSI, bytes);
        advance::<A>(core, RDI, bytes);
        bytes / T::BYTES
    }
}

struct Stos;
impl Iteration for Stos {
    #[inline(always)]
    fn step<A: Word, T: Word>(core: &mut Core, env: &mut Env<'_>, _: &Op) -> Exec<()> {
        let value = core.reg::<T>(RAX);
        write::<A, T>(core, env, value)?;
        advance::<A>(core, RDI, T::BYTES);
        Ok(())
    }

    #[inline(always)]
    fn bulk<A: Word, T: Word>(core: &mut Core, _: &Op, limit: u64) -> u64 {
        if core.flags.has(DF) {
            return 0;
        }
        let most = limit.saturating_mul(T::BYTES).min(LONGEST_RUN);
        let Some((target, most)) = run::<A>(core, SEG_ES, RDI, most, true) else {
            return 0;
        };
        let value = core.reg::<T>(RAX);
        let bytes = core.fill_run(target, most, value);
        if bytes == 0 {
            return 0;
        }
        advance::<A>(core, RDI, bytes);
        bytes / T::BYTES
    }
}

struct Lods;
impl Iteration for Lods {
    #[inline(always)]
    fn step<A: Word, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<()> {
        let value = read::<A, T>(core, env, op.seg, RSI)?;
        core.set_reg(RAX, value);
        advance::<A>(core, RSI, T::BYTES);
        Ok(())
    }
}

#[inline(always)]
fn compare<T: Word>(core: &mut Core, a: T, b: T) {
    let difference = T::from64(a.to64().wrapping_sub(b.to64()));
    core.flags.set_sub(a, b, difference);
}

struct Cmps;
impl Iteration for Cmps {
    const COMPARES: bool = true;

    #[inline(always)]
    fn step<A: Word, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<()> {
        let a = read::<A, T>(core, env, op.seg, RSI)?;
        let b = read::<A, T>(core, env, SEG_ES, RDI)?;
        compare(core, a, b);
        advance::<A>(core, RSI, T::BYTES);
        advance::<A>(core, RDI, T::BYTES);
        Ok(())
    }
}

struct Scas;
impl Iteration for Scas {
    const COMPARES: bool = true;

    #[inline(always)]
    fn step<A: Word, T: Word>(core: &mut Core, env: &mut Env<'_>, _: &Op) -> Exec<()> {
        let b = read::<A, T>(core, env, SEG_ES, RDI)?;
        let a = core.reg::<T>(RAX);
        compare(core, a, b);
        advance::<A>(core, RDI, T::BYTES);
        Ok(())
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => string::<Movs>(insn, op, size),
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => string::<Stos>(insn, op, size),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => string::<Lods>(insn, op, size),
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => string::<Cmps>(insn, op, size),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => string::<Scas>(insn, op, size),
        _ => None,
    }
}

/// `None` for the SSE instructions that share a mnemonic (MOVSD, CMPSD).
fn string<I: Iteration>(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    let address_bytes = insn.op_kinds().find_map(|kind| match kind {
        OpKind::MemorySegSI | OpKind::MemoryESDI => Some(2),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(4),
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(8),
        _ => None,
    })?;
    op.seg = memory_segment(insn, size);
    let bytes = insn.memory_size().size();
    match address_bytes {
        2 => with_prefix::<I, u16>(op, bytes),
        4 => with_prefix::<I, u32>(op, bytes),
        _ => with_prefix::<I, u64>(op, bytes),
    }
}

/// What a repeat prefix waits for, beyond the count.
trait Repetition: 'static {
    /// Goes on while ZF has this value, if the instruction compares.
    const WHILE_EQUAL: bool;
}

/// REP and REPE.
struct Repe;
impl Repetition for Repe {
    const WHILE_EQUAL: bool = true;
}

/// REPNE; REP for instructions that compare nothing.
struct Repne;
impl Repetition for Repne {
    const WHILE_EQUAL: bool = false;
}

fn with_prefix<I: Iteration, A: Word>(op: &mut Op, bytes: usize) -> Option<Selected> {
    let run: Handler = if op.bits & REPNE != 0 && I::COMPARES {
        sized!(bytes, repeated, I, Repne, A)
    } else if op.bits & (REP | REPNE) != 0 {
        sized!(bytes, repeated, I, Repe, A)
    } else {
        return Selected::inline(sized!(bytes, once, I, A));
    };
    Selected::last(run)
}

fn once<I: Iteration, A: Word, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    I::step::<A, T>(core, env, op)?;
    core.next_after_access(env, op)
}

fn repeated<I: Iteration, R: Repetition, A: Word, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let mut count = core.reg::<A>(RCX).to64();
    if count == 0 {
        return Ok(Flow::Next);
    }
    let mut left = core.rep_budget().min(count);
    loop {
        // Iterations but the last one of this call are counted as they complete, so that a device
        // or a fault sees the progress of its own iteration.
        let done = I::bulk::<A, T>(core, op, left);
        if done != 0 {
            count -= done;
            left -= done;
            core.set_reg(RCX, A::from64(count));
            if left == 0 {
                core.count_iterations(done);
                return Ok(if count == 0 { Flow::Next } else { Flow::Repeat });
            }
            core.count_iterations_before_fault(done);
        }
        I::step::<A, T>(core, env, op)?;
        count -= 1;
        left -= 1;
        core.set_reg(RCX, A::from64(count));
        let over = count == 0 || (I::COMPARES && core.flags.zf() != R::WHILE_EQUAL);
        if over || left == 0 || core.attention {
            core.count_iterations(1);
            return Ok(if over { Flow::Next } else { Flow::Repeat });
        }
        core.count_iterations_before_fault(1);
    }
}
