//! Hashes of pages as they were at one moment, computed while the machine runs on.
//!
//! Does: keep a hash of a page for whoever wants one, and see to it that the page is hashed before
//! it is written. Does not: choose the hash or the pages, or add anything up.
//!
//! Invariant: a page that is wanted is not written before it is hashed. Its first write goes
//! through the watches (`WATCH_DIRTY` is armed on it), and there the writer hashes it, or waits
//! while another thread does, which takes less than a microsecond. So hashes are those of the
//! moment at which they were wanted, and no page is read while it is written.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use vm_memory::GuestMemoryMmap;

use crate::ram::{PAGE_SIZE, Region};

/// The bytes of a page.
pub type Page = [u8; PAGE_SIZE as usize];
/// A hash of the page with this index.
pub type Hash = fn(usize, &Page) -> u64;

/// Nobody wants its hash.
const IDLE: u8 = 0;
/// Somebody wants its hash, and nobody has begun.
const WANTED: u8 = 1;
/// A thread is hashing it.
const BUSY: u8 = 2;
/// Its hash is there.
const DONE: u8 = 3;

/// The hashes.
#[derive(Debug)]
pub struct PageHashes {
    /// Keeps the pages mapped, also when the machine is gone.
    _map: GuestMemoryMmap<()>,
    regions: Vec<Region>,
    states: Box<[AtomicU8]>,
    hashes: Box<[AtomicU64]>,
    hash: Hash,
}

// SAFETY: the host pointers in `regions` point into `_map`, which lives as long. A page is read
// through them only by the thread that brought its state from WANTED to BUSY, and while a page is
// WANTED or BUSY nobody writes it (the invariant above).
unsafe impl Send for PageHashes {}
// SAFETY: as above.
unsafe impl Sync for PageHashes {}

impl PageHashes {
    pub(crate) fn new(map: GuestMemoryMmap<()>, regions: Vec<Region>, hash: Hash) -> Self {
        let pages = regions
            .iter()
            .map(|region| (region.length / PAGE_SIZE) as usize)
            .sum();
        PageHashes {
            _map: map,
            regions,
            states: (0..pages).map(|_| AtomicU8::new(IDLE)).collect(),
            hashes: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            hash,
        }
    }

    /// Wants the hash of a page as it is now. For the thread that writes pages; `WATCH_DIRTY` is
    /// armed on the page, and an earlier hash of it has been collected.
    pub(crate) fn want(&self, index: usize) {
        debug_assert_eq!(self.states[index].load(Ordering::Relaxed), IDLE);
        // Whoever hashes it learns of it by a channel or a lock.
        self.states[index].store(WANTED, Ordering::Release);
    }

    /// The page is about to be written.
    #[inline]
    pub(crate) fn preserve(&self, index: usize) {
        if matches!(self.states[index].load(Ordering::Acquire), WANTED | BUSY) {
            self.compute(index);
        }
    }

    /// All pages are about to be written.
    pub(crate) fn preserve_all(&self) {
        (0..self.states.len()).for_each(|index| self.preserve(index));
    }

    /// The hash of a page that was wanted; it is not wanted any more.
    pub fn collect(&self, index: usize) -> u64 {
        self.compute(index);
        let hash = self.hashes[index].load(Ordering::Relaxed);
        self.states[index].store(IDLE, Ordering::Release);
        hash
    }

    /// Sees to it that the page is hashed.
    fn compute(&self, index: usize) {
        let state = &self.states[index];
        match state.compare_exchange(WANTED, BUSY, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                let hash = (self.hash)(index, self.page(index));
                self.hashes[index].store(hash, Ordering::Relaxed);
                state.store(DONE, Ordering::Release);
            }
            Err(_) => {
                let mut spins = 0u32;
                while state.load(Ordering::Acquire) == BUSY {
                    // The other thread may have lost its processor to this one.
                    spins += 1;
                    if spins.is_multiple_of(64) {
                        std::thread::yield_now();
                    } else {
                        std::hint::spin_loop();
                    }
                }
            }
        }
    }

    /// Only for the thread that made the page BUSY.
    fn page(&self, index: usize) -> &Page {
        let region = self
            .regions
            .iter()
            .rev()
            .find(|region| index >= region.first_page)
            .expect("page index");
        let offset = (index - region.first_page) * PAGE_SIZE as usize;
        assert!((offset as u64) < region.length, "page index");
        // SAFETY: the page lies inside the mapping, and nobody writes it while it is BUSY.
        unsafe { &*region.host.as_ptr().add(offset).cast() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::GuestRam;

    use super::*;

    fn sum(_: usize, page: &Page) -> u64 {
        page.iter().map(|byte| u64::from(*byte)).sum()
    }

    #[test]
    fn a_hash_is_of_the_moment_at_which_it_was_wanted() {
        let mut ram = GuestRam::new(16 * PAGE_SIZE).unwrap();
        let hashes = ram.hashes(sum);
        ram.write(5 * PAGE_SIZE, &[7, 7]).unwrap();
        let wanted = ram.want_hashes(0..0);
        assert_eq!(wanted.len(), 16);
        ram.write(5 * PAGE_SIZE - 1, &[1, 100, 1]).unwrap();
        ram.mark_dirty(9);
        let found: Vec<u64> = (0..16).map(|index| hashes.collect(index)).collect();
        assert_eq!(found[5], 14);
        assert_eq!(found.iter().sum::<u64>(), 14);
        // What was written meanwhile is what is hashed next, with what is asked for beside it.
        let mut wanted = ram.want_hashes(8..11);
        wanted.sort_unstable();
        assert_eq!(wanted, [4, 5, 8, 9, 10]);
        ram.clear();
        assert_eq!(hashes.collect(4), 1);
        assert_eq!(hashes.collect(5), 101);
        for index in [8, 9, 10] {
            assert_eq!(hashes.collect(index), 0);
        }
        assert_eq!(ram.want_hashes(0..0).len(), 16);
    }

    #[test]
    fn a_writer_and_a_hasher_do_not_meet_on_a_page() {
        const PAGES: usize = 256;
        let mut ram = GuestRam::new(PAGES as u64 * PAGE_SIZE).unwrap();
        let hashes = ram.hashes(sum);
        for round in 0..50u64 {
            let wanted = ram.want_hashes(0..PAGES as u32);
            let other = Arc::clone(&hashes);
            let hasher = std::thread::spawn(move || {
                let of = wanted.iter().map(|index| other.collect(*index as usize));
                of.sum::<u64>()
            });
            for index in (0..PAGES).rev() {
                let byte = [round as u8 + 1; 64];
                ram.write(index as u64 * PAGE_SIZE, &byte).unwrap();
            }
            assert_eq!(hasher.join().unwrap(), 64 * round * PAGES as u64);
        }
    }
}
