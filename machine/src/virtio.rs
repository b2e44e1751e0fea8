//! The virtio devices on the PCI bus.
//!
//! Does: hold them in the order of their numbers, place their BARs, lead accesses and events to
//! them, collect what they ask for, put them into slots and take them out. Does not: know what they
//! are for, or deliver interrupts.
//!
//! Invariant: the order of devices is that of their numbers, on every side and after every
//! restore; numbers are 1 to 31 and each is there once. A device that was ejected keeps its number
//! until its requests in flight have ended, so that nobody else's can be taken for them.

use devices::PendingOutput;
use memory::GuestRam;
use pci::{DEVICES, Functions, MsiMessage};
use virtio_devices::{
    BAR_SIZE, DeviceSpec, Env, Event, InvalidState, Presence, Request, Submission, TransportState,
    VirtioPci,
};

/// The devices.
pub(crate) struct VirtioDevices {
    devices: Vec<VirtioPci>,
    /// What they asked for and nobody has taken yet.
    pub(crate) submissions: Vec<Submission>,
    /// Interrupts that are to be delivered within the step.
    pub(crate) messages: Vec<MsiMessage>,
}

/// Where BAR 0 of a device lies after power-up, as the firmware that this machine does not have
/// would place it.
pub fn device_bar(ram_size: u64, device: u8) -> u64 {
    arch::layout::pci_mmio64_start(ram_size) + u64::from(device) * BAR_SIZE
}

impl VirtioDevices {
    /// New devices.
    pub(crate) fn new(ram_size: u64, specs: &[(u8, DeviceSpec)]) -> Self {
        let new =
            |(device, spec): &(u8, _)| VirtioPci::new(*device, device_bar(ram_size, *device), spec);
        Self::with(specs.iter().map(new).collect())
    }

    fn with(devices: Vec<VirtioPci>) -> Self {
        VirtioDevices {
            devices,
            submissions: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// The states.
    pub(crate) fn save(&self) -> Vec<TransportState> {
        self.devices.iter().map(VirtioPci::save).collect()
    }

    /// Devices with saved states.
    pub(crate) fn restore(ram_size: u64, states: &[TransportState]) -> Result<Self, InvalidState> {
        let numbers = states.iter().map(|state| state.device);
        let is_possible = numbers.clone().is_sorted_by(|a, b| a < b)
            && numbers.clone().all(|device| (1..DEVICES).contains(&device));
        if !is_possible {
            return Err(InvalidState {
                reason: "impossible device numbers",
            });
        }
        let devices = states
            .iter()
            .map(|state| VirtioPci::restore(device_bar(ram_size, state.device), state));
        Ok(Self::with(devices.collect::<Result<_, _>>()?))
    }

    /// The machine is reset. What the guest was asked to give up does not come back.
    pub(crate) fn power_up(&mut self) {
        for device in &mut self.devices {
            match device.presence() {
                Presence::Present => device.power_up(&mut self.submissions),
                Presence::Leaving => {
                    device.eject(&mut self.submissions);
                }
                Presence::Ejected => {}
            }
        }
        self.messages.clear();
        self.take_out();
    }

    /// Puts a new device into a slot. False if the slot is not free, or no device can be so.
    pub(crate) fn plug(&mut self, ram_size: u64, device: u8, spec: &DeviceSpec) -> bool {
        let is_possible =
            (1..DEVICES).contains(&device) && spec.is_removable() && spec.validate().is_ok();
        let place = self.devices.partition_point(|d| d.device() < device);
        let is_taken = self.devices.get(place).map(VirtioPci::device) == Some(device);
        if is_possible && !is_taken {
            let new = VirtioPci::new(device, device_bar(ram_size, device), spec);
            self.devices.insert(place, new);
        }
        is_possible && !is_taken
    }

    /// The guest is to give up a device. False if it cannot.
    pub(crate) fn ask_for(&mut self, device: u8) -> bool {
        let mut devices = self.devices.iter_mut();
        let found = devices.find(|d| d.device() == device);
        found.is_some_and(VirtioPci::ask_for)
    }

    /// The guest ejects a device. False if it cannot.
    pub(crate) fn eject(&mut self, device: u8) -> bool {
        let mut devices = self.devices.iter_mut();
        let found = devices.find(|d| d.device() == device);
        let is_ejected = found.is_some_and(|device| device.eject(&mut self.submissions));
        self.take_out();
        is_ejected
    }

    /// Takes out what was ejected and has no requests in flight any more.
    fn take_out(&mut self) {
        let submissions = &mut self.submissions;
        self.devices.retain(|device| {
            let is_gone = device.is_gone();
            if is_gone {
                submissions.push(Submission {
                    device: device.device(),
                    id: 0,
                    request: Request::Detach,
                });
            }
            !is_gone
        });
    }

    /// Numbers and presences of the devices.
    pub(crate) fn presences(&self) -> impl Iterator<Item = (u8, Presence)> + '_ {
        let devices = self.devices.iter();
        devices.map(|device| (device.device(), device.presence()))
    }

    /// Requests that were submitted and have not ended, in order.
    pub(crate) fn in_flight(&self) -> Vec<Submission> {
        self.devices.iter().flat_map(VirtioPci::in_flight).collect()
    }

    /// For how many of the next frames a device has room, if it is a card that a driver uses.
    pub(crate) fn receivable(
        &self,
        ram: &GuestRam,
        device: u8,
        frames: &mut dyn Iterator<Item = usize>,
    ) -> Option<usize> {
        self.find(device)?.receivable(ram, frames)
    }

    fn find(&self, device: u8) -> Option<&VirtioPci> {
        self.devices.iter().find(|d| d.device() == device)
    }

    /// How many typed bytes a device would not lose now, if it takes any.
    pub(crate) fn input_room(&self, device: u8) -> Option<usize> {
        self.find(device)?.input_room()
    }

    /// What was written to a device and is on its way out, if it is a console.
    pub(crate) fn output(&self, device: u8) -> Option<&PendingOutput> {
        self.find(device)?.output()
    }

    /// Bytes of guest RAM that drivers say they do without.
    pub(crate) fn ballooned(&self) -> u64 {
        let bytes = self.devices.iter().map(VirtioPci::ballooned);
        bytes.fold(0, u64::saturating_add)
    }

    /// How many bytes of a stream a device can take now, if it takes any.
    pub(crate) fn stream_room(&self, ram: &GuestRam, device: u8, stream: u64) -> Option<usize> {
        self.find(device)?.stream_room(stream, ram)
    }

    fn get(&mut self, device: u8) -> Option<(&mut VirtioPci, Collector<'_>)> {
        let found = self.devices.iter_mut().find(|d| d.device() == device)?;
        let collector = Collector {
            submissions: &mut self.submissions,
            messages: &mut self.messages,
        };
        Some((found, collector))
    }

    /// The world says something to a device.
    pub(crate) fn event(&mut self, ram: &mut GuestRam, device: u8, event: &Event) {
        if let Some((device, collector)) = self.get(device) {
            device.event(&mut collector.env(ram), event);
            if device.is_gone() {
                self.take_out();
            }
        }
    }

    /// Reads MMIO; false if no device is there.
    pub(crate) fn read(&mut self, address: u64, data: &mut [u8]) -> bool {
        for device in &mut self.devices {
            if let Some(offset) = device.offset(address) {
                device.read_bar(offset, data);
                return true;
            }
        }
        false
    }

    /// Writes MMIO.
    pub(crate) fn write(&mut self, ram: &mut GuestRam, address: u64, data: &[u8]) {
        let place = |device: &VirtioPci| Some((device.device(), device.offset(address)?));
        let found = self.devices.iter().find_map(place);
        if let Some((device, offset)) = found
            && let Some((device, collector)) = self.get(device)
        {
            device.write_bar(&mut collector.env(ram), offset, data);
        }
    }

    /// The devices as the PCI bus sees them.
    pub(crate) fn functions<'a>(&'a mut self, ram: &'a mut GuestRam) -> VirtioFunctions<'a> {
        VirtioFunctions { virtio: self, ram }
    }
}

/// Where a device's doings go.
struct Collector<'a> {
    submissions: &'a mut Vec<Submission>,
    messages: &'a mut Vec<MsiMessage>,
}

impl<'a> Collector<'a> {
    fn env(self, ram: &'a mut GuestRam) -> Env<'a> {
        Env {
            ram,
            submissions: self.submissions,
            messages: self.messages,
        }
    }
}

/// The devices as the PCI bus sees them.
pub(crate) struct VirtioFunctions<'a> {
    virtio: &'a mut VirtioDevices,
    ram: &'a mut GuestRam,
}

impl Functions for VirtioFunctions<'_> {
    fn has(&self, device: u8) -> bool {
        let mut devices = self.virtio.presences();
        devices.any(|(number, presence)| number == device && presence != Presence::Ejected)
    }

    fn read_config(&mut self, device: u8, offset: usize, data: &mut [u8]) {
        if let Some((device, _)) = self.virtio.get(device) {
            device.read_config(offset, data);
        }
    }

    fn write_config(&mut self, device: u8, offset: usize, data: &[u8]) {
        if let Some((device, collector)) = self.virtio.get(device) {
            device.write_config(&mut collector.env(self.ram), offset, data);
        }
    }
}
