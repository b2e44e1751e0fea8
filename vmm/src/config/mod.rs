//! What a virtual machine is made of: the configuration, as JSON and as command line options.
//!
//! Does: hold the configuration with Cloud Hypervisor's names and defaults, read it from JSON
//! (`vm.create`) and from options (`command_line`), and validate it. Does not: open files or
//! sockets; what a path leads to is found out at boot.
//!
//! Invariant: a configuration that `validate` accepts describes a machine this program can build;
//! whatever it cannot honour is refused, never dropped. JSON fields that nobody knows are ignored.

mod address;
mod balloon;
mod command_line;
mod console;
mod cpus;
mod devices;
mod disk;
mod error;
mod fence;
mod ft;
mod memory;
mod net;
mod payload;
mod rate_limiter;
mod rng;
mod unsupported;
mod vsock;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use address::{Lease, TcpAddress};
pub use balloon::{BalloonConfig, ResizeConfig};
pub use command_line::VmParams;
pub use console::{ConsoleConfig, ConsoleMode};
pub use cpus::{CpuTopology, CpusConfig};
pub use devices::{NewDevice, Place, Planned, SLOTS, bdf};
pub use disk::{DiskConfig, ImageType, LockGranularity};
pub use error::ConfigError;
pub use fence::Fence;
pub use ft::{
    DETECTION_TIMEOUT_MS_DEFAULT, FtConfig, FtEnableConfig, FtOverrideConfig, FtReceiveConfig, VmId,
};
pub use memory::{HotplugMethod, MEMORY_SIZE_MIN, MemoryConfig};
pub use net::{NetConfig, OwnedDescriptors};
pub use payload::{CMDLINE_LENGTH_MAX, PayloadConfig};
pub use rate_limiter::{RateLimitGroupConfig, RateLimiterConfig, TokenBucketConfig};
pub use rng::RngConfig;
pub use vsock::VsockConfig;

/// A virtual machine's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Virtual CPUs.
    #[serde(default)]
    pub cpus: CpusConfig,
    /// Guest memory.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// What it boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<PayloadConfig>,
    /// Where the guest's random numbers come from.
    #[serde(default)]
    pub rng: RngConfig,
    /// Disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<DiskConfig>>,
    /// Limits that disks share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_groups: Option<Vec<RateLimitGroupConfig>>,
    /// Network cards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<Vec<NetConfig>>,
    /// Streams between guest and host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// The balloon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonConfig>,
    /// The serial port, a 16550 at 0x3f8.
    #[serde(default = "ConsoleConfig::serial_default")]
    pub serial: ConsoleConfig,
    /// The virtio console.
    #[serde(default = "ConsoleConfig::console_default")]
    pub console: ConsoleConfig,
    /// Fault tolerance: who this VM is, and who decides about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ft: Option<FtConfig>,
    /// The slot of the PCI bus that each device has, by its name. Filled in when the VM boots.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pci_slots: BTreeMap<String, u8>,
    /// Every other field of the JSON text, kept so that `validate` can refuse what it must.
    #[serde(flatten, skip_serializing)]
    pub others: BTreeMap<String, serde_json::Value>,
}

impl VmConfig {
    /// Reads a configuration from JSON and validates it.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: VmConfig = serde_json::from_slice(json).map_err(ConfigError::Json)?;
        config.validate()?;
        Ok(config)
    }

    /// Whether this program can build such a machine.
    pub fn validate(&self) -> Result<(), ConfigError> {
        unsupported::check(&self.others)?;
        self.cpus.validate()?;
        self.memory.validate()?;
        self.payload
            .as_ref()
            .ok_or(ConfigError::NoPayload)?
            .validate()?;
        let mut groups = BTreeSet::new();
        for group in self.rate_limit_groups.iter().flatten() {
            group.rate_limiter_config.validate()?;
            if !groups.insert(group.id.as_str()) {
                let id = group.id.clone();
                return Err(ConfigError::DuplicateId { id });
            }
        }
        for disk in self.disks.iter().flatten() {
            disk.validate()?;
            if let Some(id) = &disk.rate_limit_group
                && !groups.contains(id.as_str())
            {
                let id = id.clone();
                return Err(ConfigError::NoRateLimitGroup { id });
            }
        }
        for net in self.net.iter().flatten() {
            net.validate()?;
        }
        if let Some(vsock) = &self.vsock {
            vsock.validate()?;
        }
        if let Some(balloon) = &self.balloon {
            balloon.validate(self.memory.size)?;
        }
        self.validate_devices()?;
        self.serial.validate("serial")?;
        self.console.validate("console")?;
        if self.serial.mode == ConsoleMode::Tty && self.console.mode == ConsoleMode::Tty {
            return Err(ConfigError::TwoTtys);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use machine::Profile;

    use super::*;

    fn minimal() -> serde_json::Value {
        serde_json::json!({ "payload": { "kernel": "/boot/vmlinux" } })
    }

    fn read(json: &serde_json::Value) -> Result<VmConfig, ConfigError> {
        VmConfig::from_json(json.to_string().as_bytes())
    }

    #[test]
    fn defaults_are_filled_in_and_none_is_skipped() {
        let config = read(&minimal()).unwrap();
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "cpus": {
                    "boot_vcpus": 1,
                    "max_vcpus": 1,
                    "max_phys_bits": 46,
                    "profile": Profile::default().name(),
                },
                "memory": {
                    "size": 536_870_912,
                    "mergeable": false,
                    "hotplug_method": "Acpi",
                    "shared": false,
                    "hugepages": false,
                    "prefault": false,
                },
                "payload": { "kernel": "/boot/vmlinux" },
                "rng": { "src": "/dev/urandom" },
                "serial": { "mode": "Null" },
                "console": { "mode": "Tty" },
            })
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut json = minimal();
        json["serial"] = serde_json::json!({ "mode": "File", "file": "/tmp/log" });
        json["ft"] = serde_json::json!({
            "id": "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            "lease": "file:/shared/flags",
        });
        let config = read(&json).unwrap();
        let written = serde_json::to_vec(&config).unwrap();
        assert_eq!(VmConfig::from_json(&written).unwrap(), config);
    }

    #[test]
    fn unknown_fields_are_ignored_and_known_devices_are_not() {
        let mut json = minimal();
        json["colour"] = serde_json::json!("blue");
        json["net"] = serde_json::Value::Null;
        json["watchdog"] = serde_json::json!(false);
        read(&json).unwrap();
        json["disks"] = serde_json::json!([{ "path": "/disk.img" }]);
        read(&json).unwrap();
        json["pmem"] = serde_json::json!([{ "file": "/pmem.img" }]);
        let error = read(&json).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Unsupported { what } if what == "pmem"),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        let refused = |path: &str, value: serde_json::Value| {
            let mut json = minimal();
            *json.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
            read(&json).unwrap_err()
        };
        let full = |key: &str, value: serde_json::Value| {
            let mut json = minimal();
            json[key] = value;
            read(&json).unwrap_err()
        };
        let error = full(
            "cpus",
            serde_json::json!({ "boot_vcpus": 2, "max_vcpus": 2 }),
        );
        assert!(
            matches!(error, ConfigError::TooManyVcpus { count: 2 }),
            "{error}"
        );
        let error = full(
            "cpus",
            serde_json::json!({ "boot_vcpus": 0, "max_vcpus": 1 }),
        );
        assert!(matches!(error, ConfigError::NoVcpus), "{error}");
        let error = full("memory", serde_json::json!({ "size": 1 << 20 }));
        assert!(
            matches!(error, ConfigError::TooLittleMemory { .. }),
            "{error}"
        );
        let error = full("memory", serde_json::json!({ "size": (512 << 20) + 1 }));
        assert!(
            matches!(error, ConfigError::MemoryNotPages { .. }),
            "{error}"
        );
        let error = refused("/payload", serde_json::Value::Null);
        assert!(matches!(error, ConfigError::NoPayload), "{error}");
        let error = refused("/payload", serde_json::json!({}));
        assert!(matches!(error, ConfigError::NoKernel), "{error}");
        let error = refused("/payload", serde_json::json!({ "firmware": "/fw" }));
        assert!(matches!(error, ConfigError::Unsupported { .. }), "{error}");
        let error = full("serial", serde_json::json!({ "mode": "Socket" }));
        assert!(
            matches!(error, ConfigError::ConsoleSocket { .. }),
            "{error}"
        );
        let error = full("serial", serde_json::json!({ "mode": "File" }));
        assert!(matches!(error, ConfigError::ConsoleFile { .. }), "{error}");
        let error = full("serial", serde_json::json!({ "mode": "Tty" }));
        assert!(matches!(error, ConfigError::TwoTtys), "{error}");
        let error = full("memory", serde_json::json!({ "size": "512M" }));
        assert!(matches!(error, ConfigError::Json(_)), "{error}");
    }
}
