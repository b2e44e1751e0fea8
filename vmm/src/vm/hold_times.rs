//! How long outputs are held back.
//!
//! Does: keep the times of the last outputs, from their making to the moment when the gate let them
//! go, and give their median and 99th percentile. Does not: hold anything back (`ft`'s gate does).
//!
//! Invariant: what is kept is bounded; outputs that never leave are forgotten with the oldest.

use std::collections::VecDeque;

/// So many times are kept, and so many outputs are waited for.
const KEPT: usize = 1024;

/// The times.
#[derive(Debug, Default)]
pub struct HoldTimes {
    /// Outputs that wait, by their count of bytes, with the host time of their making.
    waiting: VecDeque<(u64, u64)>,
    /// In nanoseconds.
    times: VecDeque<u64>,
}

impl HoldTimes {
    /// An output that ends at byte `through` was made at host time `now`.
    pub fn made(&mut self, through: u64, now: u64) {
        push(&mut self.waiting, (through, now));
    }

    /// Outputs up to byte `through` may leave at host time `now`.
    pub fn let_go(&mut self, through: u64, now: u64) {
        while let Some((first, made)) = self.waiting.front().copied()
            && first <= through
        {
            self.waiting.pop_front();
            push(&mut self.times, now.saturating_sub(made));
        }
    }

    /// Forgets everything: the next times are those of another pairing.
    pub fn clear(&mut self) {
        *self = HoldTimes::default();
    }

    /// Median and 99th percentile in nanoseconds, if there are times.
    pub fn percentiles(&self) -> Option<(u64, u64)> {
        let mut times: Vec<u64> = self.times.iter().copied().collect();
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied();
        Some((at(50)?, at(99)?))
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == KEPT {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_times_count() {
        let mut times = HoldTimes::default();
        assert_eq!(times.percentiles(), None);
        for through in 1..=5000 {
            times.made(through, through * 10);
            times.let_go(through, through * 10 + through % 100);
        }
        // The last 1024, which are not quite evenly spread.
        assert_eq!(times.percentiles(), Some((51, 99)));
        // Several leave at once.
        times.clear();
        times.made(1, 0);
        times.made(2, 10);
        times.made(3, 20);
        times.let_go(2, 100);
        assert_eq!(times.percentiles(), Some((100, 100)));
        for through in 4..100_000 {
            times.made(through, 0);
        }
        assert_eq!(times.waiting.len(), KEPT);
    }
}
