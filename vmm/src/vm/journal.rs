//! The log as the vCPU thread of a live machine writes it.
//!
//! Does: append entries to the role's log and to the recording, in one order; say when a watermark
//! or a digest is due. Does not: decide on inputs (`live`), send (`ft`), or hold outputs back
//! (`ft`'s gate).
//!
//! Invariant: an input is in the log before the machine gets it, an output before its gate gets it.
//! While the guest runs a watermark is never older than [`WATERMARK_INTERVAL`] and a slice; digests
//! are taken at the same positions on every side, since an entry says where, and their values follow
//! in an entry of their own (paper §2.1, §2.2).

use std::io;
use std::sync::Arc;

use ft::log::{Body, ComponentDigest, Control, EndReason, Entry};
use ft::primary::AppendError;
use machine::{HashJob, Input, Machine, Output, Position, Request};

use super::digest_thread::DigestThread;
use super::digests;
use super::inbox::Inbox;
use super::primary_role::{SharedPrimary, lock};
use super::recorder::Recorder;

/// A running guest is not without a watermark for longer than this and a slice (host ns).
const WATERMARK_INTERVAL: u64 = 8_000_000;
/// A running guest's digest is taken this often (host ns).
const DIGEST_INTERVAL: u64 = 900_000_000;

/// The log.
pub struct Journal {
    role: SharedPrimary,
    recorder: Option<Recorder>,
    digester: DigestThread,
    /// When and where the last entry was appended.
    last_at: u64,
    last: Position,
    digest_at: u64,
    digest_position: Position,
    digest_id: u64,
    /// Devices that have left their slots, with the entries that say so.
    detached: Vec<(u64, u8)>,
}

impl Journal {
    /// The log of a machine that stands at `position`. The values of its digests go to `inbox`.
    pub fn new(
        role: SharedPrimary,
        recorder: Option<Recorder>,
        inbox: &Arc<Inbox>,
        now: u64,
        at: Position,
    ) -> io::Result<Self> {
        let inbox = Arc::clone(inbox);
        let digester = DigestThread::start(move |id, components| inbox.digested(id, components))?;
        Ok(Journal {
            role,
            recorder,
            digester,
            last_at: now,
            last: at,
            digest_at: now,
            digest_position: at,
            digest_id: 0,
            detached: Vec::new(),
        })
    }

    /// Whether anybody may ever replay this log.
    fn is_kept(&self) -> bool {
        self.recorder.is_some() || lock(&self.role).is_protected()
    }

    /// Appends an entry; its sequence number.
    pub fn append(&mut self, now: u64, at: Position, body: Body) -> Result<u64, AppendError> {
        self.append_entry(now, at, body).map(|entry| entry.seq)
    }

    fn append_entry(&mut self, now: u64, at: Position, body: Body) -> Result<Entry, AppendError> {
        let entry = lock(&self.role).append(now, at, body)?;
        self.record(now, &entry);
        Ok(entry)
    }

    /// Appends entries for what the machine lets out at this boundary, and gives that to the gate.
    pub fn outputs(&mut self, now: u64, machine: &mut Machine) -> Result<(), AppendError> {
        let outputs = machine.take_outputs();
        if outputs.is_empty() {
            return Ok(());
        }
        let leaving = |output: &Output| match output {
            Output::Device { submission, .. } if submission.request == Request::Detach => {
                Some(submission.device)
            }
            _ => None,
        };
        let detached: Vec<_> = outputs.iter().map(leaving).collect();
        let mut exits = Vec::new();
        let entries = lock(&self.role).append_outputs(now, outputs, &mut exits);
        for exit in exits {
            exit.let_out();
        }
        for (entry, detached) in entries?.iter().zip(detached) {
            self.record(now, entry);
            let seq = entry.seq;
            self.detached.extend(detached.map(|device| (seq, device)));
        }
        Ok(())
    }

    /// The devices that have left their slots since this was last asked, with the entries that say
    /// so.
    pub fn detached(&mut self) -> Vec<(u64, u8)> {
        std::mem::take(&mut self.detached)
    }

    /// Appends an input and applies it; its entry's sequence number.
    pub fn input(
        &mut self,
        now: u64,
        machine: &mut Machine,
        input: Input,
    ) -> Result<u64, AppendError> {
        let entry = self.append_entry(now, machine.position(), Body::Input(input))?;
        if let Body::Input(input) = &entry.body {
            machine.apply(input);
        }
        // A device may ask for more at once.
        self.outputs(now, machine)?;
        Ok(entry.seq)
    }

    fn record(&mut self, now: u64, entry: &Entry) {
        (self.last_at, self.last) = (now, entry.position);
        if let Some(recorder) = &mut self.recorder {
            recorder.push(entry);
        }
    }

    /// The machine has come to `at`: appends a watermark, if there is none at or near there.
    pub fn reached(&mut self, now: u64, at: Position) -> Result<(), AppendError> {
        if at > self.last && now >= self.last_at + WATERMARK_INTERVAL {
            self.watermark(now, at)?;
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.flush_if_due(now);
        }
        Ok(())
    }

    /// The machine stays at `at` for a while: a replaying side may come here.
    pub fn watermark(&mut self, now: u64, at: Position) -> Result<(), AppendError> {
        if at > self.last {
            self.append(now, at, Body::Watermark)?;
        }
        Ok(())
    }

    /// Takes a digest, if one is due.
    pub fn digest_if_due(&mut self, now: u64, machine: &mut Machine) -> Result<(), AppendError> {
        let has_moved = machine.position() > self.digest_position;
        if has_moved && now >= self.digest_at + DIGEST_INTERVAL {
            self.digest(now, machine)?;
        }
        Ok(())
    }

    /// Takes a digest, if anybody can compare it. Its values come later, through the inbox.
    fn digest(&mut self, now: u64, machine: &mut Machine) -> Result<(), AppendError> {
        if let Some(id) = self.digest_here(now, machine)? {
            self.digester.digest(id, machine.begin_digest());
        }
        Ok(())
    }

    fn digest_here(&mut self, now: u64, machine: &Machine) -> Result<Option<u64>, AppendError> {
        let at = machine.position();
        (self.digest_at, self.digest_position) = (now, at);
        if !self.is_kept() {
            return Ok(None);
        }
        self.digest_id += 1;
        let id = self.digest_id;
        self.append(now, at, Body::DigestHere { id })?;
        Ok(Some(id))
    }

    /// Appends the values of a digest, now that they are known.
    pub fn digest_value(
        &mut self,
        now: u64,
        at: Position,
        id: u64,
        components: Vec<ComponentDigest>,
    ) -> Result<(), AppendError> {
        self.append(now, at, Body::DigestValue { id, components })?;
        Ok(())
    }

    /// Lets hashing that will be needed soon be done meanwhile.
    pub fn hash_ahead(&self, job: HashJob) {
        self.digester.ahead(job);
    }

    /// The VM ends here.
    pub fn power_off(&mut self, now: u64, machine: &mut Machine) -> Result<(), AppendError> {
        if let Some(id) = self.digest_here(now, machine)? {
            let components = digests::components(&machine.digest());
            self.digest_value(now, machine.position(), id, components)?;
        }
        let off = Body::Control(Control::PowerOff);
        self.append(now, machine.position(), off)?;
        self.flush(now);
        Ok(())
    }

    /// The process ends, and with it the recording, if there is one. No peer is told.
    pub fn end_recording(&mut self, now: u64, machine: &mut Machine) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let (id, position) = (self.digest_id + 1, machine.position());
        let bodies = [
            Body::DigestHere { id },
            Body::DigestValue {
                id,
                components: digests::components(&machine.digest()),
            },
            Body::Control(Control::EndOfLog(EndReason::Shutdown)),
        ];
        for (seq, body) in (lock(&self.role).next_seq()..).zip(bodies) {
            recorder.push(&Entry {
                seq,
                position,
                body,
            });
        }
        recorder.flush(now);
    }

    /// Writes the recording's last entries to its file.
    pub fn flush(&mut self, now: u64) {
        if let Some(recorder) = &mut self.recorder {
            recorder.flush(now);
        }
    }

    /// Bytes of the recording.
    pub fn recorded(&self) -> Option<u64> {
        self.recorder.as_ref().map(Recorder::written)
    }
}
