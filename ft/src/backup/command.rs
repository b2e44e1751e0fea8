//! What the backup is told, and what it says.
//!
//! Does: name the commands for the host side and the replayer, and the reasons in them. Does not:
//! decide.
//!
//! Invariant: every consequence of a call that reaches beyond the state machine is a command
//! (paper §2.3).

use hypervisor::Position;
use serde::Serialize;

use crate::channel::{BlobKind, GoodbyeReason, HEARTBEAT_BYTES, Hello, Mismatch, PageRun};
use crate::flag::Decision;
use crate::identity::{Generation, Incarnation, Semantics, VmId};
use crate::log::{EndReason, Entry};
use crate::peer_error::PeerError;

/// What this side offers to a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The machines it can be, at least one: what the behaviour of each is defined by.
    pub semantics: Vec<Semantics>,
    /// This process.
    pub us: Incarnation,
    /// The only VM that is welcome; `None` for any.
    pub vm: Option<VmId>,
    /// The UDP port where this side takes heartbeats; 0 for none.
    pub heartbeat_port: u16,
}

/// What the host side is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A primary introduced itself: prepare for a guest with that much memory, all zeros.
    Accepted(Hello),
    /// A blob of the clone is whole.
    Blob(BlobKind, Vec<u8>),
    /// Write these pages.
    Pages(PageRun),
    /// The clone is complete. Build the machine, compute its digest, read the members of this
    /// generation from the arbiter, and call `on_clone_checked`.
    CheckClone {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// Where the machine must stand.
        position: Position,
    },
    /// The primary wants to plug in a device of this configuration: look whether this host has what
    /// it needs, and call `answer_about_device`.
    DeviceQuery {
        /// Names the question.
        id: u64,
        /// The device's configuration.
        config: Vec<u8>,
    },
    /// `replay` has something else to say than before.
    Replay,
    /// Send this datagram to the peer.
    Heartbeat([u8; HEARTBEAT_BYTES]),
    /// The primary is gone; what was received is being replayed.
    PrimaryLost(LossReason),
    /// Ask `Arbiter::answer`, then call `on_answer`.
    Decide {
        /// The generation that is to end.
        generation: Generation,
        /// How.
        decision: Decision,
    },
    /// This side speaks for the VM now. Continue with a `Primary` made of these.
    GoLive {
        /// The generation that was won.
        generation: Generation,
        /// The next entry.
        next_seq: u64,
        /// Where the machine stands.
        position: Position,
    },
    /// The machines differ: this side never goes live.
    DigestMismatch(Mismatch),
    /// Close the connection. What it still brings is of no interest.
    CloseChannel,
    /// This side is of no use any more.
    Halt(HaltReason),
    /// The VM is over, or needs no backup: nothing failed.
    Ended(EndedReason),
}

/// Why the primary is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// The connection ended.
    Disconnected,
    /// Nothing was heard for the detection timeout.
    Silent,
    /// The peer did something that it must not do.
    Failed(PeerError),
    /// The primary's process is shutting down.
    Left(GoodbyeReason, String),
}

/// Why this side is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HaltReason {
    /// The primary was lost before the clone was complete.
    Incomplete(LossReason),
    /// The clone, or this side's host, is not what it must be.
    Refused(String),
    /// The machines differ.
    Diverged(Mismatch),
    /// The flag was decided otherwise.
    Lost(Decision),
}

/// Why there is nothing to do any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedReason {
    /// The VM was powered off.
    PowerOff,
    /// Protection was switched off.
    Disabled,
    /// The log says that it ends.
    EndOfLog(EndReason),
    /// An operator took this side away.
    Left,
}

/// What the replayer does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Apply this entry at this boundary: an input, a digest to be taken, a control entry.
    Apply(Entry),
    /// Run to this position, not further.
    RunTo(Position),
    /// Wait until `Command::Replay`.
    Wait,
    /// This side is live.
    GoLive,
    /// This side is of no use any more.
    Stop,
}

/// For `ft-info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The phase's name.
    pub phase: &'static str,
    /// The present generation.
    pub generation: Option<Generation>,
    /// The primary.
    pub peer: Option<Incarnation>,
    /// The next entry to be received.
    pub next_expected: u64,
    /// Where the last entry received is.
    pub received: Position,
    /// Where the machine stands.
    pub executed: Position,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes of entries that wait to be executed.
    pub buffered_bytes: usize,
    /// Digests that were compared and equal.
    pub digests_compared: u64,
}
