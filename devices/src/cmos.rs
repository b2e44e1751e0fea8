//! The CMOS: a real-time clock (Motorola MC146818 data sheet) and battery-backed RAM.
//!
//! Does: compute the time from virtual time and a start that the guest can set; BCD and binary,
//! 12 and 24 hours, century register, update-in-progress; the registers that tell memory sizes.
//! Does not: alarm or interrupt: no line is connected, and register C never shows a flag. The
//! generic event device and the timers of the local APIC are there for that.
//!
//! Invariant: unless the guest writes them, the time registers change at the end of a second of
//! virtual time only, and the update-in-progress bit is set for 244 µs before that.

mod calendar;

use serde::{Deserialize, Serialize};

use crate::state::{InvalidState, require};
use calendar::DateTime;

/// Index port.
pub const INDEX: u16 = 0x70;
/// Data port.
pub const DATA: u16 = 0x71;

const NS_PER_S: u64 = 1_000_000_000;
/// Virtual time (ns) for which the update-in-progress bit announces an update.
const UPDATE_NS: u64 = 244_000;
/// Largest start (seconds from 1970, either way) that can be saved: well beyond the year 9999.
const START_LIMIT: i64 = 1 << 40;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0A;
const REGISTER_B: u8 = 0x0B;
const REGISTER_C: u8 = 0x0C;
const REGISTER_D: u8 = 0x0D;
/// Index of the century, as the FADT tells.
pub const CENTURY: u8 = 0x32;

const TIME_REGISTERS: [u8; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];

/// Register A: the time is about to change.
const A_UPDATE: u8 = 1 << 7;
/// Register A: 32.768 kHz crystal, 1024 Hz rate.
const A_DEFAULT: u8 = 0x26;
/// Register B: updates are halted so that the time can be set.
const B_SET: u8 = 1 << 7;
/// Register B: interrupt and square wave enables, which a reset clears.
const B_ENABLES: u8 = 0x78;
/// Register B: binary instead of BCD.
const B_BINARY: u8 = 1 << 2;
/// Register B: 24 hours.
const B_24_HOURS: u8 = 1 << 1;
/// Register D: RAM and time are valid.
const D_VALID: u8 = 1 << 7;
/// Hours: afternoon, with 12 hours.
const HOURS_PM: u8 = 1 << 7;

/// Registers and RAM, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CmosState {
    /// The selected register (0 to 127).
    pub index: u8,
    /// Seconds from 1970 to virtual time 0, as the clock has it.
    pub start: i64,
    /// All 128 bytes. Those of the time count while updates are halted only.
    pub ram: Vec<u8>,
}

/// The CMOS.
#[derive(Clone, Debug)]
pub struct Cmos {
    index: u8,
    start: i64,
    ram: [u8; 128],
}

impl Cmos {
    /// A CMOS that shows `start` seconds after 1970 (UTC) at virtual time 0, in a machine with
    /// so many bytes of RAM below and above 4 GiB.
    pub fn new(start: u64, low_ram: u64, high_ram: u64) -> Self {
        let mut ram = [0; 128];
        ram[usize::from(REGISTER_A)] = A_DEFAULT;
        ram[usize::from(REGISTER_B)] = B_24_HOURS;
        let mut size = |index: usize, bytes: usize, value: u64| {
            let value = value.min((1 << (8 * bytes)) - 1);
            ram[index..index + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        };
        let above_1_mib_kib = low_ram.saturating_sub(1 << 20) >> 10;
        size(0x15, 2, 640);
        size(0x17, 2, above_1_mib_kib);
        size(0x30, 2, above_1_mib_kib);
        size(0x34, 2, low_ram.saturating_sub(16 << 20) >> 16);
        size(0x5B, 3, high_ram >> 16);
        Cmos {
            index: 0,
            start: i64::try_from(start).unwrap_or(i64::MAX).min(START_LIMIT),
            ram,
        }
    }

    /// A reset of the machine: RAM and time are on a battery.
    pub fn reset(&mut self) {
        self.index = 0;
        self.ram[usize::from(REGISTER_B)] &= !B_ENABLES;
    }

    /// The state, every field of it.
    pub fn save(&self) -> CmosState {
        let Cmos { index, start, ram } = *self;
        CmosState {
            index,
            start,
            ram: ram.to_vec(),
        }
    }

    /// A CMOS with a saved state.
    pub fn restore(state: &CmosState) -> Result<Self, InvalidState> {
        const DEVICE: &str = "CMOS";
        let CmosState {
            index,
            start,
            ref ram,
        } = *state;
        require(index < 128, DEVICE, "register that does not exist")?;
        require(
            (-START_LIMIT..=START_LIMIT).contains(&start),
            DEVICE,
            "time out of range",
        )?;
        let Ok(ram) = <[u8; 128]>::try_from(ram.as_slice()) else {
            return Err(InvalidState {
                device: DEVICE,
                reason: "not 128 bytes",
            });
        };
        require(
            ram[usize::from(REGISTER_A)] & A_UPDATE == 0,
            DEVICE,
            "update in progress is not stored",
        )?;
        Ok(Cmos { index, start, ram })
    }

    /// Reads a port at virtual time `now` (ns).
    pub fn read(&self, port: u16, now: u64) -> u8 {
        if port != DATA {
            // The index port is write-only.
            return 0xFF;
        }
        let stored = self.ram[usize::from(self.index)];
        match self.index {
            index if TIME_REGISTERS.contains(&index) && !self.halted() => {
                self.time_registers(now)[usize::from(index)]
            }
            REGISTER_A if !self.halted() && now % NS_PER_S >= NS_PER_S - UPDATE_NS => {
                stored | A_UPDATE
            }
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            _ => stored,
        }
    }

    /// Writes a port at virtual time `now` (ns).
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            // The upper bit masks NMIs on a PC; here it does nothing.
            INDEX => self.index = value & 0x7F,
            DATA => self.write_register(value, now),
            _ => {}
        }
    }

    fn write_register(&mut self, value: u8, now: u64) {
        let index = usize::from(self.index);
        match self.index {
            register if TIME_REGISTERS.contains(&register) => {
                if !self.halted() {
                    self.ram = self.time_registers(now);
                }
                self.ram[index] = value;
                if !self.halted() {
                    self.take_time(now);
                }
            }
            REGISTER_A => self.ram[index] = value & !A_UPDATE,
            REGISTER_B => {
                let was_halted = self.halted();
                if !was_halted && value & B_SET != 0 {
                    self.ram = self.time_registers(now);
                }
                self.ram[index] = value;
                if was_halted && !self.halted() {
                    self.take_time(now);
                }
            }
            REGISTER_C | REGISTER_D => {}
            _ => self.ram[index] = value,
        }
    }

    fn register_b(&self) -> u8 {
        self.ram[usize::from(REGISTER_B)]
    }

    /// True while the guest sets the time.
    fn halted(&self) -> bool {
        self.register_b() & B_SET != 0
    }

    /// The RAM with the time of `now` in the time registers.
    fn time_registers(&self, now: u64) -> [u8; 128] {
        let seconds = self.start.saturating_add((now / NS_PER_S) as i64);
        let time = DateTime::from_seconds(seconds);
        let b = self.register_b();
        let encode = |value: u8| {
            if b & B_BINARY != 0 {
                value
            } else {
                ((value / 10) << 4) | (value % 10)
            }
        };
        let hours = if b & B_24_HOURS != 0 {
            encode(time.hour)
        } else {
            let afternoon = if time.hour >= 12 { HOURS_PM } else { 0 };
            encode((time.hour + 11) % 12 + 1) | afternoon
        };
        let mut ram = self.ram;
        for (register, value) in [
            (SECONDS, encode(time.second)),
            (MINUTES, encode(time.minute)),
            (HOURS, hours),
            (WEEKDAY, encode(time.weekday)),
            (DAY, encode(time.day)),
            (MONTH, encode(time.month)),
            (YEAR, encode((time.year % 100) as u8)),
            (CENTURY, encode((time.year / 100) as u8)),
        ] {
            ram[usize::from(register)] = value;
        }
        ram
    }

    /// Goes on from the time in the RAM, if it is one.
    fn take_time(&mut self, now: u64) {
        let b = self.register_b();
        let decode = |value: u8| {
            if b & B_BINARY != 0 {
                value
            } else {
                (value >> 4).wrapping_mul(10).wrapping_add(value & 0x0F)
            }
        };
        let register = |register: u8| self.ram[usize::from(register)];
        let hour = if b & B_24_HOURS != 0 {
            decode(register(HOURS))
        } else {
            let afternoon = if register(HOURS) & HOURS_PM != 0 {
                12
            } else {
                0
            };
            decode(register(HOURS) & !HOURS_PM) % 12 + afternoon
        };
        let time = DateTime {
            second: decode(register(SECONDS)),
            minute: decode(register(MINUTES)),
            hour,
            weekday: 1,
            day: decode(register(DAY)),
            month: decode(register(MONTH)),
            year: u16::from(decode(register(CENTURY))) * 100 + u16::from(decode(register(YEAR))),
        };
        if let Some(seconds) = time.to_seconds() {
            self.start = seconds - (now / NS_PER_S) as i64;
        }
    }
}

#[cfg(test)]
mod tests;
