//! virtio over PCI, the modern kind (virtio 1.2, section 4.1).
//!
//! Does: the function's configuration space with its capabilities, BAR 0 with common, interrupt
//! status, device and notification structures and the MSI-X table, feature negotiation, and the
//! queues. Does not: know what the device is for (`device::Model`), or deliver messages.
//!
//! Invariant: the model is told of nothing before the driver has said DRIVER_OK, nor after the
//! device has said that it needs a reset. All that an access makes (requests, messages) is
//! collected in [`Env`] within the step.
//!
//! BAR 0, as Cloud Hypervisor has it: common configuration at 0, interrupt status at 0x2000, device
//! configuration at 0x4000, notifications at 0x6000 (4 bytes a queue), MSI-X table at 0x8000,
//! pending bits at 0x48000; 512 KiB, 64-bit.

mod common_configuration;
mod functions;

use devices::PendingOutput;
use memory::GuestRam;
use pci::{ConfigSpace, ConfigState, MsiMessage, Msix, MsixState};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

pub use self::common_configuration::CommonState;
use self::common_configuration::{Common, STATUS_DRIVER_OK};
use crate::device::{self, DeviceSpec, InvalidState, Model, ModelState, Reach};
use crate::request::{Event, Request, Submission};
use crate::ring::{Broken, NO_VECTOR, Ring, RingState};

/// Bytes in BAR 0, and its alignment.
pub const BAR_SIZE: u64 = 0x8_0000;
const COMMON: u64 = 0;
const ISR: u64 = 0x2000;
const DEVICE: u64 = 0x4000;
const NOTIFY: u64 = 0x6000;
const TABLE: u64 = 0x8000;
const PENDING: u64 = 0x4_8000;
/// Bytes of the structures in between.
const DEVICE_LENGTH: u64 = 0x1000;
const NOTIFY_LENGTH: u64 = 0x1000;
const TABLE_LENGTH: u64 = 0x4_0000;
const PENDING_LENGTH: u64 = 0x800;
/// Bytes between two queues' notification addresses.
const NOTIFY_MULTIPLIER: u32 = 4;

const FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Interrupt status: a queue, and the configuration.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// What an access reaches and makes.
pub struct Env<'a> {
    /// Guest RAM.
    pub ram: &'a mut GuestRam,
    /// Takes requests.
    pub submissions: &'a mut Vec<Submission>,
    /// Takes interrupt messages.
    pub messages: &'a mut Vec<MsiMessage>,
}

/// Whether a device is in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// It is.
    Present,
    /// It is, and the guest has been asked to give it up.
    Leaving,
    /// The guest has ejected it: nothing answers. Requests that it had in flight have not all ended
    /// yet.
    Ejected,
}

/// A device with its transport, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// Its number on the bus.
    pub device: u8,
    /// Whether it is in its slot.
    pub presence: Presence,
    /// What it is.
    pub spec: DeviceSpec,
    /// Configuration space.
    pub config: ConfigState,
    /// MSI-X.
    pub msix: MsixState,
    /// Common configuration.
    pub common: CommonState,
    /// Interrupt status.
    pub isr: u8,
    /// Queues.
    pub rings: Vec<RingState>,
    /// What the device remembers.
    pub model: ModelState,
}

/// A device with its transport.
pub struct VirtioPci {
    device: u8,
    presence: Presence,
    config: ConfigSpace,
    /// BAR 0 after power-up.
    bar: u64,
    msix: Msix,
    common: Common,
    isr: u8,
    rings: Vec<Ring>,
    model: Box<dyn Model>,
}

impl VirtioPci {
    /// A new device of number `device`, whose BAR 0 lies at `bar` after power-up.
    pub fn new(device: u8, bar: u64, spec: &DeviceSpec) -> Self {
        Self::with(device, bar, device::new(spec))
    }

    fn with(device: u8, bar: u64, model: Box<dyn Model>) -> Self {
        let sizes = model.queue_sizes();
        VirtioPci {
            device,
            presence: Presence::Present,
            config: functions::config_space(&*model, bar),
            bar,
            msix: Msix::new(vectors(sizes.len())),
            common: Common::new(),
            isr: 0,
            rings: sizes.into_iter().map(Ring::new).collect(),
            model,
        }
    }

    /// The state, every field of it.
    pub fn save(&self) -> TransportState {
        TransportState {
            device: self.device,
            presence: self.presence,
            spec: self.model.spec(),
            config: self.config.save(),
            msix: self.msix.save(),
            common: self.common.save(),
            isr: self.isr,
            rings: self.rings.iter().map(Ring::save).collect(),
            model: self.model.save(),
        }
    }

    /// A device with a saved state, whose BAR 0 lies at `bar` after power-up.
    pub fn restore(bar: u64, state: &TransportState) -> Result<Self, InvalidState> {
        let model = device::restore(&state.spec, &state.model)?;
        let sizes = model.queue_sizes();
        let mut device = Self::with(state.device, bar, model);
        device.presence = state.presence;
        device.config.restore(&state.config)?;
        device.msix = Msix::restore(vectors(sizes.len()), &state.msix)?;
        if functions::msix_control(&device.config) != state.msix.control {
            return Err(InvalidState {
                reason: "two values of the MSI-X control register",
            });
        }
        device.common = Common::restore(&state.common);
        device.isr = state.isr;
        if state.rings.len() != sizes.len() {
            return Err(InvalidState {
                reason: "another number of queues",
            });
        }
        let rings = sizes.iter().zip(&state.rings);
        device.rings = rings
            .map(|(size, state)| Ring::restore(*size, state))
            .collect::<Option<_>>()
            .ok_or(InvalidState {
                reason: "a queue that no driver can have set up",
            })?;
        if device.is_gone() {
            return Err(InvalidState {
                reason: "a device of which nothing is left",
            });
        }
        Ok(device)
    }

    /// Its number on the bus.
    pub fn device(&self) -> u8 {
        self.device
    }

    /// What it is.
    pub fn spec(&self) -> DeviceSpec {
        self.model.spec()
    }

    /// Whether it is in its slot.
    pub fn presence(&self) -> Presence {
        self.presence
    }

    /// The guest is to give it up. False if that cannot be asked for.
    pub fn ask_for(&mut self) -> bool {
        let is_possible = self.presence != Presence::Ejected && self.spec().is_removable();
        if is_possible {
            self.presence = Presence::Leaving;
        }
        is_possible
    }

    /// The guest ejects it. False if it cannot be ejected. What was submitted stays submitted.
    pub fn eject(&mut self, submissions: &mut Vec<Submission>) -> bool {
        let is_possible = self.presence != Presence::Ejected && self.spec().is_removable();
        if is_possible {
            self.power_up(submissions);
            self.presence = Presence::Ejected;
        }
        is_possible
    }

    /// Whether nothing of it is left: it is ejected, and all its requests have ended.
    pub fn is_gone(&self) -> bool {
        self.presence == Presence::Ejected && self.model.in_flight().is_empty()
    }

    /// The machine is reset.
    pub fn power_up(&mut self, submissions: &mut Vec<Submission>) {
        self.reset(submissions);
        self.config = functions::config_space(&*self.model, self.bar);
        self.msix = Msix::new(vectors(self.rings.len()));
    }

    /// The driver resets the device.
    fn reset(&mut self, submissions: &mut Vec<Submission>) {
        self.common = Common::new();
        self.isr = 0;
        for ring in &mut self.rings {
            ring.reset();
        }
        self.reset_model(submissions);
    }

    fn reset_model(&mut self, submissions: &mut Vec<Submission>) {
        let device = self.device;
        self.model.reset(&mut |id, request| {
            submissions.push(Submission {
                device,
                id,
                request,
            });
        });
    }

    /// Requests that were submitted and have not ended, in order.
    pub fn in_flight(&self) -> Vec<Submission> {
        let device = self.device;
        let requests = self.model.in_flight().into_iter();
        requests
            .map(|(id, request)| Submission {
                device,
                id,
                request,
            })
            .collect()
    }

    fn features(&self) -> u64 {
        FEATURES | self.model.features()
    }

    // --- BAR 0.

    /// The offset into BAR 0 that `address` means, if it is decoded.
    pub fn offset(&self, address: u64) -> Option<u64> {
        let offset = address.wrapping_sub(functions::bar_address(&self.config)?);
        (offset < BAR_SIZE && self.presence != Presence::Ejected).then_some(offset)
    }

    /// Reads BAR 0. The access lies within 8 aligned bytes.
    pub fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            COMMON..ISR => {
                let image = self.common.image(&self.rings, self.features());
                device::read_bytes(&image, offset as usize, data);
            }
            ISR => data[0] = std::mem::take(&mut self.isr),
            DEVICE.. if offset - DEVICE < DEVICE_LENGTH => {
                self.model.read_config((offset - DEVICE) as usize, data);
            }
            TABLE.. if offset - TABLE < TABLE_LENGTH => {
                self.msix.read_table(offset - TABLE, data);
            }
            PENDING.. if offset - PENDING < PENDING_LENGTH => {
                self.msix.read_pending(offset - PENDING, data);
            }
            _ => {}
        }
    }

    /// Writes BAR 0. The access lies within 8 aligned bytes.
    pub fn write_bar(&mut self, env: &mut Env<'_>, offset: u64, data: &[u8]) {
        match offset {
            COMMON..ISR => self.write_common(env, offset as usize, data),
            DEVICE.. if offset - DEVICE < DEVICE_LENGTH => {
                let features = self.common.driver_features;
                let offset = (offset - DEVICE) as usize;
                self.model.write_config(offset, data, features);
            }
            NOTIFY.. if offset - NOTIFY < NOTIFY_LENGTH => {
                let queue = (offset - NOTIFY) / u64::from(NOTIFY_MULTIPLIER);
                self.notify(env, queue as usize);
            }
            TABLE.. if offset - TABLE < TABLE_LENGTH => {
                let messages = self.msix.write_table(offset - TABLE, data);
                env.messages.extend(messages);
            }
            _ => {}
        }
    }

    fn write_common(&mut self, env: &mut Env<'_>, offset: usize, data: &[u8]) {
        let features = self.features();
        let vectors = vectors(self.rings.len());
        let written =
            self.common
                .write(offset, data, &mut self.rings, (features, vectors), env.ram);
        match written {
            common_configuration::Written::Nothing => {}
            common_configuration::Written::Reset => self.reset(env.submissions),
            common_configuration::Written::Started => self.with_model(env, |model, reach| {
                model.started(reach);
                Ok(())
            }),
            common_configuration::Written::Broken => self.broken(env),
        }
    }

    // --- Queues.

    /// For how many of the next frames, of which the lengths are given, its driver has buffers now;
    /// `None` unless it is a card that a driver uses.
    pub fn receivable(
        &self,
        ram: &GuestRam,
        frames: &mut dyn Iterator<Item = usize>,
    ) -> Option<usize> {
        let features = self.common.driver_features;
        let count = self.model.receivable(&self.rings, features, ram, frames);
        count.filter(|_| self.common.is_running())
    }

    /// How many typed bytes would not be lost now, if it takes any.
    pub fn input_room(&self) -> Option<usize> {
        self.model.input_room()
    }

    /// What was written to it and is not known to be emitted, if it is a console.
    pub fn output(&self) -> Option<&PendingOutput> {
        self.model.output()
    }

    /// Bytes of guest RAM that the driver says it does without.
    pub fn ballooned(&self) -> u64 {
        self.model.ballooned()
    }

    /// How many bytes of a stream from the host it can take now; `None` if there is no such stream
    /// or nobody wants more of it.
    pub fn stream_room(&self, stream: u64, ram: &GuestRam) -> Option<usize> {
        self.model.stream_room(stream, &self.rings, ram)
    }

    fn notify(&mut self, env: &mut Env<'_>, queue: usize) {
        if self.common.is_running() && self.rings.get(queue).is_some_and(Ring::is_ready) {
            self.with_model(env, |model, reach| model.notify(queue, reach));
        }
    }

    /// The world says something.
    pub fn event(&mut self, env: &mut Env<'_>, event: &Event) {
        // A device that is not running has no buffers, but may have requests to forget.
        self.with_model(env, |model, reach| model.event(event, reach));
    }

    fn with_model(
        &mut self,
        env: &mut Env<'_>,
        call: impl FnOnce(&mut dyn Model, &mut Reach<'_>) -> Result<(), Broken>,
    ) {
        let (device, submissions) = (self.device, &mut *env.submissions);
        let mut submit = |id: u64, request: Request| {
            submissions.push(Submission {
                device,
                id,
                request,
            });
        };
        // Before DRIVER_OK, and after a mistake, the driver's buffers are not the device's.
        let is_running = self.common.is_running();
        let mut reach = Reach {
            ram: env.ram,
            rings: if is_running { &mut self.rings } else { &mut [] },
            features: self.common.driver_features,
            submit: &mut submit,
            config_changed: false,
        };
        let result = call(&mut *self.model, &mut reach);
        let config_changed = reach.config_changed;
        for index in 0..self.rings.len() {
            if self.rings[index].end_step(env.ram) {
                let vector = self.rings[index].vector;
                self.interrupt(env, vector, ISR_QUEUE);
            }
        }
        if config_changed {
            self.common.generation = self.common.generation.wrapping_add(1);
            let vector = self.common.config_vector;
            self.interrupt(env, vector, ISR_CONFIG);
        }
        if result.is_err() {
            self.broken(env);
        }
    }

    /// What the driver has set up makes no sense.
    fn broken(&mut self, env: &mut Env<'_>) {
        self.common.status |= VIRTIO_CONFIG_S_NEEDS_RESET as u8;
        for ring in &mut self.rings {
            ring.stop();
        }
        self.reset_model(env.submissions);
        if self.common.status & STATUS_DRIVER_OK != 0 {
            let vector = self.common.config_vector;
            self.interrupt(env, vector, ISR_CONFIG);
        }
    }

    fn interrupt(&mut self, env: &mut Env<'_>, vector: u16, reason: u8) {
        if !self.msix.is_enabled() {
            self.isr |= reason;
        } else if vector != NO_VECTOR {
            env.messages.extend(self.msix.raise(vector));
        }
    }
}

/// MSI-X vectors of a device with so many queues: one each, and one for the configuration.
fn vectors(queues: usize) -> u16 {
    queues as u16 + 1
}
