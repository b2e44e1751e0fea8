//! A machine on its way to a backup or into a log file.
//!
//! Does: cut configuration, payload, state and memory into what fits the way out, and remember what
//! of the memory was sent. Does not: send; wait for room; say which digest the whole must have.
//!
//! Invariant: the last pass over memory and the state come from a machine that stands still, all at
//! one position. Earlier passes run beside the guest, so that little is left for the last one: a
//! page is sent again if it is not what was sent. That is judged by a hash of 64 bits; the digest of
//! the whole would notice if one were wrong (paper §3.1).

use ft::channel::{BlobKind, CloneEnd, MAX_PAGES_PER_RUN, PAGE_BYTES};
use ft::log::{FileWriter, hash_of};
use ft::primary::{Primary, WrongPhase};
use machine::{BootPayload, Machine};

use super::payload::PayloadBlob;

/// The most bytes given to the way out at once.
const CHUNK: usize = MAX_PAGES_PER_RUN * PAGE_BYTES;
/// How often memory is gone through beside the guest.
const PASSES_AHEAD: u32 = 2;
/// So many pages are looked at in one call: between two slices of the guest, and while others wait
/// for the way out.
const PAGES_AT_ONCE: usize = 4096;

/// Where a clone goes.
pub trait CloneWay {
    /// Whether so many bytes may be given now.
    fn has_room(&self, bytes: usize) -> bool;
    /// A part of a blob.
    fn blob(&mut self, kind: BlobKind, total: u64, part: &[u8]) -> Result<(), WrongPhase>;
    /// Pages, all of which are sent.
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
        self.send_pages(first, memory, false)
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

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more, for which there was no time.
    More,
    /// There is more, for which there was no room.
    Blocked,
    /// All is sent.
    Done,
}

/// A clone that is being sent.
#[derive(Debug)]
pub struct CloneSender {
    config: Vec<u8>,
    config_is_sent: bool,
    payload: PayloadBlob,
    payload_sent: usize,
    state_is_sent: bool,
    passes: u32,
    next_page: usize,
    /// What was sent of each page: its hash, or 0 for the zeros with which a backup begins.
    sent: Vec<u64>,
    memory: Vec<u8>,
}

impl CloneSender {
    /// Of a machine with this configuration (JSON).
    pub fn new(config: Vec<u8>, machine: &Machine) -> Self {
        CloneSender {
            config,
            config_is_sent: false,
            payload: PayloadBlob::new(machine.save().payload),
            payload_sent: 0,
            state_is_sent: false,
            passes: 0,
            next_page: 0,
            sent: vec![0; machine.ram().pages()],
            memory: Vec::new(),
        }
    }

    /// Sends what can be sent beside the guest; to be called between its slices until all of that
    /// is sent.
    pub fn send_ahead(
        &mut self,
        machine: &Machine,
        way: &mut dyn CloneWay,
    ) -> Result<Progress, WrongPhase> {
        if !self.config_is_sent {
            way.blob(BlobKind::Config, self.config.len() as u64, &self.config)?;
            self.config_is_sent = true;
        }
        let total = self.payload.total();
        while self.payload_sent < total {
            if !way.has_room(CHUNK) {
                return Ok(Progress::Blocked);
            }
            let part = self.payload.at(self.payload_sent, CHUNK);
            way.blob(BlobKind::Payload, total as u64, part)?;
            self.payload_sent += part.len();
        }
        if self.passes == PASSES_AHEAD {
            return Ok(Progress::Done);
        }
        let progress = self.send_memory(machine, way, PAGES_AT_ONCE)?;
        if progress == Progress::Done {
            self.passes += 1;
            return Ok(Progress::More);
        }
        Ok(progress)
    }

    /// Sends the rest of a machine that stands still until all is sent.
    pub fn send_machine(
        &mut self,
        machine: &Machine,
        way: &mut dyn CloneWay,
    ) -> Result<Progress, WrongPhase> {
        if !self.state_is_sent {
            // A pass that began beside the guest does not count.
            self.next_page = 0;
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
        self.send_memory(machine, way, PAGES_AT_ONCE)
    }

    /// Goes on with a pass over memory, looking at no more than `most` pages.
    fn send_memory(
        &mut self,
        machine: &Machine,
        way: &mut dyn CloneWay,
        mut most: usize,
    ) -> Result<Progress, WrongPhase> {
        let ram = machine.ram();
        while self.next_page < ram.pages() {
            if most == 0 {
                return Ok(Progress::More);
            }
            if !way.has_room(CHUNK) {
                return Ok(Progress::Blocked);
            }
            let first = self.next_page;
            self.memory.clear();
            while self.next_page < ram.pages() && self.memory.len() < CHUNK && most > 0 {
                most -= 1;
                let page = ram.page(self.next_page);
                let hash = page_hash(page);
                if hash == self.sent[self.next_page] {
                    if self.memory.is_empty() {
                        self.next_page += 1;
                    }
                    break;
                }
                self.memory.extend_from_slice(page);
                self.sent[self.next_page] = hash;
                self.next_page += 1;
            }
            if !self.memory.is_empty() {
                way.pages(first as u64, &self.memory)?;
            }
        }
        self.next_page = 0;
        Ok(Progress::Done)
    }
}

/// A page's hash; 0 for one of zeros.
fn page_hash(page: &[u8; PAGE_BYTES]) -> u64 {
    const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
    if *page == ZEROS {
        return 0;
    }
    hash_of(page).max(1)
}

/// Writes a machine, and the digest that it must have, to a file.
pub fn write_to_file(
    file: &mut FileWriter,
    config: Vec<u8>,
    first_seq: u64,
    machine: &mut Machine,
) {
    let mut sender = CloneSender::new(config, machine);
    let mut way = FileWay { file, count: 0 };
    // A file has room and no phase.
    while let Ok(Progress::More) = sender.send_ahead(machine, &mut way) {}
    while let Ok(Progress::More) = sender.send_machine(machine, &mut way) {}
    let pages_sent = way.count;
    file.clone_end(CloneEnd {
        first_seq,
        position: machine.position(),
        pages_sent,
        digest: super::digests::components(&machine.clone_digest()),
    });
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use ft::channel::{BlobAssembler, PageRun};
    use machine::{MachineConfig, Profile, Translation, Tuning};

    use super::super::clone_in::IncomingClone;
    use super::super::digests::components;
    use super::*;

    /// A backup that takes a little at a time.
    struct Narrow {
        incoming: IncomingClone,
        blobs: BlobAssembler,
        room: Cell<usize>,
        pages: usize,
    }

    impl CloneWay for Narrow {
        fn has_room(&self, _bytes: usize) -> bool {
            let room = self.room.get();
            self.room.set(room.saturating_sub(1));
            room > 0
        }

        fn blob(&mut self, kind: BlobKind, total: u64, part: &[u8]) -> Result<(), WrongPhase> {
            let bytes = part.to_vec();
            let part = ft::channel::BlobPart { kind, total, bytes };
            if let Some((kind, bytes)) = self.blobs.push(part).unwrap() {
                self.incoming.blob(kind, bytes).unwrap();
            }
            Ok(())
        }

        fn pages(&mut self, first: u64, memory: &[u8]) -> Result<(), WrongPhase> {
            self.pages += memory.len() / PAGE_BYTES;
            let bytes = memory.to_vec();
            self.incoming.pages(&PageRun { first, bytes }).unwrap();
            Ok(())
        }
    }

    /// `inc dword [0x200000 + eax]; add eax, 4096; and eax, 0xfffff; jmp` to the beginning.
    const SCRIBBLE: [u8; 18] = [
        0xff, 0x80, 0x00, 0x00, 0x20, 0x00, 0x05, 0x00, 0x10, 0x00, 0x00, 0x25, 0xff, 0xff, 0x0f,
        0x00, 0xeb, 0xee,
    ];

    fn machine() -> Machine {
        Machine::new(MachineConfig {
            memory_size: 32 << 20,
            devices: Vec::new(),
            profile: Profile::default(),
            seed: [1; 32],
            start_time: 0,
            payload: BootPayload {
                kernel: Arc::new(super::super::tests::pvh::kernel_file(&SCRIBBLE)),
                initramfs: Arc::new(vec![5; 3 << 20]),
                cmdline: "x".to_owned(),
            },
            tuning: Tuning::new(1 << 20, Translation::default()),
        })
        .unwrap()
    }

    #[test]
    fn a_running_machine_arrives_as_it_stands_in_the_end() {
        let mut machine = machine();
        let config = br#"{"payload":{"kernel":"/k"},"memory":{"size":33554432}}"#.to_vec();
        let mut sender = CloneSender::new(config, &machine);
        let mut way = Narrow {
            incoming: IncomingClone::new(32 << 20).unwrap(),
            blobs: BlobAssembler::default(),
            room: Cell::new(0),
            pages: 0,
        };
        let run = |machine: &mut Machine| {
            let until = machine::Position(machine.position().0 + 1000);
            super::super::follower::run_to(machine, until, &Default::default()).unwrap();
        };
        while sender.send_ahead(&machine, &mut way).unwrap() != Progress::Done {
            run(&mut machine);
            way.room.set(2);
        }
        let ahead = way.pages;
        way.room.set(0);
        while sender.send_machine(&machine, &mut way).unwrap() != Progress::Done {
            way.room.set(1);
        }
        assert!(way.pages - ahead <= 300, "{} of {ahead}", way.pages - ahead);
        let whole = way.incoming.finish().unwrap();
        let mut copy = whole
            .into_machine(
                machine.position(),
                Tuning::new(1 << 20, Translation::default()),
            )
            .unwrap();
        assert_eq!(components(&copy.digest()), components(&machine.digest()));
        run(&mut machine);
        run(&mut copy);
        assert_eq!(components(&copy.digest()), components(&machine.digest()));
    }
}
