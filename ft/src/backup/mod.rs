//! The backup's role: the side that replays, and goes live when the primary is gone.
//!
//! Does: take the clone, check it, acknowledge log entries on receipt, feed the replayer, notice
//! the loss of the primary, replay what it has, ask the flag, and go live or halt. Does not: touch
//! sockets, the arbiter, the machine or the clock; it says so by commands.
//!
//! Invariant: what was acknowledged is replayed to its end before the flag is asked, and only a
//! side that verified the complete clone and knows of no difference asks. Whatever the flag's
//! answer is not known to be, this side does not go live. The end of the VM is no failure
//! (paper §2.1–§2.3, §3.2).
//!
//! ```text
//! Awaiting ─Hello─► Receiving ─CloneEnd─► Verifying ─good─► Replaying ─peer lost─► Draining
//!                                                               │                     │ all executed
//!                        Diverged ◄─a difference────────────────┤                  Claiming ─won─► Live
//!                        Ended ◄─power-off, disabled────────────┘                     └─lost─► Halted
//! ```

mod clone;
mod command;

pub use command::{Command, EndedReason, HaltReason, LossReason, Offer, Replay, Status};

use std::collections::VecDeque;

use hypervisor::Position;
use machine::Output;

use self::clone::Incoming;
use crate::Tick;
use crate::arbiter::Answer;
use crate::channel::{Ack, GoodbyeReason, Hello, Message, MessageError, Mismatch};
use crate::claim::{Claim, Outcome};
use crate::divergence::Comparison;
use crate::failure_detector::FailureDetector;
use crate::flag::Decision;
use crate::identity::Generation;
use crate::link::{Link, name_of};
use crate::log::{BatchReader, Body, ComponentDigest, Control};
use crate::peer_error::PeerError;
use crate::replay_buffer::{Next, Overrun, ReplayBuffer};
use crate::settings::Settings;

#[derive(Debug)]
enum Phase {
    Awaiting,
    Receiving,
    Verifying { lost: Option<LossReason> },
    Replaying,
    Draining,
    Claiming(Claim),
    Live,
    Diverged(Mismatch),
    Halted,
    Ended,
}

impl Phase {
    fn name(&self) -> &'static str {
        match self {
            Phase::Awaiting => "awaiting",
            Phase::Receiving => "receiving",
            Phase::Verifying { .. } => "verifying",
            Phase::Replaying => "replaying",
            Phase::Draining => "draining",
            Phase::Claiming(_) => "claiming",
            Phase::Live => "live",
            Phase::Diverged(_) => "diverged",
            Phase::Halted => "halted",
            Phase::Ended => "ended",
        }
    }
}

/// The side that replays.
#[derive(Debug)]
pub struct Backup {
    settings: Settings,
    offer: Offer,
    phase: Phase,
    /// The primary's introduction.
    primary: Option<Hello>,
    link: Link,
    connected: bool,
    incoming: Incoming,
    reader: BatchReader,
    buffer: ReplayBuffer,
    comparison: Comparison,
    executed: Position,
    reported: Position,
    report_at: Tick,
    echo: u64,
    ack_due: bool,
    bytes_received: u64,
    commands: VecDeque<Command>,
}

impl Backup {
    /// A side to which somebody just connected. Garbage on that connection ends in
    /// `Command::Halt`; the host side then drops this and listens again.
    pub fn new(settings: Settings, offer: Offer) -> Self {
        let start = Position(0);
        Backup {
            settings,
            offer,
            phase: Phase::Awaiting,
            primary: None,
            link: Link::default(),
            connected: true,
            incoming: Incoming::default(),
            reader: BatchReader::new(0, start),
            buffer: ReplayBuffer::new(start),
            comparison: Comparison::default(),
            executed: start,
            reported: start,
            report_at: 0,
            echo: 0,
            ack_due: false,
            bytes_received: 0,
            commands: VecDeque::new(),
        }
    }

    // --- The channel. These are for the channel thread.

    /// Whether the connection should be read: not while the buffer is full.
    pub fn wants_bytes(&self) -> bool {
        self.connected && self.buffer.bytes() < self.settings.receive_buffer_bytes
    }

    /// The connection brought these bytes.
    pub fn on_bytes(&mut self, now: Tick, bytes: &[u8]) {
        if !self.listens() {
            return;
        }
        self.bytes_received += bytes.len() as u64;
        let mut frames = std::mem::take(&mut self.link.frames);
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
                self.primary_lost(LossReason::Failed(error));
            }
        }
        self.link.frames = frames;
    }

    /// A datagram came; what is no heartbeat of the peer is ignored.
    pub fn on_datagram(&mut self, now: Tick, datagram: &[u8]) {
        if let Some(detector) = &mut self.link.detector {
            detector.on_heartbeat(now, datagram);
        }
    }

    /// The connection ended, and everything that it brought was given to `on_bytes`; or it could
    /// not be written to.
    pub fn on_disconnect(&mut self, _now: Tick) {
        self.primary_lost(LossReason::Disconnected);
    }

    /// Time passes. To be called when `deadline` says so, and at least once in a heartbeat
    /// interval.
    pub fn on_tick(&mut self, now: Tick) {
        if let Some(detector) = &mut self.link.detector {
            let (beat, suspects) = detector.on_tick(now);
            if let Some(beat) = beat {
                self.commands.push_back(Command::Heartbeat(beat.encode()));
            }
            if suspects {
                self.primary_lost(LossReason::Silent);
            }
        }
        if let Phase::Replaying = self.phase
            && self.reported != self.executed
            && now >= self.report_at
        {
            self.ack_due = true;
        }
        if let Phase::Claiming(claim) = &mut self.phase
            && claim.on_tick(now)
        {
            self.ask();
        }
    }

    /// When `on_tick` will have something to do.
    pub fn deadline(&self) -> Option<Tick> {
        let claim = match &self.phase {
            Phase::Claiming(claim) => claim.deadline(),
            _ => None,
        };
        let report = (matches!(self.phase, Phase::Replaying) && self.reported != self.executed)
            .then_some(self.report_at);
        let detector = self.link.detector.as_ref().map(FailureDetector::deadline);
        [claim, report, detector].into_iter().flatten().min()
    }

    /// What is to be written to the connection; `transmitted` says how much of it was.
    pub fn transmit(&mut self, now: Tick) -> &[u8] {
        if self.ack_due
            && let Phase::Replaying = self.phase
        {
            self.ack_due = false;
            self.reported = self.executed;
            self.report_at = now + self.settings.progress_interval;
            self.link.send(&Message::Ack(Ack {
                next_expected: self.reader.next_seq(),
                executed: self.executed,
                echo: self.echo,
            }));
        }
        self.link.outbox.waiting()
    }

    /// The first `count` bytes that `transmit` gave are written.
    pub fn transmitted(&mut self, count: usize) {
        self.link.outbox.sent(count);
        if self.link.is_over() {
            self.primary_lost(LossReason::Disconnected);
        }
    }

    /// Whether `transmit` has something.
    pub fn wants_to_write(&self) -> bool {
        !self.link.outbox.is_empty() || (self.ack_due && matches!(self.phase, Phase::Replaying))
    }

    /// The arbiter's answer to `Command::Decide`.
    pub fn on_answer(&mut self, now: Tick, generation: Generation, answer: Answer) {
        if self.generation() != Some(generation) {
            return;
        }
        let Phase::Claiming(claim) = &mut self.phase else {
            return;
        };
        match claim.answered(now, answer, self.settings.retry_interval) {
            Outcome::Waiting => {}
            Outcome::Lost(to) => self.halt(HaltReason::Lost(to)),
            Outcome::Won => {
                self.phase = Phase::Live;
                self.commands.push_back(Command::GoLive {
                    generation,
                    next_seq: self.reader.next_seq(),
                    position: self.executed,
                });
                self.commands.push_back(Command::Replay);
            }
        }
    }

    // --- The replay. These are for the vCPU thread.

    /// What a machine that stands at `at` does next.
    pub fn replay(&mut self, at: Position) -> Result<Replay, Overrun> {
        match self.phase {
            Phase::Replaying | Phase::Draining => {}
            Phase::Live => return Ok(Replay::GoLive),
            Phase::Awaiting | Phase::Receiving | Phase::Verifying { .. } | Phase::Claiming(_) => {
                return Ok(Replay::Wait);
            }
            Phase::Diverged(_) | Phase::Halted | Phase::Ended => return Ok(Replay::Stop),
        }
        self.executed = at;
        loop {
            let entry = match self.buffer.next(at)? {
                Next::RunTo(position) => return Ok(Replay::RunTo(position)),
                Next::Apply(entry) => entry,
                Next::Empty => {
                    if let Phase::Draining = self.phase {
                        self.claim();
                    }
                    return Ok(Replay::Wait);
                }
            };
            let compared = match &entry.body {
                Body::Output(mark) => self.comparison.primary_output(at, mark),
                Body::DigestValue { id, components } => {
                    self.comparison.primary_digest(*id, components.clone())
                }
                Body::DigestHere { id } => {
                    self.comparison.digest_here(*id, at);
                    return Ok(Replay::Apply(entry));
                }
                Body::Control(Control::PowerOff) => {
                    self.end(EndedReason::PowerOff);
                    return Ok(Replay::Apply(entry));
                }
                Body::Control(Control::EndOfLog(reason)) => {
                    self.end(EndedReason::EndOfLog(*reason));
                    return Ok(Replay::Apply(entry));
                }
                Body::Input(_) | Body::Control(_) | Body::Watermark => {
                    return Ok(Replay::Apply(entry));
                }
            };
            if let Err(mismatch) = compared {
                self.diverged(mismatch);
                return Ok(Replay::Stop);
            }
        }
    }

    /// The replaying machine made this output, which goes nowhere.
    pub fn own_output(&mut self, output: &Output) {
        self.comparison.own_output(output);
    }

    /// This side's values for a digest that `replay` asked for; they may come later.
    pub fn own_digest(&mut self, id: u64, components: Vec<ComponentDigest>) {
        if let Err(mismatch) = self.comparison.own_digest(id, components) {
            self.diverged(mismatch);
        }
    }

    /// The machine cannot go on as the log says: an overrun, an input that does not apply.
    pub fn on_replay_failure(&mut self, component: &str) {
        self.diverged(Mismatch {
            position: self.executed,
            component: component.to_owned(),
            expected: 0,
            found: 0,
        });
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
        Some(self.primary.as_ref()?.generation)
    }

    /// The primary's introduction.
    pub fn peer(&self) -> Option<&Hello> {
        self.primary.as_ref()
    }

    /// For `ft-info`.
    pub fn status(&self) -> Status {
        Status {
            phase: self.phase.name(),
            generation: self.generation(),
            peer: self.primary.as_ref().map(|primary| primary.incarnation),
            next_expected: self.reader.next_seq(),
            received: self.reader.last(),
            executed: self.executed,
            bytes_received: self.bytes_received,
            buffered_bytes: self.buffer.bytes(),
            digests_compared: self.comparison.compared(),
        }
    }

    // --- Inside.

    /// Whether what the peer says still matters.
    fn listens(&self) -> bool {
        matches!(
            self.phase,
            Phase::Awaiting | Phase::Receiving | Phase::Verifying { lost: None } | Phase::Replaying
        )
    }

    fn on_message(&mut self, now: Tick, message: Message<'_>) -> Result<(), PeerError> {
        match (&self.phase, message) {
            (Phase::Awaiting, Message::Hello(theirs)) => self.on_hello(now, theirs)?,
            (Phase::Receiving, Message::Blob(part)) => self.on_blob(part)?,
            (Phase::Receiving, Message::RamPages(run)) => self.on_pages(run)?,
            (Phase::Receiving, Message::CloneEnd(end)) => self.on_clone_end(end)?,
            (Phase::Verifying { .. } | Phase::Replaying, Message::LogBatch(payload)) => {
                let entries = self.reader.read(payload)?;
                entries
                    .into_iter()
                    .for_each(|entry| self.buffer.push(entry));
                self.ack_due = true;
                if self.commands.back() != Some(&Command::Replay) {
                    self.commands.push_back(Command::Replay);
                }
            }
            (Phase::Verifying { .. } | Phase::Replaying, Message::Ping(echo)) => {
                self.echo = echo;
                self.ack_due = true;
            }
            (
                Phase::Receiving | Phase::Verifying { .. } | Phase::Replaying,
                Message::Goodbye(reason, text),
            ) => match reason {
                GoodbyeReason::Disabled => self.end(EndedReason::Disabled),
                GoodbyeReason::PowerOff => self.end(EndedReason::PowerOff),
                GoodbyeReason::Shutdown | GoodbyeReason::Refused => {
                    self.primary_lost(LossReason::Left(reason, text));
                }
            },
            (phase, message) => {
                let (message, phase) = (name_of(&message), phase.name());
                return Err(PeerError::Unexpected { message, phase });
            }
        }
        if let Some(detector) = &mut self.link.detector {
            detector.heard(now);
        }
        Ok(())
    }

    fn primary_lost(&mut self, reason: LossReason) {
        match &mut self.phase {
            Phase::Awaiting | Phase::Receiving => {
                self.halt(HaltReason::Incomplete(reason));
                self.close();
            }
            Phase::Verifying { lost } => {
                lost.get_or_insert(reason);
                self.close();
            }
            Phase::Replaying => {
                log::info!("the primary is lost: {reason:?}");
                self.phase = Phase::Draining;
                self.commands.push_back(Command::PrimaryLost(reason));
                self.commands.push_back(Command::Replay);
                self.close();
            }
            Phase::Diverged(mismatch) => {
                let reason = HaltReason::Diverged(mismatch.clone());
                self.halt(reason);
                self.close();
            }
            _ => self.close(),
        }
    }

    fn claim(&mut self) {
        self.phase = Phase::Claiming(Claim::new(Decision::Won { by: self.offer.us }));
        self.ask();
    }

    fn ask(&mut self) {
        if let (Phase::Claiming(claim), Some(generation)) = (&self.phase, self.generation()) {
            self.commands.push_back(Command::Decide {
                generation,
                decision: claim.decision().clone(),
            });
        }
    }

    fn diverged(&mut self, mismatch: Mismatch) {
        let tell = Command::DigestMismatch(mismatch.clone());
        match self.phase {
            Phase::Verifying { lost: None } | Phase::Replaying => {
                self.link
                    .send_last(&Message::DigestMismatch(mismatch.clone()));
                self.phase = Phase::Diverged(mismatch);
                self.commands.push_back(tell);
                self.commands.push_back(Command::Replay);
            }
            Phase::Verifying { lost: Some(_) } | Phase::Draining | Phase::Claiming(_) => {
                self.commands.push_back(tell);
                self.halt(HaltReason::Diverged(mismatch));
            }
            _ => {}
        }
    }

    fn halt(&mut self, reason: HaltReason) {
        self.phase = Phase::Halted;
        self.commands.push_back(Command::Halt(reason));
        self.commands.push_back(Command::Replay);
    }

    fn end(&mut self, reason: EndedReason) {
        self.phase = Phase::Ended;
        if let (EndedReason::PowerOff, Some(generation)) = (reason, self.generation()) {
            // No side leaves a generation without a decision. Whatever the answer, this side is
            // done.
            let decision = Decision::Ended;
            self.commands.push_back(Command::Decide {
                generation,
                decision,
            });
        }
        self.close();
        self.commands.push_back(Command::Ended(reason));
        self.commands.push_back(Command::Replay);
    }

    fn close(&mut self) {
        self.link.detector = None;
        self.link.outbox.discard();
        self.ack_due = false;
        if std::mem::replace(&mut self.connected, false) {
            self.commands.push_back(Command::CloseChannel);
        }
    }
}
