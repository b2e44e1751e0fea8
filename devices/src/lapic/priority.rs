//! Which interrupt comes next: IRR, ISR, TMR and the priorities (Intel SDM vol. 3, "Interrupt,
//! Task, and Processor Priority").
//!
//! Does: request, acknowledge and end interrupts; TPR, PPR, CR8.
//! Does not: know where a request came from.
//!
//! Invariant: no vector below 16 is ever requested, and a vector is delivered only if its class
//! (upper four bits) is above the processor priority's.

use super::{ERROR_RECEIVED_ILLEGAL_VECTOR, Lapic, VectorSet};

fn set(vectors: &mut VectorSet, vector: u8, value: bool) {
    let bit = 1 << (vector % 32);
    let word = &mut vectors[usize::from(vector / 32)];
    if value {
        *word |= bit;
    } else {
        *word &= !bit;
    }
}

fn contains(vectors: &VectorSet, vector: u8) -> bool {
    vectors[usize::from(vector / 32)] & (1 << (vector % 32)) != 0
}

fn highest(vectors: &VectorSet) -> Option<u8> {
    let word = (0..8).rev().find(|&word| vectors[word] != 0)?;
    Some((word as u32 * 32 + vectors[word].ilog2()) as u8)
}

impl Lapic {
    /// Requests `vector`; an illegal one is noted as a received error instead.
    pub(super) fn accept(&mut self, vector: u8, level: bool) {
        if vector < 16 {
            self.note_error(ERROR_RECEIVED_ILLEGAL_VECTOR);
        } else {
            self.request(vector, level);
        }
    }

    /// Requests a legal vector.
    pub(super) fn request(&mut self, vector: u8, level: bool) {
        set(&mut self.irr, vector, true);
        set(&mut self.tmr, vector, level);
    }

    /// Processor priority: the task priority, or the class of the highest vector in service.
    pub(super) fn ppr(&self) -> u8 {
        let in_service = highest(&self.isr).unwrap_or(0) & 0xF0;
        if self.tpr & 0xF0 >= in_service {
            self.tpr
        } else {
            in_service
        }
    }

    /// The vector the CPU would get now: the highest requested one above the processor priority.
    #[inline]
    pub fn pending_interrupt(&self) -> Option<u8> {
        let vector = highest(&self.irr)?;
        (vector & 0xF0 > self.ppr() & 0xF0).then_some(vector)
    }

    /// The CPU takes the pending interrupt: it is in service from here.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending_interrupt()?;
        set(&mut self.irr, vector, false);
        set(&mut self.isr, vector, true);
        Some(vector)
    }

    /// Ends the highest interrupt in service. Gives its vector if it was level-triggered.
    pub(super) fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = highest(&self.isr)?;
        set(&mut self.isr, vector, false);
        contains(&self.tmr, vector).then_some(vector)
    }

    /// Task priority class, as MOV from CR8 reads it.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// MOV to CR8; only the low four bits count.
    pub fn set_cr8(&mut self, class: u8) {
        self.tpr = class << 4;
    }
}
