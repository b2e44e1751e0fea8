//! Storage that both hosts reach, and what a side may do to it before the other one is fenced.
//!
//! Does: carry writes on their way, which takes as long as it takes and does not end with the process
//! that began them; drop those of a side that is fenced; and see that a machine finds on its disk
//! what it wrote. Does not: decide who may begin a write (the gate does).
//!
//! Invariant: a side that went live repeats what was in flight first, and holds back what would
//! write over it until the old side can write no more (`host::disk` and `host::fence` of the vmm).

use std::collections::VecDeque;

use ft::Tick;
use machine::{Event as DeviceEvent, Input, Lane, Outcome};

use super::Bug;
use super::checkers::Violation;
use super::machine::{DISK, Write};
use super::process::Role;
use super::world::{Event, Happening, MS, US, World};

/// Sectors of the disk.
pub const SECTORS: usize = 4;

/// The disk, as it is.
#[derive(Debug, Default)]
pub struct Storage {
    sectors: [u64; SECTORS],
    /// Writes on their way, by process, and processes of which nothing arrives any more.
    under_way: Vec<usize>,
    cut_off: Vec<usize>,
}

impl Storage {
    fn is_silent(&self, p: usize) -> bool {
        !self.under_way.contains(&p)
    }
}

/// What a process has of the disk.
#[derive(Debug, Default)]
pub struct DiskThread {
    /// Writes that left the gate and have not begun.
    held: VecDeque<Write>,
    /// Who may still write, and what: the writes that were in flight at go-live.
    old: Option<(usize, Vec<Write>)>,
}

impl DiskThread {
    /// Of a process that goes live after `old`.
    pub fn taken_over(old: usize, in_flight: Vec<Write>) -> Self {
        DiskThread {
            held: VecDeque::new(),
            old: Some((old, in_flight)),
        }
    }

    /// Whether the old side must be fenced before somebody else is let in.
    pub fn is_unfenced(&self) -> bool {
        self.old.is_some()
    }

    /// Whether a write would write over what the old side may still write.
    fn must_wait(&self, write: &Write) -> bool {
        let old = self.old.iter().flat_map(|(_, writes)| writes);
        old.clone().all(|repeated| repeated.id != write.id)
            && old.clone().any(|late| late.sector == write.sector)
    }
}

impl World {
    /// Begins the writes that may be begun.
    pub(super) fn store(&mut self, p: usize) {
        let now = self.clock(p);
        let process = &mut self.processes[p];
        let Role::Live(primary) = &mut process.role else {
            return;
        };
        while let Some(output) = primary.take_output(now, Lane::Device(DISK)) {
            process.disk.held.extend(Write::of(&output));
        }
        let held = std::mem::take(&mut process.disk.held).into_iter();
        let is_ignored = self.bug == Some(Bug::UnfencedWrites);
        let disk = &process.disk;
        let (waiting, ready): (VecDeque<Write>, VecDeque<Write>) =
            held.partition(|write| disk.must_wait(write) && !is_ignored);
        process.disk.held = waiting;
        for write in ready {
            self.storage.under_way.push(p);
            // Some take a path that is stuck.
            let delay = match self.prng.range(0, 19) {
                0 => self.prng.range(20, 600) * MS,
                _ => self.prng.range(50, 3000) * US,
            };
            self.schedule(self.now + delay, Happening::Arrives(p, write));
        }
    }

    /// A write arrives at the storage, whatever has become of the process.
    pub(super) fn arrives(&mut self, p: usize, write: Write) {
        let storage = &mut self.storage;
        if let Some(index) = storage.under_way.iter().position(|by| *by == p) {
            storage.under_way.remove(index);
        }
        if storage.cut_off.contains(&p) {
            return;
        }
        storage.sectors[write.sector] = write.value;
        self.at(p, 0, Event::Stored(write.id));
    }

    /// A write has ended, as its process learns.
    pub(super) fn stored(&mut self, p: usize, id: u64) {
        self.processes[p].inputs.push_back(Input::Device {
            device: DISK,
            event: DeviceEvent::Completed {
                id,
                outcome: Outcome::Done,
            },
        });
    }

    /// A side goes live: how it will learn that the old one can write no more.
    pub(super) fn take_over_disk(&mut self, p: usize, old: usize) {
        let in_flight = self.processes[p].machine.in_flight.clone();
        self.processes[p].disk = DiskThread::taken_over(old, in_flight);
        // A command, or else the lock on the image.
        if self.prng.chance(50) {
            let delay: Tick = self.prng.range(1, 300) * MS;
            self.schedule(self.now + delay, Happening::Fence(old));
        }
    }

    /// The storage drops a process.
    pub(super) fn fence(&mut self, old: usize) {
        self.storage.cut_off.push(old);
    }

    /// Looks whether the old side can write no more.
    pub(super) fn look_at_fence(&mut self, p: usize) {
        let Some((old, _)) = &self.processes[p].disk.old else {
            return;
        };
        let process = &self.processes[*old];
        let may_go_on = process.alive && (process.frozen || process.is_live());
        let is_unlocked = !may_go_on && self.storage.is_silent(*old);
        if is_unlocked || self.storage.cut_off.contains(old) {
            self.processes[p].disk.old = None;
            self.store(p);
        }
    }

    /// What a machine knows to be on its disk is there.
    pub(super) fn check_disk(&self, p: usize) -> Result<(), Violation> {
        let process = &self.processes[p];
        let speaks = self.speaker.is_none_or(|speaker| speaker == process.id);
        if !process.is_live() || process.phase() == "claiming" || !speaks {
            return Ok(());
        }
        let machine = &process.machine;
        for (sector, known) in machine.disk.iter().enumerate() {
            let mut in_flight = machine.in_flight.iter();
            let found = self.storage.sectors[sector];
            if found != *known && in_flight.all(|write| write.sector != sector) {
                let id = process.id;
                return Err(format!("{id} lost a write: sector {sector} has {found:x}"));
            }
        }
        Ok(())
    }
}
