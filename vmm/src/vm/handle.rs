//! The VMM thread's hold on a machine with its threads.
//!
//! Does: build or receive a machine, pass commands on, show its status, end its threads. Does not:
//! anything that takes time once the machine is there.
//!
//! Invariant: after `stop` no thread of the machine runs, except one that is stuck in a call of the
//! host (a console that nobody reads, a dead mount), and nothing leaves any more that a backup
//! could already be making again.

use std::sync::Arc;
use std::thread;

use ft::Settings;
use ft::identity::Incarnation;
use ft::primary::Primary;
use machine::{DeviceSpec, Machine, MachineConfig, Position};

use super::backends::{Around, Backends, Start};
use super::bells::Bells;
use super::board::{Board, Part};
use super::inbox::Inbox;
use super::journal::Journal;
use super::listener::ListenerThread;
use super::live::Beginning;
use super::parts::Parts;
use super::primary_role::{PrimaryRole, Surroundings, lock};
use super::recorder::Recorder;
use super::{backends, payload, vcpu_thread};
use crate::config::{FtReceiveConfig, VmConfig};
use crate::control::{Command, Event, EventSender, Ticket, Vm, VmError};
use crate::host::{clock, random};
use crate::machine_factory::MachineOptions;
use crate::status::{VmState, VmStatus};

/// A machine with its threads.
pub struct MachineHandle {
    parts: Arc<Parts>,
    vcpu: thread::JoinHandle<()>,
    listener: Option<ListenerThread>,
}

fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> VmError {
    move |source| VmError::Host { what, source }
}

impl MachineHandle {
    /// Builds the machine of `config`, with its payload loaded, not yet running.
    pub fn build(
        config: &VmConfig,
        options: &MachineOptions,
        events: EventSender,
    ) -> Result<Self, VmError> {
        let id = config.ft.as_ref().and_then(|ft| ft.id);
        let vm = match id {
            Some(id) => id.0,
            None => random::bytes().map_err(host("make a random id"))?,
        };
        let vm = ft::identity::VmId(vm);
        let (devices, opened) = backends::prepare(config)?;
        let mut machine = new_machine(config, devices, options)?;
        let recorder = options
            .record
            .as_ref()
            .map(|path| {
                let json = serde_json::to_vec(config).map_err(crate::config::ConfigError::Json)?;
                Recorder::begin(path, vm, json, 0, &mut machine)
            })
            .transpose()?;

        let inbox = Inbox::new().map_err(host("make a place to sleep"))?;
        let (inbox, bells) = (Arc::new(inbox), Arc::new(Bells::default()));
        let us = Incarnation(random::bytes().map_err(host("make a random id"))?);
        let around = Surroundings {
            vm,
            us,
            inbox: Arc::clone(&inbox),
            bells: Arc::clone(&bells),
        };
        let role = PrimaryRole::new(Primary::new(Settings::default(), 0, Position(0)), around);
        let board = Board::new(Part::Primary(Arc::clone(&role)), config.memory.size);
        let around = Around {
            role: Arc::clone(&role),
            inbox: Arc::clone(&inbox),
            bells,
        };
        let backends = Backends::start(config, Start::New(opened), &around, &machine)?;
        board.set_ptys(backends.ptys());
        board.set_counters(backends.counters());
        let now = clock::monotonic_ns();
        let journal = Journal::new(Arc::clone(&role), recorder, &inbox, now, Position(0))
            .map_err(host("start the digest thread"))?;
        let parts = Parts::new(options.clone(), us, inbox, events, board);
        let beginning = Beginning {
            machine,
            config: Box::new(config.clone()),
            role,
            journal,
            backends,
            state: VmState::Created,
            shutdown: None,
        };
        let vcpu = vcpu_thread::start_live(Arc::clone(&parts), beginning);
        Ok(MachineHandle {
            parts,
            vcpu: vcpu.map_err(host("start the vCPU thread"))?,
            listener: None,
        })
    }

    /// Waits for a primary, as `config` says.
    pub fn receive(
        config: &FtReceiveConfig,
        options: &MachineOptions,
        events: EventSender,
    ) -> Result<Self, VmError> {
        let us = Incarnation(random::bytes().map_err(host("make a random id"))?);
        let board = Board::new(Part::Waiting, 0);
        let inbox = Inbox::new().map_err(host("make a place to sleep"))?;
        let parts = Parts::new(options.clone(), us, Arc::new(inbox), events, board);
        let listener = ListenerThread::start(config, Arc::clone(&parts))?;
        let vcpu = vcpu_thread::start_receiving(Arc::clone(&parts));
        Ok(MachineHandle {
            parts,
            vcpu: vcpu.map_err(host("start the vCPU thread"))?,
            listener: Some(listener),
        })
    }
}

/// A machine at position 0.
fn new_machine(
    config: &VmConfig,
    devices: Vec<(u8, DeviceSpec)>,
    options: &MachineOptions,
) -> Result<Machine, VmError> {
    let payload = config
        .payload
        .as_ref()
        .ok_or(crate::config::ConfigError::NoPayload)?;
    let source = &config.rng.src;
    let seed = random::seed_from(source).map_err(|error| VmError::File {
        what: "read the seed of the guest's random numbers from",
        path: source.clone(),
        source: error,
    })?;
    Machine::new(MachineConfig {
        memory_size: config.memory.size,
        profile: config.cpus.profile,
        devices,
        seed,
        start_time: clock::time_of_day_ns() / 1_000_000_000,
        payload: payload::read(payload)?,
        tuning: options.tuning(),
    })
    .map_err(|source| VmError::Because {
        what: "load the kernel into a new machine",
        source: Box::new(source),
    })
}

impl Vm for MachineHandle {
    fn submit(&self, ticket: Ticket, command: Command) {
        if !self.parts.inbox.submit(ticket, command) {
            let result = Err(VmError::Gone);
            self.parts.events.send(Event::Answered { ticket, result });
        }
    }

    fn status(&self) -> VmStatus {
        self.parts.board.status()
    }

    fn stop(self: Box<Self>) {
        drop(self.listener);
        if let Part::Primary(role) = self.parts.board.part() {
            let mut role = lock(&role);
            if !role.is_alone() {
                role.silence();
            }
        }
        self.parts.inbox.stop();
        self.parts.close_connection();
        // A panic in it has been reported.
        let _ = self.vcpu.join();
        self.parts.close_connection();
    }
}
