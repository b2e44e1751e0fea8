//! RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE (SDM vol. 2, CPUID bit FSGSBASE), and SWAPGS.
//!
//! Invariant: bases of FS and GS are canonical.

use iced_x86::{Instruction, Mnemonic};

use crate::core::{Core, canonical, cr4};
use crate::decode::operands::gpr;
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Op, SEG_FS, SEG_GS, Selected};

/// Names the handler. `op.aux` is the operand size in bytes.
pub(crate) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    let mnemonic = insn.mnemonic();
    if mnemonic == Mnemonic::Swapgs {
        return Selected::last(swap);
    }
    let (slot, is_write) = match mnemonic {
        Mnemonic::Rdfsbase => (SEG_FS, false),
        Mnemonic::Rdgsbase => (SEG_GS, false),
        Mnemonic::Wrfsbase => (SEG_FS, true),
        Mnemonic::Wrgsbase => (SEG_GS, true),
        _ => return None,
    };
    op.aux = insn.op0_register().size() as u8;
    if is_write {
        op.dst = slot;
        op.src = gpr(insn.op0_register());
        Selected::last(write)
    } else {
        op.src = slot;
        op.dst = gpr(insn.op0_register());
        Selected::inline(read)
    }
}

fn check(core: &mut Core) -> Exec<()> {
    if core.in_64bit() && core.cr4 & cr4::FSGSBASE != 0 {
        Ok(())
    } else {
        core.raise(Fault::UNDEFINED)
    }
}

fn read(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    check(core)?;
    let base = core.segments[usize::from(op.src)].base;
    if op.aux == 8 {
        core.set_reg::<u64>(op.dst, base);
    } else {
        core.set_reg::<u32>(op.dst, base as u32);
    }
    Ok(Flow::Next)
}

fn write(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    check(core)?;
    let base = if op.aux == 8 {
        core.reg::<u64>(op.src)
    } else {
        u64::from(core.reg::<u32>(op.src))
    };
    if !canonical(base) {
        return core.raise(Fault::protection(0));
    }
    core.set_segment_base(op.dst, base);
    Ok(Flow::Leave)
}

fn swap(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    if !core.in_64bit() {
        return core.raise(Fault::UNDEFINED);
    }
    if core.cpl != 0 {
        return core.raise(Fault::protection(0));
    }
    let base = core.segments[usize::from(SEG_GS)].base;
    let other = std::mem::replace(&mut core.msr.kernel_gs_base, base);
    core.set_segment_base(SEG_GS, other);
    Ok(Flow::Leave)
}
