//! Between compiled code and the CPU: what `frame`'s assembly calls.
//!
//! Does: move the guest's registers from and to the `Core`, run handlers, account for steps.
//! Does not: choose what runs next (`cpu`).
//!
//! Invariant: before a handler runs and after compiled code has left, the `Core` is exactly what the
//! interpreter would have made of it.

#![allow(unsafe_code)]

use super::frame::{self, Frame, Live};
use super::translate::INDEX_BITS;
use crate::block::BlockCache;
use crate::core::{Core, cr0, cr4};
use crate::cpu::Cpu;
use crate::decode::end_mark;
use crate::env::Env;
use crate::op::Flow;
use crate::ops::sse::avx_enabled;

/// Why compiled code left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// R15 ran out at the start of a block. The flags may be lost if its interpretation does not
    /// need them: the block must be interpreted next.
    Budget = 1,
    /// The jump cache does not know the next block.
    Next = 2,
    /// A jump within the page has no target yet.
    Link = 3,
    /// Vector instructions cannot run natively: they must be interpreted next.
    Vector = 4,
    /// An instruction ended its block by a jump.
    Jumped = 5,
    /// An instruction called for attention, or changed more than registers.
    Stopped = 6,
}

/// MXCSR: all exceptions masked.
const MASKS: u32 = 0x3f << 7;

/// Before compiled code runs: fills the frame and gives the code's address.
///
/// # Safety
/// `frame` is valid, and so are its pointers to the CPU and its environment.
pub(super) unsafe extern "sysv64" fn begin(frame: *mut Frame) -> u64 {
    // SAFETY: as the caller promises; nobody else uses them meanwhile.
    let (frame, cpu) = unsafe { (&mut *frame, &mut *(*frame).cpu) };
    let (code, budget) = cpu.cache.compiler().entry;
    let core = &cpu.core;
    registers_to_frame(core, frame);
    frame.page = core.rip & !0xfff;
    frame.jumps = cpu.cache.jumps_address();
    frame.key = cpu.jump_key();
    frame.spread = BlockCache::spread(frame.key);
    frame.call_handler = frame::call_handler as *const () as u64;
    frame.leave = frame::leave as *const () as u64;
    frame.load_vectors = frame::load_vectors as *const () as u64;
    frame.budget = budget as i64;
    frame.origin = core.steps + budget;
    frame.live = Live::Nothing as u64;
    code
}

/// After compiled code has left by itself.
///
/// # Safety
/// As for [`begin`].
pub(super) unsafe extern "sysv64" fn end(frame: *mut Frame) {
    // SAFETY: as for `begin`.
    let (frame, cpu) = unsafe { (&mut *frame, &mut *(*frame).cpu) };
    registers_to_core(frame, &mut cpu.core);
    let argument = frame.argument as u32;
    let why = match frame.exit {
        1 => Leaving::Budget,
        2 => Leaving::Next,
        _ => Leaving::Link,
    };
    cpu.core.steps = frame.origin.wrapping_sub(frame.budget as u64);
    cpu.core.rip = match why {
        Leaving::Budget => frame.page + cpu.cache.page_offset(argument >> INDEX_BITS),
        Leaving::Link => {
            let site = cpu.cache.compiler().site_target(argument);
            frame.page + u64::from(site)
        }
        _ => frame.argument,
    };
    cpu.cache.compiler().left = (why, argument);
}

/// Executes the instruction `at` by its handler. 0 if compiled code goes on with the next one; else
/// it leaves.
///
/// # Safety
/// As for [`begin`].
pub(super) unsafe extern "sysv64" fn handler(frame: *mut Frame, at: u32) -> u32 {
    // SAFETY: as for `begin`.
    let (frame, cpu) = unsafe { (&mut *frame, &mut *(*frame).cpu) };
    // SAFETY: as for `begin`.
    let env: &mut Env<'_> = unsafe { &mut *frame.env };
    let (op, rest) = locate(frame, cpu, at);
    let core = &mut cpu.core;
    core.gpr[17] = core.rip;
    let alone = [op, end_mark()];
    let flow = core.execute_alone(env, &alone);
    if flow == Ok(Flow::Next) && !core.attention {
        core.steps += 1;
        frame.budget = frame.origin.wrapping_sub(core.steps + rest) as i64;
        registers_to_frame(core, frame);
        frame.live = Live::Nothing as u64;
        return 0;
    }
    let jumped = flow == Ok(Flow::Jump);
    core.cursor.start(&alone);
    Cpu::finish(core, env, &op, flow);
    cpu.cache.compiler().left = if jumped && !cpu.core.attention {
        (Leaving::Jumped, 0)
    } else {
        (Leaving::Stopped, 0)
    };
    1
}

/// Gives the guest's vector registers to the frame, as many as the [`Live`] `wanted`, and MXCSR; what
/// is live has been spilled. 0 if that was possible; else compiled code leaves.
///
/// # Safety
/// As for [`begin`]; the frame's argument names the first instruction that wants them.
pub(super) unsafe extern "sysv64" fn load_vectors(frame: *mut Frame, wanted: u32) -> u32 {
    // SAFETY: as for `begin`.
    let (frame, cpu) = unsafe { (&mut *frame, &mut *(*frame).cpu) };
    let core = &cpu.core;
    let wants_ymm = wanted == Live::Ymm as u32;
    // Who finds YMM live takes XMM to be, so that all must hold for YMM.
    let usable = core.cr0 & (cr0::EM | cr0::TS) == 0
        && core.cr4 & cr4::OSFXSR != 0
        && (!wants_ymm || avx_enabled(core));
    if usable && core.mxcsr & MASKS == MASKS {
        if frame.live == Live::Nothing as u64 {
            frame.xmm = core.xmm;
            frame.mxcsr[0] = core.mxcsr;
        }
        if wants_ymm {
            frame.ymm_high = core.ymm_high;
        }
        frame.live = u64::from(wanted);
        return 0;
    }
    let at = frame.argument as u32;
    let (op, _) = locate(frame, cpu, at);
    cpu.core.rip = cpu.core.rip.wrapping_add(u64::from(op.offset));
    cpu.cache.compiler().left = (Leaving::Vector, 0);
    1
}

/// Brings the core to the instruction `at`, but with RIP at the start of its block. Gives the
/// instruction and how many follow it.
fn locate(frame: &mut Frame, cpu: &mut Cpu, at: u32) -> (crate::op::Op, u64) {
    let (block, index) = (at >> INDEX_BITS, (at & ((1 << INDEX_BITS) - 1)) as usize);
    let (run, op) = cpu.cache.instruction(block, index);
    let rest = u64::from(run.count) - 1 - index as u64;
    registers_to_core(frame, &mut cpu.core);
    cpu.core.rip = frame.page + cpu.cache.page_offset(block);
    cpu.core.steps = frame.origin.wrapping_sub(frame.budget as u64) - rest - 1;
    (op, rest)
}

fn registers_to_core(frame: &Frame, core: &mut Core) {
    for n in 0..16 {
        core.gpr[n] = frame.gpr(n);
    }
    core.flags.set_saved(frame.flags as u16);
    core.flags.system = frame.system;
    if frame.live != Live::Nothing as u64 {
        core.xmm = frame.xmm;
        core.mxcsr |= frame.mxcsr[0] & 0x3f;
    }
    if frame.live == Live::Ymm as u64 {
        core.ymm_high = frame.ymm_high;
    }
}

fn registers_to_frame(core: &Core, frame: &mut Frame) {
    for n in 0..16 {
        frame.set_gpr(n, core.gpr[n]);
    }
    frame.flags = u64::from(core.flags.saved());
    frame.system = core.flags.system;
    frame.level = u64::from(core.cpl);
    frame.tlb = core.mmu.tlb.selected_address();
    frame.bases = [core.seg_base[4], core.seg_base[5]];
}
