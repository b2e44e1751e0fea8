//! How a primary comes to have a backup: the introduction and the clone.
//!
//! Does: introduce itself, split what the host side gives it into messages, and begin protection at
//! the end. Does not: pause the guest, or read its memory.
//!
//! Invariant: the output rule holds before the end of the clone can leave; before it, the backup
//! cannot go live, and cancelling is free (paper §3.1).

use hypervisor::Position;

use super::session::Session;
use super::{Command, LossReason, Pairing, Phase, Primary, WrongPhase};
use crate::Tick;
use crate::channel::{
    BLOB_PART_BYTES, BlobKind, BlobPart, CloneEnd, Hello, MAX_PAGES_PER_RUN, Message, PAGE_BYTES,
    PageRun, Role, nonzero_runs,
};
use crate::frame::Kind;
use crate::freshness::Freshness;
use crate::lag::LagMeter;
use crate::link::Link;
use crate::log::{BatchWriter, ComponentDigest};

impl Primary {
    /// A connection to a would-be backup is there.
    pub fn connect(&mut self, _now: Tick, pairing: Pairing) -> Result<(), WrongPhase> {
        match (&self.phase, &self.session) {
            (Phase::Unprotected, None) => {}
            (Phase::Unprotected, Some(_)) => return Err(WrongPhase("closing")),
            (phase, _) => return Err(WrongPhase(phase.name())),
        }
        let hello = Hello {
            semantics: pairing.semantics,
            vm: pairing.vm,
            generation: pairing.generation,
            incarnation: pairing.us,
            role: Role::Primary,
            ram_size: pairing.ram_size,
            heartbeat_port: pairing.heartbeat_port,
            timeout: self.settings.timeout,
        };
        let mut link = Link::default();
        link.send(&Message::Hello(hello.clone()));
        self.session = Some(Session {
            hello,
            peer: None,
            link,
            log: BatchWriter::new(self.next_seq, self.position),
            batch_opened: None,
            log_started: 0,
            acked: self.next_seq,
            executed: self.position,
            lag: LagMeter::new(self.position),
            freshness: Freshness::new(self.settings.timeout),
        });
        self.phase = Phase::Connecting;
        Ok(())
    }

    /// The arbiter took the members of the generation, or did not.
    pub fn on_generation_begun(&mut self, now: Tick, result: Result<(), String>) {
        if let Phase::Beginning = self.phase {
            match result {
                Ok(()) => {
                    self.phase = Phase::Cloning { pages_sent: 0 };
                    self.commands.push_back(Command::StartClone);
                }
                Err(text) => self.peer_lost(now, LossReason::NotBegun(text)),
            }
        }
    }

    /// How many bytes of the clone may be queued now without outgrowing the send buffer.
    pub fn clone_room(&self) -> usize {
        let waiting = self.session.as_ref().map_or(0, |s| s.link.outbox.len());
        self.settings.send_buffer_bytes.saturating_sub(waiting)
    }

    /// Sends the next part of a blob of `total` bytes. The configuration comes first, before any
    /// page.
    pub fn send_blob(&mut self, kind: BlobKind, total: u64, part: &[u8]) -> Result<(), WrongPhase> {
        let (Phase::Cloning { .. }, Some(session)) = (&self.phase, &mut self.session) else {
            return Err(WrongPhase(self.phase.name()));
        };
        let mut parts = part.chunks(BLOB_PART_BYTES);
        // An empty blob is one empty part.
        let first = parts.next().unwrap_or(&[]);
        for bytes in std::iter::once(first).chain(parts) {
            let bytes = bytes.to_vec();
            let part = BlobPart { kind, total, bytes };
            session.link.send(&Message::Blob(part));
        }
        Ok(())
    }

    /// Sends pages of guest memory, the first of which has index `first`. Zero pages may be left
    /// out when no page was sent before, because a backup's memory begins as zeros.
    ///
    /// # Panics
    /// If `memory` is not whole pages.
    pub fn send_pages(
        &mut self,
        first: u64,
        memory: &[u8],
        leave_out_zeros: bool,
    ) -> Result<(), WrongPhase> {
        let (Phase::Cloning { pages_sent }, Some(session)) = (&mut self.phase, &mut self.session)
        else {
            return Err(WrongPhase(self.phase.name()));
        };
        assert!(memory.len().is_multiple_of(PAGE_BYTES), "whole pages");
        let mut send = |start: usize, bytes: &[u8]| {
            let run = PageRun {
                first: first + (start / PAGE_BYTES) as u64,
                bytes: bytes.to_vec(),
            };
            *pages_sent += run.count() as u64;
            session.link.send(&Message::RamPages(run));
        };
        if leave_out_zeros {
            nonzero_runs(memory).for_each(|run| send(run.start, &memory[run]));
        } else {
            let chunk = MAX_PAGES_PER_RUN * PAGE_BYTES;
            for (i, bytes) in memory.chunks(chunk).enumerate() {
                send(i * chunk, bytes);
            }
        }
        Ok(())
    }

    /// Everything of the clone is queued; the machine stands at `position` and has this digest.
    /// Protection begins here.
    pub fn finish_clone(
        &mut self,
        now: Tick,
        position: Position,
        digest: Vec<ComponentDigest>,
    ) -> Result<(), WrongPhase> {
        let (Phase::Cloning { pages_sent }, Some(session)) = (&self.phase, &mut self.session)
        else {
            return Err(WrongPhase(self.phase.name()));
        };
        let pages_sent = *pages_sent;
        let Some(peer) = &session.peer else {
            return Err(WrongPhase(self.phase.name()));
        };
        assert!(position >= self.position, "the machine went back");
        self.gate.guard([peer.incarnation], self.next_seq);
        self.phase = Phase::Protected {
            verified: false,
            yields: None,
        };
        self.position = position;
        session.log = BatchWriter::new(self.next_seq, position);
        session.acked = self.next_seq;
        session.executed = position;
        session.lag = LagMeter::new(position);
        session.freshness = Freshness::new(peer.timeout.min(session.hello.timeout));
        session.link.send(&Message::CloneEnd(CloneEnd {
            first_seq: self.next_seq,
            position,
            pages_sent,
            digest,
        }));
        let outbox = &session.link.outbox;
        session.log_started = outbox.total_sent() + outbox.len() as u64;
        self.settle(now);
        Ok(())
    }
}

const _: () = assert!(BLOB_PART_BYTES + 16 <= Kind::Blob.cap());
