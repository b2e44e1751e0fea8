//! Split virtqueues (virtio 1.2, section 2.7), over guest RAM that knows who watches it.
//!
//! Does: take descriptor chains from the available ring with every address checked, put used ones
//! back, and know when the driver wants an interrupt (virtio-queue does the ring arithmetic).
//! Does not: know what is in a buffer.
//!
//! Invariant: a chain that is handed out is whole, lies in RAM, and has its readable part before
//! its writable one; anything else is [`Broken`], which the transport tells the driver. Every
//! write to guest RAM is told to the watches. In one step a ring gives at most as many chains as it
//! has entries, whatever the device's own writes make of it. Between two steps nothing of a ring is
//! undecided: [`Ring::end_step`] is asked in every step that touched it.

use memory::GuestRam;
use serde::{Deserialize, Serialize};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueState, QueueT};

/// The most descriptors in a chain, whatever its indirect table says.
const DESCRIPTORS_MAX: usize = 1024;

/// The driver's ring makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// A stretch of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// A descriptor chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Index of its first descriptor: its name in the used ring.
    pub head: u16,
    /// What the device may read.
    pub readable: Vec<Segment>,
    /// What the device may write.
    pub writable: Vec<Segment>,
}

/// Bytes in segments.
pub fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.length)).sum()
}

/// The parts of `segments` between the byte offsets `from` and `to`.
pub fn part(segments: &[Segment], from: u64, to: u64) -> Vec<Segment> {
    let mut at = 0;
    let mut parts = Vec::new();
    for segment in segments {
        let end = at + u64::from(segment.length);
        let (first, last) = (from.max(at), to.min(end));
        if first < last {
            parts.push(Segment {
                address: segment.address + (first - at),
                length: (last - first) as u32,
            });
        }
        at = end;
    }
    parts
}

/// Copies what `segments` hold; each was checked to be RAM when its chain was taken.
pub fn gather(ram: &GuestRam, segments: &[Segment]) -> Vec<u8> {
    let mut bytes = vec![0; total(segments) as usize];
    let mut rest = &mut bytes[..];
    for segment in segments {
        let (here, after) = rest.split_at_mut(segment.length as usize);
        // A segment of a chain is RAM, and RAM stays.
        let _ = ram.read(segment.address, here);
        rest = after;
    }
    bytes
}

/// Writes `bytes` into `segments` from the byte offset `from` on; what does not fit is left out.
/// Gives how many were written.
pub fn scatter(ram: &mut GuestRam, segments: &[Segment], from: u64, bytes: &[u8]) -> usize {
    let mut rest = bytes;
    for segment in part(segments, from, from.saturating_add(bytes.len() as u64)) {
        let (here, after) = rest.split_at(segment.length as usize);
        if ram.write(segment.address, here).is_err() {
            break;
        }
        rest = after;
    }
    bytes.len() - rest.len()
}

/// A ring as plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingState {
    /// Next entry of the available ring.
    pub next_avail: u16,
    /// Next entry of the used ring.
    pub next_used: u16,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_index: bool,
    /// Entries that the driver chose.
    pub size: u16,
    /// The driver enabled it.
    pub ready: bool,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
    /// The MSI-X vector of its interrupts.
    pub vector: u16,
}

/// No MSI-X vector.
pub const NO_VECTOR: u16 = 0xFFFF;

/// One virtqueue.
#[derive(Debug)]
pub struct Ring {
    queue: Queue,
    /// The MSI-X vector of its interrupts.
    pub vector: u16,
    /// A buffer was used in this step.
    has_used: bool,
    /// Chains that were taken in this step.
    taken: u16,
}

impl Ring {
    /// After a reset: at most `size` entries, a power of two.
    pub fn new(size: u16) -> Self {
        Ring {
            queue: Queue::new(size).expect("the size is a power of two"),
            vector: NO_VECTOR,
            has_used: false,
            taken: 0,
        }
    }

    /// The state, every field of it.
    pub fn save(&self) -> RingState {
        let QueueState {
            max_size: _,
            next_avail,
            next_used,
            event_idx_enabled,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        } = self.queue.state();
        RingState {
            next_avail,
            next_used,
            event_index: event_idx_enabled,
            size,
            ready,
            descriptors: desc_table,
            available: avail_ring,
            used: used_ring,
            vector: self.vector,
        }
    }

    /// A ring of at most `max_size` entries with a saved state; `None` if it is impossible.
    pub fn restore(max_size: u16, state: &RingState) -> Option<Self> {
        let queue = QueueState {
            max_size,
            next_avail: state.next_avail,
            next_used: state.next_used,
            event_idx_enabled: state.event_index,
            size: state.size,
            ready: state.ready,
            desc_table: state.descriptors,
            avail_ring: state.available,
            used_ring: state.used,
        };
        Some(Ring {
            queue: Queue::try_from(queue).ok()?,
            vector: state.vector,
            has_used: false,
            taken: 0,
        })
    }

    /// The driver resets the device.
    pub fn reset(&mut self) {
        self.queue.reset();
        self.vector = NO_VECTOR;
        self.has_used = false;
        self.taken = 0;
    }

    /// The device needs a reset: nothing is taken or put any more.
    pub fn stop(&mut self) {
        self.queue.set_ready(false);
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The driver chooses the number of entries; one that is not possible is ignored.
    pub fn set_size(&mut self, size: u16) {
        // The caller reads back what it is.
        let _ = self.queue.try_set_size(size);
    }

    /// Whether the driver enabled it.
    pub fn is_ready(&self) -> bool {
        self.queue.ready()
    }

    /// The driver enables it. `Err` if its parts are not in RAM.
    pub fn enable(&mut self, ram: &GuestRam, event_index: bool) -> Result<(), Broken> {
        self.queue.set_event_idx(event_index);
        self.queue.set_ready(true);
        if self.queue.is_valid(ram.map()) {
            return Ok(());
        }
        self.queue.set_ready(false);
        Err(Broken)
    }

    /// Addresses of descriptor table, available ring and used ring.
    pub fn addresses(&self) -> [u64; 3] {
        [
            self.queue.desc_table(),
            self.queue.avail_ring(),
            self.queue.used_ring(),
        ]
    }

    /// The driver sets half of the address of part 0, 1 or 2 (see [`Ring::addresses`]). One that
    /// is not aligned is ignored.
    pub fn set_address(&mut self, index: usize, low: Option<u32>, high: Option<u32>) {
        match index {
            0 => self.queue.set_desc_table_address(low, high),
            1 => self.queue.set_avail_ring_address(low, high),
            _ => self.queue.set_used_ring_address(low, high),
        }
    }

    /// Chains that wait in the available ring.
    pub fn waiting(&self, ram: &GuestRam) -> u16 {
        if !self.queue.ready() {
            return 0;
        }
        let index = self
            .queue
            .avail_idx(ram.map(), std::sync::atomic::Ordering::Acquire);
        index.map_or(0, |index| index.0.wrapping_sub(self.queue.next_avail()))
    }

    /// Counts what the driver has offered since it set the ring up, modulo 2^16.
    pub fn offered(&self, ram: &GuestRam) -> u16 {
        self.queue.next_avail().wrapping_add(self.waiting(ram))
    }

    /// Asks the driver to tell of the next chain that it offers, though others still wait.
    pub fn ask_for_notification(&mut self, ram: &mut GuestRam) -> Result<(), Broken> {
        let next = self.queue.next_avail();
        self.queue.set_next_avail(self.offered(ram));
        let result = self.enable_notification(ram);
        self.queue.set_next_avail(next);
        result
    }

    fn enable_notification(&mut self, ram: &mut GuestRam) -> Result<(), Broken> {
        let [_, _, used] = self.addresses();
        let event = used + 4 + 8 * u64::from(self.queue.size());
        let address = match self.queue.event_idx_enabled() {
            true => event,
            false => used,
        };
        ram.will_write(address, 2);
        let enabled = self.queue.enable_notification(ram.map());
        enabled.map(|_| ()).map_err(|_| Broken)
    }

    /// The next available chain. When there is none, the driver is asked to tell of the next one.
    pub fn take(&mut self, ram: &mut GuestRam) -> Result<Option<Chain>, Broken> {
        if !self.queue.ready() {
            return Ok(None);
        }
        if self.waiting(ram) > self.queue.size() {
            return Err(Broken);
        }
        if let Some(chain) = self.queue.pop_descriptor_chain(ram.map()) {
            // The driver stands still during a step. Rings that lie in each other may look as if
            // there were always one more.
            if self.taken == self.queue.size() {
                return Err(Broken);
            }
            self.taken += 1;
            let head = chain.head_index();
            return Ok(Some(check(ram, head, chain)?));
        }
        // The step that asks is the one in which the ring was found empty, so nothing is missed.
        self.enable_notification(ram)?;
        Ok(None)
    }

    /// Puts the last `count` chains that were taken, and not given back, before the next one.
    pub fn untake(&mut self, count: u16) {
        let next = self.queue.next_avail();
        self.queue.set_next_avail(next.wrapping_sub(count));
        self.taken = self.taken.saturating_sub(count);
    }

    /// Bytes that the device may write in each of the chains that wait, in their order; ends before
    /// one that makes no sense.
    pub fn rooms<'a>(&self, ram: &'a GuestRam) -> impl Iterator<Item = u64> + 'a {
        // A copy of the ring that takes what this one leaves.
        let mut copy = Queue::try_from(self.queue.state()).ok();
        let waiting = self.waiting(ram).min(self.queue.size());
        (0..waiting).map_while(move |_| {
            let chain = copy.as_mut()?.pop_descriptor_chain(ram.map())?;
            let head = chain.head_index();
            let chain = check(ram, head, chain).ok()?;
            Some(total(&chain.writable))
        })
    }

    /// Gives a chain back, of whose writable part the first `length` bytes were written.
    pub fn put(&mut self, ram: &mut GuestRam, head: u16, length: u32) -> Result<(), Broken> {
        if !self.queue.ready() {
            return Ok(());
        }
        let [_, _, used] = self.addresses();
        let slot = u64::from(self.queue.next_used() % self.queue.size());
        ram.will_write(used + 4 + 8 * slot, 8);
        ram.will_write(used + 2, 2);
        self.queue
            .add_used(ram.map(), head, length)
            .map_err(|_| Broken)?;
        self.has_used = true;
        Ok(())
    }

    /// The step ends. Whether a buffer was used in it, and the driver wants to know.
    pub fn end_step(&mut self, ram: &GuestRam) -> bool {
        self.taken = 0;
        std::mem::take(&mut self.has_used)
            && self.queue.needs_notification(ram.map()).unwrap_or(false)
    }
}

/// The segments of a chain.
fn check(
    ram: &GuestRam,
    head: u16,
    chain: impl Iterator<Item = Descriptor>,
) -> Result<Chain, Broken> {
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    let mut is_whole = false;
    for descriptor in chain {
        let segment = Segment {
            address: descriptor.addr().0,
            length: descriptor.len(),
        };
        let is_write = descriptor.is_write_only();
        let count = readable.len() + writable.len();
        let is_late = !is_write && !writable.is_empty();
        if count == DESCRIPTORS_MAX || is_late || !is_ram(ram, segment) {
            return Err(Broken);
        }
        if is_write {
            writable.push(segment);
        } else {
            readable.push(segment);
        }
        is_whole = !descriptor.has_next();
    }
    // An iterator that gives up in the middle does not say so.
    is_whole
        .then_some(Chain {
            head,
            readable,
            writable,
        })
        .ok_or(Broken)
}

fn is_ram(ram: &GuestRam, segment: Segment) -> bool {
    segment.length == 0 || ram.contains(segment.address, segment.length as usize)
}
