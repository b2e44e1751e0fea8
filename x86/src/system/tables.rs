//! Descriptor-table and selector instructions: LGDT, SIDT, LLDT, STR, LAR, VERR, ARPL, …
//!
//! Invariant: the store forms obey CR4.UMIP.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::core::{Core, canonical, cr4};
use crate::decode::operands::{gpr, is_memory};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Handler, Op, Selected};
use crate::state::TableRegister;

/// `op.dst`/`op.src` are registers; `op.aux` is the operand size in bytes, 0 for memory.
pub(crate) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    let run: Handler = match insn.mnemonic() {
        Mnemonic::Lgdt => load_table::<true>,
        Mnemonic::Lidt => load_table::<false>,
        Mnemonic::Sgdt => store_table::<true>,
        Mnemonic::Sidt => store_table::<false>,
        Mnemonic::Lldt => load_selector::<false>,
        Mnemonic::Ltr => load_selector::<true>,
        Mnemonic::Sldt => store_selector::<false>,
        Mnemonic::Str => store_selector::<true>,
        Mnemonic::Lar => access_rights,
        Mnemonic::Lsl => segment_limit,
        Mnemonic::Verr => verify::<false>,
        Mnemonic::Verw => verify::<true>,
        Mnemonic::Arpl => adjust_rpl,
        _ => return None,
    };
    match insn.mnemonic() {
        Mnemonic::Lgdt | Mnemonic::Lidt | Mnemonic::Sgdt | Mnemonic::Sidt => {
            op.aux = if size == CodeSize::Bits64 {
                8
            } else if matches!(
                insn.code(),
                iced_x86::Code::Lgdt_m1632_16 | iced_x86::Code::Lidt_m1632_16
            ) {
                // A 16-bit load takes 24 bits of base.
                2
            } else {
                4
            };
        }
        Mnemonic::Lar | Mnemonic::Lsl => {
            op.dst = gpr(insn.op0_register());
            op.extra = insn.op0_register().size() as u16;
            set_source(insn, op, 1);
        }
        Mnemonic::Sldt | Mnemonic::Str => {
            if !is_memory(insn, 0) {
                op.dst = gpr(insn.op0_register());
                op.aux = insn.op0_register().size() as u8;
            }
        }
        Mnemonic::Arpl => {
            op.src = gpr(insn.op1_register());
            if !is_memory(insn, 0) {
                op.dst = gpr(insn.op0_register());
                op.aux = 2;
            }
        }
        _ => set_source(insn, op, 0),
    }
    Selected::last(run)
}

fn set_source(insn: &Instruction, op: &mut Op, n: u32) {
    if insn.op_kind(n) == OpKind::Register {
        op.src = gpr(insn.op_register(n));
        op.aux = 2;
    }
}

/// The 16-bit selector operand, from a register or memory.
fn selector_operand(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<u16> {
    if op.aux == 0 {
        core.load::<u16>(env, op)
    } else {
        Ok(core.reg::<u16>(op.src))
    }
}

fn umip(core: &mut Core) -> Exec<()> {
    if core.cr4 & cr4::UMIP != 0 && core.cpl != 0 {
        return core.raise(Fault::protection(0));
    }
    Ok(())
}

fn needs_protected(core: &mut Core) -> Exec<()> {
    if !core.protected() || core.v8086() {
        return core.raise(Fault::UNDEFINED);
    }
    Ok(())
}

fn load_table<const GDT: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if core.cpl != 0 {
        return core.raise(Fault::protection(0));
    }
    let size = if op.aux == 8 { 10 } else { 6 };
    let linear = core.linear(op, size, false)?;
    let limit = core.read::<u16>(env, linear, op.seg)?;
    let at = linear.wrapping_add(2);
    let base = match op.aux {
        8 => core.read::<u64>(env, at, op.seg)?,
        4 => u64::from(core.read::<u32>(env, at, op.seg)?),
        _ => u64::from(core.read::<u32>(env, at, op.seg)? & 0xff_ffff),
    };
    if op.aux == 8 && !canonical(base) {
        return core.raise(Fault::protection(0));
    }
    let table = TableRegister { base, limit };
    if GDT {
        core.gdtr = table;
    } else {
        core.idtr = table;
    }
    Ok(Flow::Leave)
}

fn store_table<const GDT: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    umip(core)?;
    let table = if GDT { core.gdtr } else { core.idtr };
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    if op.aux == 8 {
        core.store_bytes::<10>(env, op, &bytes)?;
    } else {
        let short: [u8; 6] = std::array::from_fn(|i| bytes[i]);
        core.store_bytes::<6>(env, op, &short)?;
    }
    Ok(Flow::Leave)
}

fn load_selector<const TASK: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    needs_protected(core)?;
    if core.cpl != 0 {
        return core.raise(Fault::protection(0));
    }
    let selector = selector_operand(core, env, op)?;
    if TASK {
        core.load_task_register(env, selector)?;
    } else {
        core.load_ldt(env, selector)?;
    }
    Ok(Flow::Leave)
}

fn store_selector<const TASK: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    needs_protected(core)?;
    umip(core)?;
    let selector = if TASK {
        core.tr.selector
    } else {
        core.ldtr.selector
    };
    match op.aux {
        0 => core.store::<u16>(env, op, selector)?,
        2 => core.set_reg::<u16>(op.dst, selector),
        4 => core.set_reg::<u32>(op.dst, u32::from(selector)),
        _ => core.set_reg::<u64>(op.dst, u64::from(selector)),
    }
    Ok(Flow::Leave)
}

fn set_sized(core: &mut Core, op: &Op, value: u64) {
    match op.extra {
        2 => core.set_reg::<u16>(op.dst, value as u16),
        4 => core.set_reg::<u32>(op.dst, value as u32),
        _ => core.set_reg::<u64>(op.dst, value),
    }
}

fn access_rights(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    needs_protected(core)?;
    let selector = selector_operand(core, env, op)?;
    let types: &[u16] = if core.long_mode() {
        &[2, 9, 11, 12]
    } else {
        &[1, 2, 3, 4, 5, 9, 11, 12]
    };
    let found = core.visible_descriptor(env, selector, types)?;
    if let Some(found) = found {
        set_sized(core, op, found.low >> 32 & 0x00ff_ff00);
    }
    core.flags.set_zf(found.is_some());
    Ok(Flow::Leave)
}

fn segment_limit(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    needs_protected(core)?;
    let selector = selector_operand(core, env, op)?;
    let types: &[u16] = if core.long_mode() {
        &[2, 9, 11]
    } else {
        &[1, 2, 3, 9, 11]
    };
    let found = core.visible_descriptor(env, selector, types)?;
    if let Some(found) = found {
        set_sized(core, op, u64::from(found.limit()));
    }
    core.flags.set_zf(found.is_some());
    Ok(Flow::Leave)
}

fn verify<const WRITE: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    needs_protected(core)?;
    let selector = selector_operand(core, env, op)?;
    let fine = core.verify(env, selector, WRITE)?;
    core.flags.set_zf(fine);
    Ok(Flow::Leave)
}

fn adjust_rpl(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    needs_protected(core)?;
    let rpl = core.reg::<u16>(op.src) & 3;
    let raise = |selector: u16| {
        if selector & 3 < rpl {
            Some((selector & !3) | rpl)
        } else {
            None
        }
    };
    let adjusted = if op.aux == 0 {
        // What need not be raised is not written: it may lie in memory that is read-only.
        let adjusted = raise(core.load::<u16>(env, op)?);
        if let Some(selector) = adjusted {
            core.store::<u16>(env, op, selector)?;
        }
        adjusted.is_some()
    } else {
        let adjusted = raise(core.reg::<u16>(op.dst));
        if let Some(selector) = adjusted {
            core.set_reg::<u16>(op.dst, selector);
        }
        adjusted.is_some()
    };
    core.flags.set_zf(adjusted);
    Ok(Flow::Leave)
}
