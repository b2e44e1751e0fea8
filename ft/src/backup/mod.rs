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

mod channel;
mod clone;
mod command;
mod leave;
mod replay;

pub use command::{Command, EndedReason, HaltReason, LossReason, Offer, Replay, Status};

use std::collections::VecDeque;

use hypervisor::Position;

use self::clone::Incoming;
use crate::Tick;
use crate::channel::{Hello, Mismatch};
use crate::claim::Claim;
use crate::divergence::Comparison;
use crate::identity::Generation;
use crate::link::Link;
use crate::log::BatchReader;
use crate::replay_buffer::ReplayBuffer;
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
}
