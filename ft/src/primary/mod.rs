//! The primary's role: the side that runs the guest, protected or not.
//!
//! Does: pair with a backup, send the clone, send the log, hold outputs until they are
//! acknowledged, notice the loss of the backup, and ask the flag whether it may go on alone. Does
//! not: touch sockets, the arbiter, the guest or the clock; it says so by commands.
//!
//! Invariant: protection begins before the last byte of the clone can leave. From then on an output
//! leaves only when a backup that could go live has its entry, and the generation is left only
//! through the flag. From the moment the flag is asked, nothing is accepted and nothing leaves
//! until it has answered; a returning link changes nothing (paper §2.2, §2.3).
//!
//! ```text
//! Unprotected ─connect─► Connecting ─► Beginning ─► Cloning ─finish_clone─► Protected
//!      ▲                     └──────────────┴───────────┴─► Unprotected         │ peer lost,
//!      │                                                                        │ disable, end
//!      └─won──────────────────────── Claiming ◄─────────────────────────────────┘
//!                     Halted ◄─lost──┘   └─ended─► Ended
//! ```

mod clone;
mod command;
mod control;
mod session;

pub use command::{AppendError, Command, LossReason, Pairing, Status, WrongPhase};

use std::collections::VecDeque;

use hypervisor::Position;
use machine::Output;

use self::session::Session;
use crate::Tick;
use crate::arbiter::Answer;
use crate::channel::{GoodbyeReason, Hello, Message, MessageError, Role};
use crate::claim::{Claim, Outcome};
use crate::failure_detector::FailureDetector;
use crate::flag::{Decision, Members};
use crate::freshness::Freshness;
use crate::identity::Generation;
use crate::lag::LagMeter;
use crate::link::{Link, name_of};
use crate::log::{BatchWriter, Body, Control, Entry, LogError, OutputMark};
use crate::output_rule::OutputGate;
use crate::peer_error::PeerError;
use crate::settings::Settings;

#[derive(Debug)]
enum Phase {
    Unprotected,
    Connecting,
    Beginning,
    Cloning { pages_sent: u64 },
    Protected { verified: bool },
    Claiming { claim: Claim, reason: LossReason },
    Halted,
    Ended,
}

impl Phase {
    fn name(&self) -> &'static str {
        match self {
            Phase::Unprotected => "unprotected",
            Phase::Connecting => "connecting",
            Phase::Beginning => "beginning",
            Phase::Cloning { .. } => "cloning",
            Phase::Protected { verified: false } => "verifying",
            Phase::Protected { verified: true } => "protected",
            Phase::Claiming { .. } => "claiming",
            Phase::Halted => "halted",
            Phase::Ended => "ended",
        }
    }
}

/// The side that runs the guest.
#[derive(Debug)]
pub struct Primary {
    settings: Settings,
    next_seq: u64,
    position: Position,
    phase: Phase,
    session: Option<Session>,
    gate: OutputGate,
    /// The entry that says that the VM ended.
    ending: Option<u64>,
    stalled: bool,
    /// `OutputsReady` was said, and there is still something.
    announced: bool,
    commands: VecDeque<Command>,
}

impl Primary {
    /// An unprotected primary whose machine stands at `position`: 0 and the beginning for a new
    /// VM, what `backup::Command::GoLive` says for one that went live.
    pub fn new(settings: Settings, next_seq: u64, position: Position) -> Self {
        Primary {
            settings,
            next_seq,
            position,
            phase: Phase::Unprotected,
            session: None,
            gate: OutputGate::default(),
            ending: None,
            stalled: false,
            announced: false,
            commands: VecDeque::new(),
        }
    }

    // --- Pairing; the clone is in `clone`.

    /// A connection to a would-be backup is there.
    pub fn connect(&mut self, _now: Tick, pairing: Pairing) -> Result<(), WrongPhase> {
        match (&self.phase, &self.session) {
            (Phase::Unprotected, None) => {}
            (Phase::Unprotected, Some(_)) => return Err(WrongPhase("closing")),
            (phase, _) => return Err(WrongPhase(phase.name())),
        }
        let hello = Hello {
            semantics: pairing.semantics,
            vm: pairing.vm,
            generation: pairing.generation,
            incarnation: pairing.us,
            role: Role::Primary,
            ram_size: pairing.ram_size,
            heartbeat_port: pairing.heartbeat_port,
            timeout: self.settings.timeout,
        };
        let mut link = Link::default();
        link.send(&Message::Hello(hello.clone()));
        self.session = Some(Session {
            hello,
            peer: None,
            link,
            log: BatchWriter::new(self.next_seq, self.position),
            batch_opened: None,
            log_started: 0,
            acked: self.next_seq,
            executed: self.position,
            lag: LagMeter::new(self.position),
            freshness: Freshness::new(self.settings.timeout),
        });
        self.phase = Phase::Connecting;
        Ok(())
    }

    // --- The log and the outputs. These are for the vCPU thread.

    /// Appends an entry at `position`, and gives it with its sequence number.
    pub fn append(
        &mut self,
        now: Tick,
        position: Position,
        body: Body,
    ) -> Result<Entry, AppendError> {
        if let Phase::Halted | Phase::Ended = self.phase {
            return Err(AppendError::Over);
        }
        if position < self.position {
            return Err(AppendError::Log(LogError::PositionDecreases {
                last: self.position,
                found: position,
            }));
        }
        let entry = Entry {
            seq: self.next_seq,
            position,
            body,
        };
        if let (Phase::Protected { .. }, Some(session)) = (&self.phase, &mut self.session) {
            session.log.push(&entry, session.link.outbox.end())?;
            session.lag.reached(position, now);
            session.freshness.appended(entry.seq, now);
            session.batch_opened.get_or_insert(now);
            if session.log.open_bytes() >= self.settings.flush_bytes {
                session.flush();
            }
        }
        self.next_seq += 1;
        self.position = position;
        if entry.body == Body::Control(Control::PowerOff) {
            self.ending = Some(entry.seq);
            match (&self.phase, &mut self.session) {
                // The generation ends when the backup knows.
                (Phase::Protected { .. }, Some(session)) => session.flush(),
                (Phase::Claiming { .. }, _) => {}
                _ => {
                    self.close();
                    self.end();
                }
            }
        }
        self.settle(now);
        Ok(entry)
    }

    /// Appends the entry of an output, and takes the output into the gate.
    pub fn append_output(&mut self, now: Tick, output: Output) -> Result<Entry, AppendError> {
        let (position, mark) = OutputMark::of(&output);
        let entry = self.append(now, position, Body::Output(mark))?;
        self.gate.push(entry.seq, output);
        if let (Phase::Protected { .. }, Some(session)) = (&self.phase, &mut self.session) {
            // An output waits: at once.
            session.flush();
        }
        self.settle(now);
        Ok(entry)
    }

    /// What was appended is to be sent at once, not when its batch is full or old: after an idle
    /// jump, which the backup may make only when it hears of it.
    pub fn flush(&mut self) {
        if let (Phase::Protected { .. }, Some(session)) = (&self.phase, &mut self.session) {
            session.flush();
        }
    }

    /// Takes an output into the gate that the machine's state holds as made and not known to be
    /// emitted: at go-live, before anything new.
    pub fn resume_output(&mut self, now: Tick, output: Output) {
        self.gate.push(self.next_seq.saturating_sub(1), output);
        self.settle(now);
    }

    /// The next output that may leave now. To be asked immediately before each one is emitted.
    pub fn take_output(&mut self, now: Tick) -> Option<Output> {
        let output = self
            .may_release(now)
            .then(|| self.gate.take())
            .flatten()
            .map(|(_, output)| output);
        self.settle(now);
        output
    }

    /// Whether the vCPU may run.
    pub fn may_run(&self) -> bool {
        !self.stalled
    }

    // --- The channel. These are for the channel thread.

    /// What is to be written to the connection; `transmitted` says how much of it was.
    pub fn transmit(&mut self, now: Tick) -> &[u8] {
        match &mut self.session {
            Some(session) => {
                if session
                    .batch_opened
                    .is_some_and(|at| now >= at + self.settings.flush_interval)
                {
                    session.flush();
                }
                session.link.outbox.waiting()
            }
            None => &[],
        }
    }

    /// The first `count` bytes that `transmit` gave are written.
    pub fn transmitted(&mut self, now: Tick, count: usize) {
        if let Some(session) = &mut self.session {
            session.link.outbox.sent(count);
            if session.link.is_over() {
                self.close();
            }
        }
        self.settle(now);
    }

    /// Whether `transmit` has something.
    pub fn wants_to_write(&self, now: Tick) -> bool {
        self.session.as_ref().is_some_and(|session| {
            !session.link.outbox.is_empty()
                || session
                    .batch_opened
                    .is_some_and(|at| now >= at + self.settings.flush_interval)
        })
    }

    /// The connection brought these bytes.
    pub fn on_bytes(&mut self, now: Tick, bytes: &[u8]) {
        if !self.listens() {
            return;
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let mut frames = std::mem::take(&mut session.link.frames);
        frames.feed(bytes);
        while self.listens() {
            let result = match frames.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => Message::decode(&frame)
                    .map_err(PeerError::from)
                    .and_then(|message| self.on_message(now, message)),
                Err(error) => Err(MessageError::from(error).into()),
            };
            if let Err(error) = result {
                self.peer_lost(now, LossReason::Failed(error));
            }
        }
        if let Some(session) = &mut self.session {
            session.link.frames = frames;
        }
        self.settle(now);
    }

    /// A datagram came; what is no heartbeat of the peer is ignored.
    pub fn on_datagram(&mut self, now: Tick, datagram: &[u8]) {
        if let Some(detector) = self.detector() {
            detector.on_heartbeat(now, datagram);
        }
    }

    /// The connection ended, or could not be written to.
    pub fn on_disconnect(&mut self, now: Tick) {
        match (&self.phase, &mut self.session) {
            (Phase::Claiming { .. }, Some(session)) => {
                // Nobody is left to say goodbye to.
                if session.link.detector.take().is_some() {
                    session.link.outbox.discard();
                    self.commands.push_back(Command::CloseChannel);
                }
            }
            (_, Some(session)) if session.link.is_closing() => self.close(),
            _ => self.peer_lost(now, LossReason::Disconnected),
        }
    }

    /// Time passes. To be called when `deadline` says so, and at least once in a heartbeat
    /// interval while there is a session.
    pub fn on_tick(&mut self, now: Tick) {
        if let Some(detector) = self.detector() {
            let (beat, suspects) = detector.on_tick(now);
            if let Some(beat) = beat {
                self.commands.push_back(Command::Heartbeat(beat.encode()));
            }
            if suspects {
                self.peer_lost(now, LossReason::Silent);
            }
        }
        if let Phase::Claiming { claim, .. } = &mut self.phase
            && claim.on_tick(now)
        {
            self.ask();
        }
        self.settle(now);
    }

    /// When `on_tick` or `transmit` will have something to do.
    pub fn deadline(&self) -> Option<Tick> {
        let claim = match &self.phase {
            Phase::Claiming { claim, .. } => claim.deadline(),
            _ => None,
        };
        let session = self.session.as_ref();
        let flush = session
            .and_then(|session| session.batch_opened)
            .map(|at| at + self.settings.flush_interval);
        let detector = session
            .and_then(|session| session.link.detector.as_ref())
            .map(FailureDetector::deadline);
        [claim, flush, detector].into_iter().flatten().min()
    }

    /// The arbiter's answer to `Command::Decide`.
    pub fn on_answer(&mut self, now: Tick, generation: Generation, answer: Answer) {
        if self.generation() != Some(generation) {
            return;
        }
        let Phase::Claiming { claim, reason } = &mut self.phase else {
            return;
        };
        match claim.answered(now, answer, self.settings.retry_interval) {
            Outcome::Waiting => {}
            Outcome::Lost(to) => {
                self.phase = Phase::Halted;
                self.close();
                self.commands.push_back(Command::Halt(to));
            }
            Outcome::Won => {
                self.gate.open();
                let reason = reason.clone();
                if self.ending.is_some() {
                    self.say_goodbye(GoodbyeReason::PowerOff);
                    self.end();
                } else {
                    self.say_goodbye(GoodbyeReason::Disabled);
                    self.phase = Phase::Unprotected;
                    self.commands.push_back(Command::Unprotected(reason));
                }
            }
        }
        self.settle(now);
    }

    // --- For anybody.

    /// The next thing for the host side to do.
    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Whether there is one.
    pub fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The present generation.
    pub fn generation(&self) -> Option<Generation> {
        Some(self.session.as_ref()?.hello.generation)
    }

    /// The peer's introduction.
    pub fn peer(&self) -> Option<&Hello> {
        self.session.as_ref()?.peer.as_ref()
    }

    /// The sequence number of the next entry.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// For `ft-info`.
    pub fn status(&self, now: Tick) -> Status {
        let session = self.session.as_ref();
        let is_protected = matches!(self.phase, Phase::Protected { .. });
        Status {
            phase: self.phase.name(),
            generation: self.generation(),
            peer: self.peer().map(|peer| peer.incarnation),
            lag: session
                .filter(|_| is_protected)
                .map_or(0, |s| s.lag.lag(now)),
            log_bytes: session.map_or(0, |s| {
                s.link.outbox.total_sent().saturating_sub(s.log_started)
            }),
            next_seq: self.next_seq,
            acked: session.map_or(self.next_seq, |s| s.acked),
            executed: session.map_or(self.position, |s| s.executed),
            waiting_output_bytes: self.gate.waiting_bytes(),
        }
    }

    // --- Inside.

    /// Whether what the peer says still matters.
    fn listens(&self) -> bool {
        matches!(
            self.phase,
            Phase::Connecting | Phase::Beginning | Phase::Cloning { .. } | Phase::Protected { .. }
        )
    }

    fn detector(&mut self) -> Option<&mut FailureDetector> {
        self.session.as_mut()?.link.detector.as_mut()
    }

    fn on_message(&mut self, now: Tick, message: Message<'_>) -> Result<(), PeerError> {
        let phase = self.phase.name();
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        match (&mut self.phase, message) {
            (Phase::Connecting, Message::HelloAck(theirs)) => {
                session.hello.check_answer(&theirs)?;
                let ours = &session.hello;
                let members = Members {
                    vm: ours.vm,
                    generation: ours.generation,
                    by: ours.incarnation,
                    members: vec![ours.incarnation, theirs.incarnation],
                };
                session.link.detector = Some(FailureDetector::new(
                    now,
                    (self.settings.timeout, self.settings.heartbeat_interval),
                    (ours.vm, ours.generation),
                    ours.incarnation,
                    theirs.incarnation,
                ));
                session.peer = Some(theirs);
                self.phase = Phase::Beginning;
                self.commands.push_back(Command::BeginGeneration(members));
            }
            (Phase::Protected { verified }, Message::Ack(ack)) => {
                session.on_ack(&ack, self.next_seq, self.position)?;
                if let Some(peer) = &session.peer {
                    self.gate.acknowledged(peer.incarnation, ack.next_expected);
                }
                if !*verified {
                    *verified = true;
                    self.commands.push_back(Command::BackupReady);
                }
                if self.ending.is_some_and(|seq| seq < ack.next_expected) {
                    self.claim(LossReason::Disabled);
                }
            }
            (Phase::Protected { .. }, Message::DigestMismatch(mismatch)) => {
                self.peer_lost(now, LossReason::Diverged(mismatch));
            }
            (_, Message::Goodbye(reason, text)) => {
                self.peer_lost(now, LossReason::Left(reason, text));
            }
            (_, message) => {
                let message = name_of(&message);
                return Err(PeerError::Unexpected { message, phase });
            }
        }
        if let Some(detector) = self.detector() {
            detector.heard(now);
        }
        Ok(())
    }

    /// There is no backup. Before protection began this is only a pity; afterwards the flag
    /// decides.
    fn peer_lost(&mut self, now: Tick, reason: LossReason) {
        match self.phase {
            Phase::Connecting | Phase::Beginning | Phase::Cloning { .. } => {
                self.close();
                self.phase = Phase::Unprotected;
                self.commands.push_back(Command::Unprotected(reason));
            }
            Phase::Protected { .. } => {
                log::info!("the backup is lost: {reason:?}");
                self.claim(reason);
                if let Some(session) = &mut self.session {
                    session.link.outbox.discard();
                    session.link.detector = None;
                }
                self.commands.push_back(Command::CloseChannel);
            }
            _ => {}
        }
        self.settle(now);
    }

    fn claim(&mut self, reason: LossReason) {
        let Some(session) = &mut self.session else {
            return;
        };
        let decision = if self.ending.is_some() {
            Decision::Ended
        } else {
            let by = session.hello.incarnation;
            Decision::Won { by }
        };
        session.batch_opened = None;
        self.gate.shut();
        let claim = Claim::new(decision);
        self.phase = Phase::Claiming { claim, reason };
        self.ask();
    }

    fn ask(&mut self) {
        if let (Phase::Claiming { claim, .. }, Some(session)) = (&self.phase, &self.session) {
            self.commands.push_back(Command::Decide {
                generation: session.hello.generation,
                decision: claim.decision().clone(),
            });
        }
    }

    /// Tells a peer that is still connected; closes the connection when that is out.
    fn say_goodbye(&mut self, reason: GoodbyeReason) {
        match &mut self.session {
            Some(Session { link, .. }) if link.detector.is_some() => {
                link.detector = None;
                link.send_last(&Message::Goodbye(reason, String::new()));
            }
            _ => self.session = None,
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.commands.push_back(Command::Ended);
    }

    fn close(&mut self) {
        if self.session.take().is_some() {
            self.commands.push_back(Command::CloseChannel);
        }
    }

    fn is_fresh(&self, now: Tick) -> bool {
        match (&self.phase, &self.session) {
            (Phase::Protected { .. }, Some(session)) => session.freshness.is_fresh(now),
            _ => true,
        }
    }

    fn may_release(&self, now: Tick) -> bool {
        self.is_fresh(now) && self.gate.is_ready()
    }

    /// Brings commands in line with the state: stalls, outputs, pings.
    fn settle(&mut self, now: Tick) {
        let may_release = self.may_release(now);
        if may_release && !self.announced {
            self.commands.push_back(Command::OutputsReady);
        }
        self.announced = may_release;
        if !may_release
            && self.gate.is_ready()
            && let Some(session) = &mut self.session
            && let Some(echo) = session.freshness.ping(now)
        {
            session.link.send(&Message::Ping(echo));
        }
        let stall = self.must_stall();
        if stall != self.stalled {
            self.stalled = stall;
            self.commands.push_back(if stall {
                Command::StallVcpu
            } else {
                Command::RunVcpu
            });
        }
    }

    fn must_stall(&self) -> bool {
        // Once stalled, until half of a full buffer is free.
        let divisor = if self.stalled { 2 } else { 1 };
        let sending = match (&self.phase, &self.session) {
            (Phase::Claiming { .. } | Phase::Halted | Phase::Ended, _) => return true,
            (Phase::Protected { .. }, Some(session)) => {
                session.link.outbox.len() + session.log.open_bytes()
            }
            _ => 0,
        };
        sending > self.settings.send_buffer_bytes / divisor
            || self.gate.waiting_bytes() > self.settings.gate_bytes / divisor
    }
}
