//! The primary's end of the channel.
//!
//! Does: give out what is to be written, take in what the backup sent, watch over the backup. Does
//! not: decide what follows from its loss (`leave`).
//!
//! Invariant: a message takes effect as a whole or not at all, and from the moment the flag is
//! asked none does (paper §2.3, §3.2).

use super::{Command, LossReason, Phase, Primary, WrongPhase};
use crate::Tick;
use crate::channel::{Message, MessageError};
use crate::failure_detector::FailureDetector;
use crate::flag::Members;
use crate::link::name_of;
use crate::peer_error::PeerError;

impl Primary {
    /// What is to be written to the connection; `transmitted` says how much of it was.
    pub fn transmit(&mut self, now: Tick) -> &[u8] {
        match &mut self.session {
            Some(session) => {
                if session.is_flush_due(now, self.settings.flush_interval) {
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
            // Who hands over waits for the other side to hang up.
            if session.link.is_over() && !matches!(self.phase, Phase::HandedOver { .. }) {
                self.close();
            }
        }
        self.settle(now);
    }

    /// Asks the backup whether its host has what a device of `config` needs; the answer is
    /// `Command::DeviceAnswer` of that `id`. Only while there is a backup.
    pub fn ask_about_device(&mut self, id: u64, config: Vec<u8>) -> Result<(), WrongPhase> {
        match (&self.phase, &mut self.session) {
            (
                Phase::Protected {
                    verified: true,
                    yields: None,
                },
                Some(session),
            ) => {
                session.link.send(&Message::DeviceQuery(id, config));
                Ok(())
            }
            _ => Err(WrongPhase(self.phase.name())),
        }
    }

    /// Whether `transmit` has something.
    pub fn wants_to_write(&self, now: Tick) -> bool {
        self.session.as_ref().is_some_and(|session| {
            !session.link.outbox.is_empty()
                || session.is_flush_due(now, self.settings.flush_interval)
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
                if session.hang_up() {
                    self.commands.push_back(Command::CloseChannel);
                }
            }
            (Phase::HandedOver { .. }, _) => self.peer_lost(now, LossReason::NotTakenOver),
            (_, Some(session)) if session.link.is_closing() => self.close(),
            _ => self.peer_lost(now, LossReason::Disconnected),
        }
    }

    /// Time passes. To be called when `deadline` says so, and at least once in a heartbeat
    /// interval while there is a session.
    pub fn on_tick(&mut self, now: Tick) {
        let since = match (&self.phase, &self.session) {
            (Phase::Protected { verified, .. }, Some(session)) => {
                // Nothing is acknowledged before the clone is verified, which takes its time.
                let more = match verified {
                    true => 0,
                    false => self.settings.hand_over_timeout,
                };
                let since = session.freshness.unanswered_since();
                since.map(|since| since + more)
            }
            _ => None,
        };
        if let Some(detector) = self.detector() {
            let (beat, suspects) = detector.on_tick_awaiting(now, since);
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
        self.hand_over_on_tick(now);
        self.settle(now);
    }

    /// When `on_tick` or `transmit` will have something to do.
    pub fn deadline(&self) -> Option<Tick> {
        let phase = match &self.phase {
            Phase::Claiming { claim, .. } => claim.deadline(),
            Phase::Protected { yields, .. } => *yields,
            Phase::HandedOver { until } => Some(*until),
            _ => None,
        };
        let session = self.session.as_ref();
        let flush = session
            .and_then(|session| session.batch_opened)
            .map(|at| at + self.settings.flush_interval);
        let detector = session
            .and_then(|session| session.link.detector.as_ref())
            .map(FailureDetector::deadline);
        [phase, flush, detector].into_iter().flatten().min()
    }

    /// Whether what the peer says still matters.
    fn listens(&self) -> bool {
        matches!(
            self.phase,
            Phase::Connecting
                | Phase::Beginning
                | Phase::Cloning { .. }
                | Phase::Protected { .. }
                | Phase::HandedOver { .. }
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
            (Phase::Protected { verified, .. }, Message::Ack(ack)) => {
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
                self.yield_if_caught_up(now);
            }
            // It was on its way when the last entry was acknowledged.
            (Phase::HandedOver { .. }, Message::Ack(_)) => {}
            (Phase::Protected { .. }, Message::DeviceAnswer(id, missing)) => {
                let missing = Some(missing).filter(|text| !text.is_empty());
                let answer = Command::DeviceAnswer { id, missing };
                self.commands.push_back(answer);
            }
            (Phase::HandedOver { .. }, Message::DeviceAnswer(..)) => {}
            (Phase::Protected { .. } | Phase::HandedOver { .. }, Message::DigestMismatch(m)) => {
                self.peer_lost(now, LossReason::Diverged(m));
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
}
