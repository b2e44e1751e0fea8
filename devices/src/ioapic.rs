//! The I/O APIC: 24 pins, each of which becomes an interrupt message (Intel 82093AA data sheet;
//! the EOI register is that of later chipsets' data sheets).
//!
//! Does: redirection entries, edge and level pins, remote IRR, the MMIO window.
//! Does not: deliver. The messages it returns go to the local APIC at once, in order.
//!
//! Invariant: a level-triggered pin has at most one message on its way: remote IRR is set from the
//! message until the EOI of its vector, and a pin that is still asserted then sends again. What the
//! local APIC refuses is not on its way. Edges on a masked pin are lost, as on the hardware.

use serde::{Deserialize, Serialize};

use crate::message::{DeliveryMode, Message};
use crate::state::{InvalidState, require};

/// Where the MMIO window is; it is 4 KiB long.
pub const BASE: u64 = 0xFEC0_0000;
/// Number of pins.
pub const PINS: usize = 24;

/// I/O register select, an offset in the window.
const SELECT: u64 = 0x00;
/// I/O window, an offset in the window.
const WINDOW: u64 = 0x10;

/// EOI register, an offset in the window, write-only.
const EOI: u64 = 0x40;

/// Version 0x20, which has an EOI register; the highest entry in bits 16 to 23.
const VERSION: u32 = ((PINS as u32 - 1) << 16) | 0x20;

const ENTRY_MASKED: u64 = 1 << 16;
const ENTRY_LEVEL: u64 = 1 << 15;
const ENTRY_REMOTE_IRR: u64 = 1 << 14;
const ENTRY_LOGICAL: u64 = 1 << 11;
/// Bits of an entry that the guest writes: all but delivery status and remote IRR.
const ENTRY_WRITABLE: u64 = 0xFF00_0000_0001_AFFF;

/// The registers, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoapicState {
    /// Register select.
    pub select: u8,
    /// Identification (bits 24 to 27).
    pub id: u32,
    /// Redirection entries.
    pub entries: [u64; 24],
    /// Asserted pins, a bit each.
    pub lines: u32,
}

/// An I/O APIC.
#[derive(Clone, Debug)]
pub struct Ioapic {
    select: u8,
    id: u32,
    entries: [u64; PINS],
    lines: u32,
}

/// True if the pin is level-triggered: SMI, NMI, INIT and ExtINT are edges whatever the entry says.
fn is_level(entry: u64) -> bool {
    let mode = DeliveryMode::from_bits((entry >> 8) as u32);
    let has_vector = matches!(
        mode,
        Some(DeliveryMode::Fixed | DeliveryMode::LowestPriority)
    );
    entry & ENTRY_LEVEL != 0 && has_vector
}

impl Ioapic {
    /// After power-up: every pin masked and not asserted.
    #[expect(clippy::new_without_default, reason = "state has no defaults")]
    pub fn new() -> Self {
        Ioapic {
            select: 0,
            id: 0,
            entries: [ENTRY_MASKED; PINS],
            lines: 0,
        }
    }

    /// The state, every field of it.
    pub fn save(&self) -> IoapicState {
        let Ioapic {
            select,
            id,
            entries,
            lines,
        } = *self;
        IoapicState {
            select,
            id,
            entries,
            lines,
        }
    }

    /// An I/O APIC with a saved state.
    pub fn restore(state: &IoapicState) -> Result<Self, InvalidState> {
        const DEVICE: &str = "I/O APIC";
        let IoapicState {
            select,
            id,
            entries,
            lines,
        } = *state;
        require(lines >> PINS == 0, DEVICE, "pins that do not exist")?;
        require(id & !0x0F00_0000 == 0, DEVICE, "reserved id bits")?;
        for entry in entries {
            require(
                entry & !(ENTRY_WRITABLE | ENTRY_REMOTE_IRR) == 0,
                DEVICE,
                "reserved entry bits",
            )?;
            require(
                entry & ENTRY_REMOTE_IRR == 0 || entry & ENTRY_LEVEL != 0,
                DEVICE,
                "remote IRR of an edge",
            )?;
        }
        Ok(Ioapic {
            select,
            id,
            entries,
            lines,
        })
    }

    /// Reads the dword at `offset` of the MMIO window.
    pub fn mmio_read(&self, offset: u64) -> u32 {
        match offset {
            SELECT => u32::from(self.select),
            WINDOW => self.read_register(),
            _ => u32::MAX,
        }
    }

    /// Writes the dword at `offset` of the MMIO window. Messages leave if that unmasks a level
    /// that is asserted, or ends one that still is.
    pub fn mmio_write(&mut self, offset: u64, value: u32) -> Vec<Message> {
        match offset {
            SELECT => {
                self.select = value as u8;
                Vec::new()
            }
            WINDOW => self.write_register(value).into_iter().collect(),
            EOI => self.end_of_interrupt(value as u8),
            _ => Vec::new(),
        }
    }

    /// Drives a pin: `asserted` whatever its polarity. A message leaves if that is an edge, or a
    /// level that has none under way.
    pub fn set_line(&mut self, pin: usize, asserted: bool) -> Option<Message> {
        if pin >= PINS {
            return None;
        }
        let was = self.lines & (1 << pin) != 0;
        if asserted == was {
            return None;
        }
        self.lines ^= 1 << pin;
        if !asserted {
            return None;
        }
        if is_level(self.entries[pin]) {
            self.send_level(pin)
        } else if self.entries[pin] & ENTRY_MASKED == 0 {
            self.message(pin)
        } else {
            None
        }
    }

    /// The interrupt with `vector` has ended. Gives the messages of pins that are still asserted.
    pub fn end_of_interrupt(&mut self, vector: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        for pin in 0..PINS {
            let entry = self.entries[pin];
            if entry as u8 == vector && entry & ENTRY_REMOTE_IRR != 0 {
                self.entries[pin] &= !ENTRY_REMOTE_IRR;
                messages.extend(self.send_level(pin));
            }
        }
        messages
    }

    /// No local APIC took `message`, so none will end it: the pins that it is of have nothing under
    /// way.
    pub fn refused(&mut self, message: &Message) {
        for entry in &mut self.entries {
            if *entry as u8 == message.vector {
                *entry &= !ENTRY_REMOTE_IRR;
            }
        }
    }

    /// Messages of levels that are asserted and have none under way: those that were refused.
    pub fn retry(&mut self) -> Vec<Message> {
        if self.lines == 0 {
            return Vec::new();
        }
        (0..PINS).filter_map(|pin| self.send_level(pin)).collect()
    }

    /// The message of a level-triggered pin, if it has to send one.
    fn send_level(&mut self, pin: usize) -> Option<Message> {
        let entry = self.entries[pin];
        let asserted = self.lines & (1 << pin) != 0;
        if !asserted || !is_level(entry) || entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR) != 0 {
            return None;
        }
        self.entries[pin] |= ENTRY_REMOTE_IRR;
        self.message(pin)
    }

    /// The message that an entry describes; `None` if its delivery mode is reserved.
    fn message(&self, pin: usize) -> Option<Message> {
        let entry = self.entries[pin];
        Some(Message {
            destination: (entry >> 56) as u32,
            logical: entry & ENTRY_LOGICAL != 0,
            mode: DeliveryMode::from_bits((entry >> 8) as u32)?,
            vector: entry as u8,
            level: is_level(entry),
        })
    }

    /// Entry and half of it that the register select names.
    fn selected_entry(&self) -> Option<(usize, u32)> {
        let index = self.select.checked_sub(0x10)?;
        let pin = usize::from(index / 2);
        (pin < PINS).then_some((pin, u32::from(index % 2) * 32))
    }

    fn read_register(&self) -> u32 {
        match self.select {
            0 | 2 => self.id,
            1 => VERSION,
            _ => match self.selected_entry() {
                Some((pin, shift)) => (self.entries[pin] >> shift) as u32,
                None => u32::MAX,
            },
        }
    }

    fn write_register(&mut self, value: u32) -> Option<Message> {
        if self.select == 0 {
            self.id = value & 0x0F00_0000;
        }
        let (pin, shift) = self.selected_entry()?;
        let half = 0xFFFF_FFFF << shift;
        let entry = &mut self.entries[pin];
        let writable = ENTRY_WRITABLE & half;
        *entry = *entry & !writable | (u64::from(value) << shift) & writable;
        if *entry & ENTRY_LEVEL == 0 {
            // Nothing of an edge is remembered; Linux resets a stuck remote IRR this way.
            *entry &= !ENTRY_REMOTE_IRR;
        }
        self.send_level(pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(ioapic: &mut Ioapic, register: u32, value: u32) -> Option<Message> {
        ioapic.mmio_write(SELECT, register);
        let mut messages = ioapic.mmio_write(WINDOW, value);
        assert!(messages.len() <= 1);
        messages.pop()
    }

    fn read(ioapic: &mut Ioapic, register: u32) -> u32 {
        ioapic.mmio_write(SELECT, register);
        ioapic.mmio_read(WINDOW)
    }

    #[test]
    fn identification() {
        let mut ioapic = Ioapic::new();
        assert_eq!(read(&mut ioapic, 1), 0x0017_0020);
        write(&mut ioapic, 0, u32::MAX);
        assert_eq!(read(&mut ioapic, 0), 0x0F00_0000);
        assert_eq!(read(&mut ioapic, 0x10), 0x1_0000);
        assert_eq!(read(&mut ioapic, 0x40), u32::MAX);
        assert_eq!(ioapic.mmio_read(0x20), u32::MAX);
    }

    #[test]
    fn an_edge_sends_once_and_needs_to_fall() {
        let mut ioapic = Ioapic::new();
        write(&mut ioapic, 0x18, 0x0931);
        write(&mut ioapic, 0x19, 0x0100_0000);
        let message = ioapic.set_line(4, true).unwrap();
        assert_eq!(
            message,
            Message {
                destination: 1,
                logical: true,
                mode: DeliveryMode::LowestPriority,
                vector: 0x31,
                level: false
            }
        );
        assert_eq!(ioapic.set_line(4, true), None);
        assert_eq!(ioapic.set_line(4, false), None);
        assert!(ioapic.set_line(4, true).is_some());
        assert_eq!(ioapic.end_of_interrupt(0x31), vec![]);
    }

    #[test]
    fn an_edge_on_a_masked_pin_is_lost() {
        let mut ioapic = Ioapic::new();
        write(&mut ioapic, 0x18, 0x1_0031);
        assert_eq!(ioapic.set_line(4, true), None);
        assert_eq!(write(&mut ioapic, 0x18, 0x31), None);
    }

    #[test]
    fn a_level_sends_again_after_its_end_while_asserted() {
        let mut ioapic = Ioapic::new();
        write(&mut ioapic, 0x1A, 0x8032);
        assert!(ioapic.set_line(5, true).unwrap().level);
        assert_eq!(read(&mut ioapic, 0x1A), 0xC032, "remote IRR");
        ioapic.set_line(5, false);
        assert_eq!(ioapic.set_line(5, true), None, "one under way");
        assert_eq!(ioapic.end_of_interrupt(0x33), vec![]);
        assert_eq!(ioapic.end_of_interrupt(0x32).len(), 1);
        ioapic.set_line(5, false);
        assert_eq!(ioapic.end_of_interrupt(0x32), vec![]);
        assert_eq!(read(&mut ioapic, 0x1A), 0x8032);
    }

    #[test]
    fn the_eoi_register_ends_every_pin_of_its_vector() {
        let mut ioapic = Ioapic::new();
        for pin in [5, 6] {
            write(&mut ioapic, 0x10 + 2 * pin, 0x8032);
            assert!(ioapic.set_line(pin as usize, true).is_some());
        }
        ioapic.set_line(6, false);
        assert_eq!(ioapic.mmio_write(EOI, 0x33), vec![]);
        let again = ioapic.mmio_write(EOI, 0x32);
        assert_eq!(again.len(), 1, "pin 5 is still asserted");
        assert_eq!(read(&mut ioapic, 0x1A), 0xC032);
        assert_eq!(read(&mut ioapic, 0x1C), 0x8032);
        assert_eq!(ioapic.mmio_read(EOI), u32::MAX);
    }

    #[test]
    fn modes_without_a_vector_are_edges() {
        let mut ioapic = Ioapic::new();
        // NMI, programmed as a level.
        assert_eq!(write(&mut ioapic, 0x1A, 0x8400), None);
        let message = ioapic.set_line(5, true).unwrap();
        assert_eq!((message.mode, message.level), (DeliveryMode::Nmi, false));
        assert_eq!(read(&mut ioapic, 0x1A), 0x8400, "no remote IRR");
        assert_eq!(write(&mut ioapic, 0x1A, 0x8400), None, "no second edge");
        ioapic.set_line(5, false);
        assert!(ioapic.set_line(5, true).is_some());
        write(&mut ioapic, 0x1A, 0x1_8400);
        ioapic.set_line(5, false);
        assert_eq!(ioapic.set_line(5, true), None, "masked");
    }

    #[test]
    fn a_masked_level_sends_when_unmasked() {
        let mut ioapic = Ioapic::new();
        write(&mut ioapic, 0x1A, 0x1_8032);
        assert_eq!(ioapic.set_line(5, true), None);
        assert!(write(&mut ioapic, 0x1A, 0x8032).is_some());
        assert_eq!(write(&mut ioapic, 0x1A, 0x8032), None);
    }

    #[test]
    fn a_level_that_is_masked_under_way_ends_and_waits() {
        let mut ioapic = Ioapic::new();
        write(&mut ioapic, 0x1A, 0x8032);
        assert!(ioapic.set_line(5, true).is_some());
        assert_eq!(write(&mut ioapic, 0x1A, 0x1_8032), None);
        assert_eq!(read(&mut ioapic, 0x1A), 0x1_C032, "still under way");
        assert_eq!(write(&mut ioapic, 0x1A, 0x8032), None, "one under way");
        write(&mut ioapic, 0x1A, 0x1_8032);
        assert_eq!(ioapic.end_of_interrupt(0x32), vec![]);
        assert_eq!(read(&mut ioapic, 0x1A), 0x1_8032);
        assert!(write(&mut ioapic, 0x1A, 0x8032).is_some());
    }

    #[test]
    fn an_end_goes_by_the_vector_that_the_entry_has_now() {
        let mut ioapic = Ioapic::new();
        write(&mut ioapic, 0x1A, 0x8032);
        assert!(ioapic.set_line(5, true).is_some());
        write(&mut ioapic, 0x1A, 0x8033);
        assert_eq!(ioapic.end_of_interrupt(0x32), vec![]);
        assert_eq!(read(&mut ioapic, 0x1A), 0xC033);
        assert_eq!(ioapic.end_of_interrupt(0x33)[0].vector, 0x33);
    }

    #[test]
    fn remote_irr_and_delivery_status_cannot_be_written() {
        let mut ioapic = Ioapic::new();
        write(&mut ioapic, 0x1A, 0x1_D032);
        assert_eq!(read(&mut ioapic, 0x1A), 0x1_8032);
        write(&mut ioapic, 0x1B, u32::MAX);
        assert_eq!(read(&mut ioapic, 0x1B), 0xFF00_0000);
    }

    #[test]
    fn remote_irr_is_cleared_by_going_through_edge() {
        let mut ioapic = Ioapic::new();
        write(&mut ioapic, 0x1A, 0x8032);
        ioapic.set_line(5, true);
        write(&mut ioapic, 0x1A, 0x1_0032);
        assert_eq!(read(&mut ioapic, 0x1A), 0x1_0032);
        write(&mut ioapic, 0x1A, 0x1_8032);
        assert_eq!(read(&mut ioapic, 0x1A), 0x1_8032);
    }

    #[test]
    fn a_level_that_was_refused_is_sent_again() {
        let mut ioapic = Ioapic::new();
        write(&mut ioapic, 0x1A, 0x8032);
        assert_eq!(ioapic.retry(), vec![], "nothing is asserted");
        let message = ioapic.set_line(5, true).unwrap();
        assert_eq!(ioapic.retry(), vec![], "it is under way");
        ioapic.refused(&message);
        assert_eq!(read(&mut ioapic, 0x1A), 0x8032, "no remote IRR");
        assert_eq!(ioapic.retry(), vec![message]);
        assert_eq!(read(&mut ioapic, 0x1A), 0xC032);
    }

    #[test]
    fn pins_that_do_not_exist_do_nothing() {
        let mut ioapic = Ioapic::new();
        assert_eq!(ioapic.set_line(24, true), None);
        assert_eq!(ioapic.set_line(usize::MAX, true), None);
    }

    #[test]
    fn states_round_trip_and_impossible_ones_are_refused() {
        let mut ioapic = Ioapic::new();
        for register in 0..=0xFF {
            write(&mut ioapic, register, u32::MAX);
            write(&mut ioapic, register, 0xFFFE_FFFF);
        }
        for pin in 0..PINS {
            ioapic.set_line(pin, true);
        }
        let state = ioapic.save();
        assert_eq!(Ioapic::restore(&state).unwrap().save(), state);
        let mut bad = vec![state; 3];
        bad[0].lines = 1 << 24;
        bad[1].entries[3] = 1 << 14;
        bad[2].entries[3] = 1 << 12;
        for state in bad {
            Ioapic::restore(&state).unwrap_err();
        }
    }
}
