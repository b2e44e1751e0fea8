//! The backup's end of the channel.
//!
//! Does: take in what the primary sent, acknowledge it on receipt, watch over the primary. Does not:
//! decide what follows from its loss (`leave`).
//!
//! Invariant: what is acknowledged is checked, decoded and in the buffer; a message takes effect as
//! a whole or not at all (paper §3.2).

use super::{Backup, Command, EndedReason, LossReason, Phase};
use crate::Tick;
use crate::channel::{Ack, GoodbyeReason, Message, MessageError};
use crate::failure_detector::FailureDetector;
use crate::link::name_of;
use crate::peer_error::PeerError;

impl Backup {
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

    /// Answers the primary's question about a device: what this host does not have, if anything.
    pub fn answer_about_device(&mut self, id: u64, missing: Option<String>) {
        if let Phase::Replaying = self.phase {
            let missing = missing.unwrap_or_default();
            self.link.send(&Message::DeviceAnswer(id, missing));
        }
    }

    /// Whether `transmit` has something.
    pub fn wants_to_write(&self) -> bool {
        !self.link.outbox.is_empty() || (self.ack_due && matches!(self.phase, Phase::Replaying))
    }

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
            (Phase::Replaying, Message::DeviceQuery(id, config)) => {
                self.commands.push_back(Command::DeviceQuery { id, config });
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
}
