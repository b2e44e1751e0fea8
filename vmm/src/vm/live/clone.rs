//! The clone of a live machine on its way to a backup.
//!
//! Does: send memory ahead while the guest runs, and the rest while it stands still; begin the
//! generation's log with what the backup cannot know from the state. Does not: choose pages
//! (`clone_out` does), or decide when there is to be a clone (`ft` does).
//!
//! Invariant: the clone ends at the position that its end names, with the digest of the machine that
//! stands there; what the guest wrote to its disks before is on the storage by then (paper §3.1).

use ft::log::{Body, Control};
use ft::primary::AppendError;

use super::super::clone_out::{CloneSender, Progress};
use super::super::digests;
use super::super::primary_role::lock;
use super::{Live, MILLISECOND};
use crate::host::clock;
use crate::status::VmState;

impl Live {
    /// Sends what there is room for of the clone.
    pub(super) fn send_clone(&mut self) -> Result<(), AppendError> {
        if self.clone.is_none() {
            if !self.backends.are_fenced() {
                return Ok(());
            }
            // From the pairing's beginning on, what is written is durable; this is for the rest.
            self.backends.settle();
            // The digest in the end wants a hash of every page.
            self.journal.hash_ahead(self.machine.hash_ahead());
        }
        let (config, machine) = (&self.config, &self.machine);
        let sender = self.clone.get_or_insert_with(|| {
            let config = serde_json::to_vec(config).expect("a configuration is JSON");
            CloneSender::new(config, machine)
        });
        let sent = lock(&self.role).send_clone(|primary| sender.send_ahead(machine, primary));
        match sent {
            Ok(Progress::Done) if self.backends.are_settled() => self.send_machine(),
            Ok(Progress::More) => {
                // An idle guest does not make it wait.
                self.parts.inbox.ring();
                Ok(())
            }
            Ok(Progress::Done | Progress::Blocked) | Err(_) => Ok(()),
        }
    }

    /// Sends the rest; the guest stands still meanwhile.
    fn send_machine(&mut self) -> Result<(), AppendError> {
        let Some(mut sender) = self.clone.take() else {
            return Ok(());
        };
        let began = clock::monotonic_ns();
        let digest = self.machine.begin_clone_digest();
        self.journal.hash_ahead(digest.hashing());
        loop {
            let machine = &self.machine;
            let sent = lock(&self.role).send_clone(|primary| sender.send_machine(machine, primary));
            match sent {
                Ok(Progress::Done) => break,
                Ok(Progress::More) => continue,
                Ok(Progress::Blocked) if !self.parts.inbox.is_stopping() => {
                    self.sleep(5 * MILLISECOND);
                }
                // The peer is lost, or the process ends.
                Ok(Progress::Blocked) | Err(_) => return Ok(()),
            }
            self.parts.inbox.look();
        }
        let sent = clock::monotonic_ns();
        let digest = digests::components(&digest.finish());
        let now = clock::monotonic_ns();
        let at = self.machine.position();
        if lock(&self.role).finish_clone(now, at, digest).is_err() {
            return Ok(());
        }
        log::info!(
            "the clone took {} ms of the guest's time, {} ms of it for the digest",
            (now - began) / MILLISECOND,
            (now - sent) / MILLISECOND
        );
        if self.state != VmState::Running {
            // The log of this generation must say so too.
            let pause = Body::Control(Control::Pause);
            self.journal.append(now, at, pause)?;
        }
        Ok(())
    }
}
