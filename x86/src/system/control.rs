//! Control and debug registers, and the instructions that touch them.
//!
//! Invariant: whatever changes how addresses are translated tells the MMU; whatever changes modes
//! ends the block.

use arch::cpuid::Features;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use memory::GuestRam;

use crate::core::{Core, canonical, cr0, cr4, efer};
use crate::decode::operands::{gpr, is_memory, number};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Op, Selected};
use crate::system::debug::{DR6_CLEAR, DR6_GENERAL, DR7_CLEAR};

/// CR4 bits that every CPU model has.
const CR4_KNOWN: u64 = cr4::VME
    | cr4::PVI
    | cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::SMEP
    | cr4::SMAP;
/// CR4 bits that need a feature of the model.
const CR4_BY_FEATURE: [(u64, Features); 3] = [
    (cr4::FSGSBASE, Features::FSGSBASE),
    (cr4::PCIDE, Features::PCID),
    (cr4::OSXSAVE, Features::XSAVE),
];
/// CR3 bit that MOV takes and does not store, with PCIDs: translations of the PCID may be kept.
const CR3_NO_FLUSH: u64 = 1 << 63;
/// CR3 bits that hold the PCID.
const CR3_PCID: u64 = 0xfff;
/// CR0 bits that can be set.
const CR0_KNOWN: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

/// Names the handler. `op.aux` is 1 in LMSW and SMSW if the operand is a register.
pub(crate) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    let register = |n: u32| {
        if insn.op_count() > n && insn.op_kind(n) == OpKind::Register {
            insn.op_register(n)
        } else {
            Register::None
        }
    };
    match insn.mnemonic() {
        Mnemonic::Mov if register(0).is_cr() => {
            op.dst = number(register(0));
            op.src = gpr(register(1));
            Selected::last(write_cr)
        }
        Mnemonic::Mov if register(1).is_cr() => {
            op.dst = gpr(register(0));
            op.src = number(register(1));
            Selected::last(read_cr)
        }
        Mnemonic::Mov if register(0).is_dr() => {
            op.dst = number(register(0));
            op.src = gpr(register(1));
            Selected::last(write_dr)
        }
        Mnemonic::Mov if register(1).is_dr() => {
            op.dst = gpr(register(0));
            op.src = number(register(1));
            Selected::last(read_dr)
        }
        Mnemonic::Clts => Selected::last(clear_task_switched),
        Mnemonic::Lmsw => {
            if !is_memory(insn, 0) {
                op.src = gpr(register(0));
                op.aux = 1;
            }
            Selected::last(load_status_word)
        }
        Mnemonic::Smsw => {
            if !is_memory(insn, 0) {
                op.dst = gpr(register(0));
                op.aux = 1;
                op.extra = register(0).size() as u16;
            }
            Selected::last(store_status_word)
        }
        Mnemonic::Invlpg => Selected::last(invalidate_page),
        Mnemonic::Invpcid => {
            op.src = gpr(register(0));
            Selected::last(invalidate_pcid)
        }
        _ => None,
    }
}

fn privileged(core: &mut Core) -> Exec<()> {
    if core.cpl != 0 {
        core.raise(Fault::protection(0))
    } else {
        Ok(())
    }
}

/// Value of a 32- or 64-bit register operand of MOV to or from a control register.
fn wide(core: &Core, number: u8) -> u64 {
    if core.in_64bit() {
        core.reg::<u64>(number)
    } else {
        u64::from(core.reg::<u32>(number))
    }
}

fn set_wide(core: &mut Core, number: u8, value: u64) {
    if core.in_64bit() {
        core.set_reg::<u64>(number, value);
    } else {
        core.set_reg::<u32>(number, value as u32);
    }
}

fn read_cr(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    privileged(core)?;
    let value = match op.src {
        0 => core.cr0,
        2 => core.cr2,
        3 => core.cr3,
        4 => core.cr4,
        8 => env.bus.cr8(),
        _ => return core.raise(Fault::UNDEFINED),
    };
    set_wide(core, op.dst, value);
    Ok(Flow::Leave)
}

fn write_cr(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if !matches!(op.dst, 0 | 2 | 3 | 4 | 8) {
        return core.raise(Fault::UNDEFINED);
    }
    privileged(core)?;
    let value = wide(core, op.src);
    match op.dst {
        0 => core.write_cr0(env.ram, value)?,
        2 => core.cr2 = value,
        3 if core.cr4 & cr4::PCIDE != 0 => core.write_cr3(env.ram, value & !CR3_NO_FLUSH)?,
        3 => core.write_cr3(env.ram, value)?,
        4 => core.write_cr4(env.ram, value)?,
        _ => {
            if value & !15 != 0 {
                return core.raise(Fault::protection(0));
            }
            env.bus.set_cr8(value);
            core.attention = true;
            core.bus_used = true;
        }
    }
    Ok(Flow::Leave)
}

fn clear_task_switched(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    privileged(core)?;
    core.cr0 &= !cr0::TS;
    Ok(Flow::Leave)
}

fn load_status_word(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    privileged(core)?;
    let word = if op.aux == 1 {
        core.reg::<u16>(op.src)
    } else {
        core.load::<u16>(env, op)?
    };
    // Sets MP, EM, TS and PE; cannot clear PE.
    let keep = core.cr0 & !(cr0::MP | cr0::EM | cr0::TS);
    core.write_cr0(env.ram, keep | u64::from(word & 15))?;
    Ok(Flow::Leave)
}

fn store_status_word(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if core.cr4 & cr4::UMIP != 0 && core.cpl != 0 {
        return core.raise(Fault::protection(0));
    }
    let value = core.cr0;
    match (op.aux, op.extra) {
        (0, _) => core.store::<u16>(env, op, value as u16)?,
        (_, 2) => core.set_reg::<u16>(op.dst, value as u16),
        (_, 4) => core.set_reg::<u32>(op.dst, value as u32),
        _ => core.set_reg::<u64>(op.dst, value),
    }
    Ok(Flow::Leave)
}

/// The TLB is always coherent, so there is nothing to invalidate.
fn invalidate_page(core: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    privileged(core)?;
    Ok(Flow::Next)
}

/// INVPCID: its checks are all there is to do, likewise.
fn invalidate_pcid(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    // Level 3 is virtual-8086 mode's, too, where it is #GP(0) as well.
    privileged(core)?;
    let kind = wide(core, op.src);
    let descriptor = u128::from_le_bytes(core.load_bytes::<16>(env, op)?);
    let (pcid, linear) = (descriptor as u64, (descriptor >> 64) as u64);
    let names_pcid = kind <= 1 && core.cr4 & cr4::PCIDE == 0 && pcid & CR3_PCID != 0;
    if kind > 3 || pcid & !CR3_PCID != 0 || names_pcid || (kind == 0 && !canonical(linear)) {
        return core.raise(Fault::protection(0));
    }
    Ok(Flow::Next)
}

fn check_debug_access(core: &mut Core, register: u8) -> Exec<u8> {
    let register = match register {
        4 | 5 if core.cr4 & cr4::DE != 0 => return core.raise(Fault::UNDEFINED),
        4 | 5 => register + 2,
        0..=7 => register,
        _ => return core.raise(Fault::UNDEFINED),
    };
    privileged(core)?;
    if core.dr7 & 1 << 13 != 0 {
        core.dr7 &= !(1 << 13);
        core.note_debug_cause(DR6_GENERAL);
        return core.raise(Fault::DEBUG);
    }
    Ok(register)
}

fn read_dr(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = match check_debug_access(core, op.src)? {
        6 => core.dr6,
        7 => core.dr7,
        n => core.dr[usize::from(n)],
    };
    set_wide(core, op.dst, value);
    Ok(Flow::Leave)
}

fn write_dr(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let register = check_debug_access(core, op.dst)?;
    let value = wide(core, op.src);
    match register {
        6 | 7 if value >> 32 != 0 => return core.raise(Fault::protection(0)),
        6 => core.dr6 = (value & 0xe00f) | DR6_CLEAR,
        7 => {
            core.dr7 = (value & 0xffff_23ff) | DR7_CLEAR;
            core.select_tlb();
            // Pages that were cached before may hold a watched address: the selected set is empty
            // while data breakpoints are armed, so nothing is to be dropped.
        }
        n => core.dr[usize::from(n)] = value,
    }
    Ok(Flow::Leave)
}

impl Core {
    /// Writes CR0 with all that depends on it.
    pub(crate) fn write_cr0(&mut self, ram: &mut GuestRam, value: u64) -> Exec<()> {
        let above = value >> 32 != 0;
        let value = (value & CR0_KNOWN) | cr0::ET;
        let paging = value & cr0::PG != 0;
        let invalid = above
            || (paging && value & cr0::PE == 0)
            || (value & cr0::NW != 0 && value & cr0::CD == 0)
            || (!paging && (self.in_64bit() || self.cr4 & cr4::PCIDE != 0));
        if invalid {
            return self.raise(Fault::protection(0));
        }
        let was_paging = self.cr0 & cr0::PG != 0;
        if paging && !was_paging && self.msr.efer & efer::LME != 0 {
            // There are no tasks of 16 bits in IA-32e mode.
            let narrow_task = self.tr.kind() & 8 == 0;
            if self.cr4 & cr4::PAE == 0 || self.segments[1].long() || narrow_task {
                return self.raise(Fault::protection(0));
            }
            self.msr.efer |= efer::LMA;
        } else if paging && self.cr4 & cr4::PAE != 0 && !self.long_mode() {
            let changed = (value ^ self.cr0) & (cr0::PG | cr0::CD | cr0::NW) != 0;
            if changed {
                self.load_pdptes(ram, self.cr3)?;
            }
        }
        if !paging && was_paging {
            self.msr.efer &= !efer::LMA;
        }
        self.cr0 = value;
        self.paging_changed(ram);
        self.mode_changed();
        Ok(())
    }

    /// Writes CR3. TLBs are coherent: there is nothing to flush.
    pub(crate) fn write_cr3(&mut self, ram: &mut GuestRam, value: u64) -> Exec<()> {
        if self.long_mode() {
            if value >> crate::mmu::PHYSICAL_BITS != 0 {
                return self.raise(Fault::protection(0));
            }
        } else if self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 {
            self.load_pdptes(ram, value)?;
        }
        self.cr3 = value;
        self.paging_changed(ram);
        Ok(())
    }

    fn write_cr4(&mut self, ram: &mut GuestRam, value: u64) -> Exec<()> {
        let known = CR4_BY_FEATURE
            .iter()
            .filter(|(_, feature)| self.features.contains(*feature))
            .fold(CR4_KNOWN, |known, (bit, _)| known | bit);
        let leaves_pae = self.long_mode() && value & cr4::PAE == 0;
        let enters_pcid =
            value & !self.cr4 & cr4::PCIDE != 0 && (!self.long_mode() || self.cr3 & CR3_PCID != 0);
        if value & !known != 0 || leaves_pae || enters_pcid {
            return self.raise(Fault::protection(0));
        }
        let paging_bits = cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP;
        let pae = value & cr4::PAE != 0 && self.cr0 & cr0::PG != 0 && !self.long_mode();
        if pae && (value ^ self.cr4) & paging_bits != 0 {
            self.load_pdptes(ram, self.cr3)?;
        }
        self.cr4 = value;
        self.paging_changed(ram);
        self.mode_changed();
        Ok(())
    }

    /// Loads the four PDPTEs of PAE paging, which the architecture caches: they are state.
    fn load_pdptes(&mut self, ram: &mut GuestRam, cr3: u64) -> Exec<()> {
        let table = cr3 & 0xffff_ffe0;
        let mut pdptes = [0; 4];
        for (index, pdpte) in pdptes.iter_mut().enumerate() {
            *pdpte = ram.read_u64(table + 8 * index as u64).unwrap_or(u64::MAX);
            let reserved = !((1 << crate::mmu::PHYSICAL_BITS) - 1) | 0x1e6;
            if *pdpte & 1 != 0 && *pdpte & reserved != 0 {
                return self.raise(Fault::protection(0));
            }
        }
        self.pdptes = pdptes;
        Ok(())
    }
}
