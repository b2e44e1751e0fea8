//! How long outputs are held back.
//!
//! Does: keep the times of the last outputs, from their making to the moment when the gate let them
//! go, and give their median and 99th percentile. Does not: hold anything back (`ft`'s gate does).
//!
//! Invariant: a lane's outputs leave in the order in which they were made. The times that are kept
//! are bounded; what waits is what waits in the gate.

use std::collections::{BTreeMap, VecDeque};

use machine::Lane;

/// So many times are kept.
const KEPT: usize = 1024;

/// The times.
#[derive(Debug, Default)]
pub struct HoldTimes {
    /// Of the outputs that wait, the host time of their making, if that counts.
    waiting: BTreeMap<Lane, VecDeque<Option<u64>>>,
    /// In nanoseconds.
    times: VecDeque<u64>,
}

impl HoldTimes {
    /// An output of `lane` was made, at a host time that counts.
    pub fn made(&mut self, lane: Lane, at: Option<u64>) {
        self.waiting.entry(lane).or_default().push_back(at);
    }

    /// The first output of `lane` leaves at host time `now`.
    pub fn let_go(&mut self, lane: Lane, now: u64) {
        let waiting = self.waiting.get_mut(&lane);
        if let Some(Some(made)) = waiting.and_then(VecDeque::pop_front) {
            if self.times.len() == KEPT {
                self.times.pop_front();
            }
            self.times.push_back(now.saturating_sub(made));
        }
    }

    /// Forgets all times: the next ones are those of another pairing.
    pub fn clear(&mut self) {
        self.times.clear();
        self.waiting
            .values_mut()
            .flatten()
            .for_each(|made| *made = None);
    }

    /// Median and 99th percentile in nanoseconds, if there are times.
    pub fn percentiles(&self) -> Option<(u64, u64)> {
        let mut times: Vec<u64> = self.times.iter().copied().collect();
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied();
        Some((at(50)?, at(99)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: Lane = Lane::Console;
    const CARD: Lane = Lane::Device(3);

    #[test]
    fn the_last_times_count() {
        let mut times = HoldTimes::default();
        assert_eq!(times.percentiles(), None);
        for number in 1..=5000 {
            times.made(CONSOLE, Some(number * 10));
            times.let_go(CONSOLE, number * 10 + number % 100);
        }
        // The last 1024, which are not quite evenly spread.
        assert_eq!(times.percentiles(), Some((51, 99)));
    }

    #[test]
    fn lanes_wait_by_themselves_and_what_does_not_count_is_passed_over() {
        let mut times = HoldTimes::default();
        times.made(CONSOLE, Some(0));
        times.made(CARD, None);
        times.made(CARD, Some(10));
        times.let_go(CARD, 20);
        assert_eq!(times.percentiles(), None);
        times.let_go(CARD, 40);
        assert_eq!(times.percentiles(), Some((30, 30)));
        times.clear();
        times.let_go(CONSOLE, 50);
        times.let_go(CONSOLE, 60);
        assert_eq!(times.percentiles(), None);
    }
}
