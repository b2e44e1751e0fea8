//! A live machine: the loop of the vCPU thread while it runs the guest for the world.
//!
//! Does: at each boundary take what waits, log it and apply it, run a slice, log what came out,
//! keep virtual time near the host's clock, sleep while the guest is idle. Does not: send the log or
//! emit output (other threads do, as `ft` allows), or decide about protection.
//!
//! Invariant: this thread alone appends to the log and touches the machine. Whatever the machine
//! gets from outside stands in the log first, at the position where it gets it: typed bytes,
//! commands, emitted counts, and the host's time as anchors; the order at a boundary is that of the
//! log. When the role says stop, no further step is made (paper §2.1, §2.2, §3.1).

mod clone;
mod commands;
mod devices;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ft::log::ComponentDigest;
use ft::primary::AppendError;
use machine::{Exit, Input, Lane, Machine, Position, StreamEvent};

use super::backends::Backends;
use super::brake;
use super::clone_out::CloneSender;
use super::hotplug::Hotplug;
use super::inbox::{Completion, Mail};
use super::journal::Journal;
use super::pacing::{Pacer, SliceLength};
use super::parts::Parts;
use super::primary_role::{Over, SharedPrimary, lock};
use crate::config::VmConfig;
use crate::control::{Event, Ticket, VmError};
use crate::host::clock;
use crate::status::{PciDeviceInfo, VmState};

const MILLISECOND: u64 = 1_000_000;
/// Counts of emitted bytes are logged this often at most (host ns).
const EMITTED_INTERVAL: u64 = 20 * MILLISECOND;
/// A guest that waits longer than this lets its backup come to where it waits (host ns). One that
/// waits for an answer has it by then, and its next output tells the backup anyway.
const GRACE: u64 = MILLISECOND / 2;
/// Whoever sleeps looks this often anyway.
const PATIENCE: u64 = 500 * MILLISECOND;
/// The most bytes of frames in one entry, unless it is one frame.
const FRAMES_PART: usize = 60 << 10;
/// The most bytes of a request's result in one entry.
const DATA_PART: usize = 48 << 10;
/// How long a console's reader has for the last bytes.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// And when the process is told to end.
const LAST_WORDS_SHORT: Duration = Duration::from_secs(1);

/// How a live machine came to its end.
#[derive(Debug)]
pub enum LiveEnd {
    /// The VM is off; these waited for it.
    Off(Vec<Ticket>),
    /// The other side speaks for the VM.
    Superseded,
    /// The threads are to end.
    Stopped,
    /// The machine cannot go on.
    Failed(VmError),
}

/// What somebody is told when it cannot be undone by a failover any more.
#[derive(Debug)]
enum Promise {
    /// A command is done.
    Done(Ticket),
    /// A device was plugged in.
    Plugged(Ticket, PciDeviceInfo),
    /// The VM has other devices than before.
    Configured(Box<VmConfig>),
}

/// What a live machine begins with.
pub struct Beginning {
    /// The machine.
    pub machine: Machine,
    /// Its configuration.
    pub config: Box<VmConfig>,
    /// Its role.
    pub role: SharedPrimary,
    /// Its log.
    pub journal: Journal,
    /// Its console and its devices' backends.
    pub backends: Backends,
    /// In which state it begins.
    pub state: VmState,
    /// It is to be powered off at once, for whoever asked before it was live.
    pub shutdown: Option<Ticket>,
}

/// The loop.
pub struct Live {
    machine: Machine,
    config: Box<VmConfig>,
    parts: Arc<Parts>,
    role: SharedPrimary,
    journal: Journal,
    backends: Backends,
    pacer: Pacer,
    slice: SliceLength,
    state: VmState,
    /// It was never run, and waits for its protection to begin.
    is_armed: bool,
    /// The machine stands at an idle boundary, with this deadline.
    idle: Option<Option<u64>>,
    /// Since when (host ns).
    idle_since: u64,
    /// Commands that are done, with the entries that must be safe before anybody is told.
    promises: VecDeque<(u64, Promise)>,
    hotplug: Hotplug,
    clone: Option<CloneSender>,
    emitted_at: u64,
    /// Somebody was told that the old side is not fenced.
    told_of_fencing: bool,
    /// Power off first of all, and tell whoever waits for that.
    shutdown: Option<Ticket>,
    /// The backup is to take over; somebody waits for what comes of it.
    handing_over: Option<Ticket>,
    /// The VM is being powered off; these wait for it.
    ending: Option<Vec<Ticket>>,
}

impl Live {
    /// The loop of a machine.
    pub fn new(parts: Arc<Parts>, beginning: Beginning) -> Self {
        let Beginning {
            machine,
            config,
            role,
            journal,
            backends,
            state,
            shutdown,
        } = beginning;
        parts.board.set_state(state);
        Live {
            pacer: Pacer::new(clock::monotonic_ns(), machine.now(), machine.rate()),
            machine,
            config,
            parts,
            role,
            journal,
            backends,
            slice: SliceLength::default(),
            state,
            is_armed: false,
            idle: None,
            idle_since: 0,
            promises: VecDeque::new(),
            hotplug: Hotplug::default(),
            clone: None,
            emitted_at: 0,
            told_of_fencing: false,
            handing_over: None,
            shutdown,
            ending: None,
        }
    }

    /// Runs to the end.
    pub fn run(mut self) -> LiveEnd {
        let end = loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(end)) => break end,
                // The role says why, at the next turn.
                Err(AppendError::Over) => {}
                Err(error) => {
                    break LiveEnd::Failed(VmError::Because {
                        what: "log what the machine does; this is a bug",
                        source: Box::new(error),
                    });
                }
            }
        };
        if let Some(ticket) = self.handing_over.take() {
            let result = match end {
                LiveEnd::Superseded => Ok(()),
                _ => Err(VmError::Gone),
            };
            self.parts.answer(ticket, result);
        }
        if !matches!(end, LiveEnd::Off(_)) {
            let waiting = self.ending.take().unwrap_or_default().into_iter();
            let promised = self.promises.drain(..);
            let promised = promised.filter_map(|(_, promise)| match promise {
                Promise::Done(ticket) | Promise::Plugged(ticket, _) => Some(ticket),
                Promise::Configured(_) => None,
            });
            for ticket in waiting.chain(promised) {
                self.parts.answer(ticket, Err(VmError::Gone));
            }
        }
        for ticket in self.hotplug.end() {
            self.parts.answer(ticket, Err(VmError::Gone));
        }
        match &end {
            LiveEnd::Off(_) => {
                self.forget_leaving();
                self.parts.board.set_state(VmState::Shutdown);
                self.backends.flush(&self.machine, LAST_WORDS);
            }
            LiveEnd::Superseded | LiveEnd::Failed(_) => {
                self.parts.board.set_state(VmState::Shutdown);
            }
            LiveEnd::Stopped => {
                self.journal
                    .end_recording(clock::monotonic_ns(), &mut self.machine);
                if lock(&self.role).is_alone() {
                    self.backends.flush(&self.machine, LAST_WORDS_SHORT);
                }
            }
        }
        end
    }

    /// One look at the world, and then one slice, or some sleep.
    fn turn(&mut self) -> Result<Option<LiveEnd>, AppendError> {
        let Mail {
            stop,
            commands,
            digests,
            prepared,
            device_answers,
            clone: _,
        } = self.parts.inbox.take();
        if stop {
            return Ok(Some(LiveEnd::Stopped));
        }
        if let Some(ticket) = self.shutdown.take() {
            self.power_off(vec![ticket])?;
        }
        for (ticket, command) in commands {
            self.obey(ticket, command)?;
        }
        self.log_digests(digests)?;
        let mut errors: Vec<_> = prepared
            .into_iter()
            .map(|prepared| self.hotplug.prepared(prepared))
            .collect();
        let answers = device_answers.into_iter();
        errors.extend(answers.map(|(id, missing)| self.hotplug.answered(id, missing)));
        for (ticket, error) in errors.into_iter().flatten() {
            self.parts.answer(ticket, Err(error));
        }
        self.plug_what_may_be()?;
        self.forget_detached();
        let (may_run, is_pairing, wants_clone) = {
            let role = lock(&self.role);
            if let Some(over) = role.over() {
                return Ok(Some(match over {
                    Over::Superseded(_) => LiveEnd::Superseded,
                    Over::Ended => LiveEnd::Off(self.ending.take().unwrap_or_default()),
                }));
            }
            (role.may_run(), role.is_pairing(), role.wants_clone())
        };
        self.keep_promises();
        self.tell_of_fencing();
        self.end_hand_over();
        self.is_armed &= is_pairing;
        if wants_clone {
            self.send_clone()?;
        } else {
            self.clone = None;
        }
        let runs = may_run
            && self.state == VmState::Running
            && self.ending.is_none()
            && !self.is_armed
            && !self.machine.powered_off();
        if !runs {
            self.journal.flush(clock::monotonic_ns());
            self.sleep(PATIENCE);
            return Ok(None);
        }
        let now = clock::monotonic_ns();
        self.take_inputs(now)?;
        self.journal.digest_if_due(now, &mut self.machine)?;
        if let Some(deadline) = self.idle {
            match deadline.filter(|deadline| now >= self.pacer.host_time(*deadline)) {
                Some(deadline) => {
                    self.machine.idle_jump(deadline);
                    self.idle = None;
                }
                None => {
                    self.rest(now, deadline)?;
                    return Ok(None);
                }
            }
        }
        self.run_slice()?;
        Ok(None)
    }

    fn sleep(&self, nanoseconds: u64) {
        self.parts.inbox.wait(Duration::from_nanos(nanoseconds));
    }

    // --- Inputs.

    /// Logs and applies what the guest gets at this boundary.
    fn take_inputs(&mut self, now: u64) -> Result<(), AppendError> {
        let inbox = Arc::clone(&self.parts.inbox);
        for lane in inbox.typed_at() {
            let room = self.machine.input_room(lane);
            if room > 0 {
                let bytes = inbox.typed(lane, room);
                if lane == Lane::Console {
                    self.parts.board.typed(bytes.len());
                }
                self.input(lane.typed(bytes))?;
            }
        }
        for completion in inbox.completions() {
            self.complete(completion)?;
        }
        for (device, event) in inbox.events() {
            self.input(Input::Device { device, event })?;
        }
        for (device, stream) in inbox.streams() {
            self.receive_stream(device, stream)?;
        }
        for device in inbox.receivers() {
            self.receive(device)?;
        }
        if now >= self.emitted_at + EMITTED_INTERVAL {
            for input in self.newly_emitted() {
                self.emitted_at = now;
                self.journal.input(now, &mut self.machine, input)?;
            }
        }
        Ok(())
    }

    /// What the machine does not know yet of bytes that consoles have emitted.
    fn newly_emitted(&self) -> Vec<Input> {
        let emitted = self.parts.inbox.emitted_through().into_iter();
        let is_news = |(lane, through): &(Lane, u64)| {
            let output = self.machine.output(*lane);
            output.is_some_and(|output| *through > output.emitted)
        };
        let news = emitted.filter(is_news);
        news.map(|(lane, through)| lane.emitted(through)).collect()
    }

    /// Frames have come for a card: as many as its driver has buffers for. The others wait, unless
    /// there is no driver.
    fn receive(&mut self, device: u8) -> Result<(), AppendError> {
        let lengths = self.parts.inbox.frame_lengths(device);
        let room = self.machine.receivable(device, &mut lengths.into_iter());
        let Some(room) = room else {
            self.parts.inbox.frames(device, usize::MAX);
            return Ok(());
        };
        if room == 0 {
            return Ok(());
        }
        let mut frames = self.parts.inbox.frames(device, room).into_iter().peekable();
        while let Some(first) = frames.next() {
            let mut bytes = first.len();
            let mut entry = vec![first];
            while let Some(next) = frames.next_if(|next| bytes + next.len() <= FRAMES_PART) {
                bytes += next.len();
                entry.push(next);
            }
            let event = machine::Event::Frames(entry);
            self.input(Input::Device { device, event })?;
        }
        Ok(())
    }

    /// A program of the host sends bytes of a stream, or ends it: as much as the guest has room for.
    /// The rest waits.
    fn receive_stream(&mut self, device: u8, stream: u64) -> Result<(), AppendError> {
        // What nobody wants is taken and goes nowhere.
        let room = self.machine.stream_room(device, stream);
        let (bytes, end) = self
            .parts
            .inbox
            .stream(device, stream, room.unwrap_or(usize::MAX));
        if !bytes.is_empty() && room.is_some() {
            let event = machine::Event::Stream(StreamEvent::Data { stream, bytes });
            self.input(Input::Device { device, event })?;
        }
        if let Some(end) = end {
            let event = machine::Event::Stream(end);
            self.input(Input::Device { device, event })?;
        }
        Ok(())
    }

    /// A request of a device has ended: its data in parts, and then that it has.
    fn complete(&mut self, completion: Completion) -> Result<(), AppendError> {
        let Completion {
            device,
            id,
            outcome,
            data,
        } = completion;
        for (index, part) in data.chunks(DATA_PART).enumerate() {
            let event = machine::Event::Data {
                id,
                offset: (index * DATA_PART) as u32,
                bytes: part.to_vec(),
            };
            self.input(Input::Device { device, event })?;
        }
        let event = machine::Event::Completed { id, outcome };
        self.input(Input::Device { device, event })?;
        Ok(())
    }

    /// An input ends the wait: the guest's clock shows how long it was.
    fn end_idle(&mut self, now: u64) -> Result<(), AppendError> {
        let Some(deadline) = self.idle.take() else {
            return Ok(());
        };
        let latest = deadline.unwrap_or(u64::MAX);
        let virtual_time = self.pacer.target(now).min(latest).max(self.machine.now());
        let rate = self.machine.rate();
        let anchor = Input::Anchor { virtual_time, rate };
        self.journal.input(now, &mut self.machine, anchor)?;
        Ok(())
    }

    /// Logs values of digests that were taken earlier.
    fn log_digests(
        &mut self,
        digests: Vec<(u64, Vec<ComponentDigest>)>,
    ) -> Result<(), AppendError> {
        let now = clock::monotonic_ns();
        for (id, components) in digests {
            // After the end of the log there is nothing.
            if self.ending.is_none() {
                let at = self.machine.position();
                self.journal.digest_value(now, at, id, components)?;
            }
        }
        Ok(())
    }

    /// Tells whose commands are done and cannot be undone by a failover any more.
    fn keep_promises(&mut self) {
        while let Some((seq, _)) = self.promises.front()
            && lock(&self.role).is_promise(clock::monotonic_ns(), *seq)
            && let Some((_, promise)) = self.promises.pop_front()
        {
            match promise {
                Promise::Done(ticket) => self.parts.answer(ticket, Ok(())),
                Promise::Plugged(ticket, device) => {
                    self.parts.events.send(Event::Plugged { ticket, device });
                }
                Promise::Configured(config) => self.parts.events.send(Event::Configured(config)),
            }
        }
    }

    /// Tells when the wait for the old side to be fenced becomes long, and when it ends.
    fn tell_of_fencing(&mut self) {
        let fence = self.backends.fence();
        let waits = fence.is_some_and(|fence| fence.wait().is_some());
        if waits != self.told_of_fencing {
            self.told_of_fencing = waits;
            let event = if waits { Event::Fencing } else { Event::Fenced };
            self.parts.events.send(event);
        }
    }

    /// The guest waits: so does this thread, for the deadline or for something to do.
    fn rest(&mut self, now: u64, deadline: Option<u64>) -> Result<(), AppendError> {
        let mut until = now + PATIENCE;
        if now < self.idle_since + GRACE {
            until = self.idle_since + GRACE;
        } else {
            self.journal.watermark(now, self.machine.position())?;
            self.journal.flush(now);
            // An idle jump is made on the backup when it hears of it.
            lock(&self.role).send_now(now);
        }
        if let Some(deadline) = deadline {
            until = until.min(self.pacer.host_time(deadline));
        }
        if !self.newly_emitted().is_empty() {
            until = until.min(self.emitted_at + EMITTED_INTERVAL);
        }
        self.sleep(until.saturating_sub(now));
        Ok(())
    }

    // --- Execution.

    fn run_slice(&mut self) -> Result<(), AppendError> {
        let from = self.machine.position();
        let units = self.machine.units();
        let until = Position(from.0 + self.slice.steps());
        let began = clock::monotonic_ns();
        let exit = self.machine.run(until, self.parts.inbox.kick());
        let now = clock::monotonic_ns();
        let at = self.machine.position();
        let elapsed = now - began;
        self.slice.took(at.0 - from.0, elapsed);
        let wait = brake::wait(lock(&self.role).lag(now), elapsed);
        let units = self.machine.units() - units;
        self.pacer.executed(elapsed + wait, units);
        self.journal.outputs(now, &mut self.machine)?;
        self.parts.board.at(at, self.machine.console().written);
        self.parts.board.ballooned(self.machine.ballooned());
        if let Some(bytes) = self.journal.recorded() {
            self.parts.board.recorded(bytes);
        }
        match exit {
            Exit::Idle { deadline } => (self.idle, self.idle_since) = (Some(deadline), now),
            Exit::PoweredOff => return self.power_off(Vec::new()),
            Exit::Reset => log::info!("the guest was reset"),
            Exit::Until | Exit::Kicked | Exit::Output => {}
        }
        if self.idle.is_none() {
            self.steer(now)?;
        }
        self.journal.reached(now, at)?;
        if wait > 0 {
            self.sleep(wait);
        }
        Ok(())
    }

    fn steer(&mut self, now: u64) -> Result<(), AppendError> {
        let virtual_time = self.machine.now();
        let steering = self.pacer.steer(now, virtual_time);
        if let Some(rate) = steering.rate {
            let anchor = Input::Anchor { virtual_time, rate };
            self.journal.input(now, &mut self.machine, anchor)?;
        }
        if steering.wait > 0 {
            self.sleep(steering.wait);
        }
        Ok(())
    }

    /// The VM is over: that stands in the log before anybody is told.
    fn power_off(&mut self, waiting: Vec<Ticket>) -> Result<(), AppendError> {
        let is_first = self.ending.is_none();
        self.ending.get_or_insert_default().extend(waiting);
        if is_first {
            let now = clock::monotonic_ns();
            self.journal.power_off(now, &mut self.machine)?;
        }
        Ok(())
    }

    fn input(&mut self, input: Input) -> Result<u64, AppendError> {
        let now = clock::monotonic_ns();
        self.end_idle(now)?;
        self.journal.input(now, &mut self.machine, input)
    }
}
