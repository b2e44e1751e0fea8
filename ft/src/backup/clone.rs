//! The backup's part of the handshake and the clone.
//!
//! Does: accept a primary, pass the parts of the clone on as they come, and judge the whole. Does
//! not: build the machine, or compute its digest.
//!
//! Invariant: replay begins only from a clone that is complete, has the primary's digest, and
//! belongs to a generation that this side's arbiter knows (paper §3.1).

use std::collections::BTreeSet;

use super::{Backup, Command, HaltReason, Phase};
use crate::Tick;
use crate::channel::{
    BlobAssembler, BlobKind, BlobPart, CloneEnd, CloneError, GoodbyeReason, Hello, HelloError,
    Message, PAGE_BYTES, PageRun, Role,
};
use crate::divergence;
use crate::failure_detector::FailureDetector;
use crate::flag::Members;
use crate::log::{BatchReader, ComponentDigest};
use crate::peer_error::PeerError;
use crate::replay_buffer::ReplayBuffer;

/// The clone, as far as it is here.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    blobs: BlobAssembler,
    whole: BTreeSet<BlobKind>,
    pages: u64,
    digest: Vec<ComponentDigest>,
}

impl Backup {
    // --- The clone. These are for the thread that builds the machine.

    /// The machine of the clone is built; this is its digest, and these are the members of the
    /// generation as this side's arbiter has them (`None` if it has none, or cannot be reached).
    pub fn on_clone_checked(&mut self, digest: &[ComponentDigest], members: Option<&Members>) {
        let Phase::Verifying { lost } = &mut self.phase else {
            return;
        };
        let lost = lost.take();
        let expected = std::mem::take(&mut self.incoming.digest);
        // Two sides that ask different arbiters would both win.
        let same_arbiter = self.primary.as_ref().is_some_and(|primary| {
            members.is_some_and(|members| {
                members.by == primary.incarnation && members.members.contains(&self.offer.us)
            })
        });
        if !same_arbiter {
            self.refuse("this generation is not in the backup's arbiter");
            return;
        }
        if let Err(mismatch) = divergence::compare(self.executed, &expected, digest) {
            self.diverged(mismatch);
            return;
        }
        self.phase = Phase::Replaying;
        self.ack_due = true;
        self.commands.push_back(Command::Replay);
        if let Some(reason) = lost {
            self.primary_lost(reason);
        }
    }

    /// This side cannot take the clone on.
    pub fn refuse(&mut self, text: &str) {
        if let Phase::Receiving | Phase::Verifying { .. } = self.phase {
            let goodbye = Message::Goodbye(GoodbyeReason::Refused, text.to_owned());
            self.link.send_last(&goodbye);
            self.halt(HaltReason::Refused(text.to_owned()));
        }
    }

    pub(super) fn on_hello(&mut self, now: Tick, theirs: Hello) -> Result<(), PeerError> {
        let cap = self.settings.max_ram_bytes;
        let size = theirs.ram_size;
        let whole = size > 0 && size.is_multiple_of(PAGE_BYTES as u64);
        if !whole || size > cap {
            return Err(HelloError::BadRamSize { size, cap }.into());
        }
        if let Some(vm) = self.offer.vm
            && vm != theirs.vm
        {
            return Err(HelloError::WrongVm {
                ours: vm,
                theirs: theirs.vm,
            }
            .into());
        }
        // Of the machines that this side can be, the one that the primary's is, or else any, which
        // is then refused.
        let offered = &self.offer.semantics;
        let same = offered.iter().find(|ours| **ours == theirs.semantics);
        let Some(semantics) = same.or(offered.first()).cloned() else {
            return Err(PeerError::from(HelloError::NothingOffered));
        };
        let ours = Hello {
            semantics,
            incarnation: self.offer.us,
            role: Role::Backup,
            heartbeat_port: self.offer.heartbeat_port,
            timeout: self.settings.timeout,
            ..theirs.clone()
        };
        ours.check_common(&theirs)?;
        self.link.detector = Some(FailureDetector::new(
            now,
            (self.settings.timeout, self.settings.heartbeat_interval),
            (theirs.vm, theirs.generation),
            self.offer.us,
            theirs.incarnation,
        ));
        self.link.send(&Message::HelloAck(ours));
        self.primary = Some(theirs.clone());
        self.phase = Phase::Receiving;
        self.commands.push_back(Command::Accepted(theirs));
        Ok(())
    }

    pub(super) fn on_blob(&mut self, part: BlobPart) -> Result<(), PeerError> {
        if self.incoming.whole.contains(&part.kind) {
            return Err(CloneError::RepeatedBlob(part.kind).into());
        }
        if let Some((kind, bytes)) = self.incoming.blobs.push(part)? {
            self.incoming.whole.insert(kind);
            self.commands.push_back(Command::Blob(kind, bytes));
        }
        Ok(())
    }

    pub(super) fn on_pages(&mut self, run: PageRun) -> Result<(), PeerError> {
        if !self.incoming.whole.contains(&BlobKind::Config) {
            return Err(CloneError::TooEarly.into());
        }
        let ram_size = self.primary.as_ref().map_or(0, |p| p.ram_size);
        run.check(ram_size / PAGE_BYTES as u64)?;
        self.incoming.pages += run.count() as u64;
        self.commands.push_back(Command::Pages(run));
        Ok(())
    }

    pub(super) fn on_clone_end(&mut self, end: CloneEnd) -> Result<(), PeerError> {
        if let Some(kind) = self.incoming.blobs.unfinished() {
            return Err(CloneError::BrokenBlob(kind).into());
        }
        for kind in [BlobKind::Config, BlobKind::State] {
            if !self.incoming.whole.contains(&kind) {
                return Err(CloneError::MissingBlob(kind).into());
            }
        }
        if end.pages_sent != self.incoming.pages {
            return Err(CloneError::WrongPageCount {
                expected: end.pages_sent,
                found: self.incoming.pages,
            }
            .into());
        }
        let Some(primary) = &self.primary else {
            return Ok(());
        };
        self.reader = BatchReader::new(end.first_seq, end.position);
        self.buffer = ReplayBuffer::new(end.position);
        (self.executed, self.reported) = (end.position, end.position);
        self.incoming.digest = end.digest;
        self.phase = Phase::Verifying { lost: None };
        self.commands.push_back(Command::CheckClone {
            vm: primary.vm,
            generation: primary.generation,
            position: end.position,
        });
        Ok(())
    }
}
