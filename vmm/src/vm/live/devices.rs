//! Devices that come to a live machine and leave it.
//!
//! Does: plug in what every host has, and follow in configuration and backends what the guest gave
//! up. Does not: ask the backup's host (`hotplug` does), or model slots (`machine`).
//!
//! Invariant: a device is in the log before the machine has it, and its request is answered when a
//! backup has the entry, too (paper §3.3).

use ft::primary::AppendError;
use machine::Input;

use super::super::backends::DeviceStart;
use super::super::hotplug::Addition;
use super::super::primary_role::lock;
use super::{Live, Promise};
use crate::config::{NewDevice, Place, Planned, bdf};
use crate::control::{Event, Ticket, VmError};
use crate::status::PciDeviceInfo;

impl Live {
    pub(super) fn add_device(&mut self, ticket: Ticket, device: NewDevice) {
        let here = (&self.machine, &self.backends);
        let inbox = &self.parts.inbox;
        let begun = self
            .hotplug
            .begin((ticket, device), &self.config, here, inbox);
        if let Err(error) = begun {
            self.parts.answer(ticket, Err(error));
        }
    }

    /// The number of a device that can be removed.
    pub(super) fn removable(&self, id: &str) -> Result<u8, VmError> {
        let places = self.config.devices();
        let id = id.to_owned();
        match places.iter().find(|place| place.id == id) {
            None => Err(VmError::UnknownDevice { id }),
            Some(Place {
                planned: Planned::Disk(_) | Planned::Net(_) | Planned::Vsock(_),
                device,
                ..
            }) => Ok(*device),
            Some(_) => Err(VmError::NotRemovable { id }),
        }
    }

    /// Plugs in what every host has.
    pub(super) fn plug_what_may_be(&mut self) -> Result<(), AppendError> {
        while self.ending.is_none() {
            let next = self.hotplug.next(&mut lock(&self.role));
            match next {
                Some(addition) => self.plug(addition)?,
                None => break,
            }
        }
        Ok(())
    }

    fn plug(&mut self, addition: Addition) -> Result<(), AppendError> {
        let Addition {
            ticket,
            device,
            slot,
            spec,
            opened,
        } = addition;
        let id = device.id().cloned().unwrap_or_default();
        let place = Place {
            id: id.clone(),
            device: slot,
            planned: device.planned(),
        };
        if let Err(error) = self.backends.attach(&place, DeviceStart::Opened(opened)) {
            self.parts.answer(ticket, Err(error));
            return Ok(());
        }
        let logged = self.input(Input::Plug {
            device: slot,
            spec,
            config: device.to_json(),
        });
        let seq = match logged {
            Ok(seq) => seq,
            Err(error) => {
                self.parts.answer(ticket, Err(VmError::Gone));
                return Err(error);
            }
        };
        self.config.add_device(device, Some(slot));
        self.parts.board.set_counters(self.backends.counters());
        let bdf = bdf(slot);
        log::info!("device '{id}' was plugged in at {bdf}");
        let configured = Promise::Configured(self.config.clone());
        self.promises.push_back((seq, configured));
        let plugged = Promise::Plugged(ticket, PciDeviceInfo { id, bdf });
        self.promises.push_back((seq, plugged));
        Ok(())
    }

    /// What has left its slot is no part of the VM any more.
    pub(super) fn forget_detached(&mut self) {
        for (seq, slot) in self.journal.detached() {
            let Some(place) = self.config.device_in(slot) else {
                continue;
            };
            let id = place.id;
            log::info!("device '{id}' has left {}", bdf(slot));
            self.config.remove_device(&id);
            self.backends.forget(&id, slot);
            self.parts.board.set_counters(self.backends.counters());
            // Nobody is left to receive them.
            self.parts.inbox.frames(slot, usize::MAX);
            let configured = Promise::Configured(self.config.clone());
            self.promises.push_back((seq, configured));
        }
    }

    /// The VM is off: what the guest was asked to give up does not come back at its next boot.
    pub(super) fn forget_leaving(&mut self) {
        let leaving: Vec<u8> = self.machine.leaving_devices().collect();
        if leaving.is_empty() {
            return;
        }
        for slot in leaving {
            if let Some(place) = self.config.device_in(slot) {
                let id = place.id;
                self.config.remove_device(&id);
            }
        }
        let config = self.config.clone();
        self.parts.events.send(Event::Configured(config));
    }
}
