//! The host's clocks.
//!
//! Does: a monotonic count of nanoseconds, the time of day, and waiting. Does not: reach the
//! machine; virtual time does, through logged anchors.
//!
//! Invariant: `monotonic_ns` never goes back within a process.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since this process first asked.
pub fn monotonic_ns() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let elapsed = ORIGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970, for a machine's first clock setting and for people.
pub fn time_of_day_ns() -> u64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Waits until `monotonic_ns` has reached `deadline`.
pub fn sleep_until_ns(deadline: u64) {
    loop {
        let now = monotonic_ns();
        if now >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_nanos(deadline - now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes() {
        let before = monotonic_ns();
        sleep_until_ns(before + 2_000_000);
        assert!(monotonic_ns() >= before + 2_000_000);
        // 2020-01-01
        assert!(time_of_day_ns() > 1_577_836_800_000_000_000);
    }
}
