//! Execution lag: how much a primary is slowed down so that its backup keeps up.
//!
//! Does: say how long the vCPU thread waits after a slice, from the lag that the protocol measured.
//! Does not: measure (`ft::lag`), wait, or touch the guest: to it the CPU is slower for a while.
//!
//! Invariant: no lag, no wait; the wait grows with the lag and is bounded, so the guest never stands
//! still for it (paper §3.2: the primary is slowed gradually, and let go again).

const MILLISECOND: u64 = 1_000_000;

/// A lag up to here costs nothing.
const FREE: u64 = 300 * MILLISECOND;
/// From here on the brake is fully on.
const FULL: u64 = 1300 * MILLISECOND;
/// Fully on, the guest runs for one part of the time and waits for this many.
const PARTS_MAX: u64 = 4;

/// How long to wait after a slice of `elapsed` at this lag, all in host nanoseconds.
pub fn wait(lag: u64, elapsed: u64) -> u64 {
    let over = lag.clamp(FREE, FULL) - FREE;
    let wait = u128::from(elapsed) * u128::from(PARTS_MAX * over) / u128::from(FULL - FREE);
    u64::try_from(wait).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_gradual_and_bounded() {
        assert_eq!(wait(0, MILLISECOND), 0);
        assert_eq!(wait(FREE, MILLISECOND), 0);
        assert_eq!(wait(FREE + 250 * MILLISECOND, MILLISECOND), MILLISECOND);
        assert_eq!(wait(FULL, MILLISECOND), 4 * MILLISECOND);
        assert_eq!(wait(u64::MAX, MILLISECOND), 4 * MILLISECOND);
    }

    /// A backup that makes a tenth less headway than the primary would fall behind for ever.
    #[test]
    fn a_slower_backup_is_waited_for() {
        let (mut primary, mut backup) = (0u64, 0u64);
        let (mut now, mut largest) = (0, 0);
        let mut history = std::collections::VecDeque::new();
        while now < 60_000 * MILLISECOND {
            let slice = 2 * MILLISECOND;
            primary += slice;
            history.push_back((primary, now));
            while history
                .front()
                .is_some_and(|(reached, _)| *reached <= backup)
            {
                history.pop_front();
            }
            let lag = history.front().map_or(0, |(_, at)| now - at);
            largest = largest.max(lag);
            let elapsed = slice + wait(lag, slice);
            now += elapsed;
            backup = primary.min(backup + elapsed * 9 / 10);
        }
        assert!(largest < 400 * MILLISECOND, "{largest}");
    }
}
