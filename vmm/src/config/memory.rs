//! Guest memory.
//!
//! Does: its size, and refusals of what is not there yet. Does not: allocate.
//!
//! Invariant: a valid size is a whole number of pages and has room for a kernel.

use option_parser::{ByteSize, Key, Options, Toggle};
use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// Less memory than this holds no kernel that is of use.
pub const MEMORY_SIZE_MIN: u64 = 32 << 20;

/// More memory than this is surely a typing mistake.
const MEMORY_SIZE_MAX: u64 = 1 << 40;

/// How memory may be added while the guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HotplugMethod {
    /// ACPI memory devices.
    #[default]
    Acpi,
    /// A virtio-mem device.
    VirtioMem,
}

/// The guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryConfig {
    /// In bytes.
    pub size: u64,
    /// Whether the host may merge equal pages.
    #[serde(default)]
    pub mergeable: bool,
    /// How memory is added.
    #[serde(default)]
    pub hotplug_method: HotplugMethod,
    /// How much may be added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<u64>,
    /// Whether other processes may map it.
    #[serde(default)]
    pub shared: bool,
    /// Whether it consists of large pages of the host.
    #[serde(default)]
    pub hugepages: bool,
    /// Whether every page is touched at boot.
    #[serde(default)]
    pub prefault: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        MemoryConfig {
            size: 512 << 20,
            mergeable: false,
            hotplug_method: HotplugMethod::Acpi,
            hotplug_size: None,
            shared: false,
            hugepages: false,
            prefault: false,
        }
    }
}

impl MemoryConfig {
    /// Reads `--memory size=,mergeable=,hotplug_method=,…`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = [
            "size",
            "mergeable",
            "hotplug_method",
            "hotplug_size",
            "shared",
            "hugepages",
            "prefault",
        ]
        .map(Key::value);
        let options = Options::parse("--memory", text, &keys)?;
        let toggle = |key| Ok::<_, ConfigError>(options.get(key)?.is_some_and(|Toggle(on)| on));
        let hotplug_method = match options.text("hotplug_method") {
            None | Some("acpi") => HotplugMethod::Acpi,
            Some("virtio-mem") => HotplugMethod::VirtioMem,
            Some(_) => {
                return Err(options
                    .invalid("hotplug_method", "acpi or virtio-mem")
                    .into());
            }
        };
        let size = options.get("size")?.map(|ByteSize(size)| size);
        Ok(MemoryConfig {
            size: size.unwrap_or(MemoryConfig::default().size),
            mergeable: toggle("mergeable")?,
            hotplug_method,
            hotplug_size: options.get("hotplug_size")?.map(|ByteSize(size)| size),
            shared: toggle("shared")?,
            hugepages: toggle("hugepages")?,
            prefault: toggle("prefault")?,
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let size = self.size;
        if size < MEMORY_SIZE_MIN {
            return Err(ConfigError::TooLittleMemory {
                size,
                min: MEMORY_SIZE_MIN,
            });
        }
        if size > MEMORY_SIZE_MAX {
            return Err(ConfigError::TooMuchMemory {
                size,
                max: MEMORY_SIZE_MAX,
            });
        }
        if !size.is_multiple_of(4096) {
            return Err(ConfigError::MemoryNotPages { size });
        }
        let unsupported = [
            ("memory.mergeable", self.mergeable),
            (
                "memory.hotplug_size",
                self.hotplug_size.is_some_and(|size| size != 0),
            ),
            ("memory.shared", self.shared),
            ("memory.hugepages", self.hugepages),
            ("memory.prefault", self.prefault),
        ];
        for (what, asked_for) in unsupported {
            if asked_for {
                return Err(ConfigError::Unsupported {
                    what: what.to_owned(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_defaults() {
        assert_eq!(
            MemoryConfig::parse("size=512M").unwrap(),
            MemoryConfig::default()
        );
        assert_eq!(MemoryConfig::parse("size=1G").unwrap().size, 1 << 30);
        MemoryConfig::parse("size=lots").unwrap_err();
        MemoryConfig::parse("hotplug_method=magic").unwrap_err();
    }

    #[test]
    fn limits() {
        let check = |text: &str| MemoryConfig::parse(text).unwrap().validate();
        check("size=32M").unwrap();
        assert!(matches!(
            check("size=31M"),
            Err(ConfigError::TooLittleMemory { .. })
        ));
        assert!(matches!(
            check("size=2T"),
            Err(ConfigError::TooMuchMemory { .. })
        ));
        assert!(matches!(
            check("size=536870913"),
            Err(ConfigError::MemoryNotPages { .. })
        ));
        assert!(matches!(
            check("hugepages=on"),
            Err(ConfigError::Unsupported { .. })
        ));
        assert!(matches!(
            check("hotplug_size=1G"),
            Err(ConfigError::Unsupported { .. })
        ));
    }
}
