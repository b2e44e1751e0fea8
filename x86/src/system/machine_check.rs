//! Registers of the machine-check architecture (SDM vol. 3B, chapter "Machine-check architecture").
//!
//! Does: keep what software writes to the global registers and to the banks, with the faults that
//! the manual asks for. Does not: report anything: this machine has no hardware that could fail,
//! so no machine-check exception is ever raised.
//!
//! Invariant: STATUS registers are 0, for only hardware makes them anything else.

use serde::{Deserialize, Serialize};

/// Banks: as many as QEMU's CPUs have.
const BANKS: usize = 10;

const IA32_P5_MC_ADDR: u32 = 0x0;
const IA32_P5_MC_TYPE: u32 = 0x1;
const IA32_MCG_CAP: u32 = 0x179;
const IA32_MCG_STATUS: u32 = 0x17a;
const IA32_MC0_CTL: u32 = 0x400;

/// IA32_MCG_STATUS: RIPV, EIPV and MCIP.
const MCG_STATUS_KNOWN: u64 = 7;

/// What software can write of the machine-check architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineCheckState {
    /// IA32_MCG_STATUS.
    pub status: u64,
    /// The banks.
    pub banks: [BankState; BANKS],
}

/// A bank's registers. Its IA32_MCi_STATUS is always 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BankState {
    /// IA32_MCi_CTL: 0 or all ones.
    pub control: u64,
    /// IA32_MCi_ADDR.
    pub address: u64,
    /// IA32_MCi_MISC.
    pub misc: u64,
}

/// A register of a bank.
enum Register {
    Control,
    Status,
    Address,
    Misc,
}

/// Bank and register that an MSR's number names.
fn bank_register(index: u32) -> Option<(usize, Register)> {
    let offset = index.checked_sub(IA32_MC0_CTL)?;
    let bank = (offset / 4) as usize;
    let register = match offset % 4 {
        0 => Register::Control,
        1 => Register::Status,
        2 => Register::Address,
        _ => Register::Misc,
    };
    (bank < BANKS).then_some((bank, register))
}

impl MachineCheckState {
    /// Reads MSR `index`; `None` if it is none of these.
    pub(super) fn read(&self, index: u32) -> Option<u64> {
        match index {
            IA32_P5_MC_ADDR | IA32_P5_MC_TYPE => Some(0),
            IA32_MCG_CAP => Some(BANKS as u64),
            IA32_MCG_STATUS => Some(self.status),
            _ => {
                let (bank, register) = bank_register(index)?;
                let bank = &self.banks[bank];
                Some(match register {
                    Register::Control => bank.control,
                    Register::Status => 0,
                    Register::Address => bank.address,
                    Register::Misc => bank.misc,
                })
            }
        }
    }

    /// Writes MSR `index`; `None` if it is none of these, or does not take `value`.
    pub(super) fn write(&mut self, index: u32, value: u64) -> Option<()> {
        if index == IA32_MCG_STATUS {
            self.status = (value & !MCG_STATUS_KNOWN == 0).then_some(value)?;
            return Some(());
        }
        let (bank, register) = bank_register(index)?;
        let bank = &mut self.banks[bank];
        match register {
            Register::Control => {
                bank.control = matches!(value, 0 | u64::MAX).then_some(value)?;
            }
            Register::Status => (value == 0).then_some(())?,
            Register::Address => bank.address = value,
            Register::Misc => bank.misc = value,
        }
        Some(())
    }

    /// True if a CPU can hold this.
    pub(crate) fn is_valid(&self) -> bool {
        self.status & !MCG_STATUS_KNOWN == 0
            && self
                .banks
                .iter()
                .all(|bank| matches!(bank.control, 0 | u64::MAX))
    }
}
