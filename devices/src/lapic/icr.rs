//! Who is meant by a destination, and the interrupt command register (Intel SDM vol. 3, "Issuing
//! Interprocessor Interrupts").
//!
//! Does: match physical and logical destinations; carry out IPIs of the one vCPU to itself.
//! Does not: send anything elsewhere. IPIs to absent processors vanish, as on a bus where nobody
//! answers.
//!
//! Invariant: a command has been carried out when the write returns; its status is always idle.

use super::{ERROR_SEND_ILLEGAL_VECTOR, Lapic};
use crate::message::{DeliveryMode, Message};

const ICR_LOGICAL: u64 = 1 << 11;
const ICR_ASSERT: u64 = 1 << 14;
const ICR_LEVEL: u64 = 1 << 15;

const SHORTHAND_NONE: u64 = 0;
const SHORTHAND_SELF: u64 = 1;
const SHORTHAND_ALL: u64 = 2;

impl Lapic {
    /// Logical destination register as the guest reads it.
    pub(super) fn logical_id(&self) -> u32 {
        if self.x2apic() {
            ((self.id >> 4) << 16) | (1 << (self.id & 0xF))
        } else {
            self.ldr
        }
    }

    /// True if `destination` addresses this APIC. 0xFF is a broadcast in either mode, since an
    /// IOAPIC and an MSI have no other.
    pub(super) fn is_addressed(&self, destination: u32, logical: bool) -> bool {
        if !logical {
            return destination == self.id || destination == 0xFF || destination == u32::MAX;
        }
        let own = self.logical_id();
        if self.x2apic() {
            return destination == u32::MAX
                || (destination >> 16 == own >> 16 && destination & own & 0xFFFF != 0);
        }
        let own = own >> 24;
        let destination = destination & 0xFF;
        if self.dfr >> 28 == 0xF {
            destination & own != 0
        } else {
            // Cluster model: four bits of cluster (15 is all of them), four bits of members.
            (destination >> 4 == 0xF || destination >> 4 == own >> 4)
                && destination & own & 0xF != 0
        }
    }

    /// Carries out the command in the ICR.
    pub(super) fn send_ipi(&mut self) {
        let icr = self.icr;
        let Some(mode) = DeliveryMode::from_bits((icr >> 8) as u32) else {
            return;
        };
        let vector = icr as u8;
        let fixed = matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if fixed && vector < 16 {
            self.note_error(ERROR_SEND_ILLEGAL_VECTOR);
            return;
        }
        if mode == DeliveryMode::Init && icr & (ICR_ASSERT | ICR_LEVEL) == ICR_LEVEL {
            // INIT level de-assert: only processors of long ago synchronise by it.
            return;
        }
        let destination = if self.x2apic() {
            (icr >> 32) as u32
        } else {
            (icr >> 56) as u32
        };
        let addressed = match (icr >> 18) & 3 {
            SHORTHAND_NONE => self.is_addressed(destination, icr & ICR_LOGICAL != 0),
            // Only fixed IPIs may use this shorthand.
            SHORTHAND_SELF => mode == DeliveryMode::Fixed,
            SHORTHAND_ALL => true,
            _ => false,
        };
        if addressed {
            self.receive(Message {
                destination: self.id,
                logical: false,
                mode,
                vector,
                // The trigger bit means nothing else.
                level: false,
            });
        }
    }

    /// Sends `vector` to this APIC itself (the SELF IPI register).
    pub(super) fn send_self_ipi(&mut self, vector: u8) {
        self.icr = SHORTHAND_SELF << 18 | u64::from(vector);
        self.send_ipi();
    }
}
