//! The log as it grows, and the outputs that wait for it.
//!
//! Does: number the entries, put them into the batch that is being made, take outputs into the gate
//! and let them go. Does not: write to the connection (`channel`).
//!
//! Invariant: the log is dense, and its positions never go back. An output's entry is in the log
//! before the output is in the gate; what the gate lets go is asked for immediately before it
//! leaves (paper §2.2).

use hypervisor::Position;
use machine::{Lane, Output};

use super::{AppendError, Phase, Primary};
use crate::Tick;
use crate::log::{Body, Control, Entry, LogError, OutputMark};

impl Primary {
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
            self.power_off(entry.seq);
        }
        self.settle(now);
        Ok(entry)
    }

    /// Appends the entry of an output, and takes the output into the gate.
    pub fn append_output(&mut self, now: Tick, output: Output) -> Result<Entry, AppendError> {
        let entry = self.append_held_output(now, output)?;
        // An output waits: at once.
        self.flush();
        self.settle(now);
        Ok(entry)
    }

    /// Like [`Primary::append_output`], with another one coming at once: `flush` after the last.
    pub fn append_held_output(&mut self, now: Tick, output: Output) -> Result<Entry, AppendError> {
        let (position, mark) = OutputMark::of(&output);
        let entry = self.append(now, position, Body::Output(mark))?;
        self.gate.push(entry.seq, output);
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

    /// The next output of a lane, if it may leave now. To be asked immediately before each one is
    /// emitted.
    pub fn take_output(&mut self, now: Tick, lane: Lane) -> Option<Output> {
        // Nobody is hurt by what a side asks for that was superseded.
        let may_leave = self.is_fresh(now) || self.gate.has_harmless(lane);
        let output = may_leave
            .then(|| self.gate.take(lane))
            .flatten()
            .map(|(_, output)| output);
        self.settle(now);
        output
    }

    /// Bytes of the first output of a lane that waits, 0 if none does.
    pub fn first_output_bytes(&self, lane: Lane) -> usize {
        self.gate.first_bytes(lane)
    }

    /// Whether an output that was taken, and is not emitted as a whole, may still leave now. To be
    /// asked immediately before each further part.
    pub fn may_emit(&self, now: Tick) -> bool {
        self.is_fresh(now) && !self.gate.is_shut()
    }

    /// Whether the vCPU may run.
    pub fn may_run(&self) -> bool {
        !self.stalled
    }

    pub(super) fn is_fresh(&self, now: Tick) -> bool {
        match (&self.phase, &self.session) {
            (Phase::Protected { .. }, Some(session)) => session.freshness.is_fresh(now),
            _ => true,
        }
    }
}
