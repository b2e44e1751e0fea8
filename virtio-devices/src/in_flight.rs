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
    /// Pages of guest RAM that it will write: first and last of each stretch, in order, without
    /// overlaps. A driver may give thousands of buffers to hundreds of requests, and each request is
    /// compared with all others. They stay after a reset.
    pages: Vec<(u64, u64)>,
    /// How many earlier ones it waits for.
    waits_for: u32,
}

/// The pages that a target's data lies in.
fn pages(target: &Target) -> Vec<(u64, u64)> {
    let segments = target.data.iter().filter(|segment| segment.length > 0);
    let mut pages: Vec<(u64, u64)> = segments
        .map(|segment| {
            let last = segment
                .address
                .saturating_add(u64::from(segment.length) - 1);
            (segment.address / PAGE_SIZE, last / PAGE_SIZE)
        })
        .collect();
    pages.sort_unstable();
    pages.dedup_by(|next, kept| {
        let is_adjacent = next.0 <= kept.1 + 1;
        if is_adjacent {
            kept.1 = kept.1.max(next.1);
        }
        is_adjacent
    });
    pages
}

/// Whether two lists of stretches, each in order, have a page in common.
fn meet(mut ours: &[(u64, u64)], mut theirs: &[(u64, u64)]) -> bool {
    while let ([a, rest_of_ours @ ..], [b, rest_of_theirs @ ..]) = (ours, theirs) {
        if a.1 < b.0 {
            ours = rest_of_ours;
        } else if b.1 < a.0 {
            theirs = rest_of_theirs;
        } else {
            return true;
        }
    }
    false
}

impl Pending {
    /// Whether it may be carried out.
    fn is_submitted(&self) -> bool {
        self.waits_for == 0
    }

    /// Whether `later` must wait for it.
    fn precedes(&self, later: &Pending) -> bool {
        let on_disk = match (self.request.extent(), later.request.extent()) {
            (Some(ours), Some(theirs)) => {
                (self.request.modifies() || later.request.modifies()) && ours.overlaps(&theirs)
            }
            _ => false,
        };
        on_disk || meet(&self.pages, &later.pages)
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

    /// Refuses what cannot be of a device with so many queues, and so many requests at most.
    pub(crate) fn validate(&self, ram_queues: u16, most: usize) -> Result<(), InvalidState> {
        let ids = self.pending.iter().map(|pending| pending.id);
        let is_ordered = ids.clone().is_sorted_by(|a, b| a < b);
        let is_known = ids.max().is_none_or(|id| id < self.next_id);
        let mut targets = self.pending.iter().filter_map(|p| p.target.as_ref());
        let fits = targets.all(|target| target.queue < ram_queues) && self.len() <= most;
        if is_ordered && is_known && fits && self.is_held_right() {
            return Ok(());
        }
        Err(InvalidState {
            reason: "the requests in flight contradict each other",
        })
    }

    /// Whether each request waits for as many as it must.
    fn is_held_right(&self) -> bool {
        self.pending.iter().enumerate().all(|(index, later)| {
            let earlier = self.pending.iter().take(index);
            let count = earlier.filter(|earlier| earlier.precedes(later)).count();
            let target = later.target.as_ref();
            let has_its_pages = target.is_none_or(|target| later.pages == pages(target));
            later.waits_for as usize == count && has_its_pages
        })
    }

    /// What the requests hold or will bring, in bytes; a buffer counts as a sector at least.
    pub(crate) fn load(&self) -> u64 {
        const LEAST: u64 = 512;
        let load = |p: &Pending| {
            let bytes = p.request.data_length() as u64 + p.request.answer_length();
            bytes.max(p.pages.len() as u64 * LEAST)
        };
        self.pending.iter().map(load).sum()
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
            pages: pages(&target),
            target: Some(target),
            waits_for: 0,
        };
        let earlier = self.pending.iter();
        new.waits_for = earlier.filter(|earlier| earlier.precedes(&new)).count() as u32;
        let may_go = new.is_submitted();
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

    /// The request `id` has ended: takes it out. What waited for nothing else may be carried out now.
    pub(crate) fn end(&mut self, id: u64, submit: &mut dyn FnMut(u64, Request)) -> Option<Pending> {
        let is_it = |pending: &Pending| pending.id == id && pending.is_submitted();
        let index = self.pending.iter().position(is_it)?;
        let ended = self.pending.remove(index)?;
        for later in self.pending.iter_mut().skip(index) {
            if ended.precedes(later) {
                later.waits_for -= 1;
                if later.is_submitted() {
                    submit(later.id, later.request.clone());
                }
            }
        }
        Some(ended)
    }

    /// The device is reset: nothing that is under way reaches guest RAM any more.
    pub(crate) fn forget_targets(&mut self) {
        for pending in &mut self.pending {
            pending.target = None;
        }
    }

    /// What was submitted and has not ended, in order.
    pub(crate) fn submitted(&self) -> Vec<(u64, Request)> {
        let submitted = self.pending.iter().filter(|p| p.is_submitted());
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
        let mut ids = Vec::new();
        in_flight.end(ended, &mut |id, _| ids.push(id)).unwrap();
        in_flight.validate(1, 64).unwrap();
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
    fn stretches_of_pages_meet_where_they_overlap() {
        let target = |segments: &[(u64, u32)]| Target {
            data: segments
                .iter()
                .map(|&(address, length)| Segment { address, length })
                .collect(),
            ..target(0, 0)
        };
        let scattered = [(0x9000, 1), (0x1FFF, 2), (0x5000, 0), (0x3000, 0x1000)];
        assert_eq!(pages(&target(&scattered)), [(1, 3), (9, 9)]);
        let ours = [(1, 3), (9, 9), (20, 30)];
        for (theirs, expected) in [
            (vec![], false),
            (vec![(0, 0), (4, 8), (10, 19), (31, 40)], false),
            (vec![(0, 0), (25, 26)], true),
            (vec![(3, 3)], true),
            (vec![(4, 9)], true),
        ] {
            assert_eq!(meet(&ours, &theirs), expected, "{theirs:?}");
            assert_eq!(meet(&theirs, &ours), expected, "{theirs:?}");
        }
    }

    #[test]
    fn a_request_waits_for_all_that_it_overlaps() {
        let mut all = InFlight::new();
        assert_eq!(all.push(write(0, 512), target(0, 0)), Some(0));
        assert_eq!(all.push(write(1024, 512), target(0, 0)), Some(1));
        assert_eq!(all.push(write(0, 4096), target(0, 0)), None);
        assert!(released(&mut all, 1).is_empty());
        assert_eq!(released(&mut all, 0), [2]);
        let mut wrong = all.clone();
        wrong.pending[0].waits_for = 1;
        wrong.validate(1, 64).unwrap_err();
        all.validate(1, 0).unwrap_err();
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
        let ended = all.end(1, &mut |id, _| panic!("{id} went too early"));
        assert!(ended.is_none(), "it was not submitted");
        assert_eq!(released(&mut all, 0), [1]);
    }
}
