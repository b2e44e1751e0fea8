//! What the transport and the types of devices have in common.
//!
//! Does: name the types, what each is made of, and what a model does for the transport.
//! Does not: know PCI.
//!
//! Invariant: a specification and a state of another type are never mixed.

use devices::PendingOutput;
use memory::GuestRam;
use serde::{Deserialize, Serialize};

use crate::balloon::{Balloon, BalloonSpec, BalloonState};
use crate::block::{Block, BlockSpec, BlockState};
use crate::console::{Console, ConsoleState};
use crate::net::{Net, NetSpec, NetState};
use crate::request::{Event, Request};
use crate::ring::{Broken, Ring};
use crate::rng::{Rng, RngState};
use crate::vsock::{Vsock, VsockSpec, VsockState};

/// A saved state that no device could have saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidState {
    /// The rule it breaks.
    pub reason: &'static str,
}

impl From<pci::InvalidState> for InvalidState {
    fn from(invalid: pci::InvalidState) -> Self {
        InvalidState {
            reason: invalid.reason,
        }
    }
}

/// What a device is. It is state: a restored device is made of it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceSpec {
    /// A disk.
    Block(BlockSpec),
    /// A network card.
    Net(NetSpec),
    /// A source of random bytes.
    Rng,
    /// A console.
    Console,
    /// Streams between guest and host.
    Vsock(VsockSpec),
    /// A balloon.
    Balloon(BalloonSpec),
}

impl DeviceSpec {
    /// Refuses what no device can be.
    pub fn validate(&self) -> Result<(), InvalidState> {
        match self {
            DeviceSpec::Block(spec) => spec.validate(),
            DeviceSpec::Net(spec) => spec.validate(),
            DeviceSpec::Rng
            | DeviceSpec::Console
            | DeviceSpec::Vsock(_)
            | DeviceSpec::Balloon(_) => Ok(()),
        }
    }

    /// Whether it can be taken out of its slot while the machine runs.
    pub fn is_removable(&self) -> bool {
        matches!(
            self,
            DeviceSpec::Block(_) | DeviceSpec::Net(_) | DeviceSpec::Vsock(_)
        )
    }
}

/// What a model remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelState {
    /// A disk.
    Block(BlockState),
    /// A network card.
    Net(NetState),
    /// A source of random bytes.
    Rng(RngState),
    /// A console.
    Console(ConsoleState),
    /// Streams between guest and host.
    Vsock(VsockState),
    /// A balloon.
    Balloon(BalloonState),
}

/// What a model reaches during a step.
pub struct Reach<'a> {
    /// Guest RAM.
    pub ram: &'a mut GuestRam,
    /// The device's queues.
    pub rings: &'a mut [Ring],
    /// Features that the driver accepted; 0 before it has.
    pub features: u64,
    /// Takes the requests that may be carried out from now on, with their ids.
    pub submit: &'a mut dyn FnMut(u64, Request),
    /// Set by whoever changes the configuration: the driver is told.
    pub config_changed: bool,
}

/// A type of device.
pub trait Model: Send {
    /// Its number (virtio 1.2, chapter 5).
    fn device_type(&self) -> u16;

    /// PCI class and subclass.
    fn class(&self) -> [u8; 2];

    /// Features beyond the transport's.
    fn features(&self) -> u64;

    /// The most entries of each queue.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads its configuration; zeros beyond the end.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// Writes its configuration.
    fn write_config(&mut self, offset: usize, data: &[u8], features: u64);

    /// How many of the next frames, of which the lengths are given, it can take now; `None` if it
    /// is no card.
    fn receivable(
        &self,
        _rings: &[Ring],
        _features: u64,
        _ram: &GuestRam,
        _frames: &mut dyn Iterator<Item = usize>,
    ) -> Option<usize> {
        None
    }

    /// How many typed bytes would not be lost now, if it takes any.
    fn input_room(&self) -> Option<usize> {
        None
    }

    /// What was written to it and is not known to be emitted, if it is a console.
    fn output(&self) -> Option<&PendingOutput> {
        None
    }

    /// Bytes of guest RAM that the driver says it does without.
    fn ballooned(&self) -> u64 {
        0
    }

    /// How many bytes of a stream from the host it can take now; `None` if there is no such stream
    /// or nobody wants more of it.
    fn stream_room(&self, _stream: u64, _rings: &[Ring], _ram: &GuestRam) -> Option<usize> {
        None
    }

    /// The driver has set it up and begins.
    fn started(&mut self, _reach: &mut Reach<'_>) {}

    /// The driver says that there is something in a queue.
    fn notify(&mut self, queue: usize, reach: &mut Reach<'_>) -> Result<(), Broken>;

    /// The world says something.
    fn event(&mut self, event: &Event, reach: &mut Reach<'_>) -> Result<(), Broken>;

    /// The driver resets the device. What was submitted stays submitted; `submit` takes what is to be
    /// done because of the reset.
    fn reset(&mut self, submit: &mut dyn FnMut(u64, Request));

    /// The requests that were submitted and have not ended, in the order of submission.
    fn in_flight(&self) -> Vec<(u64, Request)>;

    /// What it is.
    fn spec(&self) -> DeviceSpec;

    /// What it remembers.
    fn save(&self) -> ModelState;
}

/// A new device.
pub(crate) fn new(spec: &DeviceSpec) -> Box<dyn Model> {
    match spec {
        DeviceSpec::Block(spec) => Box::new(Block::new(spec.clone())),
        DeviceSpec::Net(spec) => Box::new(Net::new(spec.clone())),
        DeviceSpec::Rng => Box::new(Rng::new()),
        DeviceSpec::Console => Box::new(Console::new()),
        DeviceSpec::Vsock(spec) => Box::new(Vsock::new(spec.clone())),
        DeviceSpec::Balloon(spec) => Box::new(Balloon::new(spec.clone())),
    }
}

/// A device with a saved state.
pub(crate) fn restore(
    spec: &DeviceSpec,
    state: &ModelState,
) -> Result<Box<dyn Model>, InvalidState> {
    Ok(match (spec, state) {
        (DeviceSpec::Block(spec), ModelState::Block(state)) => {
            Box::new(Block::restore(spec.clone(), state)?)
        }
        (DeviceSpec::Net(spec), ModelState::Net(state)) => {
            Box::new(Net::restore(spec.clone(), state)?)
        }
        (DeviceSpec::Rng, ModelState::Rng(state)) => Box::new(Rng::restore(state)?),
        (DeviceSpec::Vsock(spec), ModelState::Vsock(state)) => {
            Box::new(Vsock::restore(spec.clone(), state)?)
        }
        (DeviceSpec::Balloon(spec), ModelState::Balloon(state)) => {
            Box::new(Balloon::restore(spec.clone(), state)?)
        }
        (DeviceSpec::Console, ModelState::Console(state)) => Box::new(Console::restore(state)?),
        _ => {
            return Err(InvalidState {
                reason: "the state is of another type of device",
            });
        }
    })
}

/// Reads a configuration of `bytes` at `offset`.
pub(crate) fn read_bytes(bytes: &[u8], offset: usize, data: &mut [u8]) {
    for (byte, index) in data.iter_mut().zip(offset..) {
        *byte = bytes.get(index).copied().unwrap_or(0);
    }
}
