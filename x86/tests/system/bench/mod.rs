//! The bench: a small machine, a program, and five ways to run it that must not differ.
//!
//! Does: lay out descriptor tables, page tables and handlers, assemble code, apply events at
//! steps, run, compare the ways, and show what is left. Does not: judge; the tests do.
//!
//! Invariant: every way sees the same program, the same events at the same steps.

mod bus;
mod layout;
mod run;

pub use bus::{DMA_MMIO, DMA_PORT, INTERRUPT_PORT, Recorder, Use};
pub use layout::*;
pub use run::{End, Outcome};

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use memory::GuestRam;
use x86::CpuState;

/// Something that happens to the CPU from outside.
#[derive(Clone, Debug)]
pub enum Event {
    /// An NMI arrives.
    Nmi,
    /// The interrupt line is asserted for this vector.
    Interrupt(u8),
    /// A device stores into RAM.
    Dma(u64, Vec<u8>),
}

/// A machine that is about to run.
pub struct Bench {
    /// RAM.
    pub ram: GuestRam,
    /// The CPU before the first step.
    pub state: CpuState,
    /// Ports and the rest.
    pub bus: Recorder,
    /// Events with the step before which they happen.
    pub events: Vec<(u64, Event)>,
    /// The step at which a run ends at the latest.
    pub last: u64,
    /// Where the next page table goes.
    next_table: u64,
}

/// Assembles instructions for an address.
pub fn assemble(
    bits: u32,
    address: u64,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(bits).expect("16, 32 or 64");
    program(&mut assembler).expect("the instructions exist");
    assembler
        .assemble(address)
        .expect("the instructions can be encoded")
}

impl Bench {
    /// Puts code at a physical address, to run at the same linear address.
    pub fn code(
        &mut self,
        bits: u32,
        address: u64,
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> usize {
        let bytes = assemble(bits, address, program);
        self.write(address, &bytes);
        bytes.len()
    }

    /// Replaces the handler of a vector, which is otherwise a HLT.
    pub fn handler(
        &mut self,
        bits: u32,
        vector: u8,
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) {
        let at = handler_of(vector);
        let length = self.code(bits, at, program);
        assert!(
            length <= HANDLER_BYTES as usize,
            "the handler of {vector} is too long"
        );
    }

    /// Happens before step `step`.
    pub fn at(&mut self, step: u64, event: Event) {
        self.events.push((step, event));
    }

    /// Writes RAM.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        self.ram.write(address, bytes).expect("the address is RAM");
    }

    /// Writes a quadword.
    pub fn write64(&mut self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }

    /// Writes a double word.
    pub fn write32(&mut self, address: u64, value: u32) {
        self.write(address, &value.to_le_bytes());
    }

    /// Writes a word.
    pub fn write16(&mut self, address: u64, value: u16) {
        self.write(address, &value.to_le_bytes());
    }

    /// Reads a quadword.
    pub fn read64(&self, address: u64) -> u64 {
        self.ram.read_u64(address).expect("the address is RAM")
    }
}
