//! The local APIC of a vCPU, in xAPIC and x2APIC mode (Intel SDM vol. 3, chapter "APIC").
//!
//! Does: hold and prioritise interrupts, keep its registers (as MMIO window and as MSRs), run the
//! timer from virtual time, send IPIs to itself.
//! Does not: interrupt the CPU. The CPU asks [`Lapic::pending_interrupt`] at a boundary and takes
//! it with [`Lapic::acknowledge`]. The LINT pins are not connected; start-up and SMI messages are
//! dropped: the one vCPU never waits for the former, and there is no SMM.
//!
//! Invariant: reading a register changes nothing; a timer that can interrupt changes state at
//! [`Lapic::deadline`] and not before, a masked one only when the guest writes a register. So the
//! state does not depend on how often the host looks.

mod icr;
mod priority;
mod registers;
mod timer;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::message::{DeliveryMode, Message};
use crate::state::{InvalidState, require};
use registers::{LVT_MASKED, LVT_TIMER, lvt_writable};
use timer::{Mode, Timer};

pub use registers::GeneralProtection;
pub use timer::{CRYSTAL_TICK_NS, TimerState};

/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1B;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6E0;
/// First MSR of the x2APIC range.
pub const MSR_X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC range.
pub const MSR_X2APIC_LAST: u32 = 0x8FF;

/// Where the MMIO window is after a reset; it is 4 KiB long.
pub const DEFAULT_BASE: u64 = 0xFEE0_0000;

/// Physical address bits of the CPU model (CPUID leaf 0x80000008).
const PHYSICAL_BITS: u32 = 46;

const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_ADDRESS: u64 = ((1 << PHYSICAL_BITS) - 1) & !0xFFF;

/// Spurious-interrupt vector register: APIC software enable.
const SVR_ENABLED: u32 = 1 << 8;
/// Destination format register: flat model.
const DFR_FLAT: u32 = 0xFFFF_FFFF;

/// ESR bits.
const ERROR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ERROR_RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
const ERROR_ILLEGAL_REGISTER: u32 = 1 << 7;
const ERROR_MASK: u32 =
    ERROR_SEND_ILLEGAL_VECTOR | ERROR_RECEIVED_ILLEGAL_VECTOR | ERROR_ILLEGAL_REGISTER;

/// 256 vectors, one bit each.
type VectorSet = [u32; 8];

/// The registers of a local APIC, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LapicState {
    /// IA32_APIC_BASE.
    pub base: u64,
    /// APIC id.
    pub id: u32,
    /// Task priority.
    pub tpr: u8,
    /// Logical destination (xAPIC layout, used in xAPIC mode only).
    pub ldr: u32,
    /// Destination format.
    pub dfr: u32,
    /// Spurious-interrupt vector.
    pub svr: u32,
    /// In-service vectors.
    pub isr: [u32; 8],
    /// Trigger modes of accepted vectors.
    pub tmr: [u32; 8],
    /// Requested vectors.
    pub irr: [u32; 8],
    /// Error status as the guest reads it.
    pub esr: u32,
    /// Errors since the guest last wrote the error status.
    pub errors: u32,
    /// Interrupt command; in xAPIC mode the destination is in bits 56 to 63.
    pub icr: u64,
    /// Local vector table: timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    /// The timer.
    pub timer: TimerState,
    /// An NMI waits for the CPU.
    pub nmi: bool,
    /// An INIT waits for the CPU.
    pub init: bool,
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    base: u64,
    id: u32,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: VectorSet,
    tmr: VectorSet,
    irr: VectorSet,
    esr: u32,
    errors: u32,
    icr: u64,
    lvt: [u32; 6],
    timer: Timer,
    nmi: bool,
    init: bool,
}

impl Lapic {
    /// The local APIC of the bootstrap processor `id` after power-up: xAPIC mode, software-disabled.
    pub fn new(id: u32) -> Self {
        Lapic {
            base: DEFAULT_BASE | BASE_BSP | BASE_ENABLED,
            id,
            tpr: 0,
            ldr: 0,
            dfr: DFR_FLAT,
            svr: 0xFF,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [LVT_MASKED; 6],
            timer: Timer::new(),
            nmi: false,
            init: false,
        }
    }

    /// Back to power-up, as on a reset of the machine.
    pub fn reset(&mut self) {
        *self = Lapic::new(self.id);
    }

    /// The state, every field of it.
    pub fn save(&self) -> LapicState {
        let Lapic {
            base,
            id,
            tpr,
            ldr,
            dfr,
            svr,
            isr,
            tmr,
            irr,
            esr,
            errors,
            icr,
            lvt,
            ref timer,
            nmi,
            init,
        } = *self;
        LapicState {
            base,
            id,
            tpr,
            ldr,
            dfr,
            svr,
            isr,
            tmr,
            irr,
            esr,
            errors,
            icr,
            lvt,
            timer: timer.save(),
            nmi,
            init,
        }
    }

    /// A local APIC with a saved state.
    pub fn restore(state: &LapicState) -> Result<Self, InvalidState> {
        const DEVICE: &str = "local APIC";
        let LapicState {
            base,
            id,
            tpr,
            ldr,
            dfr,
            svr,
            isr,
            tmr,
            irr,
            esr,
            errors,
            icr,
            lvt,
            ref timer,
            nmi,
            init,
        } = *state;
        let flags = BASE_BSP | BASE_X2APIC | BASE_ENABLED;
        require(
            base & !(BASE_ADDRESS | flags) == 0
                && base & (BASE_X2APIC | BASE_ENABLED) != BASE_X2APIC,
            DEVICE,
            "impossible base",
        )?;
        require(
            (isr[0] | tmr[0] | irr[0]) & 0xFFFF == 0,
            DEVICE,
            "vectors below 16",
        )?;
        require(svr & !0x1FF == 0, DEVICE, "reserved SVR bits")?;
        require((esr | errors) & !ERROR_MASK == 0, DEVICE, "reserved errors")?;
        require(
            dfr | 0xF000_0000 == DFR_FLAT && ldr & 0x00FF_FFFF == 0,
            DEVICE,
            "reserved destination bits",
        )?;
        for (index, &entry) in lvt.iter().enumerate() {
            require(
                entry & !lvt_writable(index) == 0,
                DEVICE,
                "reserved LVT bits",
            )?;
            require(
                entry & LVT_MASKED != 0 || svr & SVR_ENABLED != 0,
                DEVICE,
                "unmasked LVT while disabled",
            )?;
        }
        require(
            timer.divide & !timer::DIVIDE_MASK == 0,
            DEVICE,
            "reserved divisor bits",
        )?;
        Ok(Lapic {
            base,
            id,
            tpr,
            ldr,
            dfr,
            svr,
            isr,
            tmr,
            irr,
            esr,
            errors,
            icr,
            lvt,
            timer: Timer::restore(timer),
            nmi,
            init,
        })
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Guest-physical address of the 4 KiB MMIO window, if there is one (xAPIC mode only).
    pub fn mmio_window(&self) -> Option<u64> {
        (self.base & (BASE_ENABLED | BASE_X2APIC) == BASE_ENABLED)
            .then_some(self.base & BASE_ADDRESS)
    }

    /// True if the APIC is enabled in IA32_APIC_BASE (CPUID leaf 1, EDX bit 9 shows it).
    pub fn enabled(&self) -> bool {
        self.base & BASE_ENABLED != 0
    }

    /// True in x2APIC mode.
    fn x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    /// Writes IA32_APIC_BASE: the state transitions of the SDM's "x2APIC State Transitions".
    fn set_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        let flags = BASE_BSP | BASE_X2APIC | BASE_ENABLED;
        if value & !(BASE_ADDRESS | flags) != 0 {
            return Err(GeneralProtection);
        }
        let old = (self.enabled(), self.x2apic());
        let new = (value & BASE_ENABLED != 0, value & BASE_X2APIC != 0);
        match (old, new) {
            (_, (false, true)) => return Err(GeneralProtection),
            ((false, _), (true, true)) => return Err(GeneralProtection),
            ((true, true), (true, false)) => return Err(GeneralProtection),
            ((true, _), (false, false)) => {
                let id = self.id;
                *self = Lapic::new(id);
            }
            ((true, false), (true, true)) => {
                // The destination becomes 32 bits wide, the logical id is derived from the id.
                self.icr &= 0xFFFF_FFFF;
                self.ldr = 0;
                self.dfr = DFR_FLAT;
            }
            _ => {}
        }
        self.base = value;
        Ok(())
    }

    /// The timer's mode.
    fn timer_mode(&self) -> Mode {
        Mode::of_lvt(self.lvt[LVT_TIMER])
    }

    /// Virtual time (ns) at which [`Lapic::advance`] has something to do; may be in the past.
    pub fn deadline(&self) -> Option<u64> {
        if self.lvt[LVT_TIMER] & LVT_MASKED != 0 {
            return None;
        }
        self.timer.expiry(self.timer_mode())
    }

    /// Fires the timer if it is due at virtual time `now`. Periods that were missed as a whole
    /// (shorter than a step) become one interrupt.
    pub fn advance(&mut self, now: u64) {
        if self.lvt[LVT_TIMER] & LVT_MASKED == 0 {
            self.run_timer(now);
        }
    }

    /// Brings the timer up to `now`, masked or not.
    fn run_timer(&mut self, now: u64) {
        if self.timer.expire(self.timer_mode(), now) {
            self.local_interrupt(LVT_TIMER);
        }
    }

    /// An entry of the local vector table has its event.
    fn local_interrupt(&mut self, index: usize) {
        let entry = self.lvt[index];
        if entry & LVT_MASKED != 0 {
            return;
        }
        // Timer and error entries have no mode bits: they are fixed.
        match DeliveryMode::from_bits(entry >> 8) {
            Some(DeliveryMode::Fixed) => self.accept(entry as u8, false),
            Some(DeliveryMode::Nmi) => self.nmi = true,
            _ => {}
        }
    }

    /// Notes errors for the ESR, and raises the error interrupt.
    fn note_error(&mut self, error: u32) {
        self.errors |= error;
        let entry = self.lvt[registers::LVT_ERROR];
        let vector = entry as u8;
        // An error interrupt with an illegal vector would be an error for ever.
        if entry & LVT_MASKED == 0 && vector >= 16 {
            self.request(vector, false);
        }
    }

    /// Takes a message off the bus. True if it was for this APIC and was accepted.
    pub fn receive(&mut self, message: Message) -> bool {
        if !self.enabled() || !self.is_addressed(message.destination, message.logical) {
            return false;
        }
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if self.svr & SVR_ENABLED == 0 {
                    return false;
                }
                self.accept(message.vector, message.level);
                true
            }
            DeliveryMode::Nmi => {
                self.nmi = true;
                true
            }
            DeliveryMode::Init => {
                self.init = true;
                true
            }
            DeliveryMode::Smi | DeliveryMode::Startup | DeliveryMode::ExtInt => false,
        }
    }

    /// True if an NMI waits.
    pub fn pending_nmi(&self) -> bool {
        self.nmi
    }

    /// Takes the waiting INIT. False if there was none.
    pub fn acknowledge_init(&mut self) -> bool {
        std::mem::take(&mut self.init)
    }

    /// Takes the waiting NMI. False if there was none.
    pub fn acknowledge_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }
}
