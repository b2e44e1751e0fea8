//! The serial port: a 16550A with 16-byte FIFOs (National Semiconductor PC16550D data sheet).
//!
//! Does: all registers, loopback, modem status, the four interrupt sources. A byte written is
//! transmitted at once: it is returned to the caller. Bytes received wait in a backlog behind the
//! FIFO, and enter it while the guest asserts RTS, as a terminal with hardware flow control would
//! send them: what is typed before the guest's driver is ready is not lost.
//! Does not: model baud rates, parity or break. The receive timeout interrupt, which the hardware
//! raises after four idle characters, is raised at once.
//!
//! Invariant: the interrupt line ([`Serial::line`]) is a pure function of the state, and while
//! RTS is asserted outside loopback, the backlog is empty or the FIFO is full.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::state::{InvalidState, require};

/// First of the eight I/O ports of COM1.
pub const COM1: u16 = 0x3F8;
/// IOAPIC pin of COM1.
pub const COM1_PIN: usize = 4;
/// Bytes the backlog can hold.
pub const BACKLOG_CAPACITY: usize = 64 * 1024;

const FIFO_CAPACITY: usize = 16;

// Register offsets.
const DATA: u16 = 0;
const IER: u16 = 1;
const IIR_FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const SCRATCH: u16 = 7;

const IER_RECEIVED: u8 = 1 << 0;
const IER_THR_EMPTY: u8 = 1 << 1;
const IER_LINE_STATUS: u8 = 1 << 2;
const IER_MODEM_STATUS: u8 = 1 << 3;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_THR_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0C;
const IIR_FIFOS: u8 = 0xC0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;
const FCR_TRIGGER: u8 = 0xC0;

const LCR_DIVISOR: u8 = 1 << 7;

const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;

const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
/// Holding register and transmitter are empty, as ever.
const LSR_EMPTY: u8 = 0x60;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;
/// The terminal at the other end is there and ready.
const MSR_CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

/// The registers and buffers, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    /// Interrupt enable.
    pub ier: u8,
    /// FIFO control: enable bit and trigger level.
    pub fcr: u8,
    /// Line control.
    pub lcr: u8,
    /// Modem control.
    pub mcr: u8,
    /// Changes of the modem status that the guest has not read (low half of the register).
    pub modem_changes: u8,
    /// Scratch.
    pub scratch: u8,
    /// Divisor latch.
    pub divisor: u16,
    /// A byte was lost in loopback.
    pub overrun: bool,
    /// The transmitter's interrupt is due.
    pub thr_interrupt: bool,
    /// Bytes in the receiver's FIFO, oldest first.
    pub fifo: Vec<u8>,
    /// Bytes waiting behind it, oldest first.
    pub backlog: Vec<u8>,
}

/// A serial port.
#[derive(Clone, Debug)]
pub struct Serial {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    modem_changes: u8,
    scratch: u8,
    divisor: u16,
    overrun: bool,
    thr_interrupt: bool,
    fifo: VecDeque<u8>,
    backlog: VecDeque<u8>,
}

impl Serial {
    /// After power-up.
    #[expect(clippy::new_without_default, reason = "state has no defaults")]
    pub fn new() -> Self {
        Serial {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            modem_changes: 0,
            scratch: 0,
            divisor: 1,
            overrun: false,
            thr_interrupt: false,
            fifo: VecDeque::new(),
            backlog: VecDeque::new(),
        }
    }

    /// Resets the registers, as a reset of the machine does. The backlog stays: it is on the
    /// other end of the line.
    pub fn reset(&mut self) {
        let backlog = std::mem::take(&mut self.backlog);
        *self = Serial::new();
        self.backlog = backlog;
    }

    /// The state, every field of it.
    pub fn save(&self) -> SerialState {
        let Serial {
            ier,
            fcr,
            lcr,
            mcr,
            modem_changes,
            scratch,
            divisor,
            overrun,
            thr_interrupt,
            ref fifo,
            ref backlog,
        } = *self;
        SerialState {
            ier,
            fcr,
            lcr,
            mcr,
            modem_changes,
            scratch,
            divisor,
            overrun,
            thr_interrupt,
            fifo: fifo.iter().copied().collect(),
            backlog: backlog.iter().copied().collect(),
        }
    }

    /// A serial port with a saved state.
    pub fn restore(state: &SerialState) -> Result<Self, InvalidState> {
        const DEVICE: &str = "serial port";
        let SerialState {
            ier,
            fcr,
            lcr,
            mcr,
            modem_changes,
            scratch,
            divisor,
            overrun,
            thr_interrupt,
            ref fifo,
            ref backlog,
        } = *state;
        require(ier & !0x0F == 0, DEVICE, "reserved IER bits")?;
        require(
            fcr & !(FCR_TRIGGER | FCR_ENABLE) == 0 && (fcr & FCR_ENABLE != 0 || fcr == 0),
            DEVICE,
            "impossible FCR",
        )?;
        require(mcr & !0x1F == 0, DEVICE, "reserved MCR bits")?;
        require(modem_changes & !0x0F == 0, DEVICE, "reserved MSR bits")?;
        require(
            !thr_interrupt || ier & IER_THR_EMPTY != 0,
            DEVICE,
            "transmitter interrupt while disabled",
        )?;
        let serial = Serial {
            ier,
            fcr,
            lcr,
            mcr,
            modem_changes,
            scratch,
            divisor,
            overrun,
            thr_interrupt,
            fifo: fifo.iter().copied().collect(),
            backlog: backlog.iter().copied().collect(),
        };
        require(
            fifo.len() <= serial.fifo_capacity(),
            DEVICE,
            "FIFO beyond its capacity",
        )?;
        require(
            backlog.len() <= BACKLOG_CAPACITY,
            DEVICE,
            "backlog beyond its capacity",
        )?;
        require(
            !serial.receives() || backlog.is_empty() || fifo.len() == serial.fifo_capacity(),
            DEVICE,
            "backlog behind a FIFO that is not full",
        )?;
        Ok(serial)
    }

    /// Level of the interrupt line, to be driven after every call that takes `&mut self`.
    pub fn line(&self) -> bool {
        self.cause() != IIR_NONE
    }

    /// Bytes that [`Serial::receive`] would accept now.
    pub fn room(&self) -> usize {
        BACKLOG_CAPACITY - self.backlog.len()
    }

    /// Takes bytes off the line. Gives how many it had room for; the rest is the caller's.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let accepted = bytes.len().min(self.room());
        self.backlog.extend(&bytes[..accepted]);
        self.feed();
        accepted
    }

    /// Reads the register at `offset` from the first port.
    pub fn read(&mut self, offset: u16) -> u8 {
        let divisor = self.lcr & LCR_DIVISOR != 0;
        match offset {
            DATA if divisor => self.divisor as u8,
            DATA => {
                let byte = self.fifo.pop_front().unwrap_or(0);
                self.feed();
                byte
            }
            IER if divisor => (self.divisor >> 8) as u8,
            IER => self.ier,
            IIR_FCR => {
                let cause = self.cause();
                if cause == IIR_THR_EMPTY {
                    self.thr_interrupt = false;
                }
                if self.fcr & FCR_ENABLE != 0 {
                    cause | IIR_FIFOS
                } else {
                    cause
                }
            }
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => {
                let mut status = LSR_EMPTY;
                if !self.fifo.is_empty() {
                    status |= LSR_DATA;
                }
                if std::mem::take(&mut self.overrun) {
                    status |= LSR_OVERRUN;
                }
                status
            }
            MSR => self.modem_lines() | std::mem::take(&mut self.modem_changes),
            SCRATCH => self.scratch,
            _ => 0xFF,
        }
    }

    /// Writes the register at `offset` from the first port. Gives the byte that leaves on the
    /// line, if the write transmits one.
    #[must_use = "a transmitted byte must go somewhere"]
    pub fn write(&mut self, offset: u16, value: u8) -> Option<u8> {
        let divisor = self.lcr & LCR_DIVISOR != 0;
        match offset {
            DATA if divisor => self.divisor = self.divisor & 0xFF00 | u16::from(value),
            DATA => return self.transmit(value),
            IER if divisor => self.divisor = self.divisor & 0x00FF | u16::from(value) << 8,
            IER => {
                // Enabling it finds the transmitter empty; Linux probes for parts that forget.
                let rises = value & !self.ier & IER_THR_EMPTY != 0;
                self.ier = value & 0x0F;
                self.thr_interrupt = self.ier & IER_THR_EMPTY != 0 && (self.thr_interrupt || rises);
            }
            IIR_FCR => {
                if (value ^ self.fcr) & FCR_ENABLE != 0 || value & FCR_CLEAR_RECEIVER != 0 {
                    self.fifo.clear();
                }
                self.fcr = if value & FCR_ENABLE != 0 {
                    value & (FCR_TRIGGER | FCR_ENABLE)
                } else {
                    0
                };
                self.feed();
            }
            LCR => self.lcr = value,
            MCR => {
                let before = self.modem_lines();
                self.mcr = value & 0x1F;
                self.note_modem_changes(before);
                self.feed();
            }
            SCRATCH => self.scratch = value,
            _ => {}
        }
        None
    }

    /// Sends a byte: out on the line, or in loopback to the receiver.
    fn transmit(&mut self, byte: u8) -> Option<u8> {
        self.thr_interrupt = self.ier & IER_THR_EMPTY != 0;
        if self.mcr & MCR_LOOP == 0 {
            return Some(byte);
        }
        if self.fifo.len() < self.fifo_capacity() {
            self.fifo.push_back(byte);
        } else {
            self.overrun = true;
        }
        None
    }

    fn fifo_capacity(&self) -> usize {
        if self.fcr & FCR_ENABLE != 0 {
            FIFO_CAPACITY
        } else {
            1
        }
    }

    /// True if the receiver is on the line and asks for bytes.
    fn receives(&self) -> bool {
        self.mcr & (MCR_LOOP | MCR_RTS) == MCR_RTS
    }

    /// Moves bytes from the backlog into the FIFO as far as they fit.
    fn feed(&mut self) {
        while self.receives() && self.fifo.len() < self.fifo_capacity() {
            let Some(byte) = self.backlog.pop_front() else {
                break;
            };
            self.fifo.push_back(byte);
        }
    }

    /// Upper half of the modem status. In loopback the outputs feed the inputs.
    fn modem_lines(&self) -> u8 {
        if self.mcr & MCR_LOOP == 0 {
            return MSR_CONNECTED;
        }
        [
            (MCR_RTS, MSR_CTS),
            (MCR_DTR, MSR_DSR),
            (MCR_OUT1, MSR_RI),
            (MCR_OUT2, MSR_DCD),
        ]
        .into_iter()
        .filter(|&(output, _)| self.mcr & output != 0)
        .fold(0, |lines, (_, input)| lines | input)
    }

    fn note_modem_changes(&mut self, before: u8) {
        let after = self.modem_lines();
        let changed = before ^ after;
        // The ring indicator counts when it goes away only.
        let trailing_ring = before & !after & MSR_RI;
        self.modem_changes |= (changed & !MSR_RI | trailing_ring) >> 4;
    }

    /// The interrupt that the identification register names: the most urgent of those enabled.
    fn cause(&self) -> u8 {
        if self.ier & IER_LINE_STATUS != 0 && self.overrun {
            return IIR_LINE_STATUS;
        }
        if self.ier & IER_RECEIVED != 0 && !self.fifo.is_empty() {
            let trigger = match self.fcr & FCR_TRIGGER {
                0x00 => 1,
                0x40 => 4,
                0x80 => 8,
                _ => 14,
            };
            return if self.fifo.len() >= trigger {
                IIR_RECEIVED
            } else {
                IIR_TIMEOUT
            };
        }
        if self.thr_interrupt {
            return IIR_THR_EMPTY;
        }
        if self.ier & IER_MODEM_STATUS != 0 && self.modem_changes != 0 {
            return IIR_MODEM_STATUS;
        }
        IIR_NONE
    }
}

#[cfg(test)]
mod tests;
