//! A machine that only pretends: it has states and answers, and no guest.
#![allow(dead_code)] // Each test program uses its part.

use std::sync::{Arc, Condvar, Mutex};

use vmm::config::{FtReceiveConfig, Lease, VmConfig, VmId};
use vmm::control::{Command, Event, EventSender, Stop, Ticket, Vm, VmError, VmFactory};
use vmm::status::{FtRole, FtState, PciDeviceInfo, VmState, VmStatus};

/// What a test and the machine share.
#[derive(Clone, Default)]
pub struct Control(Arc<(Mutex<Shared>, Condvar)>);

#[derive(Default)]
struct Shared {
    status: VmStatus,
    events: Option<EventSender>,
    commands: Vec<&'static str>,
    is_holding: bool,
    held: Vec<(Ticket, Command)>,
    fails_next_build: bool,
}

impl Control {
    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        let result = act(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        result
    }

    fn send(&self, event: Event) {
        let events = self.with(|shared| shared.events.clone().unwrap());
        events.send(event);
    }

    /// The next machine's kernel is missing.
    pub fn fail_next_build(&self) {
        self.with(|shared| shared.fails_next_build = true);
    }

    /// Whether the machine keeps its answers for itself; when it stops, it obeys and answers.
    pub fn hold_answers(&self, is_holding: bool) {
        let held = self.with(|shared| {
            shared.is_holding = is_holding;
            if is_holding {
                Vec::new()
            } else {
                std::mem::take(&mut shared.held)
            }
        });
        for (ticket, command) in held {
            self.obey(ticket, &command);
        }
    }

    /// Waits until an answer is held.
    pub fn wait_for_held(&self) {
        let shared = self.0.0.lock().unwrap();
        drop(
            self.0
                .1
                .wait_while(shared, |shared| shared.held.is_empty())
                .unwrap(),
        );
    }

    /// Waits until the machine is asked to do that.
    pub fn wait_for_command(&self, name: &str) {
        let shared = self.0.0.lock().unwrap();
        drop(
            self.0
                .1
                .wait_while(shared, |shared| !shared.commands.contains(&name))
                .unwrap(),
        );
    }

    /// What the machine was asked to do.
    pub fn commands(&self) -> Vec<&'static str> {
        self.with(|shared| shared.commands.clone())
    }

    /// The primary sends its configuration.
    pub fn configure(&self, json: &str) {
        let config = VmConfig::from_json(json.as_bytes()).unwrap();
        self.send(Event::Configured(Box::new(config)));
    }

    /// The guest powers off.
    pub fn power_off(&self) {
        self.with(|shared| shared.status.state = VmState::Shutdown);
        self.send(Event::Stopped(Stop::PoweredOff));
    }

    /// The other side takes over.
    pub fn supersede(&self) {
        self.with(|shared| {
            shared.status.state = VmState::Shutdown;
            shared.status.ft.state = FtState::Halted;
        });
        self.send(Event::Stopped(Stop::Superseded));
    }

    fn obey(&self, ticket: Ticket, command: &Command) {
        if let Command::AddDevice(device) = command {
            let device = PciDeviceInfo {
                id: device.id().cloned().unwrap_or_default(),
                bdf: vmm::config::bdf(5),
            };
            return self.send(Event::Plugged { ticket, device });
        }
        let result = self.with(|shared| {
            let status = &mut shared.status;
            let wrong = || {
                Err(VmError::WrongState {
                    state: status.state,
                    command: command.name(),
                })
            };
            match (command, status.state) {
                (Command::Resume, VmState::Created | VmState::Paused) => {
                    status.state = VmState::Running;
                }
                (Command::Pause, VmState::Running) => status.state = VmState::Paused,
                (Command::Shutdown, _) => status.state = VmState::Shutdown,
                (Command::FtEnable(_), _) => status.ft.role = FtRole::Primary,
                (Command::FtDisable, _) => status.ft.role = FtRole::None,
                (Command::Resume | Command::Pause, _) => return wrong(),
                _ => {}
            }
            Ok(())
        });
        self.send(Event::Answered { ticket, result });
    }
}

/// Builds pretended machines.
pub struct PretendedFactory(Control);

impl PretendedFactory {
    /// One whose machines `control` controls.
    pub fn new(control: Control) -> Self {
        PretendedFactory(control)
    }

    fn vm(&self, events: EventSender, status: VmStatus) -> Box<dyn Vm> {
        self.0.with(|shared| {
            shared.events = Some(events);
            shared.status = status;
        });
        Box::new(PretendedVm(self.0.clone()))
    }
}

impl VmFactory for PretendedFactory {
    fn build(&mut self, config: &VmConfig, events: EventSender) -> Result<Box<dyn Vm>, VmError> {
        if self
            .0
            .with(|shared| std::mem::take(&mut shared.fails_next_build))
        {
            return Err(VmError::File {
                what: "open the kernel",
                path: config.payload.as_ref().unwrap().kernel.clone().unwrap(),
                source: std::io::Error::from_raw_os_error(2),
            });
        }
        let mut status = VmStatus::default();
        let serial = [("write_bytes".to_owned(), 7)];
        status.counters.insert("__serial".to_owned(), serial.into());
        Ok(self.vm(events, status))
    }

    fn receive(
        &mut self,
        _config: &FtReceiveConfig,
        events: EventSender,
    ) -> Result<Box<dyn Vm>, VmError> {
        let mut status = VmStatus::default();
        status.ft.role = FtRole::Backup;
        status.ft.state = FtState::Receiving;
        Ok(self.vm(events, status))
    }

    fn ft_override(&mut self, _id: VmId, _lease: &Lease) -> Result<(), VmError> {
        Ok(())
    }

    fn fresh_id(&mut self) -> Result<VmId, VmError> {
        Ok(VmId([7; 16]))
    }
}

struct PretendedVm(Control);

impl Vm for PretendedVm {
    fn submit(&self, ticket: Ticket, command: Command) {
        let is_held = self.0.with(|shared| {
            shared.commands.push(command.name());
            if shared.is_holding {
                shared.held.push((ticket, command.clone()));
            }
            shared.is_holding
        });
        if !is_held {
            self.0.obey(ticket, &command);
        }
    }

    fn status(&self) -> VmStatus {
        self.0.with(|shared| shared.status.clone())
    }

    fn stop(self: Box<Self>) {
        self.0.with(|shared| shared.events = None);
    }
}
