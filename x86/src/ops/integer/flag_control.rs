//! CLC STC CMC CLD STD, LAHF SAHF, PUSHF POPF.
//!
//! Does: read and write flags as such. Does not: CLI, STI, STAC, CLAC (`system`).
//!
//! Invariant: POPF changes IOPL only at CPL 0, IF only at CPL ≤ IOPL, and VM, VIF, VIP never.

use iced_x86::{Instruction, Mnemonic};

use super::gpr::RAX;
use crate::core::{Core, cr4};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags::{self, AC, AF, CF, DF, ID, IF, IOPL, NT, OF, PF, RF, SF, TF, VIF, VIP, VM, ZF};
use crate::op::{CodeSize, Flow, Op, Selected};
use crate::word::Word;

/// Names the handler.
pub(super) fn select(insn: &Instruction, _: &mut Op, _: CodeSize) -> Option<Selected> {
    Selected::inline(match insn.mnemonic() {
        Mnemonic::Clc => set_carry::<false>,
        Mnemonic::Stc => set_carry::<true>,
        Mnemonic::Cmc => complement_carry,
        Mnemonic::Cld => set_direction::<false>,
        Mnemonic::Std => set_direction::<true>,
        Mnemonic::Lahf => lahf,
        Mnemonic::Sahf => sahf,
        Mnemonic::Pushf => pushf::<u16>,
        Mnemonic::Pushfd => pushf::<u32>,
        Mnemonic::Pushfq => pushf::<u64>,
        Mnemonic::Popf => return Selected::last(popf::<u16>),
        Mnemonic::Popfd => return Selected::last(popf::<u32>),
        Mnemonic::Popfq => return Selected::last(popf::<u64>),
        _ => return None,
    })
}

fn set_carry<const VALUE: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    core.flags.set_cf(VALUE);
    core.next(env, op)
}

fn complement_carry(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let cf = core.flags.cf();
    core.flags.set_cf(!cf);
    core.next(env, op)
}

fn set_direction<const VALUE: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if VALUE {
        core.flags.system |= DF;
    } else {
        core.flags.system &= !DF;
    }
    core.next(env, op)
}

/// Flags that LAHF and SAHF move.
const LOW: u64 = SF | ZF | AF | PF | CF;

fn lahf(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let low = core.flags.value() & 0xff;
    let rax = core.reg::<u64>(RAX);
    core.set_reg::<u64>(RAX, (rax & !0xff00) | low << 8);
    core.next(env, op)
}

fn sahf(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let ah = core.reg::<u64>(RAX) >> 8;
    let of = if core.flags.of() { OF } else { 0 };
    core.flags.set_arithmetic((ah & LOW) | of);
    core.next(env, op)
}

/// True in virtual-8086 mode without the privilege to touch IF.
fn is_restricted_v8086(core: &Core) -> bool {
    core.v8086() && core.iopl() < 3
}

fn pushf<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let mut image = core.flags.value() & !(VM | RF);
    if is_restricted_v8086(core) {
        if core.cr4 & cr4::VME == 0 || T::BITS != 16 {
            return core.raise(Fault::protection(0));
        }
        // Virtual-8086 mode extensions: VIF stands in for IF, and IOPL reads as 3.
        image = (image & !IF) | IOPL | if image & VIF != 0 { IF } else { 0 };
    }
    core.push::<T>(env, T::from64(image))?;
    core.next_after_access(env, op)
}

fn popf<T: Word>(core: &mut Core, env: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    let virtual_if = is_restricted_v8086(core);
    if virtual_if && (core.cr4 & cr4::VME == 0 || T::BITS != 16) {
        return core.raise(Fault::protection(0));
    }
    let (image, after) = core.peek::<T>(env)?;
    let image = image.to64();
    let old = core.flags.value();
    let mut changes = flags::ARITHMETIC | TF | DF | NT;
    if T::BITS != 16 {
        changes |= AC | ID;
    }
    if core.cpl() == 0 {
        changes |= IOPL;
    }
    if !virtual_if && core.cpl() <= core.iopl() {
        changes |= IF;
    }
    let mut value = (old & !changes) | (image & changes);
    if virtual_if {
        if image & TF != 0 || (image & IF != 0 && old & VIP != 0) {
            return core.raise(Fault::protection(0));
        }
        value = (value & !VIF) | if image & IF != 0 { VIF } else { 0 };
    }
    core.set_stack_pointer(after);
    core.flags.set_value(value & !RF);
    if (old ^ value) & AC != 0 {
        core.mode_changed();
    }
    Ok(Flow::Leave)
}
