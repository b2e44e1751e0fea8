//! What the primary is told, and what it says.
//!
//! Does: name the commands for the host side, the reasons in them, and errors. Does not: decide.
//!
//! Invariant: every consequence of a call that reaches beyond the state machine is a command
//! (paper §2.3).

use hypervisor::Position;
use machine::Lane;
use serde::Serialize;
use thiserror::Error;

use crate::Tick;
use crate::channel::{GoodbyeReason, HEARTBEAT_BYTES, Mismatch};
use crate::flag::{Decision, Members};
use crate::identity::{Generation, Incarnation, Semantics, VmId};
use crate::log::LogError;
use crate::peer_error::PeerError;

/// What a pairing is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairing {
    /// What the machine's behaviour is defined by.
    pub semantics: Semantics,
    /// The VM.
    pub vm: VmId,
    /// A fresh number, from `Arbiter::next_generation`.
    pub generation: Generation,
    /// This process.
    pub us: Incarnation,
    /// Guest memory in bytes.
    pub ram_size: u64,
    /// The UDP port where this side takes heartbeats; 0 for none.
    pub heartbeat_port: u16,
}

/// What the host side is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Stop the vCPU at the next boundary, outside guest time.
    StallVcpu,
    /// Let it run.
    RunVcpu,
    /// `take_output` has something of this lane. Said once: take until there is nothing more.
    OutputsReady(Lane),
    /// Send this datagram to the peer.
    Heartbeat([u8; HEARTBEAT_BYTES]),
    /// The peer introduced itself. `Arbiter::begin` this, then call `on_generation_begun`.
    BeginGeneration(Members),
    /// Send the clone: the blobs, the memory, `finish_clone`.
    StartClone,
    /// The peer verified the clone: there is a backup now.
    BackupReady,
    /// The answer to [`super::Primary::ask_about_device`].
    DeviceAnswer {
        /// Which question.
        id: u64,
        /// What the backup's host does not have, for people.
        missing: Option<String>,
    },
    /// Ask `Arbiter::answer`, then call `on_answer`.
    Decide {
        /// The generation that is to end.
        generation: Generation,
        /// How.
        decision: Decision,
    },
    /// Close the connection. What it still brings is of no interest.
    CloseChannel,
    /// There is no backup any more, or there never came to be one. The VM runs on.
    Unprotected(LossReason),
    /// Somebody else speaks for the VM: stop it, and let nothing out.
    Halt(Decision),
    /// The VM is over.
    Ended,
}

/// Why there is no backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// The connection ended.
    Disconnected,
    /// Nothing was heard for the detection timeout.
    Silent,
    /// The peer did something that it must not do.
    Failed(PeerError),
    /// The peer said goodbye.
    Left(GoodbyeReason, String),
    /// The peer computed something else.
    Diverged(Mismatch),
    /// The generation could not be begun in the arbiter.
    NotBegun(String),
    /// It was switched off.
    Disabled,
    /// It was handed the VM, and did not take over.
    NotTakenOver,
}

/// Why an entry cannot be appended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// This side does not speak for the VM any more, or the VM is over.
    #[error("this side of the VM has halted")]
    Over,
    /// The entry itself is wrong: a defect of the caller.
    #[error("the entry does not continue the log")]
    Log(#[from] LogError),
}

/// A call that has no place in the present phase.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not possible while the primary is {0}")]
pub struct WrongPhase(pub &'static str);

/// For `ft-info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The phase's name.
    pub phase: &'static str,
    /// The present generation.
    pub generation: Option<Generation>,
    /// The peer.
    pub peer: Option<Incarnation>,
    /// Execution lag.
    pub lag: Tick,
    /// Bytes of log and control that left since the clone.
    pub log_bytes: u64,
    /// The next entry.
    pub next_seq: u64,
    /// Every entry below is acknowledged.
    pub acked: u64,
    /// Where the backup's machine stands.
    pub executed: Position,
    /// Bytes of output that wait.
    pub waiting_output_bytes: usize,
}
