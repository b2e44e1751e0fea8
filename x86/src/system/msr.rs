//! Model-specific registers (SDM vol. 4).
//!
//! Does: RDMSR and WRMSR of the CPU's own registers; the local APIC's and the TSC deadline go to
//! the bus, the machine-check architecture's to `machine_check`. Does not: offer performance
//! counters or microcode.
//!
//! Invariant: an MSR that the model does not have raises #GP(0), on reads and writes alike.

use iced_x86::{Instruction, Mnemonic};

use crate::core::{Core, canonical, cr0, efer};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Op, SEG_FS, SEG_GS, Selected};

const IA32_TSC: u32 = 0x10;
const IA32_PLATFORM_ID: u32 = 0x17;
pub(super) const IA32_APIC_BASE: u32 = 0x1b;
/// IA32_APIC_BASE bit: the local APIC is enabled.
pub(super) const APIC_ENABLED: u64 = 1 << 11;
const IA32_TSC_ADJUST: u32 = 0x3b;
const IA32_SPEC_CTRL: u32 = 0x48;
const IA32_PRED_CMD: u32 = 0x49;
const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
const IA32_BIOS_SIGN_ID: u32 = 0x8b;
const IA32_MTRRCAP: u32 = 0xfe;
const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const MTRR_VARIABLE: std::ops::RangeInclusive<u32> = 0x200..=0x20f;
const MTRR_FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];
const IA32_PAT: u32 = 0x277;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const X2APIC: std::ops::RangeInclusive<u32> = 0x800..=0x8ff;
const IA32_EFER: u32 = 0xc000_0080;
const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_CSTAR: u32 = 0xc000_0083;
const IA32_FMASK: u32 = 0xc000_0084;
const IA32_FS_BASE: u32 = 0xc000_0100;
const IA32_GS_BASE: u32 = 0xc000_0101;
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
const IA32_TSC_AUX: u32 = 0xc000_0103;

/// Eight variable ranges, fixed ranges, write combining.
const MTRR_CAPABILITIES: u64 = 8 | 1 << 8 | 1 << 10;
/// IBRS, STIBP and BHI_DIS_S.
const SPEC_CTRL_KNOWN: u64 = 1 << 0 | 1 << 1 | 1 << 10;
/// IBPB.
const PRED_CMD_KNOWN: u64 = 1 << 0;
/// IA32_MISC_ENABLE that cannot be written: neither BTS nor PEBS.
pub(crate) const MISC_ENABLE_FIXED: u64 = 1 << 11 | 1 << 12;
/// IA32_MISC_ENABLE after power-up: fast strings.
pub(crate) const MISC_ENABLE_POWER_UP: u64 = MISC_ENABLE_FIXED | 1;
/// IA32_MISC_ENABLE: CPUID has no leaves above 2.
pub(super) const MISC_ENABLE_LIMIT_CPUID: u64 = 1 << 22;
/// IA32_MISC_ENABLE: CPUID does not offer no-execute pages, EFER.NXE cannot be set.
pub(super) const MISC_ENABLE_XD_DISABLE: u64 = 1 << 34;
/// IA32_MISC_ENABLE that can be written. Fast strings, thermal control, SpeedStep, MONITOR and
/// xTPR messages are kept and mean nothing here.
pub(crate) const MISC_ENABLE_WRITABLE: u64 = 1 << 0
    | 1 << 3
    | 1 << 16
    | 1 << 18
    | MISC_ENABLE_LIMIT_CPUID
    | 1 << 23
    | MISC_ENABLE_XD_DISABLE;
const EFER_KNOWN: u64 = efer::SCE | efer::LME | efer::LMA | efer::NXE;

/// Names the handler.
pub(crate) fn select(insn: &Instruction, _: &mut Op, _: CodeSize) -> Option<Selected> {
    match insn.mnemonic() {
        Mnemonic::Rdmsr => Selected::last(read),
        Mnemonic::Wrmsr => Selected::last(write),
        _ => None,
    }
}

fn read(core: &mut Core, env: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    let index = core.reg::<u32>(1);
    let value = if core.cpl == 0 {
        core.read_msr(env, index)
    } else {
        None
    };
    let Some(value) = value else {
        return core.raise(Fault::protection(0));
    };
    core.set_reg::<u32>(0, value as u32);
    core.set_reg::<u32>(2, (value >> 32) as u32);
    Ok(Flow::Leave)
}

fn write(core: &mut Core, env: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    let index = core.reg::<u32>(1);
    let value = u64::from(core.reg::<u32>(0)) | u64::from(core.reg::<u32>(2)) << 32;
    let done = if core.cpl == 0 {
        core.write_msr(env, index, value)
    } else {
        None
    };
    if done.is_none() {
        return core.raise(Fault::protection(0));
    }
    Ok(Flow::Leave)
}

/// A memory type that PAT entries and MTRRs may hold.
fn memory_type(kind: u64, pat: bool) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6) || (pat && kind == 7)
}

impl Core {
    fn read_msr(&mut self, env: &mut Env<'_>, index: u32) -> Option<u64> {
        let msr = &self.msr;
        Some(match index {
            IA32_TSC => self.tsc(env),
            IA32_PLATFORM_ID => 0,
            IA32_TSC_ADJUST => msr.tsc_adjust,
            IA32_SPEC_CTRL => msr.spec_ctrl,
            IA32_BIOS_SIGN_ID => msr.bios_sign,
            IA32_MTRRCAP => MTRR_CAPABILITIES,
            IA32_ARCH_CAPABILITIES => arch::cpuid::ARCH_CAPABILITIES,
            IA32_SYSENTER_CS => msr.sysenter_cs,
            IA32_SYSENTER_ESP => msr.sysenter_esp,
            IA32_SYSENTER_EIP => msr.sysenter_eip,
            IA32_MISC_ENABLE => msr.misc_enable,
            IA32_PAT => msr.pat,
            IA32_MTRR_DEF_TYPE => msr.mtrr_default,
            IA32_EFER => msr.efer,
            IA32_STAR => msr.star,
            IA32_LSTAR => msr.lstar,
            IA32_CSTAR => msr.cstar,
            IA32_FMASK => msr.fmask,
            IA32_FS_BASE => self.segments[4].base,
            IA32_GS_BASE => self.segments[5].base,
            IA32_KERNEL_GS_BASE => msr.kernel_gs_base,
            IA32_TSC_AUX => msr.tsc_aux,
            IA32_TSC_DEADLINE => match env.bus.msr_read(self.progress(), index)? {
                0 => 0,
                deadline => deadline.wrapping_add(msr.tsc_adjust),
            },
            IA32_APIC_BASE => env.bus.msr_read(self.progress(), index)?,
            _ if X2APIC.contains(&index) => env.bus.msr_read(self.progress(), index)?,
            _ if MTRR_VARIABLE.contains(&index) => msr.mtrr_variable[(index & 15) as usize],
            _ => match MTRR_FIXED.iter().position(|&fixed| fixed == index) {
                Some(position) => msr.mtrr_fixed[position],
                None => msr.machine_check.read(index)?,
            },
        })
    }

    fn write_msr(&mut self, env: &mut Env<'_>, index: u32, value: u64) -> Option<()> {
        let msr = &mut self.msr;
        match index {
            IA32_TSC => {
                let now = env.bus.tsc(self.progress());
                self.set_tsc_adjust(env, value.wrapping_sub(now))?;
            }
            IA32_TSC_ADJUST => self.set_tsc_adjust(env, value)?,
            IA32_SPEC_CTRL => {
                if value & !SPEC_CTRL_KNOWN != 0 {
                    return None;
                }
                msr.spec_ctrl = value;
            }
            // Nothing is predicted.
            IA32_PRED_CMD => {
                if value & !PRED_CMD_KNOWN != 0 {
                    return None;
                }
            }
            IA32_BIOS_UPDT_TRIG => {}
            IA32_BIOS_SIGN_ID => msr.bios_sign = value,
            IA32_SYSENTER_CS => msr.sysenter_cs = value & 0xffff_ffff,
            IA32_SYSENTER_ESP => msr.sysenter_esp = canonical_value(value)?,
            IA32_SYSENTER_EIP => msr.sysenter_eip = canonical_value(value)?,
            // Bits that are not there are ignored.
            IA32_MISC_ENABLE => {
                msr.misc_enable = (value & MISC_ENABLE_WRITABLE) | MISC_ENABLE_FIXED;
            }
            IA32_PAT => {
                if !value
                    .to_le_bytes()
                    .iter()
                    .all(|&kind| memory_type(u64::from(kind), true))
                {
                    return None;
                }
                msr.pat = value;
            }
            IA32_MTRR_DEF_TYPE => {
                if value & !0xcff != 0 || !memory_type(value & 0xff, false) {
                    return None;
                }
                msr.mtrr_default = value;
            }
            IA32_EFER => self.write_efer(env, value)?,
            IA32_STAR => msr.star = value,
            IA32_LSTAR => msr.lstar = canonical_value(value)?,
            IA32_CSTAR => msr.cstar = canonical_value(value)?,
            IA32_FMASK => {
                if value >> 32 != 0 {
                    return None;
                }
                msr.fmask = value;
            }
            IA32_FS_BASE => self.set_segment_base(SEG_FS, canonical_value(value)?),
            IA32_GS_BASE => self.set_segment_base(SEG_GS, canonical_value(value)?),
            IA32_KERNEL_GS_BASE => msr.kernel_gs_base = canonical_value(value)?,
            IA32_TSC_AUX => {
                if value >> 32 != 0 {
                    return None;
                }
                msr.tsc_aux = value;
            }
            IA32_TSC_DEADLINE => self.set_tsc_deadline(env, value)?,
            IA32_APIC_BASE => self.write_bus_msr(env, index, value)?,
            _ if X2APIC.contains(&index) => self.write_bus_msr(env, index, value)?,
            _ if MTRR_VARIABLE.contains(&index) => {
                let above = value >> crate::mmu::PHYSICAL_BITS != 0;
                let is_base = index & 1 == 0;
                let reserved = if is_base { 0xf00 } else { 0x7ff };
                if above || value & reserved != 0 || (is_base && !memory_type(value & 0xff, false))
                {
                    return None;
                }
                msr.mtrr_variable[(index & 15) as usize] = value;
            }
            _ => {
                let Some(position) = MTRR_FIXED.iter().position(|&fixed| fixed == index) else {
                    return msr.machine_check.write(index, value);
                };
                if !value
                    .to_le_bytes()
                    .iter()
                    .all(|&kind| memory_type(u64::from(kind), false))
                {
                    return None;
                }
                msr.mtrr_fixed[position] = value;
            }
        }
        Some(())
    }

    fn write_bus_msr(&mut self, env: &mut Env<'_>, index: u32, value: u64) -> Option<()> {
        self.attention = true;
        self.bus_used = true;
        env.bus.msr_write(self.progress(), index, value)
    }

    /// Sets the base of FS or GS, which is canonical.
    pub(super) fn set_segment_base(&mut self, slot: u8, base: u64) {
        self.segments[usize::from(slot)].base = base;
        self.mode_changed();
    }

    /// Arms the timer for the guest's `deadline`, 0 disarms. The local APIC counts in TSC before
    /// IA32_TSC_ADJUST.
    fn set_tsc_deadline(&mut self, env: &mut Env<'_>, deadline: u64) -> Option<()> {
        let now = env.bus.tsc(self.progress());
        let tsc = now.wrapping_add(self.msr.tsc_adjust);
        let deadline = match deadline {
            0 => 0,
            _ if deadline <= tsc => now.max(1),
            _ => now.saturating_add(deadline - tsc),
        };
        self.write_bus_msr(env, IA32_TSC_DEADLINE, deadline)
    }

    /// Sets IA32_TSC_ADJUST. The timer fires when the TSC passes the deadline, so it moves along.
    fn set_tsc_adjust(&mut self, env: &mut Env<'_>, adjust: u64) -> Option<()> {
        let pending = self.read_msr(env, IA32_TSC_DEADLINE)?;
        self.msr.tsc_adjust = adjust;
        match pending {
            0 => Some(()),
            _ => self.set_tsc_deadline(env, pending),
        }
    }

    fn write_efer(&mut self, env: &mut Env<'_>, value: u64) -> Option<()> {
        let old = self.msr.efer;
        let paging = self.cr0 & cr0::PG != 0;
        let disabled = self.msr.misc_enable & MISC_ENABLE_XD_DISABLE != 0;
        if value & !EFER_KNOWN != 0
            || (paging && (value ^ old) & efer::LME != 0)
            || (disabled && value & !old & efer::NXE != 0)
        {
            return None;
        }
        // LMA follows CR0.PG and cannot be written.
        self.msr.efer = (value & !efer::LMA) | (old & efer::LMA);
        self.paging_changed(env.ram);
        self.mode_changed();
        Some(())
    }

    /// The TSC as the guest reads it.
    pub(crate) fn tsc(&self, env: &Env<'_>) -> u64 {
        env.bus
            .tsc(self.progress())
            .wrapping_add(self.msr.tsc_adjust)
    }
}

fn canonical_value(value: u64) -> Option<u64> {
    canonical(value).then_some(value)
}
