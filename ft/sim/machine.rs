//! A toy machine: a hash chain that scribbles over its memory and prints lines.
//!
//! Everything that it prints depends on everything that it ever did, so one wrong step, input or
//! page shows in the next line.

use ft::log::{ComponentDigest, hash_of};
use machine::{Input, Output, Position};

use super::prng::scramble;

pub const PAGES: usize = 3;
const PAGE: usize = 4096;

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
        }
    }

    /// Runs to `until`, or to just after a step that prints.
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
        }
        None
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
        ]
    }

    pub fn save(&self) -> Vec<u8> {
        let mut state = Vec::new();
        for field in [self.position, self.hash, self.lines, self.through] {
            state.extend_from_slice(&field.to_le_bytes());
        }
        state.extend_from_slice(&self.pending);
        state
    }

    /// Everything but the memory, which came by pages.
    pub fn restore(&mut self, state: &[u8]) {
        let (fields, pending) = state.split_at(32);
        let field = |i: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&fields[i * 8..i * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        self.position = field(0);
        self.hash = field(1);
        self.lines = field(2);
        self.through = field(3);
        self.pending = pending.to_vec();
    }
}
