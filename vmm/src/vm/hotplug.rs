//! Devices that come while the machine runs.
//!
//! Does: keep what is to be added until it may be: its host side is opened on a thread of its own,
//! and while there is a backup, that is asked whether its host has the same. Does not: log or plug
//! (`live` does), or open anything itself (`backends` does).
//!
//! Invariant: nothing is logged for a device that one of the hosts cannot have. A device is added
//! while nobody follows, or to a backup that has said so; what happens to the pairing in between
//! makes it ask again (paper §3.3).

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread;

use ft::identity::Generation;
use machine::{DeviceSpec, Machine};

use super::backends::{self, Backends, OpenedDevice};
use super::fencing;
use super::inbox::Inbox;
use super::primary_role::PrimaryRole;
use crate::config::{Fence, NewDevice, SLOTS, VmConfig};
use crate::control::{Ticket, VmError};

/// A device whose host side is there, or why it is not.
#[derive(Debug)]
pub struct Prepared {
    /// Whose it is.
    pub ticket: Ticket,
    /// What the guest is to see of it, and what it stands on.
    pub result: Result<(DeviceSpec, OpenedDevice), VmError>,
}

/// A device that may be plugged in now.
#[derive(Debug)]
pub struct Addition {
    /// Who waits for it.
    pub ticket: Ticket,
    /// Its configuration, with its name.
    pub device: NewDevice,
    /// Where it is to be.
    pub slot: u8,
    /// What the guest is to see of it.
    pub spec: DeviceSpec,
    /// What it stands on.
    pub opened: OpenedDevice,
}

#[derive(Debug)]
enum Stage {
    /// Its host side is being opened.
    Opening,
    /// It could be plugged in here.
    Ready,
    /// The backup of that generation was asked the question of that number.
    Asked(u64, Generation),
    /// That backup's host has what it needs.
    Agreed(Generation),
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    device: NewDevice,
    slot: u8,
    parts: Option<(DeviceSpec, OpenedDevice)>,
    stage: Stage,
}

/// What is to be added.
#[derive(Debug, Default)]
pub struct Hotplug {
    waiting: Vec<Waiting>,
    questions: u64,
}

impl Hotplug {
    /// Begins to add a device.
    pub fn begin(
        &mut self,
        (ticket, mut device): (Ticket, NewDevice),
        config: &VmConfig,
        (machine, backends): (&Machine, &Backends),
        inbox: &Arc<Inbox>,
    ) -> Result<(), VmError> {
        // Those that are on their way have names and slots too.
        let mut all = config.clone();
        for waiting in &self.waiting {
            all.add_device(waiting.device.clone(), Some(waiting.slot));
        }
        let name = all.name_for(&device)?;
        let mut taken: BTreeSet<u8> = all.devices().iter().map(|place| place.device).collect();
        taken.extend(machine.devices());
        taken.extend(backends.slots());
        let slot = SLOTS.into_iter().find(|slot| !taken.contains(slot));
        let slot = slot.ok_or(VmError::NoFreeSlot)?;
        device.set_id(name);
        let (inbox, new) = (Arc::clone(inbox), device.clone());
        let open = move || {
            let result = backends::open_device(new.planned(), slot);
            inbox.prepared(Prepared { ticket, result });
        };
        thread::Builder::new()
            .name("add-device".to_owned())
            .spawn(open)
            .map_err(|source| VmError::Host {
                what: "start a thread",
                source,
            })?;
        self.waiting.push(Waiting {
            ticket,
            device,
            slot,
            parts: None,
            stage: Stage::Opening,
        });
        Ok(())
    }

    /// A device's host side is there. Gives the error of one that is not.
    pub fn prepared(&mut self, prepared: Prepared) -> Option<(Ticket, VmError)> {
        let Prepared { ticket, result } = prepared;
        let is_it = |waiting: &Waiting| waiting.ticket == ticket;
        let index = self.waiting.iter().position(is_it)?;
        match result {
            Ok(parts) => {
                let waiting = &mut self.waiting[index];
                (waiting.parts, waiting.stage) = (Some(parts), Stage::Ready);
                None
            }
            Err(error) => {
                self.waiting.remove(index);
                Some((ticket, error))
            }
        }
    }

    /// The backup has answered a question. Gives the error of a device that its host has not.
    pub fn answered(&mut self, id: u64, missing: Option<String>) -> Option<(Ticket, VmError)> {
        let is_it = |w: &Waiting| matches!(w.stage, Stage::Asked(question, _) if question == id);
        let index = self.waiting.iter().position(is_it)?;
        if let Some(missing) = missing {
            let waiting = self.waiting.remove(index);
            return Some((waiting.ticket, VmError::PeerLacks { missing }));
        }
        let waiting = &mut self.waiting[index];
        if let Stage::Asked(_, generation) = waiting.stage {
            waiting.stage = Stage::Agreed(generation);
        }
        None
    }

    /// Asks what must be asked. Gives a device that may be plugged in now, if there is one.
    pub fn next(&mut self, role: &mut PrimaryRole) -> Option<Addition> {
        if self.waiting.is_empty() {
            return None;
        }
        let backup = role.backup();
        let is_alone = role.is_alone();
        let mut found = None;
        for (index, waiting) in self.waiting.iter_mut().enumerate() {
            match waiting.stage {
                Stage::Opening => continue,
                Stage::Asked(_, of) | Stage::Agreed(of) if backup != Some(of) => {
                    waiting.stage = Stage::Ready;
                }
                _ => {}
            }
            if let (Stage::Ready, Some(of)) = (&waiting.stage, backup) {
                self.questions += 1;
                let json = waiting.device.to_json();
                if role.ask_about_device(self.questions, json).is_ok() {
                    waiting.stage = Stage::Asked(self.questions, of);
                }
            }
            let may_go = match waiting.stage {
                Stage::Ready => is_alone,
                Stage::Agreed(_) => true,
                Stage::Opening | Stage::Asked(..) => false,
            };
            if may_go {
                found = Some(index);
                break;
            }
        }
        let waiting = self.waiting.remove(found?);
        let (spec, opened) = waiting.parts?;
        Some(Addition {
            ticket: waiting.ticket,
            device: waiting.device,
            slot: waiting.slot,
            spec,
            opened,
        })
    }

    /// Nothing is added any more. Gives those who waited.
    pub fn end(&mut self) -> Vec<Ticket> {
        let waiting = self.waiting.drain(..);
        waiting.map(|waiting| waiting.ticket).collect()
    }
}

/// Looks on a thread of its own whether this host has what a device needs, which the primary wants
/// to know; `answer` gets its name and whether its image is seen to be locked, or what is missing.
pub fn look_for(
    config: Vec<u8>,
    fence: Option<Fence>,
    answer: impl FnOnce(Result<(String, bool), String>) + Send + 'static,
) -> io::Result<()> {
    let look = move || {
        let found = NewDevice::from_json(&config)
            .map_err(|error| super::reasons::chain(&error).join(": "))
            .and_then(|device| {
                let name = device.id().cloned().unwrap_or_default();
                let mut alone = VmConfig::default();
                alone.add_device(device, None);
                let fencing = fencing::judge(&alone, fence.as_ref())?;
                Ok((name, !fencing.locked.is_empty()))
            });
        answer(found);
    };
    let thread = thread::Builder::new().name("look-for-device".to_owned());
    thread.spawn(look).map(drop)
}
