//! What a live machine is told to do by its operator.
//!
//! Does: obey each command, or say why it cannot be; begin to hand the VM over, and tell how that
//! ended. Does not: add or remove devices (`devices`), make pairings (`pairing`), or decide what
//! becomes of a hand-over (`ft`).
//!
//! Invariant: what changes the guest stands in the log before the machine gets it, and whoever asked
//! is answered when no failover can undo it any more (paper §3.3).

use ft::log::{Body, Control};
use ft::primary::AppendError;
use machine::Input;
use thiserror::Error;

use super::super::pairing;
use super::super::primary_role::{PrimaryRole, lock};
use super::{Live, Promise};
use crate::config::{FtConfig, FtEnableConfig, ResizeConfig};
use crate::control::{Command, Event, Ticket, VmError};
use crate::host::clock;
use crate::status::VmState;

/// The backup did not take over.
#[derive(Debug, Error)]
#[error("{0}")]
struct NotHandedOver(String);

impl Live {
    /// Obeys a command, or says why not.
    pub(super) fn obey(&mut self, ticket: Ticket, command: Command) -> Result<(), AppendError> {
        let state = self.state;
        let is_up = matches!(state, VmState::Running | VmState::Paused);
        let wrong_state = VmError::WrongState {
            state,
            command: command.name(),
        };
        // What changes the guest stands in the log first; the answer comes when that is safe.
        let logged = match command {
            Command::Shutdown => return self.power_off(vec![ticket]),
            Command::FtFailover if self.ending.is_none() => return self.hand_over(ticket),
            _ if self.ending.is_some() => {
                self.parts.answer(ticket, Err(VmError::Gone));
                return Ok(());
            }
            Command::Resume if state != VmState::Running => self.resume(),
            Command::Pause if state == VmState::Running => self.pause(),
            Command::PowerButton if is_up => self.input(Input::PowerButton),
            Command::Reset if is_up => self.input(Input::Reset),
            Command::Resize(config) if is_up => match self.resize(config) {
                Ok(Some(input)) => self.input(input),
                result => {
                    self.parts.answer(ticket, result.map(drop));
                    return Ok(());
                }
            },
            Command::Nmi if is_up => self.input(Input::Nmi),
            Command::AddDevice(device) if is_up => {
                self.add_device(ticket, *device);
                return Ok(());
            }
            Command::RemoveDevice(id) if is_up => match self.removable(&id) {
                Ok(device) => self.input(Input::Unplug { device }),
                Err(error) => {
                    self.parts.answer(ticket, Err(error));
                    return Ok(());
                }
            },
            other => {
                let result = match other {
                    Command::FtEnable(config) => self.protect(&config),
                    Command::FtDisable => self.change("end protection", PrimaryRole::disable),
                    _ => Err(wrong_state),
                };
                self.parts.answer(ticket, result);
                return Ok(());
            }
        };
        match logged {
            Ok(seq) => self.promises.push_back((seq, Promise::Done(ticket))),
            Err(_) => self.parts.answer(ticket, Err(VmError::Gone)),
        }
        logged.map(|_| ())
    }

    /// Begins to hand the VM over.
    fn hand_over(&mut self, ticket: Ticket) -> Result<(), AppendError> {
        let now = clock::monotonic_ns();
        // The backup goes on exactly here.
        self.journal.watermark(now, self.machine.position())?;
        match self.change("hand over", PrimaryRole::hand_over) {
            Ok(()) => self.handing_over = Some(ticket),
            Err(error) => self.parts.answer(ticket, Err(error)),
        }
        Ok(())
    }

    /// Tells who waits for it that the VM was not handed over, if that is so.
    pub(super) fn end_hand_over(&mut self) {
        if self.handing_over.is_none() {
            return;
        }
        let why = {
            let role = lock(&self.role);
            if role.is_handing_over() || role.over().is_some() {
                return;
            }
            match role.last_error() {
                [] => "the backup did not catch up in time; it follows as before".to_owned(),
                why => why.join(": "),
            }
        };
        if let Some(ticket) = self.handing_over.take() {
            let error = VmError::Because {
                what: "hand over; it runs on here",
                source: Box::new(NotHandedOver(why)),
            };
            self.parts.answer(ticket, Err(error));
        }
    }

    /// What the guest is told of a resize, if anything.
    fn resize(&mut self, config: ResizeConfig) -> Result<Option<Input>, VmError> {
        let memory = self.config.memory.size;
        let Some(pages) = config.balloon_pages(self.config.balloon.as_ref(), memory)? else {
            return Ok(None);
        };
        let device = self.config.balloon_device();
        let event = machine::Event::Balloon { pages };
        self.config.set_balloon(pages);
        let told = self.config.clone();
        self.parts.events.send(Event::Configured(told));
        Ok(device.map(|device| Input::Device { device, event }))
    }

    fn resume(&mut self) -> Result<u64, AppendError> {
        let now = clock::monotonic_ns();
        let at = self.machine.position();
        let resume = Body::Control(Control::Resume);
        let seq = self.journal.append(now, at, resume)?;
        self.is_armed = self.state == VmState::Created && lock(&self.role).is_pairing();
        self.set_state(VmState::Running);
        self.pacer.resync(now, self.machine.now());
        Ok(seq)
    }

    fn pause(&mut self) -> Result<u64, AppendError> {
        let now = clock::monotonic_ns();
        // The guest's clock stands still from here on, also if the guest was waiting.
        self.end_idle(now)?;
        let at = self.machine.position();
        let pause = Body::Control(Control::Pause);
        let seq = self.journal.append(now, at, pause)?;
        self.set_state(VmState::Paused);
        Ok(seq)
    }

    fn set_state(&mut self, state: VmState) {
        self.state = state;
        self.parts.board.set_state(state);
    }

    fn change<E: std::error::Error + Send + Sync + 'static>(
        &self,
        what: &'static str,
        change: impl FnOnce(&mut PrimaryRole, u64) -> Result<(), E>,
    ) -> Result<(), VmError> {
        change(&mut lock(&self.role), clock::monotonic_ns()).map_err(|error| VmError::Because {
            what,
            source: Box::new(error),
        })
    }

    fn protect(&mut self, config: &FtEnableConfig) -> Result<(), VmError> {
        let Some(lease) = config.lease.clone() else {
            return Err(crate::config::ConfigError::NoLease.into());
        };
        pairing::begin(&self.parts, &self.role, config, &lease, &self.machine)?;
        // The backup learns from the configuration whom to ask.
        let ft = self.config.ft.get_or_insert(FtConfig {
            id: None,
            lease: None,
            fence: None,
        });
        ft.lease = Some(lease);
        if config.fence.is_some() {
            ft.fence.clone_from(&config.fence);
        }
        Ok(())
    }
}
