//! Which virtio devices a configuration means, and where they are on the PCI bus.
//!
//! Does: list them in Cloud Hypervisor's order, with their names and slots; give names and slots to
//! those that have none; add and remove. Does not: make them.
//!
//! Invariant: the same configuration gives the same list on every host. Once devices are placed,
//! each keeps its name and slot, whatever is added or removed beside it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::{
    BalloonConfig, ConsoleConfig, ConsoleMode, DiskConfig, NetConfig, RngConfig, VmConfig,
    VsockConfig,
};

/// Slots of the bus for devices; slot 0 is the host bridge's.
pub const SLOTS: std::ops::RangeInclusive<u8> = 1..=31;
/// Devices that fit the bus.
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
    /// Its number on the bus, which is its slot.
    pub device: u8,
    /// What it is.
    pub planned: Planned<'a>,
}

/// A device that can be added to a virtual machine and removed from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewDevice {
    /// `vm.add-disk`
    Disk(DiskConfig),
    /// `vm.add-net`
    Net(NetConfig),
    /// `vm.add-vsock`
    Vsock(VsockConfig),
}

impl NewDevice {
    /// Refuses what cannot be added.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            NewDevice::Disk(disk) => disk.validate()?,
            NewDevice::Net(net) => net.validate()?,
            NewDevice::Vsock(vsock) => vsock.validate()?,
        }
        match self.id() {
            Some(id) if id.starts_with("__") => Err(ConfigError::ReservedId { id: id.clone() }),
            _ => Ok(()),
        }
    }

    /// The name that it was given.
    pub fn id(&self) -> Option<&String> {
        match self {
            NewDevice::Disk(disk) => disk.id.as_ref(),
            NewDevice::Net(net) => net.id.as_ref(),
            NewDevice::Vsock(vsock) => vsock.id.as_ref(),
        }
    }

    /// Gives it a name.
    pub fn set_id(&mut self, id: String) {
        match self {
            NewDevice::Disk(disk) => disk.id = Some(id),
            NewDevice::Net(net) => net.id = Some(id),
            NewDevice::Vsock(vsock) => vsock.id = Some(id),
        }
    }

    /// What it is.
    pub fn planned(&self) -> Planned<'_> {
        match self {
            NewDevice::Disk(disk) => Planned::Disk(disk),
            NewDevice::Net(net) => Planned::Net(net),
            NewDevice::Vsock(vsock) => Planned::Vsock(vsock),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            NewDevice::Disk(_) => "disk",
            NewDevice::Net(_) => "net",
            NewDevice::Vsock(_) => "vsock",
        }
    }

    /// As it stands in the log and in questions to a backup.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a configuration is JSON")
    }

    /// From there.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let device: NewDevice = serde_json::from_slice(json).map_err(ConfigError::Json)?;
        device.validate()?;
        Ok(device)
    }
}

/// The first name `_KIND0`, `_KIND1`, … that nobody has.
fn free_name(kind: &str, taken: &BTreeSet<String>) -> String {
    let mut names = (0u64..).map(|index| format!("_{kind}{index}"));
    let free = names.find(|name| !taken.contains(name));
    free.unwrap_or_default()
}

impl VmConfig {
    /// Its virtio devices.
    pub fn devices(&self) -> Vec<Place<'_>> {
        let disks = self.disks.iter().flatten();
        let nets = self.net.iter().flatten();
        let mut names: BTreeSet<String> = disks
            .clone()
            .filter_map(|disk| disk.id.clone())
            .chain(nets.clone().filter_map(|net| net.id.clone()))
            .chain(self.vsock.iter().filter_map(|vsock| vsock.id.clone()))
            .collect();
        let mut name = |given: &Option<String>, kind: &str| {
            given.clone().unwrap_or_else(|| {
                let name = free_name(kind, &names);
                names.insert(name.clone());
                name
            })
        };
        let mut all = Vec::new();
        if self.console.mode != ConsoleMode::Off {
            all.push(("__console".to_owned(), Planned::Console(&self.console)));
        }
        all.extend(disks.map(|disk| (name(&disk.id, "disk"), Planned::Disk(disk))));
        all.extend(nets.map(|net| (name(&net.id, "net"), Planned::Net(net))));
        all.push(("__rng".to_owned(), Planned::Rng(&self.rng)));
        if let Some(vsock) = &self.vsock {
            all.push((name(&vsock.id, "vsock"), Planned::Vsock(vsock)));
        }
        if let Some(balloon) = &self.balloon {
            all.push(("__balloon".to_owned(), Planned::Balloon(balloon)));
        }
        let taken: BTreeSet<u8> = all
            .iter()
            .filter_map(|(id, _)| self.pci_slots.get(id).copied())
            .collect();
        let mut free = (1..).filter(|slot| !taken.contains(slot));
        let place = |(id, planned): (String, _)| Place {
            device: match self.pci_slots.get(&id) {
                Some(slot) => *slot,
                None => free.next().unwrap_or(u8::MAX),
            },
            id,
            planned,
        };
        all.into_iter().map(place).collect()
    }

    /// Gives every device that has none a name and a slot, which it keeps from here on.
    pub fn place_devices(&mut self) {
        let places = self.devices().into_iter();
        let is_named = |planned: &Planned<'_>| {
            matches!(
                planned,
                Planned::Disk(_) | Planned::Net(_) | Planned::Vsock(_)
            )
        };
        let places: Vec<(String, u8, bool)> = places
            .map(|place| (place.id, place.device, is_named(&place.planned)))
            .collect();
        let names = places.iter().filter(|(_, _, is_named)| *is_named);
        let disks = self.disks.iter_mut().flatten().map(|disk| &mut disk.id);
        let nets = self.net.iter_mut().flatten().map(|net| &mut net.id);
        let vsock = self.vsock.iter_mut().map(|vsock| &mut vsock.id);
        for (id, (name, ..)) in disks.chain(nets).chain(vsock).zip(names) {
            *id = Some(name.clone());
        }
        let slots = places.into_iter().map(|(id, slot, _)| (id, slot));
        self.pci_slots = slots.collect();
    }

    /// A name for a new device: the one that it was given, or one that no other has.
    pub fn name_for(&self, new: &NewDevice) -> Result<String, ConfigError> {
        let names = self.devices().into_iter().map(|place| place.id);
        let names: BTreeSet<String> = names.collect();
        if matches!(new, NewDevice::Vsock(_)) && self.vsock.is_some() {
            return Err(ConfigError::TooManyVsocks);
        }
        match new.id() {
            Some(id) if names.contains(id) => Err(ConfigError::DuplicateId { id: id.clone() }),
            Some(id) => Ok(id.clone()),
            None => Ok(free_name(new.kind(), &names)),
        }
    }

    /// Adds a device; in `slot`, if the others are placed.
    pub fn add_device(&mut self, new: NewDevice, slot: Option<u8>) {
        if let (Some(id), Some(slot)) = (new.id(), slot) {
            self.pci_slots.insert(id.clone(), slot);
        }
        match new {
            NewDevice::Disk(disk) => self.disks.get_or_insert_default().push(disk),
            NewDevice::Net(net) => self.net.get_or_insert_default().push(net),
            NewDevice::Vsock(vsock) => self.vsock = Some(vsock),
        }
    }

    /// Removes a device that can be removed; false if there is no such device.
    pub fn remove_device(&mut self, id: &str) -> bool {
        let is_it = |given: &Option<String>| given.as_deref() == Some(id);
        let count = |config: &VmConfig| {
            let disks = config.disks.iter().flatten().count();
            disks + config.net.iter().flatten().count() + config.vsock.iter().count()
        };
        let before = count(self);
        self.disks
            .iter_mut()
            .for_each(|disks| disks.retain(|disk| !is_it(&disk.id)));
        self.net
            .iter_mut()
            .for_each(|nets| nets.retain(|net| !is_it(&net.id)));
        self.vsock = self.vsock.take().filter(|vsock| !is_it(&vsock.id));
        self.disks = self.disks.take().filter(|disks| !disks.is_empty());
        self.net = self.net.take().filter(|nets| !nets.is_empty());
        let is_removed = count(self) < before;
        if is_removed {
            self.pci_slots.remove(id);
        }
        is_removed
    }

    /// Removes the devices whose slots are not among `slots`.
    pub fn retain_slots(&mut self, slots: &BTreeSet<u8>) {
        let places = self.devices().into_iter();
        let gone = places.filter(|place| !slots.contains(&place.device));
        let gone: Vec<String> = gone.map(|place| place.id).collect();
        for id in gone {
            self.remove_device(&id);
        }
    }

    /// The device in a slot.
    pub fn device_in(&self, slot: u8) -> Option<Place<'_>> {
        let mut places = self.devices().into_iter();
        places.find(|place| place.device == slot)
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
        let places = self.devices();
        if places.len() > DEVICES_MAX {
            let (count, max) = (places.len(), DEVICES_MAX);
            return Err(ConfigError::TooManyDevices { count, max });
        }
        let mut slots = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for Place { id, device, .. } in places {
            if !ids.insert(id.clone()) {
                return Err(ConfigError::DuplicateId { id });
            }
            if !SLOTS.contains(&device) || slots.insert(device, ()).is_some() {
                return Err(ConfigError::Slot { id, slot: device });
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

/// A PCI address as people and Cloud Hypervisor write it.
pub fn bdf(slot: u8) -> String {
    format!("0000:00:{slot:02x}.0")
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

    fn places(config: &VmConfig) -> Vec<(u8, String)> {
        let places = config.devices().into_iter();
        places.map(|place| (place.device, place.id)).collect()
    }

    fn expected(places: &[(u8, &str)]) -> Vec<(u8, String)> {
        let places = places.iter();
        places.map(|(slot, id)| (*slot, (*id).to_owned())).collect()
    }

    #[test]
    fn devices_have_names_and_numbers() {
        let disks = serde_json::json!([{ "path": "/a" }, { "path": "/b", "id": "data" }]);
        let config = config(disks).unwrap();
        let wanted = expected(&[
            (1, "__console"),
            (2, "_disk0"),
            (3, "data"),
            (4, "__rng"),
            (5, "_vsock0"),
            (6, "__balloon"),
        ]);
        assert_eq!(places(&config), wanted);
    }

    #[test]
    fn names_are_unique_and_not_reserved() {
        let twice = serde_json::json!([{ "path": "/a", "id": "x" }, { "path": "/b", "id": "x" }]);
        let error = config(twice).unwrap_err();
        assert!(matches!(error, ConfigError::DuplicateId { .. }), "{error}");
        let reserved = serde_json::json!([{ "path": "/a", "id": "__x" }]);
        let error = config(reserved).unwrap_err();
        assert!(matches!(error, ConfigError::ReservedId { .. }), "{error}");
        let many = serde_json::json!(vec![serde_json::json!({ "path": "/a" }); 32]);
        let error = config(many).unwrap_err();
        assert!(
            matches!(error, ConfigError::TooManyDevices { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_name_that_looks_automatic_is_nobody_elses() {
        let disks = serde_json::json!([{ "path": "/a" }, { "path": "/b", "id": "_disk0" }]);
        let config = config(disks).unwrap();
        let wanted = expected(&[
            (1, "__console"),
            (2, "_disk1"),
            (3, "_disk0"),
            (4, "__rng"),
            (5, "_vsock0"),
            (6, "__balloon"),
        ]);
        assert_eq!(places(&config), wanted);
    }

    #[test]
    fn placed_devices_stay_where_they_are() {
        let disks = serde_json::json!([{ "path": "/a" }, { "path": "/b" }]);
        let mut config = config(disks).unwrap();
        config.place_devices();
        assert!(config.remove_device("_disk0"));
        assert!(!config.remove_device("_disk0"));
        assert!(!config.remove_device("__rng"));
        let json = serde_json::to_vec(&config).unwrap();
        let mut config = VmConfig::from_json(&json).unwrap();
        let wanted = expected(&[
            (1, "__console"),
            (3, "_disk1"),
            (4, "__rng"),
            (5, "_vsock0"),
            (6, "__balloon"),
        ]);
        assert_eq!(places(&config), wanted);
        let second = NewDevice::Vsock(VsockConfig::parse("cid=4,socket=/v").unwrap());
        let error = config.name_for(&second).unwrap_err();
        assert!(matches!(error, ConfigError::TooManyVsocks), "{error}");
        let mut net = NewDevice::Net(NetConfig::parse("tap=t").unwrap());
        let disk = NewDevice::Disk(DiskConfig::parse("path=/c,id=_disk1").unwrap());
        config.name_for(&disk).unwrap_err();
        net.set_id(config.name_for(&net).unwrap());
        config.add_device(net, Some(2));
        assert_eq!(config.device_in(2).unwrap().id, "_net0");
        config.retain_slots(&[1, 2, 4, 5, 6].into());
        let wanted = expected(&[
            (1, "__console"),
            (2, "_net0"),
            (4, "__rng"),
            (5, "_vsock0"),
            (6, "__balloon"),
        ]);
        assert_eq!(places(&config), wanted);
        assert_eq!(config.disks, None);
        assert!(config.remove_device("_vsock0"));
        assert_eq!(config.vsock, None);
        config.name_for(&second).unwrap();
    }

    #[test]
    fn impossible_slots_are_refused() {
        for slots in [
            serde_json::json!({ "__rng": 0 }),
            serde_json::json!({ "__rng": 32 }),
            serde_json::json!({ "__rng": 4, "_disk0": 4 }),
        ] {
            let json = serde_json::json!({
                "payload": { "kernel": "/k" },
                "disks": [{ "path": "/a" }],
                "pci_slots": slots,
            });
            let error = VmConfig::from_json(json.to_string().as_bytes()).unwrap_err();
            assert!(matches!(error, ConfigError::Slot { .. }), "{error}");
        }
    }

    #[test]
    fn new_devices_travel_as_json() {
        let disk = NewDevice::Disk(DiskConfig::parse("path=/c,id=x").unwrap());
        assert_eq!(NewDevice::from_json(&disk.to_json()).unwrap(), disk);
        NewDevice::from_json(br#"{"disk":{}}"#).unwrap_err();
        NewDevice::from_json(br#"{"disk":{"path":"/c","id":"__x"}}"#).unwrap_err();
        NewDevice::from_json(br#"{"net":{"fds":[3,4]}}"#).unwrap_err();
        let vsock = NewDevice::Vsock(VsockConfig::parse("cid=3,socket=/v").unwrap());
        assert_eq!(NewDevice::from_json(&vsock.to_json()).unwrap(), vsock);
        NewDevice::from_json(br#"{"vsock":{"cid":2,"socket":"/v"}}"#).unwrap_err();
        assert_eq!(bdf(17), "0000:00:11.0");
    }
}
