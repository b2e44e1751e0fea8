//! The RAM of one machine: two mapped regions around the 32-bit MMIO hole, and their watch bytes.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::hashes::{Hash, PageHashes};

/// Bytes in a page of guest RAM, the grain of watches and digests.
pub const PAGE_SIZE: u64 = 4096;

/// End of the RAM below the 32-bit MMIO hole (3 GiB).
const LOW_RAM_END: u64 = 0xC000_0000;
/// Start of the RAM above 4 GiB.
const HIGH_RAM_START: u64 = 0x1_0000_0000;

/// Watch bit: instructions were decoded from this page.
pub const WATCH_CODE: u8 = 1 << 0;
/// Watch bit: page-table entries in this page were walked.
pub const WATCH_TABLE: u8 = 1 << 1;
/// Watch bit: the page was not written since [`GuestRam::take_dirty`]; the next write marks it.
pub const WATCH_DIRTY: u8 = 1 << 2;

/// What can go wrong with guest RAM.
#[derive(Debug, Error)]
pub enum Error {
    /// The size is zero or no multiple of the page size.
    #[error("memory size {0} is not a positive multiple of 4096 bytes")]
    Size(u64),
    /// The host did not map the memory.
    #[error("cannot map {size} bytes of guest memory")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// The host's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The range is not RAM as a whole.
    #[error("no RAM at {address:#x} for {length} bytes")]
    NoRam {
        /// Guest-physical start of the access.
        address: u64,
        /// Bytes asked for.
        length: usize,
    },
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A write that hit a page with [`WATCH_CODE`] or [`WATCH_TABLE`] set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Guest-physical address of the first byte.
    pub address: u64,
    /// Bytes written; never crosses a page.
    pub length: u32,
}

/// One mapped stretch of RAM.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) host: NonNull<u8>,
    pub(crate) first_page: usize,
}

/// Guest RAM. Owned by the thread that runs the machine; nothing else writes it.
#[derive(Debug)]
pub struct GuestRam {
    map: GuestMemoryMmap<()>,
    regions: Vec<Region>,
    watch: Vec<u8>,
    dirty: Vec<u32>,
    touched: Vec<Write>,
    all_touched: bool,
    rearmed: u64,
    hashes: Option<Arc<PageHashes>>,
}

// SAFETY: the host pointers point into `map`, which `GuestRam` owns and which never moves or
// unmaps before it is dropped; nothing else holds them beyond a borrow of the `GuestRam`.
unsafe impl Send for GuestRam {}

impl GuestRam {
    /// Maps `size` bytes of zeroed RAM: up to 3 GiB from address 0, the rest from 4 GiB.
    pub fn new(size: u64) -> Result<Self> {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
            return Err(Error::Size(size));
        }
        let mut ranges = vec![(GuestAddress(0), size.min(LOW_RAM_END) as usize)];
        if size > LOW_RAM_END {
            ranges.push((GuestAddress(HIGH_RAM_START), (size - LOW_RAM_END) as usize));
        }
        let map = GuestMemoryMmap::<()>::from_ranges(&ranges).map_err(|e| Error::Map {
            size,
            source: Box::new(e),
        })?;
        let mut regions = Vec::new();
        let mut first_page = 0;
        for region in map.iter() {
            let host = NonNull::new(region.as_ptr()).expect("mmap never returns null");
            regions.push(Region {
                start: region.start_addr().0,
                length: region.len(),
                host,
                first_page,
            });
            first_page += (region.len() / PAGE_SIZE) as usize;
        }
        Ok(GuestRam {
            map,
            regions,
            watch: vec![0; first_page],
            dirty: (0..first_page as u32).collect(),
            touched: Vec::new(),
            all_touched: true,
            rearmed: 0,
            hashes: None,
        })
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.watch.len() as u64 * PAGE_SIZE
    }

    /// Number of pages; page indices run from 0, low RAM first.
    pub fn pages(&self) -> usize {
        self.watch.len()
    }

    /// Bytes of the RAM that starts at address 0 (at most 3 GiB).
    pub fn low_size(&self) -> u64 {
        self.regions[0].length
    }

    /// The mapping, for loaders that want vm-memory's traits. Whoever writes through it calls
    /// [`GuestRam::will_write`] before, or [`GuestRam::replaced`] afterwards; the latter only while
    /// no hash is wanted.
    pub fn map(&self) -> &GuestMemoryMmap<()> {
        &self.map
    }

    /// Tells that `length` bytes at `address` are about to be written through [`GuestRam::map`]. What
    /// is not RAM is ignored.
    pub fn will_write(&mut self, address: u64, length: usize) {
        if self.contains(address, length) {
            self.note_write(address, length);
        }
    }

    /// Tells that RAM was written behind the watches' back: everything counts as dirty and touched.
    pub fn replaced(&mut self) {
        self.all_touched = true;
        self.touched.clear();
        for page in 0..self.watch.len() {
            if self.watch[page] & WATCH_DIRTY != 0 {
                self.watch[page] &= !WATCH_DIRTY;
                self.dirty.push(page as u32);
            }
        }
    }

    /// Zeroes all RAM, giving the pages back to the host.
    pub fn clear(&mut self) {
        if let Some(hashes) = &self.hashes {
            hashes.preserve_all();
        }
        for region in &self.regions {
            // SAFETY: the range is exactly one private anonymous mapping owned by `map`.
            unsafe { give_back(region.host.as_ptr(), region.length as usize) };
        }
        self.replaced();
    }

    /// Zeroes the whole pages between `address` and `address + length`, giving them back to the
    /// host, and tells the watches; a page that is only in part in there stays. All must be RAM.
    pub fn discard(&mut self, address: u64, length: u64) -> Result<()> {
        let no_ram = Error::NoRam {
            address,
            length: length as usize,
        };
        self.pointer(address, length as usize)?;
        let first = address.next_multiple_of(PAGE_SIZE);
        let end = (address + length) & !(PAGE_SIZE - 1);
        let Some(length) = end.checked_sub(first).filter(|length| *length > 0) else {
            return Ok(());
        };
        let length = usize::try_from(length).map_err(|_| no_ram)?;
        let host = self.pointer(first, length)?;
        self.note_write(first, length);
        // SAFETY: `pointer` checked the range, which consists of whole pages.
        unsafe { give_back(host, length) };
        Ok(())
    }

    /// The region that holds `address`, with the offset into it.
    #[inline]
    fn locate(&self, address: u64) -> Option<(&Region, u64)> {
        self.regions.iter().find_map(|region| {
            let offset = address.wrapping_sub(region.start);
            (offset < region.length).then_some((region, offset))
        })
    }

    /// Index of the page that holds guest-physical `address`, or `None` where there is no RAM.
    #[inline]
    pub fn page_index(&self, address: u64) -> Option<usize> {
        let (region, offset) = self.locate(address)?;
        Some(region.first_page + (offset / PAGE_SIZE) as usize)
    }

    /// Guest-physical address of page `index`.
    pub fn page_address(&self, index: usize) -> u64 {
        let region = self
            .regions
            .iter()
            .rev()
            .find(|r| index >= r.first_page)
            .expect("page index");
        region.start + (index - region.first_page) as u64 * PAGE_SIZE
    }

    /// Host pointer to the start of the page that holds `address`. Stores through it are allowed
    /// only while the page's watch byte is zero; valid as long as the `GuestRam`.
    #[inline]
    pub fn page_pointer(&self, address: u64) -> Option<NonNull<u8>> {
        let (region, offset) = self.locate(address)?;
        // SAFETY: offset < length, so the pointer stays inside the mapping.
        Some(unsafe { region.host.add((offset & !(PAGE_SIZE - 1)) as usize) })
    }

    /// The bytes of page `index`.
    pub fn page(&self, index: usize) -> &[u8; PAGE_SIZE as usize] {
        let address = self.page_address(index);
        let pointer = self.page_pointer(address).expect("page index");
        // SAFETY: the page is mapped; only the owner of `&mut self` writes it.
        unsafe { &*pointer.as_ptr().cast() }
    }

    /// Host pointer for `[address, address + length)` if all of it is one stretch of RAM.
    #[inline]
    fn pointer(&self, address: u64, length: usize) -> Result<*mut u8> {
        match self.locate(address) {
            Some((region, offset)) if length as u64 <= region.length - offset => {
                // SAFETY: the range lies inside the mapping.
                Ok(unsafe { region.host.as_ptr().add(offset as usize) })
            }
            _ => Err(Error::NoRam { address, length }),
        }
    }

    /// Whether `length` bytes from `address` on are one stretch of RAM.
    pub fn contains(&self, address: u64, length: usize) -> bool {
        self.pointer(address, length).is_ok()
    }

    /// Copies RAM from `address` into `data`.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<()> {
        let from = self.pointer(address, data.len())?;
        // SAFETY: `pointer` checked the range; `data` cannot overlap guest RAM.
        unsafe { std::ptr::copy_nonoverlapping(from, data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    /// Copies `data` into RAM at `address`, and tells the watches. All or nothing.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<()> {
        let to = self.pointer(address, data.len())?;
        self.note_write(address, data.len());
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        Ok(())
    }

    /// Reads a little-endian u64.
    #[inline]
    pub fn read_u64(&self, address: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(self.read_array(address)?))
    }

    /// Reads a little-endian u32.
    #[inline]
    pub fn read_u32(&self, address: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.read_array(address)?))
    }

    /// One load, where `read` calls a copy of any length: page walks are made of these.
    #[inline]
    fn read_array<const N: usize>(&self, address: u64) -> Result<[u8; N]> {
        let from = self.pointer(address, N)?;
        // SAFETY: `pointer` checked the range, and bytes need no alignment.
        Ok(unsafe { from.cast::<[u8; N]>().read() })
    }

    /// Runs the watches for a write that is about to happen. The range must be RAM.
    fn note_write(&mut self, mut address: u64, mut length: usize) {
        while length > 0 {
            let here = length.min((PAGE_SIZE - address % PAGE_SIZE) as usize);
            let page = self.page_index(address).expect("range was checked");
            let watch = self.watch[page];
            if watch & WATCH_DIRTY != 0 {
                self.first_write(page);
            }
            if watch & (WATCH_CODE | WATCH_TABLE) != 0 {
                self.touched.push(Write {
                    address,
                    length: here as u32,
                });
            }
            address += here as u64;
            length -= here;
        }
    }

    /// The watch byte of page `index`.
    #[inline]
    pub fn watch(&self, index: usize) -> u8 {
        self.watch[index]
    }

    /// Adds watch bits to a page. The caller drops its own write-through pointers to it.
    pub fn add_watch(&mut self, index: usize, bits: u8) {
        self.watch[index] |= bits;
    }

    /// Removes watch bits from a page.
    pub fn remove_watch(&mut self, index: usize, bits: u8) {
        self.watch[index] &= !bits;
    }

    /// Marks a page dirty now, so that it can be stored to through a pointer if nothing else
    /// watches it.
    #[inline]
    pub fn mark_dirty(&mut self, index: usize) {
        if self.watch[index] & WATCH_DIRTY != 0 {
            self.first_write(index);
        }
    }

    /// The first write to a page since [`GuestRam::take_dirty`] is about to happen.
    fn first_write(&mut self, index: usize) {
        if let Some(hashes) = &self.hashes {
            hashes.preserve(index);
        }
        self.watch[index] &= !WATCH_DIRTY;
        self.dirty.push(index as u32);
    }

    /// True if there are watched writes to take.
    #[inline]
    pub fn has_touched(&self) -> bool {
        !self.touched.is_empty() || self.all_touched
    }

    /// Takes the watched writes since the last call, oldest first; `None` means that anything may
    /// have changed.
    pub fn take_touched(&mut self) -> Option<Vec<Write>> {
        if std::mem::take(&mut self.all_touched) {
            self.touched.clear();
            return None;
        }
        Some(std::mem::take(&mut self.touched))
    }

    /// Takes the indices of the pages written since the last call (each once, unordered), and arms
    /// [`WATCH_DIRTY`] on them. Raises [`GuestRam::rearmed`].
    pub fn take_dirty(&mut self) -> Vec<u32> {
        let dirty = std::mem::take(&mut self.dirty);
        for &page in &dirty {
            self.watch[page as usize] |= WATCH_DIRTY;
        }
        self.rearmed += 1;
        dirty
    }

    /// Where hashes of pages will be found; the same at each call, with the hash of the first.
    pub fn hashes(&mut self, hash: Hash) -> Arc<PageHashes> {
        let hashes = self.hashes.get_or_insert_with(|| {
            let (map, regions) = (self.map.clone(), self.regions.clone());
            Arc::new(PageHashes::new(map, regions, hash))
        });
        Arc::clone(hashes)
    }

    /// Wants the hashes, as of now, of the pages written since the last call (as
    /// [`GuestRam::take_dirty`]) and of the pages `also`, which differ. Gives their indices, each once. The
    /// hashes that were wanted before must have been collected.
    ///
    /// # Panics
    /// If [`GuestRam::hashes`] was never called.
    pub fn want_hashes(&mut self, also: impl Iterator<Item = u32>) -> Vec<u32> {
        // What is dirty has no watch before it is armed again.
        let clean = |index: &u32| self.watch[*index as usize] & WATCH_DIRTY != 0;
        let also: Vec<u32> = also.filter(clean).collect();
        let mut wanted = self.take_dirty();
        wanted.extend(also);
        let hashes = self.hashes.as_ref().expect("there is a hash");
        for &index in &wanted {
            hashes.want(index as usize);
        }
        wanted
    }

    /// Counts the calls of [`GuestRam::take_dirty`]: whoever caches pointers for stores drops them
    /// when this has changed.
    #[inline]
    pub fn rearmed(&self) -> u64 {
        self.rearmed
    }
}

/// Makes whole pages read as zeros, and keeps no memory for them.
///
/// # Safety
/// They are a part of a private anonymous mapping, and nobody holds a reference to them.
unsafe fn give_back(host: *mut u8, length: usize) {
    // SAFETY: as the caller promises. On such a mapping MADV_DONTNEED makes pages read as zeros.
    let result = unsafe { libc::madvise(host.cast(), length, libc::MADV_DONTNEED) };
    if result != 0 {
        // SAFETY: as the caller promises; the whole range is mapped and writable.
        unsafe { host.write_bytes(0, length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarded_pages_are_zero_and_told() {
        let mut ram = GuestRam::new(8 * PAGE_SIZE).unwrap();
        for page in 0..8 {
            ram.write(page * PAGE_SIZE, &[7; PAGE_SIZE as usize])
                .unwrap();
        }
        ram.take_dirty();
        ram.take_touched();
        ram.add_watch(3, WATCH_TABLE);
        // Pages 2 to 4 in whole, 1 and 5 in part.
        ram.discard(2 * PAGE_SIZE - 1, 3 * PAGE_SIZE + 2).unwrap();
        let found: Vec<u8> = (0..8).map(|page| ram.page(page)[100]).collect();
        assert_eq!(found, [7, 7, 0, 0, 0, 7, 7, 7]);
        let mut dirty = ram.take_dirty();
        dirty.sort_unstable();
        assert_eq!(dirty, [2, 3, 4]);
        assert_eq!(
            ram.take_touched(),
            Some(vec![Write {
                address: 3 * PAGE_SIZE,
                length: PAGE_SIZE as u32
            }])
        );
        ram.discard(PAGE_SIZE + 1, PAGE_SIZE).unwrap();
        ram.discard(7 * PAGE_SIZE, PAGE_SIZE).unwrap();
        assert_eq!(ram.page(1)[0] + ram.page(7)[0], 7);
        for outside in [(7 * PAGE_SIZE, 2 * PAGE_SIZE), (u64::MAX - 10, 20)] {
            ram.discard(outside.0, outside.1).unwrap_err();
        }
    }

    #[test]
    fn ram_surrounds_the_mmio_hole() {
        let mut ram = GuestRam::new(LOW_RAM_END + 2 * PAGE_SIZE).unwrap();
        assert_eq!(ram.page_index(LOW_RAM_END), None);
        let last = ram.pages() - 1;
        assert_eq!(ram.page_address(last), HIGH_RAM_START + PAGE_SIZE);
        assert_eq!(ram.page_index(HIGH_RAM_START + PAGE_SIZE), Some(last));
        assert!(ram.write(LOW_RAM_END - 4, &[1; 8]).is_err());
        assert_eq!(ram.read_u32(LOW_RAM_END - 4).unwrap(), 0);
        ram.write(HIGH_RAM_START, &[7]).unwrap();
        assert_eq!(ram.page(last - 1)[0], 7);
    }

    #[test]
    fn watched_writes_are_collected_page_by_page() {
        let mut ram = GuestRam::new(4 * PAGE_SIZE).unwrap();
        assert_eq!(ram.take_touched(), None);
        assert_eq!(ram.take_dirty().len(), 4);
        ram.add_watch(1, WATCH_CODE);
        ram.write(PAGE_SIZE - 2, &[1, 2, 3, 4]).unwrap();
        assert_eq!(
            ram.take_touched(),
            Some(vec![Write {
                address: PAGE_SIZE,
                length: 2
            }])
        );
        assert_eq!(ram.take_dirty(), vec![0, 1]);
        assert_eq!(ram.take_dirty(), Vec::<u32>::new());
    }

    #[test]
    fn clearing_zeroes_and_tells() {
        let mut ram = GuestRam::new(2 * PAGE_SIZE).unwrap();
        ram.write(10, &[9]).unwrap();
        ram.take_dirty();
        ram.take_touched();
        ram.clear();
        assert_eq!(ram.page(0)[10], 0);
        assert_eq!(ram.take_touched(), None);
        assert_eq!(ram.take_dirty().len(), 2);
    }

    #[test]
    fn odd_sizes_are_refused() {
        assert!(matches!(GuestRam::new(0), Err(Error::Size(0))));
        assert!(matches!(GuestRam::new(4097), Err(Error::Size(4097))));
    }
}
