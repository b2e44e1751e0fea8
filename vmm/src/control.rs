//! The seam between the VMM thread and a virtual machine that has been built.
//!
//! Does: name the commands that go to a machine's threads, the events that come back, and what a
//! machine shows of itself. Does not: run anything.
//!
//! Invariant: nothing that crosses this seam blocks the VMM thread. A command is submitted with a
//! [`Ticket`]; its answer comes later as an [`Event`]. A machine that waits for its arbiter, its
//! peer or a full console still answers `vm.info` and `vm.ft-info`, because its status is a value
//! that its threads publish, not a question they must answer.

use std::collections::BTreeMap;
use std::sync::mpsc;

use thiserror::Error;

use crate::authority::AuthorityError;
use crate::config::{
    ConfigError, FtEnableConfig, FtReceiveConfig, Lease, NewDevice, ResizeConfig, VmConfig, VmId,
};
use crate::status::{PciDeviceInfo, VmState, VmStatus};

/// Names one submitted command, so that its answer finds whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a machine's threads can be asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run: from the first step, or from where `Pause` stopped.
    Resume,
    /// Stop at a boundary and stay there.
    Pause,
    /// Press the power button.
    PowerButton,
    /// Reset the machine.
    Reset,
    /// Change the size of what can be resized.
    Resize(ResizeConfig),
    /// Give the guest a non-maskable interrupt.
    Nmi,
    /// Plug a device in. The answer is [`Event::Plugged`].
    AddDevice(Box<NewDevice>),
    /// Ask the guest to give up the device of this name.
    RemoveDevice(String),
    /// Power off: the machine takes no further step. A backup ends too and does not go live.
    Shutdown,
    /// Begin protection. Answered at once; progress shows in the status.
    FtEnable(FtEnableConfig),
    /// End protection in order, and go on alone.
    FtDisable,
    /// Let the backup go live and halt here.
    FtFailover,
}

impl Command {
    /// As people know it.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Resume => "resume",
            Command::Pause => "pause",
            Command::PowerButton => "power-button",
            Command::Reset => "reboot",
            Command::Resize(_) => "resize",
            Command::Nmi => "nmi",
            Command::AddDevice(device) => match **device {
                NewDevice::Disk(_) => "add-disk",
                NewDevice::Net(_) => "add-net",
                NewDevice::Vsock(_) => "add-vsock",
            },
            Command::RemoveDevice(_) => "remove-device",
            Command::Shutdown => "shutdown",
            Command::FtEnable(_) => "ft-enable",
            Command::FtDisable => "ft-disable",
            Command::FtFailover => "ft-failover",
        }
    }
}

/// Why a machine runs no more.
#[derive(Debug)]
pub enum Stop {
    /// Its guest powered it off (here, or on the primary that a backup follows).
    PoweredOff,
    /// The other side of its pairing holds the flag: nothing may leave here any more.
    Superseded,
    /// It cannot go on.
    Failed(VmError),
}

/// What a machine's threads report.
#[derive(Debug)]
pub enum Event {
    /// The answer to a command.
    Answered {
        /// Which command.
        ticket: Ticket,
        /// Whether it was done.
        result: Result<(), VmError>,
    },
    /// A device was plugged in: the answer to [`Command::AddDevice`].
    Plugged {
        /// Which command.
        ticket: Ticket,
        /// What it is called and where it is.
        device: PciDeviceInfo,
    },
    /// A receiving machine has learned from its primary what it is, or devices were plugged in or
    /// ejected.
    Configured(Box<VmConfig>),
    /// Nothing came of what the primary sent: a receiving machine waits for another primary.
    Forgotten,
    /// A side that went live waits for the old one to be fenced.
    Fencing,
    /// It waits no more.
    Fenced,
    /// The machine runs no more.
    Stopped(Stop),
}

/// Takes events from one machine's threads to the VMM thread.
#[derive(Clone, Debug)]
pub struct EventSender {
    instance: u64,
    sender: mpsc::Sender<crate::vmm::Message>,
}

impl EventSender {
    pub(crate) fn new(instance: u64, sender: mpsc::Sender<crate::vmm::Message>) -> Self {
        EventSender { instance, sender }
    }

    /// Reports `event`. Once the VMM thread has ended, nobody needs to know, and it is dropped.
    pub fn send(&self, event: Event) {
        let message = crate::vmm::Message::Vm {
            instance: self.instance,
            event,
        };
        // An error means that the VMM thread has ended.
        let _ = self.sender.send(message);
    }
}

/// A machine with its threads.
pub trait Vm: Send {
    /// Hands `command` to the machine's threads. Never blocks; the answer is an event.
    fn submit(&self, ticket: Ticket, command: Command);

    /// What the machine's threads last published.
    fn status(&self) -> VmStatus;

    /// Ends the machine's threads and waits for them. To a peer this looks like a crash, unless
    /// `Command::Shutdown` was answered before.
    fn stop(self: Box<Self>);
}

/// Builds machines.
pub trait VmFactory: Send {
    /// A machine as configured, its payload loaded, not yet running.
    fn build(&mut self, config: &VmConfig, events: EventSender) -> Result<Box<dyn Vm>, VmError>;

    /// A machine that waits for a primary to clone itself into it.
    fn receive(
        &mut self,
        config: &FtReceiveConfig,
        events: EventSender,
    ) -> Result<Box<dyn Vm>, VmError>;

    /// Ends the chain of generations of a VM, on an operator's word that no other host runs it.
    fn ft_override(&mut self, id: VmId, lease: &Lease) -> Result<(), VmError>;

    /// A fresh id for a VM whose configuration has none.
    fn fresh_id(&mut self) -> Result<VmId, VmError>;
}

/// Byte and event counts by device: `{"__serial": {"write_bytes": 12}}`.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;

/// Why a machine could not be built or could not obey.
#[derive(Debug, Error)]
pub enum VmError {
    /// The command makes no sense in this state.
    #[error("the virtual machine is {state}, which '{command}' cannot start from")]
    WrongState {
        /// Where it is.
        state: VmState,
        /// What was asked.
        command: &'static str,
    },
    /// There is no device of this name.
    #[error("there is no device '{id}'")]
    UnknownDevice {
        /// The name.
        id: String,
    },
    /// This device stays for as long as the VM is.
    #[error("the device '{id}' cannot be removed")]
    NotRemovable {
        /// Its name.
        id: String,
    },
    /// The PCI bus is full.
    #[error("all slots of the PCI bus are taken; remove a device first")]
    NoFreeSlot,
    /// This side follows another.
    #[error("this side is the backup; ask the primary for '{command}'")]
    OnBackup {
        /// What was asked.
        command: &'static str,
    },
    /// The backup could not have this device if it took over.
    #[error("the backup's host does not have what the device needs: {missing}")]
    PeerLacks {
        /// What it does not have.
        missing: String,
    },
    /// A file of the host could not be used.
    #[error("cannot {what} '{}'", path.display())]
    File {
        /// What was tried, as in "open the kernel".
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// The host refused something else.
    #[error("cannot {what}")]
    Host {
        /// What was tried, as in "start the vCPU thread".
        what: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
    /// The configuration does not allow it.
    #[error("the configuration does not allow it")]
    Config(#[from] ConfigError),
    /// This process may not speak for the VM.
    #[error("this process may not start the virtual machine")]
    Authority(#[from] AuthorityError),
    /// The engine that was asked for is not available.
    #[error("the {engine} engine is not available: {reason}")]
    Engine {
        /// Which engine.
        engine: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// This program cannot do that yet.
    #[error("{what} is not supported yet")]
    NotYet {
        /// What was asked for.
        what: &'static str,
    },
    /// The machine's threads have ended.
    #[error("the virtual machine has stopped")]
    Gone,
    /// A part below has its own type of error.
    #[error("cannot {what}")]
    Because {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
