//! Execution lag: how far the backup's execution is behind the primary's.
//!
//! Does: remember when the primary came to which position, and tell the age of the oldest that the
//! backup has not executed. Does not: slow the primary down.
//!
//! Invariant: both times are of the primary's own clock, so hosts' clocks need not agree; a backup
//! that stands where the primary stands has no lag, however long both have been idle (paper §3.2).

use std::collections::VecDeque;

use hypervisor::Position;

use crate::Tick;

/// Records closer together than this are one.
const RESOLUTION: Tick = 1_000_000;
const MAX_RECORDS: usize = 1 << 14;

/// The primary's recent past, as far as the backup has not executed it.
#[derive(Debug, Default)]
pub struct LagMeter {
    /// When the first position of a group was reached, and the group's last.
    records: VecDeque<(Tick, Position)>,
    reached: Position,
}

impl LagMeter {
    /// A meter for two machines that both stand at `position`.
    pub fn new(position: Position) -> Self {
        LagMeter {
            records: VecDeque::new(),
            reached: position,
        }
    }

    /// The primary is at `position`.
    pub fn reached(&mut self, position: Position, now: Tick) {
        if position <= self.reached {
            return;
        }
        self.reached = position;
        let full = self.records.len() == MAX_RECORDS;
        match self.records.back_mut() {
            Some((first, last)) if full || now < *first + RESOLUTION => *last = position,
            _ => self.records.push_back((now, position)),
        }
    }

    /// The backup is at `position`.
    pub fn executed(&mut self, position: Position) {
        while let Some((_, last)) = self.records.front()
            && *last <= position
        {
            self.records.pop_front();
        }
    }

    /// The lag.
    pub fn lag(&self, now: Tick) -> Tick {
        self.records
            .front()
            .map_or(0, |(first, _)| now.saturating_sub(*first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Tick = 1_000_000;

    #[test]
    fn lag_is_the_age_of_what_is_not_executed() {
        let mut meter = LagMeter::new(Position(10));
        assert_eq!(meter.lag(5 * MS), 0);
        for i in 1..=10 {
            meter.reached(Position(10 + i * 100), i * 10 * MS);
        }
        assert_eq!(meter.lag(100 * MS), 90 * MS);
        meter.executed(Position(450));
        assert_eq!(meter.lag(100 * MS), 50 * MS);
        meter.executed(Position(510));
        assert_eq!(meter.lag(100 * MS), 40 * MS);
        meter.executed(Position(1010));
        assert_eq!(meter.lag(100 * MS), 0);
        assert_eq!(meter.lag(9000 * MS), 0, "idle at the same position");
        meter.reached(Position(1010), 9000 * MS);
        assert_eq!(meter.lag(9000 * MS), 0);
        meter.reached(Position(1011), 9001 * MS);
        assert_eq!(meter.lag(9003 * MS), 2 * MS);
    }

    #[test]
    fn many_records_stay_few() {
        let mut meter = LagMeter::new(Position(0));
        for i in 1..=100_000 {
            meter.reached(Position(i), i * 100);
        }
        assert!(meter.records.len() <= 11);
        assert_eq!(meter.lag(100_000 * 100), 100_000 * 100 - 100);
        for i in 1..=100_000 {
            meter.reached(Position(100_000 + i), i * 10 * MS);
        }
        assert_eq!(meter.records.len(), MAX_RECORDS);
    }
}
