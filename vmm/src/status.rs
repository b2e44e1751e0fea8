//! What a virtual machine shows of itself.
//!
//! Does: the plain values behind `vm.info`, `vm.counters` and `vm.ft-info`. Does not: compute them.
//!
//! Invariant: they are snapshots; reading one changes nothing and waits for nobody.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::VmId;
use crate::control::Counters;

/// Where a virtual machine is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// It has a configuration, and no machine yet.
    #[default]
    Created,
    /// Its guest runs.
    Running,
    /// It takes no further step.
    Shutdown,
    /// Its guest stands still.
    Paused,
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VmState::Created => "created and not booted",
            VmState::Running => "running",
            VmState::Shutdown => "shut down",
            VmState::Paused => "paused",
        })
    }
}

/// Where the other ends of consoles' pseudo-terminals are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ptys {
    /// Of the serial port.
    pub serial: Option<PathBuf>,
    /// Of the virtio console.
    pub console: Option<PathBuf>,
}

/// What a machine's threads publish.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmStatus {
    /// Where it is in its life.
    pub state: VmState,
    /// Guest memory in bytes.
    pub memory_actual_size: u64,
    /// Bytes of it that the guest does without: they are in a balloon.
    pub ballooned: u64,
    /// Where its consoles are.
    pub ptys: Ptys,
    /// By device.
    pub counters: Counters,
    /// Fault tolerance.
    pub ft: FtInfo,
}

/// A device that was plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDeviceInfo {
    /// Its name.
    pub id: String,
    /// Where it is on the PCI bus.
    pub bdf: String,
}

/// Which part a VM plays in a pairing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FtRole {
    /// None: it runs alone.
    #[default]
    None,
    /// It runs the guest.
    Primary,
    /// It follows.
    Backup,
}

/// What a VM is doing about its protection (the boxes of the protocol's role diagrams).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FtState {
    /// Nobody would take over.
    #[default]
    Unprotected,
    /// Protection is asked for and begins when the VM boots.
    Armed,
    /// A copy of the machine is on its way to the peer.
    Cloning,
    /// The peer could take over.
    Protected,
    /// The peer is to take over; what came of it is not known yet.
    HandingOver,
    /// Waiting for a primary.
    Receiving,
    /// Following a primary.
    Replaying,
    /// The peer is lost; what was received is being applied.
    Draining,
    /// The peer is lost; the arbiter is being asked.
    Claiming,
    /// The arbiter does not answer; asking again.
    Waiting,
    /// The flag is another's: this side stands still for good.
    Halted,
}

/// Times that outputs were held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldTime {
    /// Half of them were held back no longer.
    pub median: f64,
    /// 99 of 100 were held back no longer.
    pub p99: f64,
}

/// The parts of a failover, in milliseconds, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FailoverTimes {
    /// From the primary's last word until it was known to be lost.
    pub detection: f64,
    /// Until everything it had sent was executed.
    pub drain: f64,
    /// Until the arbiter had answered.
    pub claim: f64,
    /// Until the devices were open, what was pending on its way, and the network cards announced.
    pub start: f64,
}

impl FailoverTimes {
    /// From the moments at which each part ended, the first being that of the primary's last word
    /// (host ns).
    pub fn between(moments: [u64; 5]) -> Self {
        let part = |index: usize| moments[index + 1].saturating_sub(moments[index]) as f64 / 1e6;
        FailoverTimes {
            detection: part(0),
            drain: part(1),
            claim: part(2),
            start: part(3),
        }
    }

    /// All but detection, in whole milliseconds.
    pub fn takeover_ms(self) -> u64 {
        (self.drain + self.claim + self.start) as u64
    }
}

impl fmt::Display for FailoverTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FailoverTimes {
            detection,
            drain,
            claim,
            start,
        } = self;
        write!(
            f,
            "{detection:.1} ms to detect the loss, {drain:.1} ms to drain the log, {claim:.1} ms \
             for the flag, {start:.1} ms to go live"
        )
    }
}

/// What a side that has gone live waits for before it treats its disks as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceWait {
    /// Disks to which the old side may still write.
    pub disks: usize,
    /// How long they have waited, in milliseconds.
    pub since_ms: u64,
}

/// The answer to `vm.ft-info`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FtInfo {
    /// Its part.
    pub role: FtRole,
    /// What it is doing.
    pub state: FtState,
    /// Who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<VmId>,
    /// The number of the pairing, if there is or was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The peer's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The position reached.
    pub position: u64,
    /// How far the backup's execution is behind the primary's, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<u64>,
    /// How long outputs waited for the backup's acknowledgement lately, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_us: Option<HoldTime>,
    /// Log entries since the VM was created.
    pub log_entries: u64,
    /// Log bytes of this pairing, or of the last one.
    pub log_bytes: u64,
    /// Digests on which both sides agreed, as the backup knows.
    pub digests_matched: u64,
    /// How long after it knew that the primary was lost this side went live, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover_ms: Option<u64>,
    /// The parts of the failover by which this side went live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover_ms: Option<FailoverTimes>,
    /// The old side is not fenced yet: nobody else is let in as a backup, and the guest's requests that
    /// the old side could undo wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing: Option<FenceWait>,
    /// Why protection ended or could not begin, the outermost reason first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_error: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ft_info_has_stable_names() {
        let info = FtInfo {
            role: FtRole::Primary,
            state: FtState::Cloning,
            generation: Some(3),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_value(&info).unwrap(),
            serde_json::json!({
                "role": "primary",
                "state": "cloning",
                "generation": 3,
                "position": 0,
                "log_entries": 0,
                "log_bytes": 0,
                "digests_matched": 0,
            })
        );
    }
}
