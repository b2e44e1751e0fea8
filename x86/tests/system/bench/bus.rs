//! A machine that writes down what the CPU asks of it.
//!
//! Does: answer every port, MMIO address and MSR by a fixed rule, and keep a log with positions.
//! Does not: model any device.

use memory::GuestRam;
use x86::{Bus, Progress};

/// What the CPU did with the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// A port was read: port, size.
    In(u16, u8),
    /// A port was written: port, size, value.
    Out(u16, u8, u32),
    /// MMIO was read: address, size.
    Load(u64, u8),
    /// MMIO was written: address, size, value.
    Store(u64, u8, u64),
    /// An MSR was read.
    ReadMsr(u32),
    /// An MSR was written.
    WriteMsr(u32, u64),
    /// CR8 was written.
    Cr8(u64),
    /// An interrupt was acknowledged.
    Acknowledge(u8),
}

/// A write to this port makes the "device" store [`Recorder::dma`].
pub const DMA_PORT: u16 = 0xd0;
/// A write to this port asserts the interrupt with the value as its vector.
pub const INTERRUPT_PORT: u16 = 0xd1;
/// A read of this MMIO address makes the "device" store [`Recorder::dma`].
pub const DMA_MMIO: u64 = 0xd000_0000;

/// The bus.
#[derive(Clone, Default)]
pub struct Recorder {
    /// Uses in order, with steps and units at which they happened.
    pub log: Vec<(u64, u64, Use)>,
    /// Vectors that wait.
    pub waiting: Vec<u8>,
    /// What the device stores when it is told to.
    pub dma: Vec<(u64, Vec<u8>)>,
    /// CR8.
    pub cr8: u64,
    /// IA32_TSC_DEADLINE as the CPU passed it on.
    pub deadline: u64,
}

impl Recorder {
    fn note(&mut self, at: Progress, event: Use) {
        self.log.push((at.steps, at.units, event));
    }

    /// The uses without their positions.
    pub fn uses(&self) -> Vec<Use> {
        self.log.iter().map(|(_, _, event)| event.clone()).collect()
    }

    fn store(&self, ram: &mut GuestRam) {
        for (address, bytes) in &self.dma {
            ram.write(*address, bytes)
                .expect("the device stores to RAM");
        }
    }
}

impl Bus for Recorder {
    fn io_read(&mut self, _: &mut GuestRam, at: Progress, port: u16, size: u8) -> u32 {
        self.note(at, Use::In(port, size));
        0xa5c3_0000 | u32::from(port)
    }

    fn io_write(&mut self, ram: &mut GuestRam, at: Progress, port: u16, size: u8, value: u32) {
        self.note(at, Use::Out(port, size, value));
        match port {
            DMA_PORT => self.store(ram),
            INTERRUPT_PORT => self.waiting.push(value as u8),
            _ => {}
        }
    }

    fn mmio_read(&mut self, ram: &mut GuestRam, at: Progress, address: u64, size: u8) -> u64 {
        self.note(at, Use::Load(address, size));
        if address == DMA_MMIO {
            self.store(ram);
        }
        0x1122_3344_5566_7788 ^ address
    }

    fn mmio_write(&mut self, _: &mut GuestRam, at: Progress, address: u64, size: u8, value: u64) {
        self.note(at, Use::Store(address, size, value));
    }

    fn msr_read(&mut self, at: Progress, index: u32) -> Option<u64> {
        self.note(at, Use::ReadMsr(index));
        match index {
            0x1b => Some(0xfee0_0900),
            0x6e0 => Some(self.deadline),
            0x802 => Some(7),
            _ => None,
        }
    }

    fn msr_write(&mut self, at: Progress, index: u32, value: u64) -> Option<()> {
        self.note(at, Use::WriteMsr(index, value));
        match index {
            0x1b | 0x80b => Some(()),
            0x6e0 => {
                self.deadline = value;
                Some(())
            }
            _ => None,
        }
    }

    fn cr8(&mut self) -> u64 {
        self.cr8
    }

    fn set_cr8(&mut self, value: u64) {
        self.cr8 = value;
        self.log.push((0, 0, Use::Cr8(value)));
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        if self.waiting.is_empty() {
            return None;
        }
        let vector = self.waiting.remove(0);
        self.log.push((0, 0, Use::Acknowledge(vector)));
        Some(vector)
    }

    fn tsc(&self, at: Progress) -> u64 {
        at.units * 3
    }
}
