//! The VMM thread: the one owner of the virtual machine's life.
//!
//! Does: take requests, machine events and signals one after the other, keep the lifecycle, and
//! answer. Does not: run the guest, touch sockets, or block on a machine.
//!
//! Invariant: there is at most one VM, and it is in exactly one [`Slot`]; every change of slot
//! happens on this thread.
//!
//! ```text
//!              create              boot                 stopped by itself
//!      Empty ─────────► Created ─────────► Up ────────► (status says why)
//!        ▲ ◄──delete────┘   ▲ ◄──shutdown──┘ │
//!        └──────────────────────delete───────┘
//! ```

use std::collections::BTreeMap;
use std::sync::mpsc;

use log::{error, info, warn};
use net_util::MacAddress;

use crate::api::{ApiCall, ApiError, ApiHandle, Reply, Request, Response, VmInfo, VmmPing};
use crate::config::{FtConfig, FtEnableConfig, FtReceiveConfig, NetConfig, NewDevice, VmConfig};
use crate::control::{Command, Event, EventSender, Stop, Ticket, Vm, VmError, VmFactory};
use crate::device_tree;
use crate::host::event_monitor::EventMonitor;
use crate::status::{FtInfo, FtState, PciDeviceInfo, VmState, VmStatus};

/// What arrives at the VMM thread.
#[derive(Debug)]
pub(crate) enum Message {
    /// A request.
    Api(ApiCall),
    /// A machine's report.
    Vm {
        /// Which machine, of all this process has had.
        instance: u64,
        /// What it says.
        event: Event,
    },
    /// The process is asked to end.
    Signal(i32),
}

/// Why the VMM thread ended.
#[derive(Debug)]
pub enum End {
    /// The guest powered off.
    PoweredOff,
    /// `vmm.shutdown`.
    Requested,
    /// A signal.
    Signal(i32),
    /// The other side of the pairing holds the flag, and there is nobody to tell over an API.
    Superseded,
    /// The machine failed, and there is nobody to tell over an API.
    Failed(VmError),
}

/// The place of the one VM.
enum Slot {
    /// There is none.
    Empty,
    /// It has a configuration.
    Created {
        config: Box<VmConfig>,
        ft: Option<FtEnableConfig>,
    },
    /// It has a machine. A receiving one learns its configuration later.
    Up {
        vm: Box<dyn Vm>,
        config: Option<Box<VmConfig>>,
    },
}

/// What follows a command's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Nothing,
    ToCreated,
    ToEmpty,
    End,
}

impl After {
    fn response(self) -> Response {
        if self == After::End {
            Response::ShutDown
        } else {
            Response::Done
        }
    }
}

struct Pending {
    /// The command's name.
    what: &'static str,
    /// What the event monitor says once it is done.
    announce: Option<&'static str>,
    after: After,
    reply: Option<Reply>,
}

/// The VMM thread's state.
pub struct Vmm {
    slot: Slot,
    instance: u64,
    tickets: u64,
    pending: BTreeMap<Ticket, Pending>,
    factory: Box<dyn VmFactory>,
    has_api: bool,
    monitor: EventMonitor,
    sender: mpsc::Sender<Message>,
    receiver: mpsc::Receiver<Message>,
}

impl Vmm {
    /// A VMM without a VM. With `has_api`, a machine that stops by failing stays to be asked about.
    pub fn new(factory: Box<dyn VmFactory>, has_api: bool, monitor: EventMonitor) -> Self {
        let (sender, receiver) = mpsc::channel();
        Vmm {
            slot: Slot::Empty,
            instance: 0,
            tickets: 0,
            pending: BTreeMap::new(),
            factory,
            has_api,
            monitor,
            sender,
            receiver,
        }
    }

    /// The way to ask this VMM.
    pub fn handle(&self) -> ApiHandle {
        ApiHandle::new(self.sender.clone())
    }

    /// Takes messages until the process is to end; the machine's threads have ended then.
    pub fn run(mut self) -> End {
        self.monitor.event("vmm", "starting");
        let end = loop {
            // `self` holds a sender, so the channel is never closed.
            let Ok(message) = self.receiver.recv() else {
                break End::Requested;
            };
            let end = match message {
                Message::Api(call) => self.request(call),
                Message::Vm { instance, event } if instance == self.instance => self.event(event),
                Message::Vm { .. } => None,
                Message::Signal(signal) => {
                    info!("ending, on signal {signal}");
                    Some(End::Signal(signal))
                }
            };
            if let Some(end) = end {
                break end;
            }
        };
        self.stop_machine();
        self.monitor.event("vmm", "shutdown");
        end
    }

    fn request(&mut self, call: ApiCall) -> Option<End> {
        let ApiCall { request, reply } = call;
        let answer = match request {
            Request::VmmPing => Ok(Response::Ping(VmmPing::here())),
            Request::VmInfo => self.info(),
            Request::VmCounters => self
                .status()
                .map(|status| Response::Counters(status.counters)),
            Request::FtInfo => self.ft_info(),
            Request::VmCreate(config) => self.create(config),
            Request::FtReceive(config) => self.receive(&config),
            Request::FtEnable(config) => return self.ft_enable(config, reply),
            Request::FtOverride(config) => self
                .factory
                .ft_override(config.id, &config.lease)
                .map(|()| Response::Done)
                .map_err(|source| ApiError::Vm {
                    what: "be released by an operator",
                    source,
                }),
            Request::VmBoot => return self.boot(reply),
            Request::VmDelete => return self.end_vm(After::ToEmpty, reply),
            Request::VmShutdown => return self.end_vm(After::ToCreated, reply),
            Request::VmmShutdown => return self.end_vm(After::End, reply),
            Request::VmReboot => return self.command(Command::Reset, After::Nothing, reply),
            Request::VmPause => return self.command(Command::Pause, After::Nothing, reply),
            Request::VmResume => return self.command(Command::Resume, After::Nothing, reply),
            Request::VmPowerButton => {
                return self.command(Command::PowerButton, After::Nothing, reply);
            }
            Request::VmResize(config) => match config.validate() {
                Ok(()) => return self.command(Command::Resize(config), After::Nothing, reply),
                Err(error) => Err(error.into()),
            },
            Request::VmAddDevice(device) => return self.add_device(device, reply),
            Request::VmRemoveDevice(device) => return self.remove_device(device.id, reply),
            Request::VmNmi => return self.command(Command::Nmi, After::Nothing, reply),
            Request::FtDisable => return self.command(Command::FtDisable, After::Nothing, reply),
            Request::FtFailover => return self.command(Command::FtFailover, After::Nothing, reply),
        };
        reply.send(answer);
        None
    }

    fn info(&self) -> Result<Response, ApiError> {
        let (config, status) = match &self.slot {
            Slot::Empty => return Err(ApiError::VmNotCreated),
            Slot::Created { config, .. } => (config, VmStatus::default()),
            Slot::Up { config: None, .. } => return Err(ApiError::VmReceiving),
            Slot::Up {
                vm,
                config: Some(config),
            } => (config, vm.status()),
        };
        let mut config = (**config).clone();
        // As Cloud Hypervisor tells it.
        for (console, pty) in [
            (&mut config.serial, &status.ptys.serial),
            (&mut config.console, &status.ptys.console),
        ] {
            if pty.is_some() {
                console.file.clone_from(pty);
            }
        }
        let is_up = matches!(self.slot, Slot::Up { .. });
        Ok(Response::Info(Box::new(VmInfo {
            device_tree: is_up.then(|| device_tree::of(&config)),
            memory_actual_size: config.memory.size.saturating_sub(status.ballooned),
            config,
            state: status.state,
        })))
    }

    fn status(&self) -> Result<VmStatus, ApiError> {
        match &self.slot {
            Slot::Empty => Err(ApiError::VmNotCreated),
            Slot::Created { .. } => Err(ApiError::VmNotBooted),
            Slot::Up { vm, .. } => Ok(vm.status()),
        }
    }

    fn ft_info(&self) -> Result<Response, ApiError> {
        let ft = match &self.slot {
            Slot::Empty => return Err(ApiError::VmNotCreated),
            Slot::Created { config, ft } => FtInfo {
                state: if ft.is_some() {
                    FtState::Armed
                } else {
                    FtState::Unprotected
                },
                vm_id: config.ft.as_ref().and_then(|ft| ft.id),
                peer: ft.as_ref().map(|ft| ft.peer.to_string()),
                ..Default::default()
            },
            Slot::Up { vm, .. } => vm.status().ft,
        };
        Ok(Response::Ft(ft))
    }

    fn create(&mut self, mut config: Box<VmConfig>) -> Result<Response, ApiError> {
        if !matches!(self.slot, Slot::Empty) {
            return Err(ApiError::VmAlreadyCreated);
        }
        config.validate()?;
        let ft = config.ft.get_or_insert(FtConfig {
            id: None,
            lease: None,
            fence: None,
        });
        if ft.id.is_none() {
            ft.id = Some(self.factory.fresh_id().map_err(ApiError::Build)?);
        }
        for net in config.net.iter_mut().flatten() {
            self.give_address(net)?;
        }
        self.slot = Slot::Created { config, ft: None };
        Ok(Response::Done)
    }

    /// An address for a card that has none: part of the configuration from here on, so that it is
    /// the same on every host.
    fn give_address(&mut self, net: &mut NetConfig) -> Result<(), ApiError> {
        if net.mac.is_none() {
            let random = self.factory.fresh_id().map_err(ApiError::Build)?;
            let [a, b, c, d, e, f, ..] = random.0;
            net.mac = Some(MacAddress::local([a, b, c, d, e, f]));
        }
        Ok(())
    }

    fn add_device(&mut self, mut device: Box<NewDevice>, reply: Reply) -> Option<End> {
        if let NewDevice::Net(net) = &mut *device
            && let Err(error) = self.give_address(net)
        {
            reply.send(Err(error));
            return None;
        }
        let Slot::Created { config, .. } = &mut self.slot else {
            return self.command(Command::AddDevice(device), After::Nothing, reply);
        };
        let mut changed = config.clone();
        let added = changed.name_for(&device).and_then(|_| {
            changed.add_device(*device, None);
            changed.validate()
        });
        if added.is_ok() {
            *config = changed;
        }
        reply.send(added.map(|()| Response::Done).map_err(ApiError::from));
        None
    }

    fn remove_device(&mut self, id: String, reply: Reply) -> Option<End> {
        let Slot::Created { config, .. } = &mut self.slot else {
            return self.command(Command::RemoveDevice(id), After::Nothing, reply);
        };
        let is_there = config.devices().iter().any(|place| place.id == id);
        // Names that were not given are given now, so that they stay.
        config.place_devices();
        let error = match config.remove_device(&id) {
            true => None,
            false if is_there => Some(VmError::NotRemovable { id }),
            false => Some(VmError::UnknownDevice { id }),
        };
        let what = "remove-device";
        reply.send(match error {
            None => Ok(Response::Done),
            Some(source) => Err(ApiError::Vm { what, source }),
        });
        None
    }

    fn next_instance(&mut self) -> EventSender {
        self.instance += 1;
        EventSender::new(self.instance, self.sender.clone())
    }

    fn boot(&mut self, reply: Reply) -> Option<End> {
        let (mut config, ft) = match std::mem::replace(&mut self.slot, Slot::Empty) {
            Slot::Created { config, ft } => (config, ft),
            other => {
                let error = match other {
                    Slot::Empty => ApiError::VmNotCreated,
                    _ => ApiError::VmAlreadyBooted,
                };
                self.slot = other;
                reply.send(Err(error));
                return None;
            }
        };
        self.monitor.event("vm", "booting");
        let events = self.next_instance();
        config.place_devices();
        match self.factory.build(&config, events) {
            Ok(vm) => {
                self.slot = Slot::Up {
                    vm,
                    config: Some(config),
                };
                if let Some(ft) = ft {
                    // Protection begins before the first step; its progress is in the status.
                    self.submit(Command::FtEnable(ft), After::Nothing, None);
                }
                self.submit(Command::Resume, After::Nothing, Some(reply));
            }
            Err(error) => {
                self.slot = Slot::Created { config, ft };
                reply.send(Err(ApiError::Build(error)));
            }
        }
        None
    }

    fn receive(&mut self, config: &FtReceiveConfig) -> Result<Response, ApiError> {
        if !matches!(self.slot, Slot::Empty) {
            return Err(ApiError::VmAlreadyCreated);
        }
        config.validate()?;
        let events = self.next_instance();
        let vm = self
            .factory
            .receive(config, events)
            .map_err(ApiError::Build)?;
        self.slot = Slot::Up { vm, config: None };
        Ok(Response::Done)
    }

    fn ft_enable(&mut self, mut config: FtEnableConfig, reply: Reply) -> Option<End> {
        if let Err(error) = config.validate() {
            reply.send(Err(error.into()));
            return None;
        }
        if config.lease.is_none() {
            config.lease = self
                .config()
                .and_then(|config| config.ft.as_ref()?.lease.clone());
        }
        if config.lease.is_none() {
            reply.send(Err(crate::config::ConfigError::NoLease.into()));
            return None;
        }
        match &mut self.slot {
            Slot::Created { ft, .. } => {
                *ft = Some(config);
                reply.send(Ok(Response::Done));
                None
            }
            _ => self.command(Command::FtEnable(config), After::Nothing, reply),
        }
    }

    fn config(&self) -> Option<&VmConfig> {
        match &self.slot {
            Slot::Empty => None,
            Slot::Created { config, .. } => Some(config),
            Slot::Up { config, .. } => config.as_deref(),
        }
    }

    /// Hands `command` to the machine; its answer becomes that to `reply`.
    fn command(&mut self, command: Command, after: After, reply: Reply) -> Option<End> {
        let error = match &self.slot {
            Slot::Empty => Some(ApiError::VmNotCreated),
            Slot::Created { .. } => Some(ApiError::VmNotBooted),
            Slot::Up { .. }
                if self
                    .pending
                    .values()
                    .any(|other| other.after != After::Nothing) =>
            {
                Some(ApiError::VmGoingDown)
            }
            Slot::Up { .. } => None,
        };
        match error {
            Some(error) => reply.send(Err(error)),
            None => self.submit(command, after, Some(reply)),
        }
        None
    }

    fn submit(&mut self, command: Command, after: After, reply: Option<Reply>) {
        let Slot::Up { vm, .. } = &self.slot else {
            // Dropping the reply answers it.
            return;
        };
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let announce = match command {
            Command::Pause => Some("paused"),
            Command::Resume if vm.status().state == VmState::Created => Some("booted"),
            Command::Resume => Some("resumed"),
            Command::Reset => Some("rebooted"),
            Command::Resize(_) => Some("resized"),
            Command::Shutdown => Some("shutdown"),
            _ => None,
        };
        if command == Command::Pause {
            self.monitor.event("vm", "pausing");
        }
        let pending = Pending {
            what: command.name(),
            announce,
            after,
            reply,
        };
        self.pending.insert(ticket, pending);
        vm.submit(ticket, command);
    }

    /// Powers the machine off, if there is one that still runs, and then does what `after` says.
    fn end_vm(&mut self, after: After, reply: Reply) -> Option<End> {
        match &self.slot {
            Slot::Up { vm, .. } if vm.status().state != VmState::Shutdown => {
                return self.command(Command::Shutdown, after, reply);
            }
            Slot::Empty if after == After::ToCreated => reply.send(Err(ApiError::VmNotCreated)),
            Slot::Created { .. } if after == After::ToCreated => {
                reply.send(Err(ApiError::VmNotBooted));
            }
            _ => {
                let end = self.finish(after);
                reply.send(Ok(after.response()));
                return end;
            }
        }
        None
    }

    /// What follows once the machine takes no further step.
    fn finish(&mut self, after: After) -> Option<End> {
        match after {
            After::Nothing => None,
            After::ToCreated => {
                if let Some(config) = self.stop_machine() {
                    self.slot = Slot::Created { config, ft: None };
                }
                None
            }
            After::ToEmpty => {
                self.stop_machine();
                self.slot = Slot::Empty;
                self.monitor.event("vm", "deleted");
                None
            }
            After::End => Some(End::Requested),
        }
    }

    /// Ends the machine's threads, if there is a machine, and answers what waits for it.
    fn stop_machine(&mut self) -> Option<Box<VmConfig>> {
        // Whatever the machine still sends belongs to no VM.
        self.instance += 1;
        let config = match std::mem::replace(&mut self.slot, Slot::Empty) {
            Slot::Up { vm, config } => {
                vm.stop();
                config
            }
            other => {
                self.slot = other;
                None
            }
        };
        for (_, pending) in std::mem::take(&mut self.pending) {
            if let Some(reply) = pending.reply {
                let what = pending.what;
                reply.send(Err(ApiError::Vm {
                    what,
                    source: VmError::Gone,
                }));
            }
        }
        config
    }

    fn event(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Answered { ticket, result } => self.answered(ticket, result.map(|()| None)),
            Event::Plugged { ticket, device } => self.answered(ticket, Ok(Some(device))),
            Event::Configured(new) => {
                if let Slot::Up { config, .. } = &mut self.slot {
                    *config = Some(new);
                }
                None
            }
            Event::Forgotten => {
                if let Slot::Up { config, .. } = &mut self.slot {
                    *config = None;
                }
                None
            }
            Event::Fencing => {
                self.monitor.event("vm", "fencing");
                None
            }
            Event::Fenced => {
                self.monitor.event("vm", "fenced");
                None
            }
            Event::Stopped(stop) => self.stopped(stop),
        }
    }

    fn answered(
        &mut self,
        ticket: Ticket,
        result: Result<Option<PciDeviceInfo>, VmError>,
    ) -> Option<End> {
        let Some(Pending {
            what,
            announce,
            after,
            reply,
        }) = self.pending.remove(&ticket)
        else {
            warn!("an answer to a command that nobody gave: {ticket:?}");
            return None;
        };
        let answer = result.map(|device| device.map_or_else(|| after.response(), Response::Device));
        let answer = answer.map_err(|source| ApiError::Vm { what, source });
        let mut end = None;
        if answer.is_ok() {
            if let Some(event) = announce {
                self.monitor.event("vm", event);
            }
            end = self.finish(after);
        }
        match (reply, answer) {
            (Some(reply), answer) => reply.send(answer),
            (None, Err(error)) => error!("{}", error.chain().join(": ")),
            (None, Ok(_)) => {}
        }
        end
    }

    fn stopped(&mut self, stop: Stop) -> Option<End> {
        match stop {
            Stop::PoweredOff => {
                info!("the guest has powered off");
                self.monitor.event("vm", "shutdown");
                // Whoever waits for a shutdown has it.
                for pending in self.pending.values_mut() {
                    if pending.after != After::Nothing
                        && let Some(reply) = pending.reply.take()
                    {
                        reply.send(Ok(pending.after.response()));
                    }
                }
                Some(End::PoweredOff)
            }
            Stop::Superseded => {
                error!("the other side of the pairing has taken over; this one has halted");
                self.monitor.event("vm", "halted");
                (!self.has_api).then_some(End::Superseded)
            }
            Stop::Failed(failure) => {
                let mut messages = vec![failure.to_string()];
                let mut source = std::error::Error::source(&failure);
                while let Some(cause) = source {
                    messages.push(cause.to_string());
                    source = cause.source();
                }
                error!("the virtual machine cannot go on: {}", messages.join(": "));
                self.monitor.event("vm", "failed");
                (!self.has_api).then_some(End::Failed(failure))
            }
        }
    }
}
