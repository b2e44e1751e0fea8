//! CLI, STI, HLT, CLAC, STAC, and instructions that only serialise or flush.
//!
//! Invariant: STI opens its shadow only when it sets IF.

use iced_x86::{Instruction, Mnemonic};

use crate::core::{Core, cr4};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags;
use crate::op::{CodeSize, Flow, Op, Selected};

/// Names the handler.
pub(crate) fn select(insn: &Instruction, _: &mut Op, _: CodeSize) -> Option<Selected> {
    match insn.mnemonic() {
        Mnemonic::Cli => Selected::inline(cli),
        Mnemonic::Sti => Selected::last(sti),
        Mnemonic::Hlt => Selected::last(hlt),
        Mnemonic::Clac => Selected::inline(set_ac::<false>),
        Mnemonic::Stac => Selected::inline(set_ac::<true>),
        Mnemonic::Wbinvd | Mnemonic::Invd => Selected::inline(flush_caches),
        _ => None,
    }
}

/// The flag that CLI and STI change: IF, or VIF where CR4.VME or CR4.PVI lets it stand in.
fn interrupt_flag(core: &mut Core) -> Exec<u64> {
    if !core.protected() || core.cpl <= core.iopl() {
        return Ok(flags::IF);
    }
    let extension = if core.v8086() { cr4::VME } else { cr4::PVI };
    if core.cpl == 3 && core.cr4 & extension != 0 {
        return Ok(flags::VIF);
    }
    core.raise(Fault::protection(0))
}

fn cli(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    let flag = interrupt_flag(core)?;
    core.flags.system &= !flag;
    Ok(Flow::Next)
}

fn sti(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    if interrupt_flag(core)? == flags::VIF {
        if core.flags.has(flags::VIP) {
            return core.raise(Fault::protection(0));
        }
        core.flags.system |= flags::VIF;
    } else if !core.flags.has(flags::IF) {
        core.flags.system |= flags::IF;
        core.sti_shadow = true;
        core.fresh_sti_shadow = true;
    }
    Ok(Flow::Leave)
}

fn hlt(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    if core.cpl != 0 {
        return core.raise(Fault::protection(0));
    }
    core.halted = true;
    Ok(Flow::Leave)
}

fn set_ac<const SET: bool>(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    // Virtual-8086 mode is level 3.
    if core.cpl != 0 {
        return core.raise(Fault::UNDEFINED);
    }
    if SET {
        core.flags.system |= flags::AC;
    } else {
        core.flags.system &= !flags::AC;
    }
    core.select_tlb();
    Ok(Flow::Next)
}

fn flush_caches(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    if core.cpl != 0 {
        return core.raise(Fault::protection(0));
    }
    Ok(Flow::Next)
}
