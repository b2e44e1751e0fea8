//! Virtual time: a function of the cost units that the CPU has used.
//!
//! Does: compute nanoseconds from units and back; take anchors. Does not: know the host's clock.
//!
//! Invariant: time never goes back, and `now` at a boundary depends on nothing but the state and
//! the units there. TSC ticks are nanoseconds: the TSC runs at 1 GHz.

use serde::{Deserialize, Serialize};

/// A rate of one nanosecond per cost unit.
pub const RATE_ONE: u64 = 1 << 32;
/// The slowest rate an anchor may set: a step takes at least 2^-10 ns.
pub const RATE_MIN: u64 = RATE_ONE >> 13;
/// The fastest rate an anchor may set: a step takes at most 8 µs.
pub const RATE_MAX: u64 = RATE_ONE * 1000;
/// The rate at power-up: 4 ns a step, until the primary knows how fast its host is.
pub const RATE_INITIAL: u64 = RATE_ONE / 2;

/// The clock's state, and all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Virtual time at the anchor, in nanoseconds.
    pub virtual_time: u64,
    /// Cost units at the anchor.
    pub units: u64,
    /// Nanoseconds per unit since the anchor, 32.32 fixed point.
    pub rate: u64,
}

impl Clock {
    /// Time zero at unit zero.
    pub fn new() -> Clock {
        Clock {
            virtual_time: 0,
            units: 0,
            rate: RATE_INITIAL,
        }
    }

    /// Virtual time at `units`, in nanoseconds, rounded down.
    pub fn now(&self, units: u64) -> u64 {
        let passed = u128::from(units - self.units) * u128::from(self.rate);
        self.virtual_time.saturating_add((passed >> 32) as u64)
    }

    /// The first unit count at which [`Clock::now`] is at least `time`.
    pub fn units_at(&self, time: u64) -> u64 {
        let Some(ahead) = time.checked_sub(self.virtual_time) else {
            return self.units;
        };
        let units = (u128::from(ahead) << 32).div_ceil(u128::from(self.rate));
        self.units
            .saturating_add(u64::try_from(units).unwrap_or(u64::MAX))
    }

    /// Re-bases at `units`: time becomes `virtual_time`, but never goes back; the rate is kept
    /// within its bounds.
    pub fn anchor(&mut self, units: u64, virtual_time: u64, rate: u64) {
        *self = Clock {
            virtual_time: self.now(units).max(virtual_time),
            units,
            rate: rate.clamp(RATE_MIN, RATE_MAX),
        };
    }

    /// Refuses a clock that is ahead of the CPU, or whose rate is out of bounds.
    pub fn validate(&self, units: u64) -> bool {
        self.units <= units && (RATE_MIN..=RATE_MAX).contains(&self.rate)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_at_is_the_first_boundary_that_is_not_early() {
        let mut clock = Clock::new();
        for rate in [RATE_MIN, 3 << 30, RATE_ONE, 12_345_678_901, RATE_MAX] {
            clock.anchor(1000, 5_000, rate);
            for time in [5_000, 5_001, 5_017, 123_456, 99_999_999] {
                let units = clock.units_at(time);
                assert!(clock.now(units) >= time, "rate {rate} time {time}");
                assert!(units == clock.units || clock.now(units - 1) < time);
            }
            clock = Clock::new();
        }
    }

    #[test]
    fn time_never_goes_back() {
        let mut clock = Clock::new();
        clock.anchor(100, 1_000, RATE_ONE);
        clock.anchor(200, 500, 0);
        assert_eq!(clock.now(200), 1_100);
        assert_eq!(clock.rate, RATE_MIN);
        assert_eq!(clock.units_at(1), 200);
    }
}
