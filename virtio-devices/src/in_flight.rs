//! Requests between their submission and their end.
//!
//! Does: keep them in order, hold back those that overlap an earlier one, and bring their results
//! to guest RAM. Does not: know what a device does with a queue.
//!
//! Invariant: of two requests that overlap (on the disk, one of them changing it; or in pages of
//! guest RAM, one of them writing there) the later one is submitted when the earlier one has ended,
//! on every side alike (Scales et al. 2010, section 3.4). A request outlives a reset of its device:
//! it then reaches no guest RAM, and is still waited for and repeated at go-live, because what
//! comes after it may overlap it.

use std::collections::VecDeque;

use memory::{GuestRam, PAGE_SIZE};
use serde::{Deserialize, Serialize};

use crate::device::InvalidState;
use crate::request::{Outcome, Request};
use crate::ring::{Segment, scatter, total};

/// Where the result of a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// The queue that it came from.
    pub(crate) queue: u16,
    /// The chain's name in it.
    pub(crate) head: u16,
    /// Where data goes.
    pub(crate) data: Vec<Segment>,
    /// Where the status goes, if the device has one.
    pub(crate) status: Option<u64>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// Its name.
    pub(crate) id: u64,
    /// What is asked.
    pub(crate) request: Request,
    /// Where the result goes; nowhere after a reset.
    pub(crate) target: Option<Target>,
    /// It waits for an earlier one.
    pub(crate) held: bool,
}

impl Pending {
    /// Pages of guest RAM that it will write.
    fn pages(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let segments = self.target.iter().flat_map(|target| &target.data);
        segments.filter(|s| s.length > 0).map(|segment| {
            let last = segment.address + u64::from(segment.length) - 1;
            (segment.address / PAGE_SIZE, last / PAGE_SIZE)
        })
    }

    /// Whether `later` must wait for it.
    fn precedes(&self, later: &Pending) -> bool {
        let on_disk = match (self.request.extent(), later.request.extent()) {
            (Some(ours), Some(theirs)) => {
                (self.request.modifies() || later.request.modifies()) && ours.overlaps(&theirs)
            }
            _ => false,
        };
        on_disk
            || self
                .pages()
                .any(|(first, last)| later.pages().any(|(from, to)| first <= to && from <= last))
    }
}

/// All requests of a device, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InFlight {
    next_id: u64,
    pending: VecDeque<Pending>,
}

impl InFlight {
    /// None yet.
    pub(crate) fn new() -> Self {
        InFlight {
            next_id: 0,
            pending: VecDeque::new(),
        }
    }

    /// Refuses what cannot be.
    pub(crate) fn validate(&self, ram_queues: u16) -> Result<(), InvalidState> {
        let ids = self.pending.iter().map(|pending| pending.id);
        let is_ordered = ids.clone().is_sorted_by(|a, b| a < b);
        let is_known = ids.max().is_none_or(|id| id < self.next_id);
        let mut targets = self.pending.iter().filter_map(|p| p.target.as_ref());
        if is_ordered && is_known && targets.all(|target| target.queue < ram_queues) {
            return Ok(());
        }
        Err(InvalidState {
            reason: "the requests in flight contradict each other",
        })
    }

    /// Bytes that the requests hold or will bring.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = |p: &Pending| p.request.data_length() as u64 + p.request.answer_length();
        self.pending.iter().map(bytes).sum()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Takes on a request. Gives its id, if it may be carried out now.
    pub(crate) fn push(&mut self, request: Request, target: Target) -> Option<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let mut new = Pending {
            id,
            request,
            target: Some(target),
            held: false,
        };
        new.held = self.pending.iter().any(|earlier| earlier.precedes(&new));
        let may_go = !new.held;
        self.pending.push_back(new);
        may_go.then_some(id)
    }

    /// The request `id`.
    pub(crate) fn get(&self, id: u64) -> Option<&Pending> {
        self.pending.iter().find(|pending| pending.id == id)
    }

    /// A part of what the request `id` brings goes to guest RAM.
    pub(crate) fn data(&self, ram: &mut GuestRam, id: u64, offset: u32, bytes: &[u8]) {
        if let Some(target) = self.get(id).and_then(|pending| pending.target.as_ref()) {
            scatter(ram, &target.data, offset.into(), bytes);
        }
    }

    /// The request `id` has ended: takes it out.
    pub(crate) fn end(&mut self, id: u64) -> Option<Pending> {
        let index = self.pending.iter().position(|p| p.id == id && !p.held)?;
        self.pending.remove(index)
    }

    /// Gives what was held back and may be carried out now.
    pub(crate) fn release(&mut self, submit: &mut dyn FnMut(u64, Request)) {
        for index in 0..self.pending.len() {
            let later = &self.pending[index];
            let mut earlier = self.pending.iter().take(index);
            if later.held && !earlier.any(|earlier| earlier.precedes(later)) {
                let pending = &mut self.pending[index];
                pending.held = false;
                submit(pending.id, pending.request.clone());
            }
        }
    }

    /// The device is reset.
    pub(crate) fn forget_targets(&mut self) {
        for pending in &mut self.pending {
            pending.target = None;
        }
    }

    /// What was submitted and has not ended, in order.
    pub(crate) fn submitted(&self) -> Vec<(u64, Request)> {
        let submitted = self.pending.iter().filter(|pending| !pending.held);
        submitted.map(|p| (p.id, p.request.clone())).collect()
    }
}

impl Target {
    /// Bytes of the chain that were written when its request has ended: the data, if there is any,
    /// and the status.
    pub(crate) fn written(&self, request: &Request, outcome: Outcome) -> u32 {
        let data = match outcome {
            Outcome::Done => request.answer_length().min(total(&self.data)),
            _ => 0,
        };
        data as u32 + u32::from(self.status.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Extent;

    fn target(address: u64, length: u32) -> Target {
        Target {
            queue: 0,
            head: 0,
            data: vec![Segment { address, length }],
            status: None,
        }
    }

    fn write(offset: u64, length: usize) -> Request {
        Request::Write {
            offset,
            data: vec![1; length],
            durable: false,
        }
    }

    fn read(offset: u64, length: u64) -> Request {
        Request::Read(Extent { offset, length })
    }

    fn released(in_flight: &mut InFlight, ended: u64) -> Vec<u64> {
        in_flight.end(ended).unwrap();
        let mut ids = Vec::new();
        in_flight.release(&mut |id, _| ids.push(id));
        ids
    }

    #[test]
    fn overlapping_sectors_go_one_after_the_other() {
        let mut all = InFlight::new();
        assert_eq!(all.push(write(0, 4096), target(0, 0)), Some(0));
        assert_eq!(all.push(read(4096, 512), target(0x1000, 512)), Some(1));
        assert_eq!(all.push(read(2048, 512), target(0x2000, 512)), None);
        assert_eq!(all.push(write(2048, 512), target(0, 0)), None);
        assert_eq!(all.push(write(0, 512), target(0, 0)), None);
        assert_eq!(all.submitted().len(), 2);
        assert_eq!(released(&mut all, 0), [2, 4]);
        assert!(released(&mut all, 4).is_empty());
        assert_eq!(released(&mut all, 2), [3]);
    }

    #[test]
    fn overlapping_pages_go_one_after_the_other() {
        let mut all = InFlight::new();
        assert_eq!(all.push(read(0, 512), target(0x1000, 512)), Some(0));
        assert_eq!(all.push(read(512, 512), target(0x1E00, 512)), None);
        assert_eq!(all.push(read(1024, 512), target(0x2000, 512)), Some(2));
        assert_eq!(released(&mut all, 0), [1]);
    }

    #[test]
    fn a_reset_leaves_the_order_and_takes_the_target() {
        let mut ram = GuestRam::new(1 << 20).unwrap();
        let mut all = InFlight::new();
        all.push(read(0, 512), target(0x1000, 512));
        all.push(write(0, 512), target(0, 0));
        all.forget_targets();
        all.data(&mut ram, 0, 0, &[7; 512]);
        assert_eq!(ram.read_u64(0x1000).unwrap(), 0);
        assert_eq!(all.submitted().len(), 1);
        assert!(all.end(1).is_none(), "it was not submitted");
        assert_eq!(released(&mut all, 0), [1]);
    }
}
