//! What `ft-info` says of the side that runs the guest.
//!
//! Does: put the role's state into the words of the API. Does not: change anything, or speak for a
//! backup (`backup_role`).
//!
//! Invariant: what is said was true at one moment: the role is locked meanwhile.

use super::super::reasons;
use super::{Over, PrimaryRole};
use crate::status::{FtInfo, FtRole, FtState, HoldTime};

impl PrimaryRole {
    /// What it says of itself.
    pub fn describe(&self, now: u64, info: &mut FtInfo) {
        let status = self.primary.status(now);
        info.state = match (&self.over, status.phase) {
            (Some(Over::Superseded(_)), _) | (_, "halted") => FtState::Halted,
            (_, "handing over") => FtState::HandingOver,
            _ if self.connecting => FtState::Cloning,
            (_, "connecting" | "beginning" | "cloning" | "verifying") => FtState::Cloning,
            (_, "protected") => FtState::Protected,
            (_, "claiming") if self.unreachable => FtState::Waiting,
            (_, "claiming") => FtState::Claiming,
            _ => FtState::Unprotected,
        };
        let is_alone = info.state == FtState::Unprotected;
        // While a hand-over is decided too.
        let follows = matches!(info.state, FtState::Protected | FtState::HandingOver);
        info.role = if is_alone {
            FtRole::None
        } else {
            FtRole::Primary
        };
        info.vm_id = Some(crate::config::VmId(self.around.vm.0));
        info.generation = status.generation.or(self.generation).map(|number| number.0);
        info.peer = self.peer.clone().filter(|_| !is_alone);
        info.lag_ms = follows.then_some(status.lag / 1_000_000);
        let held = self.hold_times.percentiles().filter(|_| follows);
        info.hold_us = held.map(|(median, p99)| HoldTime {
            median: median as f64 / 1e3,
            p99: p99 as f64 / 1e3,
        });
        info.log_entries = status.next_seq;
        info.log_bytes = self.log_bytes;
        info.last_error = match self.primary.loss() {
            Some(loss) => reasons::of_primary_loss(loss),
            None => self.last_error.clone(),
        };
        if info.state == FtState::Waiting
            && let Some(arbiter) = &self.arbiter
        {
            info.last_error
                .insert(0, reasons::of_silence(arbiter.lease()));
        }
    }
}
