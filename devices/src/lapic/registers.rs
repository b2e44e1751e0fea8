//! The registers of the local APIC as the guest reaches them: MMIO window and MSRs.
//!
//! Does: decode register numbers, apply the reserved bits of each mode, dispatch.
//! Does not: hold state of its own.
//!
//! Invariant: both ways lead to the same registers. What an MSR access refuses with #GP, an MMIO
//! access ignores (reads give 0, and the error status tells of registers that do not exist).

use super::timer::{DIVIDE_MASK, Mode};
use super::{
    DFR_FLAT, ERROR_ILLEGAL_REGISTER, Lapic, MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_X2APIC_FIRST,
    MSR_X2APIC_LAST, SVR_ENABLED,
};

/// The access raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// Version register: six LVT entries, no suppression of EOI broadcasts.
const VERSION: u32 = 5 << 16 | 0x14;

// Register numbers: MMIO offset / 16, or MSR - 0x800.
const ID: u32 = 0x02;
const VERSION_REGISTER: u32 = 0x03;
const TPR: u32 = 0x08;
const APR: u32 = 0x09;
const PPR: u32 = 0x0A;
const EOI: u32 = 0x0B;
const LDR: u32 = 0x0D;
const DFR: u32 = 0x0E;
const SVR: u32 = 0x0F;
const ISR: u32 = 0x10;
const TMR: u32 = 0x18;
const IRR: u32 = 0x20;
const ESR: u32 = 0x28;
const ICR: u32 = 0x30;
const ICR_HIGH: u32 = 0x31;
const LVT: u32 = 0x32;
const LVT_LAST: u32 = 0x37;
const INITIAL_COUNT: u32 = 0x38;
const CURRENT_COUNT: u32 = 0x39;
const DIVIDE: u32 = 0x3E;
const SELF_IPI: u32 = 0x3F;

/// Index of the timer's entry in the LVT.
pub(super) const LVT_TIMER: usize = 0;
/// Index of the error entry in the LVT.
pub(super) const LVT_ERROR: usize = 5;
/// The mask bit of an LVT entry.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// Read-only bits of LVT entries: delivery status and remote IRR.
const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;

/// Writable bits of LVT entry `index`.
pub(super) fn lvt_writable(index: usize) -> u32 {
    match index {
        LVT_TIMER => 0x0007_00FF,
        1 | 2 => 0x0001_07FF,
        3 | 4 => 0x0001_A7FF,
        _ => 0x0001_00FF,
    }
}

impl Lapic {
    /// Reads the dword at `offset` of the MMIO window; anything but a register reads 0. Accesses
    /// that are no aligned dwords are the caller's to refuse: nothing is defined for them.
    pub fn mmio_read(&mut self, offset: u64, now: u64) -> u32 {
        if offset & 0xF != 0 {
            return 0;
        }
        let register = (offset >> 4) as u32;
        if let Some(value) = self.read_register(register, now) {
            return value;
        }
        if register != EOI {
            self.note_error(ERROR_ILLEGAL_REGISTER);
        }
        0
    }

    /// Writes the dword at `offset` of the MMIO window. Gives the vector whose end is to be told
    /// to the IOAPIC, if the write was the EOI of a level-triggered interrupt.
    pub fn mmio_write(&mut self, offset: u64, value: u32, now: u64) -> Option<u8> {
        if offset & 0xF != 0 {
            return None;
        }
        let register = (offset >> 4) as u32;
        match self.accepted_bits(register) {
            Some(bits) => self.write_register(register, value & bits, now),
            None => {
                if self.read_register(register, now).is_none() {
                    self.note_error(ERROR_ILLEGAL_REGISTER);
                }
                None
            }
        }
    }

    /// Reads IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC MSR.
    pub fn rdmsr(&self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        match msr {
            MSR_APIC_BASE => Ok(self.base),
            MSR_TSC_DEADLINE => Ok(self.timer.tsc_deadline(self.timer_mode(), now)),
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.x2apic() => match msr - MSR_X2APIC_FIRST {
                ICR => Ok(self.icr),
                register => self
                    .read_register(register, now)
                    .map(u64::from)
                    .ok_or(GeneralProtection),
            },
            _ => Err(GeneralProtection),
        }
    }

    /// Writes IA32_APIC_BASE, IA32_TSC_DEADLINE (in nanoseconds of virtual time: the caller takes
    /// its TSC offset away first, and passes 0 on as 0) or an x2APIC MSR. Gives the vector whose
    /// end is to be told to the IOAPIC, as [`Lapic::mmio_write`] does.
    pub fn wrmsr(
        &mut self,
        msr: u32,
        value: u64,
        now: u64,
    ) -> Result<Option<u8>, GeneralProtection> {
        match msr {
            MSR_APIC_BASE => self.set_base(value).map(|()| None),
            MSR_TSC_DEADLINE => {
                self.run_timer(now);
                self.timer.set_tsc_deadline(self.timer_mode(), value);
                Ok(None)
            }
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.x2apic() => {
                let register = msr - MSR_X2APIC_FIRST;
                let bits = self.accepted_bits(register).ok_or(GeneralProtection)?;
                let low = value as u32;
                if low & !bits != 0 || (register != ICR && value >> 32 != 0) {
                    return Err(GeneralProtection);
                }
                if register == ICR {
                    self.icr = value & 0xFFFF_FFFF_0000_0000 | self.icr & 0xFFFF_FFFF;
                }
                Ok(self.write_register(register, low, now))
            }
            _ => Err(GeneralProtection),
        }
    }

    /// The value of a register; `None` if there is none to read.
    fn read_register(&self, register: u32, now: u64) -> Option<u32> {
        let word = |first: u32| (register - first) as usize;
        Some(match register {
            ID if self.x2apic() => self.id,
            ID => self.id << 24,
            VERSION_REGISTER => VERSION,
            TPR => u32::from(self.tpr),
            // Arbitration ended with the Pentium III: the register reads 0.
            APR if !self.x2apic() => 0,
            PPR => u32::from(self.ppr()),
            LDR => self.logical_id(),
            DFR if !self.x2apic() => self.dfr,
            SVR => self.svr,
            ISR..TMR => self.isr[word(ISR)],
            TMR..IRR => self.tmr[word(TMR)],
            IRR..ESR => self.irr[word(IRR)],
            ESR => self.esr,
            ICR => self.icr as u32,
            ICR_HIGH if !self.x2apic() => (self.icr >> 32) as u32,
            LVT..=LVT_LAST => self.lvt[word(LVT)],
            INITIAL_COUNT => self.timer.initial(),
            CURRENT_COUNT => self.timer.current(self.timer_mode(), now),
            DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    /// The bits a write to `register` may set; `None` if it cannot be written at all.
    fn accepted_bits(&self, register: u32) -> Option<u32> {
        let x2apic = self.x2apic();
        Some(match register {
            TPR => 0xFF,
            EOI | ESR => 0,
            LDR if !x2apic => 0xFF00_0000,
            DFR if !x2apic => 0xF000_0000,
            SVR => 0x1FF,
            ICR => 0x000C_DFFF,
            ICR_HIGH if !x2apic => 0xFF00_0000,
            LVT..=LVT_LAST => {
                let index = (register - LVT) as usize;
                let read_only = if (3..=4).contains(&index) {
                    LVT_READ_ONLY
                } else {
                    LVT_READ_ONLY & !(1 << 14)
                };
                lvt_writable(index) | read_only
            }
            INITIAL_COUNT => u32::MAX,
            DIVIDE => DIVIDE_MASK,
            SELF_IPI if x2apic => 0xFF,
            _ => return None,
        })
    }

    /// Carries out a write whose bits were checked.
    fn write_register(&mut self, register: u32, value: u32, now: u64) -> Option<u8> {
        self.run_timer(now);
        match register {
            TPR => self.tpr = value as u8,
            EOI => return self.end_of_interrupt(),
            LDR => self.ldr = value,
            DFR => self.dfr = value | DFR_FLAT >> 4,
            SVR => {
                self.svr = value;
                if value & SVR_ENABLED == 0 {
                    for entry in &mut self.lvt {
                        *entry |= LVT_MASKED;
                    }
                }
            }
            ESR => self.esr = std::mem::take(&mut self.errors),
            ICR => {
                // The delivery status is always idle.
                self.icr = self.icr & 0xFFFF_FFFF_0000_0000 | u64::from(value & !(1 << 12));
                self.send_ipi();
            }
            ICR_HIGH => self.icr = u64::from(value) << 32 | self.icr & 0xFFFF_FFFF,
            LVT..=LVT_LAST => self.write_lvt((register - LVT) as usize, value),
            INITIAL_COUNT => self.timer.set_initial(self.timer_mode(), value, now),
            DIVIDE => self.timer.set_divide(self.timer_mode(), value, now),
            SELF_IPI => self.send_self_ipi(value as u8),
            _ => {}
        }
        None
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        let mut entry = value & lvt_writable(index);
        if self.svr & SVR_ENABLED == 0 {
            entry |= LVT_MASKED;
        }
        if index == LVT_TIMER {
            self.timer
                .change_mode(self.timer_mode(), Mode::of_lvt(entry));
        }
        self.lvt[index] = entry;
    }
}
