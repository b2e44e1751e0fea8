//! Random choices that can be made again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A sequence of choices that its seed fixes (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Random { seed, state: seed }
    }

    /// The sequence of `CH_SEED`, or of the time; says on stderr which it is.
    ///
    /// # Panics
    /// If `CH_SEED` is no number.
    pub fn from_environment() -> Self {
        let seed = std::env::var("CH_SEED").map_or_else(
            |_| {
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(1, |now| now.as_nanos() as u64 % 1_000_000_007)
            },
            |text| text.parse().expect("CH_SEED must be a number"),
        );
        eprintln!("seed: CH_SEED={seed}");
        Random::new(seed)
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    ///
    /// # Panics
    /// If there is none.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "no number is below 0");
        self.number() % end
    }

    /// A time below `end`, in microseconds.
    pub fn time_below(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.below(end.as_micros() as u64))
    }
}
