//! A machine on its way to a backup or into a log file.
//!
//! Does: cut configuration, payload, state and memory into what fits the way out. Does not: send;
//! wait for room; say which digest the whole must have.
//!
//! Invariant: what changes while the guest runs (state and memory) is sent from a machine that
//! stands still, all at one position; what does not is sent before (paper §3.1).

use ft::channel::{BlobKind, CloneEnd, MAX_PAGES_PER_RUN, PAGE_BYTES};
use ft::log::FileWriter;
use ft::primary::{Primary, WrongPhase};
use machine::{BootPayload, GuestRam, Machine};

use super::payload::PayloadBlob;

/// The most bytes given to the way out at once.
const CHUNK: usize = MAX_PAGES_PER_RUN * PAGE_BYTES;

/// Where a clone goes.
pub trait CloneWay {
    /// Whether so many bytes may be given now.
    fn has_room(&self, bytes: usize) -> bool;
    /// A part of a blob.
    fn blob(&mut self, kind: BlobKind, total: u64, part: &[u8]) -> Result<(), WrongPhase>;
    /// Pages, of which zero ones may be left out.
    fn pages(&mut self, first: u64, memory: &[u8]) -> Result<(), WrongPhase>;
}

impl CloneWay for Primary {
    fn has_room(&self, bytes: usize) -> bool {
        self.clone_room() > bytes
    }

    fn blob(&mut self, kind: BlobKind, total: u64, part: &[u8]) -> Result<(), WrongPhase> {
        self.send_blob(kind, total, part)
    }

    fn pages(&mut self, first: u64, memory: &[u8]) -> Result<(), WrongPhase> {
        self.send_pages(first, memory, true)
    }
}

/// A file, with the count of pages in it.
pub struct FileWay<'a> {
    /// The file.
    pub file: &'a mut FileWriter,
    /// How many pages are in it.
    pub count: u64,
}

impl CloneWay for FileWay<'_> {
    fn has_room(&self, _bytes: usize) -> bool {
        true
    }

    fn blob(&mut self, kind: BlobKind, total: u64, part: &[u8]) -> Result<(), WrongPhase> {
        self.file.blob(kind, total, part);
        Ok(())
    }

    fn pages(&mut self, first: u64, memory: &[u8]) -> Result<(), WrongPhase> {
        self.count += self.file.pages(first, memory);
        Ok(())
    }
}

/// A clone that is being sent.
#[derive(Debug)]
pub struct CloneSender {
    config: Vec<u8>,
    config_is_sent: bool,
    payload: PayloadBlob,
    payload_sent: usize,
    state_is_sent: bool,
    next_page: usize,
    memory: Vec<u8>,
}

impl CloneSender {
    /// Of a machine with this configuration (JSON) and payload.
    pub fn new(config: Vec<u8>, payload: BootPayload) -> Self {
        CloneSender {
            config,
            config_is_sent: false,
            payload: PayloadBlob::new(payload),
            payload_sent: 0,
            state_is_sent: false,
            next_page: 0,
            memory: Vec::new(),
        }
    }

    /// Sends what does not change while the guest runs, as far as there is room; whether all of it
    /// is sent.
    pub fn send_ahead(&mut self, way: &mut dyn CloneWay) -> Result<bool, WrongPhase> {
        if !self.config_is_sent {
            way.blob(BlobKind::Config, self.config.len() as u64, &self.config)?;
            self.config_is_sent = true;
        }
        let total = self.payload.total();
        while self.payload_sent < total {
            if !way.has_room(CHUNK) {
                return Ok(false);
            }
            let part = self.payload.at(self.payload_sent, CHUNK);
            way.blob(BlobKind::Payload, total as u64, part)?;
            self.payload_sent += part.len();
        }
        Ok(true)
    }

    /// Sends state and memory of `machine`, as far as there is room; whether all of it is sent. The
    /// machine stands still until then.
    pub fn send_machine(
        &mut self,
        machine: &Machine,
        way: &mut dyn CloneWay,
    ) -> Result<bool, WrongPhase> {
        if !self.state_is_sent {
            let mut state = machine.save();
            state.payload = BootPayload {
                kernel: Default::default(),
                initramfs: Default::default(),
                cmdline: String::new(),
            };
            let state = state.encode();
            way.blob(BlobKind::State, state.len() as u64, &state)?;
            self.state_is_sent = true;
        }
        let ram = machine.ram();
        while self.next_page < ram.pages() {
            if !way.has_room(CHUNK) {
                return Ok(false);
            }
            self.memory.clear();
            let count = stretch(ram, self.next_page);
            for page in self.next_page..self.next_page + count {
                self.memory.extend_from_slice(ram.page(page));
            }
            way.pages(self.next_page as u64, &self.memory)?;
            self.next_page += count;
        }
        self.memory = Vec::new();
        Ok(true)
    }
}

/// How many pages from `first` on are sent at once.
fn stretch(ram: &GuestRam, first: usize) -> usize {
    MAX_PAGES_PER_RUN.min(ram.pages() - first)
}

/// Writes a machine, and the digest that it must have, to a file.
pub fn write_to_file(
    file: &mut FileWriter,
    config: Vec<u8>,
    first_seq: u64,
    machine: &mut Machine,
) {
    let mut sender = CloneSender::new(config, machine.save().payload);
    let mut way = FileWay { file, count: 0 };
    // A file has room and no phase.
    let _ = sender.send_ahead(&mut way);
    let _ = sender.send_machine(machine, &mut way);
    let pages_sent = way.count;
    file.clone_end(CloneEnd {
        first_seq,
        position: machine.position(),
        pages_sent,
        // Taking it moves the digest's sweep, so it comes after the state.
        digest: super::digests::components(&machine.digest()),
    });
}
