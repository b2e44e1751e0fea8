//! The balloon.
//!
//! Does: how large it is at first and what the guest may do with it, from `--balloon` and JSON; and
//! what `vm.resize` asks for. Does not: move memory.
//!
//! Invariant: a balloon is smaller than the memory that it takes pages from.

use machine::PAGE_SIZE;
use option_parser::{ByteSize, Key, Options, Toggle};
use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// The balloon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonConfig {
    /// Bytes that the guest is to do without.
    pub size: u64,
    /// The guest may take pages back when it has no others.
    #[serde(default)]
    pub deflate_on_oom: bool,
    /// The guest reports free pages, which go back to the host.
    #[serde(default)]
    pub free_page_reporting: bool,
}

impl BalloonConfig {
    /// Reads `--balloon size=,deflate_on_oom=,free_page_reporting=`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = ["size", "deflate_on_oom", "free_page_reporting"].map(Key::value);
        let options = Options::parse("--balloon", text, &keys)?;
        let toggle = |key| Ok::<_, ConfigError>(options.get(key)?.is_some_and(|Toggle(on)| on));
        let size: Option<ByteSize> = options.get("size")?;
        Ok(BalloonConfig {
            size: size.map_or(0, |ByteSize(size)| size),
            deflate_on_oom: toggle("deflate_on_oom")?,
            free_page_reporting: toggle("free_page_reporting")?,
        })
    }

    pub(super) fn validate(&self, memory: u64) -> Result<(), ConfigError> {
        check(self.size, memory).map(drop)
    }
}

/// Pages of a balloon of `size` bytes, in a guest with so much memory.
fn check(size: u64, memory: u64) -> Result<u32, ConfigError> {
    match u32::try_from(size / PAGE_SIZE) {
        Ok(pages) if size < memory => Ok(pages),
        _ => Err(ConfigError::BalloonTooLarge { size, memory }),
    }
}

/// What `vm.resize` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeConfig {
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_vcpus: Option<u32>,
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_ram: Option<u64>,
    /// Bytes that the guest is to do without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_balloon: Option<u64>,
}

impl ResizeConfig {
    /// Refuses what cannot be resized yet.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let unsupported = [
            ("resize desired_vcpus", self.desired_vcpus.is_some()),
            ("resize desired_ram", self.desired_ram.is_some()),
        ];
        for (what, is_asked_for) in unsupported {
            if is_asked_for {
                let what = what.to_owned();
                return Err(ConfigError::Unsupported { what });
            }
        }
        Ok(())
    }

    /// Pages of the balloon that is asked for, of a guest with such a balloon and memory; `None` if
    /// none is asked for.
    pub fn balloon_pages(
        &self,
        balloon: Option<&BalloonConfig>,
        memory: u64,
    ) -> Result<Option<u32>, ConfigError> {
        let Some(size) = self.desired_balloon else {
            return Ok(None);
        };
        balloon.ok_or(ConfigError::NoBalloon)?;
        check(size, memory).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_bounds() {
        let text = "size=64M,deflate_on_oom=on,free_page_reporting=on";
        let balloon = BalloonConfig::parse(text).unwrap();
        assert_eq!(balloon.size, 64 << 20);
        assert!(balloon.deflate_on_oom && balloon.free_page_reporting);
        balloon.validate(65 << 20).unwrap();
        balloon.validate(64 << 20).unwrap_err();
        assert_eq!(BalloonConfig::parse("size=0").unwrap().size, 0);
        BalloonConfig::parse("size=much").unwrap_err();
        let resize = |json: &str| serde_json::from_str::<ResizeConfig>(json).unwrap();
        let pages = |json| resize(json).balloon_pages(Some(&balloon), 1 << 30);
        assert_eq!(pages("{}").unwrap(), None);
        assert_eq!(pages(r#"{"desired_balloon":8193}"#).unwrap(), Some(2));
        pages(r#"{"desired_balloon":2147483648}"#).unwrap_err();
        let asked = resize(r#"{"desired_balloon":1}"#);
        asked.balloon_pages(None, 1 << 30).unwrap_err();
        resize(r#"{"desired_vcpus":2}"#).validate().unwrap_err();
    }
}
