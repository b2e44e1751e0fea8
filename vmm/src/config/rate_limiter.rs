//! How much a disk or a network card may be used.
//!
//! Does: Cloud Hypervisor's token buckets, from options and JSON. Does not: count (`host` does).
//!
//! Invariant: a bucket without a size or a refill time limits nothing.

use std::time::Duration;

use option_parser::{Key, Options};
use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// The keys of both buckets, for whatever has them.
pub(super) const KEYS: [Key; 6] = [
    Key::value("bw_size"),
    Key::value("bw_one_time_burst"),
    Key::value("bw_refill_time"),
    Key::value("ops_size"),
    Key::value("ops_one_time_burst"),
    Key::value("ops_refill_time"),
];

/// A bucket of tokens, of which each use takes some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucketConfig {
    /// Tokens that it holds.
    pub size: u64,
    /// Tokens that it holds once, in addition, and that do not come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
    /// After how many milliseconds an empty bucket is full again.
    pub refill_time: u64,
}

impl TokenBucketConfig {
    /// In what time it is full again, if it limits anything.
    pub(crate) fn refill(&self) -> Option<Duration> {
        let limits = self.size > 0 && self.refill_time > 0;
        limits.then(|| Duration::from_millis(self.refill_time))
    }
}

/// Limits in bytes and in operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimiterConfig {
    /// A token is a byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucketConfig>,
    /// A token is a request or a frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucketConfig>,
}

impl RateLimiterConfig {
    /// From an option that has [`KEYS`]; none if it uses none of them.
    pub(super) fn of(options: &Options) -> Result<Option<Self>, ConfigError> {
        let bucket = |size, burst, refill| {
            let bucket = TokenBucketConfig {
                size: options.get(size)?.unwrap_or(0),
                one_time_burst: options.get(burst)?,
                refill_time: options.get(refill)?.unwrap_or(0),
            };
            let is_given = bucket != TokenBucketConfig::default();
            Ok::<_, ConfigError>(is_given.then_some(bucket))
        };
        let config = RateLimiterConfig {
            bandwidth: bucket("bw_size", "bw_one_time_burst", "bw_refill_time")?,
            ops: bucket("ops_size", "ops_one_time_burst", "ops_refill_time")?,
        };
        Ok((config != RateLimiterConfig::default()).then_some(config))
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for bucket in [self.bandwidth, self.ops].into_iter().flatten() {
            if bucket.refill().is_none() {
                return Err(ConfigError::RateLimit {
                    size: bucket.size,
                    refill_time: bucket.refill_time,
                });
            }
        }
        Ok(())
    }
}

/// Limits that several disks share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimitGroupConfig {
    /// Its name.
    pub id: String,
    /// The limits.
    #[serde(default)]
    pub rate_limiter_config: RateLimiterConfig,
}

impl RateLimitGroupConfig {
    /// Reads `--rate-limit-group id=,bw_size=,…`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = [&[Key::value("id")][..], &KEYS].concat();
        let options = Options::parse("--rate-limit-group", text, &keys)?;
        Ok(RateLimitGroupConfig {
            id: options.require("id")?,
            rate_limiter_config: RateLimiterConfig::of(&options)?.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_json() {
        let group = RateLimitGroupConfig::parse("id=g,bw_size=1000,bw_refill_time=100").unwrap();
        group.rate_limiter_config.validate().unwrap();
        let json = r#"{"id":"g","rate_limiter_config":
            {"bandwidth":{"size":1000,"refill_time":100}}}"#;
        assert_eq!(
            serde_json::from_str::<RateLimitGroupConfig>(json).unwrap(),
            group
        );
        for half in [
            "id=g,ops_size=5",
            "id=g,bw_refill_time=5",
            "id=g,ops_one_time_burst=3",
        ] {
            let group = RateLimitGroupConfig::parse(half).unwrap();
            group.rate_limiter_config.validate().unwrap_err();
        }
        RateLimitGroupConfig::parse("bw_size=1,bw_refill_time=1").unwrap_err();
        RateLimitGroupConfig::parse("id=g,bw_size=-1").unwrap_err();
    }
}
