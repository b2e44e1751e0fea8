//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM vol. 2; vol. 3, 6.8.7–6.8.8).
//!
//! Invariant: the segments they load are flat and fixed, not read from any table.

use iced_x86::{Instruction, Mnemonic};

use crate::core::{Core, canonical, efer};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags;
use crate::op::{CodeSize, Flow, Op, SEG_CS, SEG_SS, Selected};
use crate::state::{RIGHTS_BIG, RIGHTS_GRANULAR, RIGHTS_LONG, RIGHTS_PRESENT, Segment};
use crate::system::debug::DR6_STEP;

/// Names the handler.
pub(crate) fn select(insn: &Instruction, _: &mut Op, _: CodeSize) -> Option<Selected> {
    match insn.mnemonic() {
        Mnemonic::Syscall => Selected::last(syscall),
        Mnemonic::Sysret => Selected::last(sysret::<false>),
        Mnemonic::Sysretq => Selected::last(sysret::<true>),
        Mnemonic::Sysenter => Selected::last(sysenter),
        Mnemonic::Sysexit => Selected::last(sysexit::<false>),
        Mnemonic::Sysexitq => Selected::last(sysexit::<true>),
        _ => None,
    }
}

/// A flat code segment.
fn flat_code(selector: u16, dpl: u16, long: bool) -> Segment {
    let width = if long { RIGHTS_LONG } else { RIGHTS_BIG };
    let rights = 0x1b | dpl << 5 | RIGHTS_PRESENT | width | RIGHTS_GRANULAR;
    Segment {
        selector,
        rights,
        limit: u32::MAX,
        base: 0,
    }
}

/// A flat stack segment.
fn flat_stack(selector: u16, dpl: u16) -> Segment {
    let rights = 0x13 | dpl << 5 | RIGHTS_PRESENT | RIGHTS_BIG | RIGHTS_GRANULAR;
    Segment {
        selector,
        rights,
        limit: u32::MAX,
        base: 0,
    }
}

fn enter_level(core: &mut Core, cpl: u8, code: Segment, stack: Segment) {
    core.segments[usize::from(SEG_CS)] = code;
    core.segments[usize::from(SEG_SS)] = stack;
    core.cpl = cpl;
    core.mode_changed();
    core.attention = true;
}

fn syscall(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    // As Intel has it: only in 64-bit mode.
    if core.msr.efer & efer::SCE == 0 || !core.in_64bit() {
        return core.raise(Fault::UNDEFINED);
    }
    core.gpr[1] = core.next_rip(op);
    core.gpr[11] = core.flags.value() & !flags::RF;
    core.rip = core.msr.lstar;
    let kept = core.flags.value() & !core.msr.fmask & !flags::RF;
    core.flags.set_value(kept);
    let selector = (core.msr.star >> 32) as u16 & !3;
    let stack = flat_stack(selector.wrapping_add(8), 0);
    enter_level(core, 0, flat_code(selector, 0, true), stack);
    step_as_told(core);
    Ok(Flow::Jump)
}

/// The single-step trap of SYSCALL and SYSRET follows the new TF, so that a kernel can mask it
/// with IA32_FMASK, and user code goes on stepping after the call.
fn step_as_told(core: &mut Core) {
    core.trap_suppressed = true;
    if core.flags.has(flags::TF) {
        core.pending_debug |= DR6_STEP;
    }
}

fn sysret<const LONG: bool>(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    if core.msr.efer & efer::SCE == 0 || !core.in_64bit() {
        return core.raise(Fault::UNDEFINED);
    }
    if core.cpl != 0 || (LONG && !canonical(core.gpr[1])) {
        return core.raise(Fault::protection(0));
    }
    core.rip = if LONG {
        core.gpr[1]
    } else {
        core.gpr[1] & 0xffff_ffff
    };
    core.flags
        .set_value(core.gpr[11] & !(flags::RF | flags::VM));
    let base = (core.msr.star >> 48) as u16;
    let code = if LONG { base.wrapping_add(16) } else { base } | 3;
    let stack = flat_stack(base.wrapping_add(8) | 3, 3);
    enter_level(core, 3, flat_code(code, 3, LONG), stack);
    step_as_told(core);
    Ok(Flow::Jump)
}

fn sysenter(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    if !core.protected() || core.msr.sysenter_cs & 0xfffc == 0 {
        return core.raise(Fault::protection(0));
    }
    let long = core.long_mode();
    core.flags.system &= !(flags::VM | flags::IF | flags::RF);
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    core.gpr[4] = core.msr.sysenter_esp & mask;
    core.rip = core.msr.sysenter_eip & mask;
    let selector = core.msr.sysenter_cs as u16 & !3;
    let stack = flat_stack(selector.wrapping_add(8), 0);
    enter_level(core, 0, flat_code(selector, 0, long), stack);
    Ok(Flow::Jump)
}

fn sysexit<const LONG: bool>(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    if !core.protected() || core.cpl != 0 || core.msr.sysenter_cs & 0xfffc == 0 {
        return core.raise(Fault::protection(0));
    }
    let (rip, rsp) = (core.gpr[2], core.gpr[1]);
    if LONG && (!canonical(rip) || !canonical(rsp)) {
        return core.raise(Fault::protection(0));
    }
    let mask = if LONG { u64::MAX } else { 0xffff_ffff };
    core.gpr[4] = rsp & mask;
    core.rip = rip & mask;
    let base = core.msr.sysenter_cs as u16;
    let code = base.wrapping_add(if LONG { 32 } else { 16 }) | 3;
    let stack = flat_stack(code.wrapping_add(8), 3);
    enter_level(core, 3, flat_code(code, 3, LONG), stack);
    Ok(Flow::Jump)
}
