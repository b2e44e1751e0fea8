//! The devices of a VM as `vm.info` shows them, in Cloud Hypervisor's shape.
//!
//! Does: make the tree of a configuration whose devices have their slots. Does not: ask the machine.
//!
//! Invariant: a device on the bus is the one child of its PCI function, which has its address and
//! BAR 0 as the machine places it at power-up (a guest may move it).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{VmConfig, bdf};

/// Nodes by their names.
pub type DeviceTree = BTreeMap<String, DeviceNode>;

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Its name.
    pub id: String,
    /// What it occupies.
    pub resources: Vec<Resource>,
    /// Its parent's name.
    pub parent: Option<String>,
    /// Its children's names.
    pub children: Vec<String>,
    /// Where it is on the PCI bus, if it is.
    pub pci_bdf: Option<String>,
}

/// Something that a device occupies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// A base address register.
    PciBar {
        /// Its number.
        index: usize,
        /// Guest-physical address.
        base: u64,
        /// Bytes.
        size: u64,
        /// What it decodes.
        #[serde(rename = "type_")]
        kind: PciBarType,
        /// Reads have no effects.
        prefetchable: bool,
    },
}

/// What a base address register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PciBarType {
    /// Memory anywhere.
    Memory64,
}

/// The tree of a VM.
pub fn of(config: &VmConfig) -> DeviceTree {
    let mut tree = DeviceTree::new();
    let mut add = |node: DeviceNode| drop(tree.insert(node.id.clone(), node));
    for id in ["__serial", "__ioapic"] {
        add(DeviceNode {
            id: id.to_owned(),
            ..DeviceNode::default()
        });
    }
    for place in config.devices() {
        let function = format!("_virtio-pci-{}", place.id);
        let bar = Resource::PciBar {
            index: 0,
            base: machine::device_bar(config.memory.size, place.device),
            size: machine::BAR_SIZE,
            kind: PciBarType::Memory64,
            prefetchable: false,
        };
        add(DeviceNode {
            id: function.clone(),
            resources: vec![bar],
            children: vec![place.id.clone()],
            pci_bdf: Some(bdf(place.device)),
            ..DeviceNode::default()
        });
        add(DeviceNode {
            id: place.id,
            parent: Some(function),
            ..DeviceNode::default()
        });
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_children_of_their_functions() {
        let json = br#"{"payload":{"kernel":"/k"},"disks":[{"path":"/d"}]}"#;
        let mut config = VmConfig::from_json(json).unwrap();
        config.place_devices();
        let tree = serde_json::to_value(of(&config)).unwrap();
        let function = &tree["_virtio-pci-_disk0"];
        assert_eq!(function["pci_bdf"], "0000:00:02.0");
        assert_eq!(function["children"], serde_json::json!(["_disk0"]));
        let bar = &function["resources"][0]["PciBar"];
        assert_eq!(
            (&bar["index"], &bar["size"]),
            (&0.into(), &(512 << 10).into())
        );
        assert_eq!(bar["type_"], "Memory64");
        assert_eq!(tree["_disk0"]["parent"], "_virtio-pci-_disk0");
        assert_eq!(tree["_disk0"]["pci_bdf"], serde_json::Value::Null);
        assert_eq!(tree["__serial"]["children"], serde_json::json!([]));
    }
}
