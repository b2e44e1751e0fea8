//! Interrupt messages: what an IOAPIC pin or a PCI function sends to the local APIC.
//!
//! Does: hold the fields of a message, decode an MSI address and data pair (Intel SDM vol. 3,
//! "Message Signalled Interrupts"). Does not: decide who accepts it.
//!
//! Invariant: a message is complete; nothing has to be asked of its sender.

/// How a message is to be taken (the three-bit delivery mode of ICR, redirection entry and MSI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// To all the addressed processors.
    Fixed,
    /// To the addressed processor that has the lowest priority.
    LowestPriority,
    /// System management interrupt: this machine has none.
    Smi,
    /// Non-maskable interrupt; the vector is ignored.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI.
    Startup,
    /// Interrupt of an external 8259A: this machine has none.
    ExtInt,
}

impl DeliveryMode {
    /// Decodes the three-bit field; `None` for the reserved encoding 3.
    pub fn from_bits(bits: u32) -> Option<Self> {
        match bits & 7 {
            0 => Some(DeliveryMode::Fixed),
            1 => Some(DeliveryMode::LowestPriority),
            2 => Some(DeliveryMode::Smi),
            4 => Some(DeliveryMode::Nmi),
            5 => Some(DeliveryMode::Init),
            6 => Some(DeliveryMode::Startup),
            7 => Some(DeliveryMode::ExtInt),
            _ => None,
        }
    }
}

/// One interrupt message on its way to the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// APIC id, or set of logical ids.
    pub destination: u32,
    /// True if `destination` is logical.
    pub logical: bool,
    /// How it is taken.
    pub mode: DeliveryMode,
    /// Vector, for the modes that have one.
    pub vector: u8,
    /// True if level-triggered: its EOI is told to the IOAPIC.
    pub level: bool,
}

impl Message {
    /// Decodes the write of an MSI. `None` if the address is not in the interrupt range
    /// `0xFEEx_xxxx`, or the delivery mode is reserved.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xFEE {
            return None;
        }
        Some(Message {
            destination: (address >> 12) as u32 & 0xFF,
            logical: address & (1 << 2) != 0,
            mode: DeliveryMode::from_bits(data >> 8)?,
            vector: data as u8,
            level: data & (1 << 15) != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields_are_decoded() {
        let message = Message::from_msi(0xFEE0_3004, 0x8141).unwrap();
        assert_eq!(message.destination, 3);
        assert!(message.logical && message.level);
        assert_eq!(message.mode, DeliveryMode::LowestPriority);
        assert_eq!(message.vector, 0x41);
    }

    #[test]
    fn what_is_no_msi_is_refused() {
        assert_eq!(Message::from_msi(0xFED0_0000, 0x41), None);
        assert_eq!(Message::from_msi(0x1_FEE0_0000, 0x41), None);
        assert_eq!(Message::from_msi(0xFEE0_0000, 0x0341), None);
    }
}
