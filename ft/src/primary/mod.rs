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
//! Unprotected ─connect─► Connecting ─► Beginning ─► Cloning ─finish_clone─► Protected ─hand_over─┐
//!      ▲                     └──────────────┴───────────┴─► Unprotected         │ peer lost,     │
//!      │                                                                        │ disable, end   ▼
//!      └─won──────────────────────── Claiming ◄─────────────────────────────────┴──────── HandedOver
//!                     Halted ◄─lost──┘   └─ended─► Ended
//! ```

mod append;
mod channel;
mod clone;
mod command;
mod leave;
mod session;

pub use command::{AppendError, Command, LossReason, Pairing, Status, WrongPhase};

use std::collections::{BTreeSet, VecDeque};

use hypervisor::Position;
use machine::Lane;

use self::session::Session;
use crate::Tick;
use crate::channel::{Hello, Message};
use crate::claim::Claim;
use crate::identity::Generation;
use crate::output_rule::OutputGate;
use crate::settings::Settings;

#[derive(Debug)]
enum Phase {
    Unprotected,
    Connecting,
    Beginning,
    Cloning {
        pages_sent: u64,
    },
    Protected {
        /// The backup has verified the clone: it could go live.
        verified: bool,
        /// The vCPU stands, and the backup has until then to catch up and be handed the VM.
        yields: Option<Tick>,
    },
    /// The backup was told to take over, and has until then to do so.
    HandedOver {
        until: Tick,
    },
    Claiming {
        claim: Claim,
        reason: LossReason,
    },
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
            Phase::Protected {
                yields: Some(_), ..
            }
            | Phase::HandedOver { .. } => "handing over",
            Phase::Protected {
                verified: false, ..
            } => "verifying",
            Phase::Protected { verified: true, .. } => "protected",
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
    /// Lanes of which `OutputsReady` was said, and there is still something.
    announced: BTreeSet<Lane>,
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
            announced: BTreeSet::new(),
            commands: VecDeque::new(),
        }
    }

    /// Other times and sizes, from the next pairing on.
    pub fn configure(&mut self, settings: Settings) -> Result<(), WrongPhase> {
        match self.phase {
            Phase::Unprotected => self.settings = settings,
            _ => return Err(WrongPhase(self.phase.name())),
        }
        Ok(())
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

    /// Why there is no backup any more, while the flag is asked about it.
    pub fn loss(&self) -> Option<&LossReason> {
        match &self.phase {
            Phase::Claiming { reason, .. } => Some(reason),
            _ => None,
        }
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

    /// Brings commands in line with the state: stalls, outputs, pings.
    fn settle(&mut self, now: Tick) {
        let is_fresh = self.is_fresh(now);
        let ready: BTreeSet<Lane> = self.gate.ready().collect();
        let has_ready = !ready.is_empty();
        if is_fresh {
            for lane in ready.difference(&self.announced) {
                self.commands.push_back(Command::OutputsReady(*lane));
            }
            self.announced = ready;
        } else {
            self.announced.clear();
        }
        if !is_fresh
            && has_ready
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
            (
                Phase::Protected {
                    yields: Some(_), ..
                }
                | Phase::HandedOver { .. }
                | Phase::Claiming { .. }
                | Phase::Halted
                | Phase::Ended,
                _,
            ) => return true,
            (Phase::Protected { .. }, Some(session)) => {
                session.link.outbox.len() + session.log.open_bytes()
            }
            _ => 0,
        };
        sending > self.settings.send_buffer_bytes / divisor
            || self.gate.waiting_bytes() > self.settings.gate_bytes / divisor
    }
}
