//! A toy machine: a hash chain that scribbles over its memory, prints lines and writes to a disk.
//!
//! Everything that it prints depends on everything that it ever did, so one wrong step, input or
//! page shows in the next line. It knows what its disk must hold.

use ft::log::{ComponentDigest, hash_of};
use machine::{Event, Input, Output, Position, Request, Submission};

use super::prng::scramble;
use super::storage::SECTORS;

pub const PAGES: usize = 3;
const PAGE: usize = 4096;
/// The number of the disk among the devices.
pub const DISK: u8 = 1;
/// The most writes in flight.
const WRITES_MAX: usize = 4;

/// A write to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    pub id: u64,
    pub sector: usize,
    pub value: u64,
}

impl Write {
    /// As a device submits it.
    pub fn output(&self, position: u64) -> Output {
        let request = Request::Write {
            offset: self.sector as u64,
            data: self.value.to_le_bytes().to_vec(),
            durable: true,
        };
        Output::Device {
            position: Position(position),
            submission: Submission {
                device: DISK,
                id: self.id,
                request,
            },
        }
    }

    /// From there; `None` if it is another output.
    pub fn of(output: &Output) -> Option<Self> {
        let Output::Device { submission, .. } = output else {
            return None;
        };
        let Request::Write { offset, data, .. } = &submission.request else {
            return None;
        };
        let value = u64::from_le_bytes(data[..].try_into().ok()?);
        Some(Write {
            id: submission.id,
            sector: *offset as usize,
            value,
        })
    }
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub position: u64,
    hash: u64,
    lines: u64,
    /// Console bytes since the VM's creation.
    pub through: u64,
    /// Those of them that are not known to be emitted.
    pub pending: Vec<u8>,
    pub ram: Vec<u8>,
    next_write: u64,
    /// Writes that were submitted and have not ended, in order; no two of one sector.
    pub in_flight: Vec<Write>,
    /// What the writes that have ended left on the disk.
    pub disk: [u64; SECTORS],
}

impl Machine {
    pub fn new() -> Self {
        Machine {
            position: 0,
            hash: 1,
            lines: 0,
            through: 0,
            pending: Vec::new(),
            ram: vec![0; PAGES * PAGE],
            next_write: 0,
            in_flight: Vec::new(),
            disk: [0; SECTORS],
        }
    }

    /// Runs to `until`, or to just after a step that prints or writes.
    pub fn run(&mut self, until: u64) -> Option<Output> {
        while self.position < until {
            self.hash = scramble(self.hash ^ u64::from(self.ram[self.at()]));
            let at = self.at();
            self.ram[at] = self.hash as u8;
            self.position += 1;
            if self.hash.is_multiple_of(151) {
                self.lines += 1;
                let line = format!("{} {:016x}\n", self.lines, self.hash);
                self.through += line.len() as u64;
                self.pending.extend_from_slice(line.as_bytes());
                return Some(Output::Console {
                    position: Position(self.position),
                    through: self.through,
                    bytes: line.into_bytes(),
                });
            }
            if self.hash.is_multiple_of(293)
                && let Some(write) = self.next_write()
            {
                return Some(write.output(self.position));
            }
        }
        None
    }

    /// A write, if the disk takes another one and none to the same sector is in flight.
    fn next_write(&mut self) -> Option<Write> {
        let sector = (self.hash >> 8) as usize % SECTORS;
        let mut in_flight = self.in_flight.iter();
        let is_free = in_flight.all(|write| write.sector != sector);
        if !is_free || self.in_flight.len() == WRITES_MAX {
            return None;
        }
        let write = Write {
            id: self.next_write,
            sector,
            value: self.hash,
        };
        self.next_write += 1;
        self.in_flight.push(write);
        Some(write)
    }

    /// A write has ended.
    fn written(&mut self, id: u64) {
        if let Some(index) = self.in_flight.iter().position(|write| write.id == id) {
            let write = self.in_flight.remove(index);
            self.disk[write.sector] = write.value;
        }
    }

    /// Where the next step reads or writes: never in the last page, which stays zero.
    fn at(&self) -> usize {
        (self.hash >> 20) as usize % ((PAGES - 1) * PAGE)
    }

    pub fn apply(&mut self, input: &Input) {
        if let Input::Reset = input {
            self.hash = scramble(self.position);
            self.lines = 0;
            self.ram.fill(0);
            return;
        }
        let mix = match input {
            Input::ConsoleEmitted { through } => {
                let first = self.through - self.pending.len() as u64;
                let gone = through.saturating_sub(first) as usize;
                self.pending.drain(..gone.min(self.pending.len()));
                *through
            }
            Input::SerialInput(bytes) => hash_of(bytes),
            Input::Anchor { virtual_time, rate } => virtual_time ^ rate,
            Input::PowerButton => 2,
            Input::Nmi => 5,
            Input::Reset => unreachable!("handled above"),
            Input::Device {
                device: DISK,
                event: Event::Completed { id, .. },
            } => {
                self.written(*id);
                *id
            }
            // The toy has no such devices.
            Input::Device { .. } | Input::Plug { .. } | Input::Unplug { .. } => 4,
        };
        self.hash = scramble(self.hash ^ mix);
    }

    pub fn flip_a_bit(&mut self) {
        self.hash ^= 1 << 40;
    }

    pub fn digest(&self) -> Vec<ComponentDigest> {
        let component = |name: &str, value| ComponentDigest {
            name: name.into(),
            value,
        };
        vec![
            component("cpu", scramble(self.hash) ^ self.lines),
            component("console", hash_of(&self.pending) ^ self.through),
            component("ram", hash_of(&self.ram)),
            component("disk", hash_of(&self.save_disk())),
        ]
    }

    pub fn save(&self) -> Vec<u8> {
        let mut state = Vec::new();
        for field in [self.position, self.hash, self.lines, self.through] {
            state.extend_from_slice(&field.to_le_bytes());
        }
        let disk = self.save_disk();
        state.extend_from_slice(&(disk.len() as u64).to_le_bytes());
        state.extend_from_slice(&disk);
        state.extend_from_slice(&self.pending);
        state
    }

    fn save_disk(&self) -> Vec<u8> {
        let in_flight = self.in_flight.iter();
        let in_flight = in_flight.flat_map(|write| [write.id, write.sector as u64, write.value]);
        let fields = [self.next_write]
            .into_iter()
            .chain(self.disk)
            .chain(in_flight);
        fields.flat_map(u64::to_le_bytes).collect()
    }

    /// Everything but the memory, which came by pages.
    pub fn restore(&mut self, state: &[u8]) {
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&state[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        self.position = number(0);
        self.hash = number(8);
        self.lines = number(16);
        self.through = number(24);
        let (disk, end) = (40, 40 + number(32) as usize);
        self.pending = state[end..].to_vec();
        self.next_write = number(disk);
        self.disk = std::array::from_fn(|sector| number(disk + 8 + sector * 8));
        let writes = disk + 8 + SECTORS * 8;
        let writes = (writes..end).step_by(24).map(|at| Write {
            id: number(at),
            sector: number(at + 8) as usize,
            value: number(at + 16),
        });
        self.in_flight = writes.collect();
    }
}
