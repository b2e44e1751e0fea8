//! Which virtio devices a configuration means, and where they are on the PCI bus.
//!
//! Does: list them in Cloud Hypervisor's order, with their names and numbers. Does not: make them.
//!
//! Invariant: the same configuration gives the same list on every host.

use super::error::ConfigError;
use super::{
    BalloonConfig, ConsoleConfig, ConsoleMode, DiskConfig, NetConfig, RngConfig, VmConfig,
    VsockConfig,
};

/// Devices that fit the bus; number 0 is the host bridge.
const DEVICES_MAX: usize = 31;

/// One device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Planned<'a> {
    /// A disk.
    Disk(&'a DiskConfig),
    /// A network card.
    Net(&'a NetConfig),
    /// The source of random bytes, which is always there.
    Rng(&'a RngConfig),
    /// The console.
    Console(&'a ConsoleConfig),
    /// Streams between guest and host.
    Vsock(&'a VsockConfig),
    /// The balloon.
    Balloon(&'a BalloonConfig),
}

/// A device with its name and number.
#[derive(Clone, Debug, PartialEq)]
pub struct Place<'a> {
    /// Its name.
    pub id: String,
    /// Its number on the bus.
    pub device: u8,
    /// What it is.
    pub planned: Planned<'a>,
}

impl VmConfig {
    /// Its virtio devices.
    pub fn devices(&self) -> Vec<Place<'_>> {
        let name = |given: &Option<String>, kind: &str, index: usize| match given {
            Some(id) => id.clone(),
            None => format!("_{kind}{index}"),
        };
        let console = Some(&self.console).filter(|console| console.mode != ConsoleMode::Off);
        let console = console.map(|console| ("__console".to_owned(), Planned::Console(console)));
        let disks = self.disks.iter().flatten().enumerate();
        let disks = disks.map(|(i, disk)| (name(&disk.id, "disk", i), Planned::Disk(disk)));
        let nets = self.net.iter().flatten().enumerate();
        let nets = nets.map(|(i, net)| (name(&net.id, "net", i), Planned::Net(net)));
        let rng = ("__rng".to_owned(), Planned::Rng(&self.rng));
        let vsock = self.vsock.iter().enumerate();
        let vsock = vsock.map(|(i, vsock)| (name(&vsock.id, "vsock", i), Planned::Vsock(vsock)));
        let balloon = self.balloon.iter();
        let balloon = balloon.map(|balloon| ("__balloon".to_owned(), Planned::Balloon(balloon)));
        (1..)
            .zip(
                console
                    .into_iter()
                    .chain(disks)
                    .chain(nets)
                    .chain([rng])
                    .chain(vsock)
                    .chain(balloon),
            )
            .map(|(device, (id, planned))| Place {
                id,
                device,
                planned,
            })
            .collect()
    }

    /// The number of its balloon on the bus.
    pub fn balloon_device(&self) -> Option<u8> {
        let devices = self.devices();
        let mut balloons = devices.iter();
        let is_balloon = |place: &&Place<'_>| matches!(place.planned, Planned::Balloon(_));
        balloons.find(is_balloon).map(|place| place.device)
    }

    /// Its balloon, if it has one, is to have so many pages.
    pub fn set_balloon(&mut self, pages: u32) {
        if let Some(balloon) = &mut self.balloon {
            balloon.size = u64::from(pages) * machine::PAGE_SIZE;
        }
    }

    pub(super) fn validate_devices(&self) -> Result<(), ConfigError> {
        let count = self.devices().len();
        if count > DEVICES_MAX {
            let max = DEVICES_MAX;
            return Err(ConfigError::TooManyDevices { count, max });
        }
        let mut ids: Vec<String> = self.devices().into_iter().map(|place| place.id).collect();
        ids.sort();
        for pair in ids.windows(2) {
            if let [first, second] = pair
                && first == second
            {
                return Err(ConfigError::DuplicateId { id: first.clone() });
            }
        }
        let reserved = |id: &Option<String>| id.clone().filter(|id| id.starts_with("__"));
        let disks = self.disks.iter().flatten().map(|disk| &disk.id);
        let nets = self.net.iter().flatten().map(|net| &net.id);
        let vsock = self.vsock.iter().map(|vsock| &vsock.id);
        match disks.chain(nets).chain(vsock).find_map(reserved) {
            Some(id) => Err(ConfigError::ReservedId { id }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(disks: serde_json::Value) -> Result<VmConfig, ConfigError> {
        let json = serde_json::json!({ "payload": { "kernel": "/k" },
            "disks": disks,
            "vsock": { "cid": 3, "socket": "/s" },
            "balloon": { "size": 0 },
        });
        VmConfig::from_json(json.to_string().as_bytes())
    }

    #[test]
    fn devices_have_names_and_numbers() {
        let disks = serde_json::json!([{ "path": "/a" }, { "path": "/b", "id": "data" }]);
        let config = config(disks).unwrap();
        let found: Vec<(u8, String)> = config
            .devices()
            .into_iter()
            .map(|place| (place.device, place.id))
            .collect();
        let names = [
            "__console",
            "_disk0",
            "data",
            "__rng",
            "_vsock0",
            "__balloon",
        ]
        .map(str::to_owned);
        let expected: Vec<(u8, String)> = (1..).zip(names).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn names_are_unique_and_not_reserved() {
        let twice = serde_json::json!([{ "path": "/a", "id": "x" }, { "path": "/b", "id": "x" }]);
        let error = config(twice).unwrap_err();
        assert!(matches!(error, ConfigError::DuplicateId { .. }), "{error}");
        let reserved = serde_json::json!([{ "path": "/a", "id": "__x" }]);
        let error = config(reserved).unwrap_err();
        assert!(matches!(error, ConfigError::ReservedId { .. }), "{error}");
        let many = serde_json::json!(vec![serde_json::json!({ "path": "/a" }); 28]);
        let error = config(many).unwrap_err();
        assert!(
            matches!(error, ConfigError::TooManyDevices { .. }),
            "{error}"
        );
    }
}
