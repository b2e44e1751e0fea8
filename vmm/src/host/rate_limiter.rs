//! How fast a device's backend may work.
//!
//! Does: count bytes and operations against token buckets, and say how long to wait. Does not:
//! wait, or let anything reach the machine: a limited device is slow, and otherwise the same.
//!
//! Invariant: whoever asks may go on when there is a token. What he does then is charged in full, so
//! one large request may leave a debt, and the average is kept all the same.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::clock;
use crate::config::{RateLimiterConfig, TokenBucketConfig};

/// A bucket. Amounts are tokens times the refill time, so that none is lost to rounding.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    size: i128,
    refill_ns: i128,
    amount: i128,
    burst: u64,
    /// Host ns up to which it was filled.
    at: u64,
}

impl Bucket {
    fn new(config: &TokenBucketConfig, now: u64) -> Option<Self> {
        let refill_ns = i128::try_from(config.refill()?.as_nanos()).ok()?;
        let size = i128::from(config.size);
        Some(Bucket {
            size,
            refill_ns,
            amount: size * refill_ns,
            burst: config.one_time_burst.unwrap_or(0),
            at: now,
        })
    }

    fn fill(&mut self, now: u64) {
        let elapsed = i128::from(now.saturating_sub(self.at));
        let full = self.size * self.refill_ns;
        self.amount = self.amount.saturating_add(elapsed * self.size).min(full);
        self.at = self.at.max(now);
    }

    /// Nanoseconds until it holds a token.
    fn wait(&mut self, now: u64) -> u64 {
        self.fill(now);
        let missing = self.refill_ns - self.amount;
        if self.burst > 0 || missing <= 0 {
            return 0;
        }
        u64::try_from(missing / self.size + 1).unwrap_or(u64::MAX)
    }

    fn charge(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst -= from_burst;
        self.amount -= i128::from(tokens - from_burst) * self.refill_ns;
    }
}

#[derive(Debug)]
struct Buckets {
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
}

impl Buckets {
    fn new(config: &RateLimiterConfig, now: u64) -> Self {
        let bucket = |config: Option<TokenBucketConfig>| Bucket::new(&config?, now);
        Buckets {
            bandwidth: bucket(config.bandwidth),
            ops: bucket(config.ops),
        }
    }

    fn wait(&mut self, now: u64) -> u64 {
        let buckets = [&mut self.bandwidth, &mut self.ops].into_iter().flatten();
        buckets.map(|bucket| bucket.wait(now)).max().unwrap_or(0)
    }

    fn charge(&mut self, bytes: u64, ops: u64) {
        if let Some(bucket) = &mut self.bandwidth {
            bucket.charge(bytes);
        }
        if let Some(bucket) = &mut self.ops {
            bucket.charge(ops);
        }
    }
}

/// A limiter; clones share it. The default one limits nothing.
#[derive(Clone, Debug, Default)]
pub struct RateLimiter(Option<Arc<Mutex<Buckets>>>);

impl RateLimiter {
    /// One with full buckets.
    pub fn new(config: &RateLimiterConfig) -> Self {
        let buckets = Buckets::new(config, clock::monotonic_ns());
        RateLimiter(Some(Arc::new(Mutex::new(buckets))))
    }

    /// Whether it limits anything.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// How long to wait before something is done; none: go on.
    pub fn wait(&self) -> Option<Duration> {
        let buckets = self.0.as_ref()?;
        let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = buckets.wait(clock::monotonic_ns());
        (wait > 0).then(|| Duration::from_nanos(wait))
    }

    /// Something was done.
    pub fn charge(&self, bytes: u64, ops: u64) {
        if let Some(buckets) = &self.0 {
            let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.charge(bytes, ops);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn buckets(burst: Option<u64>) -> Buckets {
        let bandwidth = TokenBucketConfig {
            size: 1000,
            one_time_burst: burst,
            refill_time: 1000,
        };
        let config = RateLimiterConfig {
            bandwidth: Some(bandwidth),
            ops: None,
        };
        Buckets::new(&config, 0)
    }

    #[test]
    fn the_average_is_kept() {
        for request in [1, 7, 300, 999, 5000] {
            let mut buckets = buckets(None);
            let (mut now, mut done) = (0, 0);
            while now < 100 * SECOND {
                match buckets.wait(now) {
                    0 => {
                        buckets.charge(request, 1);
                        done += request;
                    }
                    wait => now += wait,
                }
            }
            // What was in the bucket at first comes on top, and one request of debt.
            assert!(done >= 100_000, "{request}: {done}");
            assert!(done <= 101_000 + 2 * request, "{request}: {done}");
        }
    }

    #[test]
    fn a_burst_comes_once() {
        let mut buckets = buckets(Some(500));
        buckets.charge(1500, 1);
        assert!(buckets.wait(0) > 0);
        assert_eq!(buckets.wait(SECOND), 0);
        buckets.charge(1000, 1);
        assert!(buckets.wait(SECOND) > 0);
        // An idle bucket does not overflow.
        assert_eq!(buckets.wait(1000 * SECOND), 0);
        buckets.charge(1000, 1);
        assert!(buckets.wait(1000 * SECOND) > 0);
    }

    #[test]
    fn no_limit_is_none() {
        let limiter = RateLimiter::default();
        limiter.charge(u64::MAX, u64::MAX);
        assert_eq!(limiter.wait(), None);
        // Both buckets must allow it.
        let ops = TokenBucketConfig {
            size: 1,
            one_time_burst: None,
            refill_time: 1000,
        };
        let config = RateLimiterConfig {
            bandwidth: None,
            ops: Some(ops),
        };
        let limiter = RateLimiter::new(&config);
        assert_eq!(limiter.wait(), None);
        limiter.clone().charge(0, 1);
        assert!(limiter.wait().is_some());
    }
}
