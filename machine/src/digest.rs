//! Digests: what two machines compare to know that they are the same.
//!
//! Does: hash every component of the state, and RAM page by page as it is written. Does not:
//! compare (`ft`).
//!
//! Invariant: a change of any state field or byte of RAM changes the digest of its component. RAM
//! is a sum over pages of a hash of content and page number; pages that the dirty log names are
//! hashed again at each digest, and a sweep hashes all others in turn, [`SWEEP_PAGES`] a digest, so
//! that what changed without being logged is found after `pages / SWEEP_PAGES` digests.

use memory::{GuestRam, PAGE_SIZE};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::state::{BootPayload, MachineState};

/// Pages that each digest hashes again although nobody wrote them: 512 MiB are covered in 64
/// digests.
pub const SWEEP_PAGES: u64 = 2048;

/// Names of the components, in the order of [`Digest::components`].
pub const COMPONENTS: [&str; 16] = [
    "cpu", "clock", "lapic", "ioapic", "serial", "cmos", "acpi", "i8042", "debug", "pci", "virtio",
    "console", "machine", "payload", "memory", "position",
];

/// A digest: one hash a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// In the order of [`COMPONENTS`].
    pub components: [u64; 16],
}

impl Digest {
    /// Names of the components in which two digests differ.
    pub fn differences(&self, other: &Digest) -> Vec<&'static str> {
        let pairs = self.components.iter().zip(&other.components);
        COMPONENTS
            .iter()
            .zip(pairs)
            .filter(|(_, (a, b))| a != b)
            .map(|(name, _)| *name)
            .collect()
    }

    /// All of it in one number.
    pub fn total(&self) -> u64 {
        let bytes: Vec<u8> = self
            .components
            .iter()
            .flat_map(|c| c.to_le_bytes())
            .collect();
        xxh3_64(&bytes)
    }
}

/// Hash of one component.
fn hash<T: Serialize>(component: &T) -> u64 {
    xxh3_64(&postcard::to_stdvec(component).expect("plain data encodes"))
}

/// Digest of a state, with the hash of RAM and of the payload given.
pub(crate) fn of_state(state: &MachineState, payload: u64, memory: u64) -> Digest {
    let MachineState {
        version,
        memory_size,
        cpu,
        clock,
        lapic,
        ioapic,
        serial,
        cmos,
        acpi,
        i8042,
        debug,
        pci,
        virtio,
        console,
        request,
        powered_off,
        sweep_page,
        payload: _,
    } = state;
    Digest {
        components: [
            hash(cpu),
            hash(clock),
            hash(lapic),
            hash(ioapic),
            hash(serial),
            hash(cmos),
            hash(acpi),
            hash(i8042),
            hash(debug),
            hash(pci),
            hash(virtio),
            hash(console),
            hash(&(version, memory_size, request, powered_off, sweep_page)),
            payload,
            memory,
            cpu.steps,
        ],
    }
}

/// Digest of a state alone, without RAM.
pub fn digest_of_state(state: &MachineState) -> Digest {
    of_state(state, of_payload(&state.payload), 0)
}

/// Hash of the boot payload, which never changes.
pub(crate) fn of_payload(payload: &BootPayload) -> u64 {
    let BootPayload {
        kernel,
        initramfs,
        cmdline,
    } = payload;
    hash(&(
        xxh3_64(kernel),
        kernel.len(),
        xxh3_64(initramfs),
        initramfs.len(),
        cmdline,
    ))
}

/// The running sum over RAM.
#[derive(Default)]
pub(crate) struct RamDigest {
    /// Contribution of each page; 0 for a page of zeroes.
    pages: Vec<u64>,
    sum: u64,
}

impl RamDigest {
    /// Nothing hashed yet.
    pub(crate) fn new(ram: &GuestRam) -> RamDigest {
        RamDigest {
            pages: vec![0; ram.pages()],
            sum: 0,
        }
    }

    fn update(&mut self, ram: &GuestRam, index: usize) {
        let contribution = page_hash(index, ram.page(index));
        let old = std::mem::replace(&mut self.pages[index], contribution);
        self.sum = self.sum.wrapping_sub(old).wrapping_add(contribution);
    }

    /// Hashes what was written, and the sweep's share from `sweep_page` on; gives the sum.
    pub(crate) fn bring_up(&mut self, ram: &mut GuestRam, written: &[u32], sweep_page: u64) -> u64 {
        for &index in written {
            self.update(ram, index as usize);
        }
        let pages = self.pages.len() as u64;
        for step in 0..SWEEP_PAGES.min(pages) {
            let index = ((sweep_page + step) % pages) as usize;
            self.update(ram, index);
        }
        self.sum
    }
}

/// Contribution of one page.
fn page_hash(index: usize, page: &[u8; PAGE_SIZE as usize]) -> u64 {
    let (words, _) = page.as_chunks::<8>();
    if words.iter().all(|word| *word == [0; 8]) {
        return 0;
    }
    xxh3_64_with_seed(page, index as u64)
}
