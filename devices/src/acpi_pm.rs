//! The ACPI hardware: PM timer, sleep and reset register, event register of the generic event
//! device (ACPI specification 6.5, "Hardware-Reduced ACPI" and "Power Management Timer").
//!
//! Does: compute the timer from virtual time; decode S5 and reset; hold events until
//! the guest has read them.
//! Does not: power anything off: it returns what was asked for.
//!
//! Invariant: the ports and bits are those of the tables that `arch::acpi` writes. The event line
//! is asserted exactly while an event is pending.

use serde::{Deserialize, Serialize};

use crate::state::{InvalidState, require};

/// Sleep control, sleep status and reset register: one byte.
pub const SLEEP: u16 = 0x600;
/// Event register: one byte, cleared by reading it.
pub const EVENT: u16 = 0x604;
/// PM timer: 32 bits, any part of it can be read.
pub const TIMER: u16 = 0x608;
/// IOAPIC pin of the event line.
pub const EVENT_PIN: usize = 5;

/// Frequency of the PM timer in Hz.
pub const TIMER_HZ: u64 = 3_579_545;

/// Event: PCI slots have changed. The bits below it are Cloud Hypervisor's for CPUs and memory.
pub const EVENT_PCI: u8 = 1 << 2;
/// Event: the power button was pressed.
pub const EVENT_POWER_BUTTON: u8 = 1 << 3;

/// Value of the reset register that resets (FADT: RESET_VALUE).
const RESET_VALUE: u8 = 1;
/// Sleep control: enable bit, and type 5 in bits 2 to 4.
const SLEEP_ENABLE_S5: u8 = 1 << 5 | 5 << 2;

/// What the guest asked for through the sleep register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reset the machine.
    Reset,
    /// Power it off (S5).
    PowerOff,
}

/// The registers, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPmState {
    /// Events that the guest has not read.
    pub events: u8,
}

/// The ACPI hardware.
#[derive(Clone, Debug)]
pub struct AcpiPm {
    events: u8,
}

impl AcpiPm {
    /// After power-up: no event.
    #[expect(clippy::new_without_default, reason = "state has no defaults")]
    pub fn new() -> Self {
        AcpiPm { events: 0 }
    }

    /// The state, every field of it.
    pub fn save(&self) -> AcpiPmState {
        let AcpiPm { events } = *self;
        AcpiPmState { events }
    }

    /// The hardware with a saved state.
    pub fn restore(state: &AcpiPmState) -> Result<Self, InvalidState> {
        let AcpiPmState { events } = *state;
        require(
            events & !(EVENT_PCI | EVENT_POWER_BUTTON) == 0,
            "ACPI hardware",
            "events that do not exist",
        )?;
        Ok(AcpiPm { events })
    }

    /// Somebody presses the power button. Presses that the guest has not seen become one.
    pub fn press_power_button(&mut self) {
        self.events |= EVENT_POWER_BUTTON;
    }

    /// PCI slots have changed.
    pub fn slots_changed(&mut self) {
        self.events |= EVENT_PCI;
    }

    /// Level of the event line, to be driven after every call that takes `&mut self`.
    pub fn line(&self) -> bool {
        self.events != 0
    }

    /// Reads one byte at virtual time `now` (ns). A wider access is one read for each byte, at the
    /// same time.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            SLEEP => 0,
            EVENT => std::mem::take(&mut self.events),
            TIMER..=0x60B => timer(now).to_le_bytes()[usize::from(port - TIMER)],
            _ => 0xFF,
        }
    }

    /// Writes one byte. Gives what that asks for.
    #[must_use = "the guest may have asked for power-off or reset"]
    pub fn write(&mut self, port: u16, value: u8) -> Option<Action> {
        match (port, value) {
            (SLEEP, RESET_VALUE) => Some(Action::Reset),
            (SLEEP, SLEEP_ENABLE_S5) => Some(Action::PowerOff),
            _ => None,
        }
    }
}

/// The PM timer at virtual time `now` (ns).
fn timer(now: u64) -> u32 {
    (u128::from(now) * u128::from(TIMER_HZ) / 1_000_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_runs_at_its_frequency_and_wraps() {
        assert_eq!(timer(0), 0);
        assert_eq!(timer(1_000_000_000), 3_579_545);
        assert_eq!(timer(279), 0);
        assert_eq!(timer(280), 1);
        let wrap_ns = ((1u128 << 32) * 1_000_000_000).div_ceil(u128::from(TIMER_HZ)) as u64;
        assert_eq!(timer(wrap_ns - 1), u32::MAX);
        assert_eq!(timer(wrap_ns), 0);
        timer(u64::MAX);
    }

    #[test]
    fn the_timer_is_read_byte_by_byte() {
        let mut pm = AcpiPm::new();
        let bytes = [0x608, 0x609, 0x60A, 0x60B].map(|port| pm.read(port, 3_000_000_000));
        assert_eq!(u32::from_le_bytes(bytes), 10_738_635);
        assert_eq!(pm.read(0x60C, 0), 0xFF);
        assert_eq!(pm.read(0x601, 0), 0xFF);
    }

    #[test]
    fn sleep_register_resets_and_powers_off() {
        let mut pm = AcpiPm::new();
        assert_eq!(pm.write(SLEEP, 1), Some(Action::Reset));
        assert_eq!(pm.write(SLEEP, 0x34), Some(Action::PowerOff));
        assert_eq!(pm.write(SLEEP, 0x14), None, "not enabled");
        assert_eq!(pm.write(SLEEP, 0x20), None, "S0");
        assert_eq!(pm.write(SLEEP, 0x80), None, "wake status");
        assert_eq!(pm.write(EVENT, 1), None);
    }

    #[test]
    fn a_press_is_pending_until_it_is_read() {
        let mut pm = AcpiPm::new();
        assert!(!pm.line());
        pm.press_power_button();
        pm.press_power_button();
        assert!(pm.line());
        let mut pm = AcpiPm::restore(&pm.save()).unwrap();
        assert_eq!(pm.read(EVENT, 0), 8);
        assert!(!pm.line());
        assert_eq!(pm.read(EVENT, 0), 0);
        AcpiPm::restore(&AcpiPmState { events: 1 }).unwrap_err();
    }
}
