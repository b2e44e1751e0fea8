//! The balloon (virtio 1.2, section 5.5).
//!
//! Does: discard the pages that the driver puts into it, and those that it reports as free; tell the
//! driver how large it is to be. Does not: choose pages, or keep any for the guest.
//!
//! Invariant: pages are discarded in the step in which the driver gives them, so that they read as
//! zeros from one position on, on every side. A page number or a report outside RAM breaks the
//! queue.

use memory::PAGE_SIZE;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;

use crate::device::{DeviceSpec, InvalidState, Model, ModelState, Reach, read_bytes};
use crate::request::{Event, Request};
use crate::ring::{Broken, gather, total};

/// The guest may take pages back when it has no others.
const VIRTIO_BALLOON_F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// The guest reports free pages.
const VIRTIO_BALLOON_F_PAGE_REPORTING: u64 = 1 << 5;
const INFLATE: usize = 0;
const REPORTING: usize = 2;
/// Entries of each queue.
const QUEUE_SIZE: u16 = 128;
/// Bytes of page numbers in one chain; drivers send 1 KiB.
const NUMBERS_MAX: u64 = 64 << 10;

/// What a balloon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonSpec {
    /// Pages that the driver is to put into it at first.
    pub pages: u32,
    /// The guest may take pages back when it has no others.
    pub deflate_on_oom: bool,
    /// The guest reports free pages.
    pub reporting: bool,
}

/// What a balloon remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages that the driver is to put into it.
    target: u32,
    /// Pages that the driver says are in it.
    actual: u32,
}

/// A balloon.
#[derive(Debug)]
pub(crate) struct Balloon {
    spec: BalloonSpec,
    state: BalloonState,
}

impl Balloon {
    /// A new one, empty.
    pub(crate) fn new(spec: BalloonSpec) -> Self {
        let state = BalloonState {
            target: spec.pages,
            actual: 0,
        };
        Balloon { spec, state }
    }

    /// One with a saved state.
    pub(crate) fn restore(spec: BalloonSpec, state: &BalloonState) -> Result<Self, InvalidState> {
        let state = state.clone();
        Ok(Balloon { spec, state })
    }

    /// Discards the pages whose numbers are in the queue.
    fn inflate(reach: &mut Reach<'_>) -> Result<(), Broken> {
        while let Some(ring) = reach.rings.get_mut(INFLATE)
            && let Some(chain) = ring.take(reach.ram)?
        {
            let length = total(&chain.readable);
            if length > NUMBERS_MAX || !length.is_multiple_of(4) {
                return Err(Broken);
            }
            let bytes = gather(reach.ram, &chain.readable);
            let (numbers, _) = bytes.as_chunks::<4>();
            let mut pages: Vec<u64> = numbers
                .iter()
                .map(|number| u32::from_le_bytes(*number).into())
                .collect();
            pages.sort_unstable();
            pages.dedup();
            for run in pages.chunk_by(|page, next| page + 1 == *next) {
                let address = run[0] * PAGE_SIZE;
                discard(reach, address, run.len() as u64 * PAGE_SIZE)?;
            }
            if let Some(ring) = reach.rings.get_mut(INFLATE) {
                ring.put(reach.ram, chain.head, 0)?;
            }
        }
        Ok(())
    }

    /// Discards the pages that are reported in the queue as free.
    fn report(reach: &mut Reach<'_>) -> Result<(), Broken> {
        while let Some(ring) = reach.rings.get_mut(REPORTING)
            && let Some(chain) = ring.take(reach.ram)?
        {
            // No page is free twice.
            if total(&chain.writable) > reach.ram.size() {
                return Err(Broken);
            }
            for segment in &chain.writable {
                discard(reach, segment.address, segment.length.into())?;
            }
            if let Some(ring) = reach.rings.get_mut(REPORTING) {
                ring.put(reach.ram, chain.head, 0)?;
            }
        }
        Ok(())
    }
}

fn discard(reach: &mut Reach<'_>, address: u64, length: u64) -> Result<(), Broken> {
    if length == 0 {
        return Ok(());
    }
    reach.ram.discard(address, length).map_err(|_| Broken)
}

impl Model for Balloon {
    fn device_type(&self) -> u16 {
        VIRTIO_ID_BALLOON as u16
    }

    fn class(&self) -> [u8; 2] {
        // Nothing that PCI has a class for.
        [0xFF, 0xFF]
    }

    fn features(&self) -> u64 {
        let mut features = 0;
        if self.spec.deflate_on_oom {
            features |= VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
        }
        if self.spec.reporting {
            features |= VIRTIO_BALLOON_F_PAGE_REPORTING;
        }
        features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2 + usize::from(self.spec.reporting)]
    }

    /// `struct virtio_balloon_config`, as far as its features go.
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut bytes = self.state.target.to_le_bytes().to_vec();
        bytes.extend(self.state.actual.to_le_bytes());
        read_bytes(&bytes, offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8], _: u64) {
        if let (4, Ok(actual)) = (offset, data.try_into()) {
            self.state.actual = u32::from_le_bytes(actual);
        }
    }

    fn ballooned(&self) -> u64 {
        u64::from(self.state.actual) * PAGE_SIZE
    }

    fn notify(&mut self, queue: usize, reach: &mut Reach<'_>) -> Result<(), Broken> {
        match queue {
            INFLATE => Balloon::inflate(reach),
            REPORTING => Balloon::report(reach),
            _ => {
                // What the guest takes back, it takes back.
                while let Some(ring) = reach.rings.get_mut(queue)
                    && let Some(chain) = ring.take(reach.ram)?
                {
                    ring.put(reach.ram, chain.head, 0)?;
                }
                Ok(())
            }
        }
    }

    fn event(&mut self, event: &Event, reach: &mut Reach<'_>) -> Result<(), Broken> {
        if let Event::Balloon { pages } = event {
            self.state.target = *pages;
            reach.config_changed = true;
        }
        Ok(())
    }

    fn reset(&mut self, _: &mut dyn FnMut(u64, Request)) {
        // A driver that begins has nothing in it.
        self.state.actual = 0;
    }

    fn in_flight(&self) -> Vec<(u64, Request)> {
        Vec::new()
    }

    fn spec(&self) -> DeviceSpec {
        DeviceSpec::Balloon(self.spec.clone())
    }

    fn save(&self) -> ModelState {
        ModelState::Balloon(self.state.clone())
    }
}
