//! Digests: what two machines compare to know that they are the same.
//!
//! Does: hash every component of the state, and RAM page by page as it is written. Only what must
//! be done at the boundary is done there: the state is copied and the pages are listed; the hashing
//! is a [`DigestJob`], for any thread, while the machine runs on (`memory::PageHashes`). Does not:
//! compare (`ft`), or run threads.
//!
//! Invariant: a change of any state field or byte of RAM changes the digest of its component. RAM
//! is a sum over pages of a hash of content and page number; pages that the dirty log names are
//! hashed again at each digest, and a sweep hashes all others in turn, [`SWEEP_PAGES`] a digest, so
//! that what changed without being logged is found after `pages / SWEEP_PAGES` digests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::{GuestRam, PAGE_SIZE, PageHashes};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::state::{BootPayload, MachineState};

/// Pages that each digest hashes again although nobody wrote them: 512 MiB are covered in 64
/// digests.
pub const SWEEP_PAGES: u64 = 2048;

/// Names of the components, in the order of [`Digest::components`].
pub const COMPONENTS: [&str; 17] = [
    "cpu",
    "clock",
    "lapic",
    "ioapic",
    "serial",
    "cmos",
    "acpi",
    "i8042",
    "debug",
    "pci",
    "pci_hotplug",
    "virtio",
    "console",
    "machine",
    "payload",
    "memory",
    "position",
];

/// A digest: one hash a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// In the order of [`COMPONENTS`].
    pub components: [u64; 17],
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
        pci_hotplug,
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
            hash(pci_hotplug),
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
#[derive(Debug)]
pub(crate) struct RamDigest {
    hashes: Arc<PageHashes>,
    sums: Arc<Mutex<Sums>>,
    /// What was begun last; it is finished before anything else begins.
    last: Option<Arc<RamJob>>,
}

#[derive(Debug)]
struct Sums {
    /// Contribution of each page; 0 for a page of zeroes.
    pages: Vec<u64>,
    sum: u64,
}

impl RamDigest {
    /// Nothing hashed yet.
    pub(crate) fn new(ram: &mut GuestRam) -> RamDigest {
        RamDigest {
            hashes: ram.hashes(page_hash),
            sums: Arc::new(Mutex::new(Sums {
                pages: vec![0; ram.pages()],
                sum: 0,
            })),
            last: None,
        }
    }

    /// Begins to hash what was written, and `sweep` pages from `sweep_page` on.
    fn begin(&mut self, ram: &mut GuestRam, sweep_page: u64, sweep: u64) -> Arc<RamJob> {
        if let Some(last) = self.last.take() {
            last.finish();
        }
        let pages = ram.pages() as u64;
        // Beyond the end of RAM the sweep goes on at its beginning.
        let swept = (0..sweep.min(pages)).map(|step| ((sweep_page + step) % pages) as u32);
        let wanted = ram.want_hashes(swept);
        let job = Arc::new(RamJob {
            hashes: Arc::clone(&self.hashes),
            sums: Arc::clone(&self.sums),
            work: Mutex::new(Work::Todo(wanted)),
        });
        self.last = Some(Arc::clone(&job));
        job
    }

    /// Begins to hash what was written, so that there is less for the next digest; that one is the
    /// same as without this.
    pub(crate) fn ahead(&mut self, ram: &mut GuestRam) -> HashJob {
        HashJob(self.begin(ram, 0, 0))
    }

    /// Begins a digest's share.
    pub(crate) fn of_digest(&mut self, ram: &mut GuestRam, sweep_page: u64) -> Arc<RamJob> {
        self.begin(ram, sweep_page, SWEEP_PAGES)
    }
}

/// Pages that are to be hashed.
#[derive(Debug)]
pub(crate) struct RamJob {
    hashes: Arc<PageHashes>,
    sums: Arc<Mutex<Sums>>,
    work: Mutex<Work>,
}

#[derive(Debug)]
enum Work {
    Todo(Vec<u32>),
    /// The sum over RAM.
    Done(u64),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RamJob {
    /// Hashes what is not hashed yet; the sum over RAM at the moment when it was begun.
    fn finish(&self) -> u64 {
        let mut work = lock(&self.work);
        let wanted = match &mut *work {
            Work::Done(sum) => return *sum,
            Work::Todo(wanted) => std::mem::take(wanted),
        };
        let mut sums = lock(&self.sums);
        for index in wanted {
            let index = index as usize;
            let contribution = self.hashes.collect(index);
            let old = std::mem::replace(&mut sums.pages[index], contribution);
            sums.sum = sums.sum.wrapping_sub(old).wrapping_add(contribution);
        }
        *work = Work::Done(sums.sum);
        sums.sum
    }
}

/// Hashing of which nobody wants the result yet.
#[derive(Debug)]
pub struct HashJob(pub(crate) Arc<RamJob>);

impl HashJob {
    /// Does it.
    pub fn finish(self) {
        self.0.finish();
    }
}

/// A digest of which all is known but the hashes. Who has it can compute them on any thread.
#[derive(Debug)]
pub struct DigestJob {
    state: MachineState,
    payload: u64,
    ram: Arc<RamJob>,
}

impl DigestJob {
    pub(crate) fn new(state: MachineState, payload: u64, ram: Arc<RamJob>) -> DigestJob {
        DigestJob {
            state,
            payload,
            ram,
        }
    }

    /// The hashing in it, for another thread to do it sooner.
    pub fn hashing(&self) -> HashJob {
        HashJob(Arc::clone(&self.ram))
    }

    /// The digest of the machine at the boundary where this was begun.
    pub fn finish(self) -> Digest {
        of_state(&self.state, self.payload, self.ram.finish())
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
