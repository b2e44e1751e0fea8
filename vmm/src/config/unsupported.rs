//! Parts of a configuration that Cloud Hypervisor knows and this program does not have yet.
//!
//! Does: refuse them when they ask for something. Does not: refuse fields that nobody knows; those
//! are ignored, as Cloud Hypervisor does.
//!
//! Invariant: a device that is asked for is either there or the request fails.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::ConfigError;

/// The parts by their JSON names.
const PARTS: [&str; 19] = [
    "debug_console",
    "devices",
    "fs",
    "gdb",
    "generic_vhost_user",
    "iommu",
    "ivshmem",
    "landlock_enable",
    "landlock_rules",
    "numa",
    "pci_segments",
    "platform",
    "pmem",
    "pvpanic",
    "pvmemcontrol",
    "tpm",
    "user_devices",
    "vdpa",
    "watchdog",
];

/// Refuses what is asked for and not there.
pub(super) fn check(others: &BTreeMap<String, Value>) -> Result<(), ConfigError> {
    for (name, value) in others {
        let known = PARTS.contains(&name.as_str());
        if known && asks_for_something(name, value) {
            return Err(ConfigError::Unsupported { what: name.clone() });
        }
    }
    Ok(())
}

fn asks_for_something(name: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        // The debug console's modes are those of the other consoles.
        Value::Object(fields) if name == "debug_console" => {
            !matches!(fields.get("mode").and_then(Value::as_str), Some("Off"))
        }
        _ => true,
    }
}
