//! A machine that follows a primary.
//!
//! Does: make the clone a machine, and run it as the log says: to each entry's position, then what
//! the entry says, never beyond the last one; drop its outputs. Does not: decide when to go live
//! (`ft::backup` does), or emit.
//!
//! Invariant: the machine is where the log led it and nowhere else. An idle jump, a reset and a
//! power-off are the machine's own steps: it makes them when the log reaches beyond them, and
//! nobody here looks at a clock for them (paper §2.1, §2.2).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ft::backup::{HaltReason, Replay};
use ft::log::{Body, Control, Entry};
use machine::{Exit, Input, Machine, Output, Position, Request};

use super::backup_role::{Over, Promotion, ReceivedClone, SharedBackup, lock};
use super::digest_thread::DigestThread;
use super::digests;
use super::pacing::SliceLength;
use super::parts::Parts;
use super::reasons;
use crate::config::{NewDevice, VmConfig};
use crate::control::{Command, Event, Ticket, VmError};
use crate::host::clock;
use crate::status::VmState;

/// Whoever waits looks this often anyway.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a primary has to take a goodbye (host ns).
const LAST_WORDS: u64 = 300_000_000;
const SHORTLY: Duration = Duration::from_millis(10);

/// How following ended.
pub enum Followed {
    /// This side speaks for the VM now.
    Live(Box<LiveMachine>),
    /// Another primary may come.
    Again,
    /// This side must never go live.
    Halted(HaltReason),
    /// The VM has ended.
    PowerOff,
    /// The threads are to end; somebody waits for it, maybe.
    Stopped(Option<Ticket>),
}

/// A machine that goes live.
pub struct LiveMachine {
    /// It.
    pub machine: Machine,
    /// Its configuration.
    pub config: Box<VmConfig>,
    /// With what it goes live.
    pub promotion: Promotion,
    /// Who followed.
    pub role: SharedBackup,
    /// The primary was paused.
    pub is_paused: bool,
    /// Somebody wants it powered off, who had to wait until it was live.
    pub shutdown: Option<Ticket>,
}

/// Why a machine cannot be brought to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// It waits for an input that the log does not have.
    Idle,
    /// It is off.
    PoweredOff,
}

impl Stuck {
    /// What differs from the machine that made the log.
    pub fn component(self) -> &'static str {
        match self {
            Stuck::Idle => "idle",
            Stuck::PoweredOff => "power",
        }
    }
}

/// Runs to `until`, through idle times and resets; comes back earlier if kicked.
pub fn run_to(machine: &mut Machine, until: Position, kick: &AtomicBool) -> Result<(), Stuck> {
    loop {
        match machine.run(until, kick) {
            Exit::Until | Exit::Kicked => return Ok(()),
            Exit::Output | Exit::Reset => {}
            Exit::Idle {
                deadline: Some(deadline),
            } => machine.idle_jump(deadline),
            Exit::Idle { deadline: None } => return Err(Stuck::Idle),
            Exit::PoweredOff if machine.position() >= until => return Ok(()),
            Exit::PoweredOff => return Err(Stuck::PoweredOff),
        }
    }
}

/// Follows until that ends.
pub fn follow(clone: ReceivedClone, parts: &Arc<Parts>) -> Followed {
    let ReceivedClone {
        whole,
        position,
        role,
    } = clone;
    let config = whole.config.clone();
    let began = clock::monotonic_ns();
    let mut machine = match whole.into_machine(position, parts.options.tuning()) {
        Ok(machine) => machine,
        Err(error) => {
            lock(&role).refuse(&reasons::chain(&error).join(": "));
            return Followed::Again;
        }
    };
    let digest = digests::components(&machine.clone_digest());
    log::info!(
        "the clone stands at {position}, built in {} ms",
        (clock::monotonic_ns() - began) / 1_000_000
    );
    parts.board.set_memory(config.memory.size);
    parts.events.send(Event::Configured(config.clone()));
    let weak = Arc::downgrade(&role);
    let digester = DigestThread::start(move |id, components| {
        // A role that is gone compares nothing.
        if let Some(role) = weak.upgrade() {
            lock(&role).own_digest(id, components);
        }
    });
    let digester = match digester {
        Ok(digester) => digester,
        Err(error) => {
            lock(&role).refuse(&format!("cannot start the digest thread: {error}"));
            return Followed::Again;
        }
    };
    lock(&role).clone_built(digest);
    parts.board.set_state(VmState::Running);
    Follower {
        machine,
        config,
        parts: Arc::clone(parts),
        role,
        digester,
        slice: SliceLength::default(),
        is_paused: false,
        shutdown: None,
    }
    .run()
}

/// Tells the primary that this side is taken away, so that it goes on without it; false if this side
/// may be the only one.
pub fn leave(role: &SharedBackup, parts: &Parts) -> bool {
    if !lock(role).leave() {
        return false;
    }
    let deadline = clock::monotonic_ns() + LAST_WORDS;
    while !lock(role).is_closed() && clock::monotonic_ns() < deadline {
        parts.inbox.wait(SHORTLY);
        parts.inbox.look();
    }
    true
}

struct Follower {
    machine: Machine,
    config: Box<VmConfig>,
    parts: Arc<Parts>,
    role: SharedBackup,
    digester: DigestThread,
    slice: SliceLength,
    is_paused: bool,
    shutdown: Option<Ticket>,
}

impl Follower {
    fn run(mut self) -> Followed {
        loop {
            let mail = self.parts.inbox.take();
            if mail.stop {
                return Followed::Stopped(None);
            }
            for (ticket, command) in mail.commands {
                if command == Command::Shutdown && self.shutdown.is_none() {
                    if leave(&self.role, &self.parts) {
                        return Followed::Stopped(Some(ticket));
                    }
                    // The primary is lost. The flag has been asked, or is about to be, and its
                    // answer must not be left lying.
                    self.shutdown = Some(ticket);
                    continue;
                }
                let command = command.name();
                let refusal = VmError::OnBackup { command };
                self.parts.answer(ticket, Err(refusal));
            }
            let at = self.machine.position();
            self.parts.board.at(at, self.machine.console().written);
            self.parts.board.ballooned(self.machine.ballooned());
            let next = lock(&self.role).replay(at);
            match next {
                Replay::RunTo(position) => self.run_to(position),
                Replay::Apply(entry) => self.apply(entry),
                Replay::Wait => self.parts.inbox.wait(PATIENCE),
                Replay::GoLive | Replay::Stop => {
                    let over = lock(&self.role).over().cloned();
                    if let Some(over) = over {
                        return self.end(over);
                    }
                    self.parts.inbox.wait(PATIENCE);
                }
            }
        }
    }

    fn run_to(&mut self, position: Position) {
        let from = self.machine.position();
        let until = position.min(Position(from.0 + self.slice.steps()));
        let began = clock::monotonic_ns();
        let result = run_to(&mut self.machine, until, self.parts.inbox.kick());
        let elapsed = clock::monotonic_ns() - began;
        self.slice.took(self.machine.position().0 - from.0, elapsed);
        self.report_outputs();
        if let Err(stuck) = result {
            lock(&self.role).replay_failed(stuck.component());
        }
    }

    /// What this side's machine lets out goes nowhere, and is compared with the primary's.
    fn report_outputs(&mut self) {
        let outputs = self.machine.take_outputs();
        if !outputs.is_empty() {
            let mut role = lock(&self.role);
            outputs.iter().for_each(|output| role.own_output(output));
        }
        for output in outputs {
            if let Output::Device { submission, .. } = output
                && submission.request == Request::Detach
                && let Some(place) = self.config.device_in(submission.device)
            {
                let id = place.id;
                self.config.remove_device(&id);
                lock(&self.role).detached(submission.device);
                self.parts
                    .events
                    .send(Event::Configured(self.config.clone()));
            }
        }
    }

    /// A device was plugged in: this side knows what to open if it goes live.
    fn plugged(&mut self, slot: u8, config: &[u8]) {
        match NewDevice::from_json(config) {
            Ok(device) => {
                let name = device.id().cloned().unwrap_or_default();
                lock(&self.role).plugged(slot, &name);
                self.config.add_device(device, Some(slot));
                self.parts
                    .events
                    .send(Event::Configured(self.config.clone()));
            }
            Err(error) => {
                log::error!("a new device: {}", reasons::chain(&error).join(": "));
                lock(&self.role).replay_failed("device configuration");
            }
        }
    }

    fn apply(&mut self, entry: Entry) {
        match entry.body {
            Body::Input(input) => {
                if let Input::Device {
                    event: machine::Event::Balloon { pages },
                    ..
                } = input
                {
                    // Who goes live says what the operator asked for.
                    self.config.set_balloon(pages);
                    let told = self.config.clone();
                    self.parts.events.send(Event::Configured(told));
                }
                self.machine.apply(&input);
                if let Input::Plug { device, config, .. } = &input {
                    self.plugged(*device, config);
                }
                self.report_outputs();
            }
            Body::DigestHere { id } => {
                self.digester.digest(id, self.machine.begin_digest());
            }
            Body::Control(Control::Pause) => self.is_paused = true,
            Body::Control(Control::Resume) => self.is_paused = false,
            // The role ends, or has compared it.
            Body::Control(Control::PowerOff | Control::EndOfLog(_))
            | Body::Watermark
            | Body::Output(_)
            | Body::DigestValue { .. } => {}
        }
    }

    fn end(self, over: Over) -> Followed {
        if let (Some(ticket), false) = (self.shutdown, matches!(over, Over::Live(_))) {
            // There is nothing to be powered off any more.
            self.parts.answer(ticket, Ok(()));
        }
        match over {
            Over::Live(promotion) => Followed::Live(Box::new(LiveMachine {
                machine: self.machine,
                config: self.config,
                promotion,
                role: self.role,
                is_paused: self.is_paused,
                shutdown: self.shutdown,
            })),
            Over::Again(_) => Followed::Again,
            Over::Halted(reason) => Followed::Halted(reason),
            Over::PowerOff => Followed::PowerOff,
        }
    }
}
