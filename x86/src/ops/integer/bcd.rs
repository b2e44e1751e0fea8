//! DAA DAS AAA AAS AAM AAD, and SALC: legacy modes only.
//!
//! Does: decimal adjustment of AL and AX.
//!
//! Our definition of what is undefined: SF, ZF and PF always tell of AL after the instruction; OF
//! is 0; CF and AF are 0 after AAM and AAD.

use iced_x86::{Instruction, Mnemonic};

use super::gpr::RAX;
use crate::core::Core;
use crate::decode::operands::immediate;
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Op, Selected};

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    Selected::inline(match insn.mnemonic() {
        Mnemonic::Daa => daa,
        Mnemonic::Das => das,
        Mnemonic::Aaa => aaa,
        Mnemonic::Aas => aas,
        Mnemonic::Aam | Mnemonic::Aad => {
            op.imm = immediate(insn, 0);
            if insn.mnemonic() == Mnemonic::Aam {
                aam
            } else {
                aad
            }
        }
        Mnemonic::Salc => salc,
        _ => return None,
    })
}

fn daa(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let old = core.reg::<u8>(RAX);
    let low = old & 15 > 9 || core.flags.af();
    let high = old > 0x99 || core.flags.cf();
    let al = old
        .wrapping_add(if low { 6 } else { 0 })
        .wrapping_add(if high { 0x60 } else { 0 });
    core.set_reg(RAX, al);
    core.flags.set_result(al, high, false, low);
    core.next(env, op)
}

/// The low adjustment alone may borrow too.
fn das(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let old = core.reg::<u8>(RAX);
    let low = old & 15 > 9 || core.flags.af();
    let high = old > 0x99 || core.flags.cf();
    let al = old
        .wrapping_sub(if low { 6 } else { 0 })
        .wrapping_sub(if high { 0x60 } else { 0 });
    core.set_reg(RAX, al);
    core.flags
        .set_result(al, high || (low && old < 6), false, low);
    core.next(env, op)
}

/// Sets AX, keeping the low nibble of AL, and the flags of AAA and AAS.
fn set_unpacked(core: &mut Core, ax: u16, adjusted: bool) {
    let ax = ax & 0xff0f;
    core.set_reg(RAX, ax);
    core.flags.set_result(ax as u8, adjusted, false, adjusted);
}

fn aaa(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let ax = core.reg::<u16>(RAX);
    let adjust = ax & 15 > 9 || core.flags.af();
    set_unpacked(
        core,
        ax.wrapping_add(if adjust { 0x106 } else { 0 }),
        adjust,
    );
    core.next(env, op)
}

fn aas(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let ax = core.reg::<u16>(RAX);
    let adjust = ax & 15 > 9 || core.flags.af();
    set_unpacked(
        core,
        ax.wrapping_sub(if adjust { 0x106 } else { 0 }),
        adjust,
    );
    core.next(env, op)
}

fn aam(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let base = op.imm as u8;
    let al = core.reg::<u8>(RAX);
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return core.raise(Fault::DIVIDE);
    };
    core.set_reg(RAX, u16::from_le_bytes([low, high]));
    core.flags.set_result(low, false, false, false);
    core.next(env, op)
}

fn aad(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let [low, high] = core.reg::<u16>(RAX).to_le_bytes();
    let al = low.wrapping_add(high.wrapping_mul(op.imm as u8));
    core.set_reg(RAX, u16::from(al));
    core.flags.set_result(al, false, false, false);
    core.next(env, op)
}

/// SALC (D6, undocumented until recently): AL is all CF.
fn salc(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let al = if core.flags.cf() { 0xff } else { 0 };
    core.set_reg::<u8>(RAX, al);
    core.next(env, op)
}
