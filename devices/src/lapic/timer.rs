//! The local APIC's timer: one-shot, periodic and TSC-deadline (Intel SDM vol. 3, "APIC Timer").
//!
//! Does: tell when it expires, and its current count, from virtual time.
//! Does not: know the LVT's mask or vector; the local APIC decides what an expiry does.
//!
//! Invariant: the count is never stored as it runs, only as it was at an anchor in virtual time,
//! so that reading it changes nothing.

use serde::{Deserialize, Serialize};

/// Nanoseconds in a tick of the crystal (25 MHz, as CPUID leaf 0x15 tells).
pub const CRYSTAL_TICK_NS: u64 = 40;

/// Writable bits of the divide configuration register.
pub(super) const DIVIDE_MASK: u32 = 0b1011;

/// Timer mode: bits 17 and 18 of the timer's LVT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    /// The reserved encoding: a timer that never runs.
    Reserved,
}

impl Mode {
    pub(super) fn of_lvt(lvt: u32) -> Self {
        match (lvt >> 17) & 3 {
            0 => Mode::OneShot,
            1 => Mode::Periodic,
            2 => Mode::TscDeadline,
            _ => Mode::Reserved,
        }
    }
}

/// The timer's registers, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerState {
    /// Initial count register.
    pub initial: u32,
    /// Divide configuration register.
    pub divide: u32,
    /// Virtual time (ns) at which the count was `count`.
    pub anchor: u64,
    /// Count at the anchor; 0 means stopped.
    pub count: u32,
    /// TSC value (ns of virtual time) of the armed deadline; 0 means disarmed.
    pub tsc_deadline: u64,
}

/// The timer.
#[derive(Clone, Debug)]
pub(super) struct Timer {
    initial: u32,
    divide: u32,
    anchor: u64,
    count: u32,
    tsc_deadline: u64,
}

impl Timer {
    pub(super) fn new() -> Self {
        Timer {
            initial: 0,
            divide: 0,
            anchor: 0,
            count: 0,
            tsc_deadline: 0,
        }
    }

    pub(super) fn save(&self) -> TimerState {
        let Timer {
            initial,
            divide,
            anchor,
            count,
            tsc_deadline,
        } = *self;
        TimerState {
            initial,
            divide,
            anchor,
            count,
            tsc_deadline,
        }
    }

    /// The caller has validated `state`.
    pub(super) fn restore(state: &TimerState) -> Self {
        let TimerState {
            initial,
            divide,
            anchor,
            count,
            tsc_deadline,
        } = *state;
        Timer {
            initial,
            divide,
            anchor,
            count,
            tsc_deadline,
        }
    }

    /// Nanoseconds in a tick of the divided clock. Divisors are 2, 4, … 128, and 1 for 0b111.
    fn tick(&self) -> u64 {
        let code = (self.divide & 3) | ((self.divide >> 1) & 4);
        CRYSTAL_TICK_NS << ((code + 1) & 7)
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// Virtual time of the next expiry.
    pub(super) fn expiry(&self, mode: Mode) -> Option<u64> {
        match mode {
            Mode::OneShot | Mode::Periodic if self.count != 0 => Some(
                self.anchor
                    .saturating_add(u64::from(self.count) * self.tick()),
            ),
            Mode::TscDeadline if self.tsc_deadline != 0 => Some(self.tsc_deadline),
            _ => None,
        }
    }

    /// Carries out the expiries up to `now`. True if there was at least one.
    pub(super) fn expire(&mut self, mode: Mode, now: u64) -> bool {
        let Some(expiry) = self.expiry(mode).filter(|&expiry| expiry <= now) else {
            return false;
        };
        match mode {
            Mode::Periodic if self.initial != 0 => {
                let period = u64::from(self.initial) * self.tick();
                self.anchor = now - (now - expiry) % period;
                self.count = self.initial;
            }
            Mode::TscDeadline => self.tsc_deadline = 0,
            _ => self.count = 0,
        }
        true
    }

    /// The current count register.
    pub(super) fn current(&self, mode: Mode, now: u64) -> u32 {
        let mut then = self.clone();
        then.expire(mode, now);
        if then.expiry(mode).is_none() || mode == Mode::TscDeadline {
            return 0;
        }
        let elapsed = now.saturating_sub(then.anchor) / then.tick();
        then.count
            .saturating_sub(u32::try_from(elapsed).unwrap_or(u32::MAX))
    }

    /// The TSC deadline that is still ahead, or 0.
    pub(super) fn tsc_deadline(&self, mode: Mode, now: u64) -> u64 {
        if mode == Mode::TscDeadline && self.tsc_deadline > now {
            self.tsc_deadline
        } else {
            0
        }
    }

    /// Writes the initial count register: restarts the count, or stops it with 0.
    pub(super) fn set_initial(&mut self, mode: Mode, value: u32, now: u64) {
        if mode == Mode::TscDeadline {
            return;
        }
        self.initial = value;
        self.count = value;
        self.anchor = now;
    }

    /// Writes the divide configuration register: the count goes on from where it is.
    pub(super) fn set_divide(&mut self, mode: Mode, value: u32, now: u64) {
        self.count = self.current(mode, now);
        self.anchor = now;
        self.divide = value & DIVIDE_MASK;
    }

    /// Arms a TSC deadline; 0 disarms. Ignored in the other modes.
    pub(super) fn set_tsc_deadline(&mut self, mode: Mode, value: u64) {
        if mode == Mode::TscDeadline {
            self.tsc_deadline = value;
        }
    }

    /// The LVT's mode was rewritten: a change from or to TSC-deadline mode disarms.
    pub(super) fn change_mode(&mut self, from: Mode, to: Mode) {
        if from != to && (from == Mode::TscDeadline || to == Mode::TscDeadline) {
            self.initial = 0;
            self.count = 0;
            self.tsc_deadline = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_follow_the_manual() {
        let mut timer = Timer::new();
        let divisors = [
            (0b0000, 2),
            (0b0001, 4),
            (0b0010, 8),
            (0b0011, 16),
            (0b1000, 32),
            (0b1001, 64),
            (0b1010, 128),
            (0b1011, 1),
        ];
        for (code, divisor) in divisors {
            timer.set_divide(Mode::OneShot, code, 0);
            assert_eq!(timer.tick(), 40 * divisor, "{code:#b}");
        }
    }

    #[test]
    fn one_shot_counts_down_to_zero_once() {
        let mut timer = Timer::new();
        timer.set_divide(Mode::OneShot, 0b1011, 0);
        timer.set_initial(Mode::OneShot, 100, 1000);
        assert_eq!(timer.current(Mode::OneShot, 1000 + 39), 100);
        assert_eq!(timer.current(Mode::OneShot, 1000 + 40), 99);
        assert_eq!(timer.expiry(Mode::OneShot), Some(5000));
        assert!(!timer.expire(Mode::OneShot, 4999));
        assert!(timer.expire(Mode::OneShot, 5000));
        assert!(!timer.expire(Mode::OneShot, 10_000));
        assert_eq!(timer.current(Mode::OneShot, 10_000), 0);
    }

    #[test]
    fn periodic_keeps_its_phase_when_it_is_late() {
        let mut timer = Timer::new();
        timer.set_divide(Mode::Periodic, 0b1011, 0);
        timer.set_initial(Mode::Periodic, 10, 0);
        assert!(timer.expire(Mode::Periodic, 1250));
        assert_eq!(timer.expiry(Mode::Periodic), Some(1600));
        assert_eq!(timer.current(Mode::Periodic, 1250), 9);
        assert_eq!(timer.current(Mode::Periodic, 2000), 10);
    }

    #[test]
    fn a_new_divisor_keeps_the_count() {
        let mut timer = Timer::new();
        timer.set_divide(Mode::OneShot, 0b1011, 0);
        timer.set_initial(Mode::OneShot, 100, 0);
        timer.set_divide(Mode::OneShot, 0b0000, 50 * 40);
        assert_eq!(timer.current(Mode::OneShot, 50 * 40), 50);
        assert_eq!(timer.expiry(Mode::OneShot), Some(50 * 40 + 50 * 80));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut timer = Timer::new();
        timer.set_divide(Mode::Periodic, 0b1010, u64::MAX);
        timer.set_initial(Mode::Periodic, u32::MAX, u64::MAX - 1);
        assert_eq!(timer.expiry(Mode::Periodic), Some(u64::MAX));
        assert!(timer.expire(Mode::Periodic, u64::MAX));
        assert_eq!(timer.current(Mode::Periodic, u64::MAX), u32::MAX);
    }
}
