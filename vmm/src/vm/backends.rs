//! What a live machine has of this host: its console's other end, and its devices' backends.
//!
//! Does: open images, say what devices the machine gets, and start the threads behind the gate.
//! Does not: carry requests out (`host`), or hold them back (`ft`'s gate).
//!
//! Invariant: only a live machine has backends; a backup opens nothing before it goes live. They
//! take from the gate only what may leave, and are asked no more once the role is silenced.

use std::sync::Arc;
use std::time::Duration;

use block::Image;
use machine::block::BlockSpec;
use machine::{DeviceSpec, Lane, Outcome, Output};

use super::bells::Bells;
use super::inbox::{Completion, Inbox};
use super::outlet::{History, Outlet};
use super::primary_role::{SharedPrimary, lock};
use crate::config::{DiskConfig, Planned, VmConfig};
use crate::control::VmError;
use crate::host::clock;
use crate::host::disk::{self, Disk};
use crate::host::request_thread::{RequestSource, RequestThread, Taken};

/// The images of a machine that is to be built, open and locked.
pub struct Images(Vec<Box<dyn Image>>);

fn place(config: &DiskConfig) -> disk::Place {
    disk::Place {
        path: config.path.clone().unwrap_or_default(),
        options: block::OpenOptions {
            read_only: config.readonly,
            direct: config.direct,
        },
    }
}

/// The devices that `config` means, with the images that say how large its disks are.
pub fn prepare(config: &VmConfig) -> Result<(Vec<DeviceSpec>, Images), VmError> {
    let mut images = Vec::new();
    let mut specs = Vec::new();
    for device in config.devices() {
        specs.push(match device.planned {
            Planned::Disk(config) => {
                let image = place(config).open().map_err(|source| VmError::Because {
                    what: "use a disk",
                    source: Box::new(source),
                })?;
                let spec = disk_spec(config, &*image);
                images.push(image);
                DeviceSpec::Block(spec)
            }
        });
    }
    Ok((specs, Images(images)))
}

fn disk_spec(config: &DiskConfig, image: &dyn Image) -> BlockSpec {
    let mut serial = [0; machine::block::SERIAL_LENGTH];
    let text = config.serial.as_deref().unwrap_or_default().as_bytes();
    for (to, from) in serial.iter_mut().zip(text) {
        *to = *from;
    }
    let topology = image.topology();
    BlockSpec {
        sectors: image.size() / machine::block::SECTOR,
        read_only: config.readonly,
        serial,
        logical_block: topology.logical_block,
        physical_block: topology.physical_block,
        discards: true,
        queues: config.num_queues,
        queue_size: config.queue_size,
    }
}

/// With whom backends deal.
#[derive(Clone)]
pub struct Around {
    /// Where outputs wait.
    pub role: SharedPrimary,
    /// Who is told of what has come of them.
    pub inbox: Arc<Inbox>,
    /// Who wakes whom.
    pub bells: Arc<Bells>,
}

/// The backends.
pub struct Backends {
    outlet: Outlet,
    threads: Vec<RequestThread>,
}

impl Backends {
    /// Starts those of the machine of `config`, of whose console so many bytes are emitted. Without
    /// images, they are opened when they can be.
    pub fn start(
        config: &VmConfig,
        images: Option<Images>,
        around: &Around,
        emitted: u64,
    ) -> Result<Self, VmError> {
        let host = |what| move |source| VmError::Host { what, source };
        let history = match &images {
            Some(_) => History::Begins,
            None => History::Continues,
        };
        let target = Outlet::target(&config.serial, history)?;
        let bell = around.bells.of(Lane::Console);
        let outlet = Outlet::open(
            &config.serial,
            target,
            &around.role,
            &around.inbox,
            &bell,
            emitted,
        )
        .map_err(host("connect the serial port"))?;
        let mut images = images.map(|images| images.0.into_iter());
        let mut threads = Vec::new();
        for device in config.devices() {
            let source = GatedRequests {
                around: around.clone(),
                device: device.device,
            };
            let bell = around.bells.of(Lane::Device(device.device));
            let thread = match device.planned {
                Planned::Disk(config) => {
                    let place = place(config);
                    let disk = match images.as_mut().and_then(Iterator::next) {
                        Some(image) => Disk::with(place, image),
                        None => Disk::waiting(place),
                    };
                    RequestThread::start(&device.id, bell, source, disk)
                }
            };
            threads.push(thread.map_err(host("start a device's thread"))?);
        }
        Ok(Backends { outlet, threads })
    }

    /// Waits until all console bytes up to the count `through` are out, but not longer than
    /// `timeout`.
    pub fn flush(&self, through: u64, timeout: Duration) {
        self.outlet.flush(through, timeout);
    }

    /// What was written so far is to survive the loss of this host.
    pub fn settle(&self) {
        self.threads.iter().for_each(RequestThread::settle);
    }

    /// Whether that is so by now.
    pub fn are_settled(&self) -> bool {
        self.threads.iter().all(RequestThread::is_settled)
    }
}

/// A device's thread takes from here what may leave.
struct GatedRequests {
    around: Around,
    device: u8,
}

impl RequestSource for GatedRequests {
    fn take(&mut self) -> Option<Taken> {
        let mut role = lock(&self.around.role);
        let output = role.take_output(clock::monotonic_ns(), Lane::Device(self.device));
        // While somebody could take over, what is done must not depend on this host.
        let durable = !role.is_alone();
        match output? {
            Output::Device { submission, .. } => Some(Taken {
                id: submission.id,
                request: submission.request,
                durable,
            }),
            Output::Console { .. } => None,
        }
    }

    fn ended(&mut self, id: u64, outcome: Outcome, data: Vec<u8>) {
        self.around.inbox.completed(Completion {
            device: self.device,
            id,
            outcome,
            data,
        });
    }
}
