//! The translation lookaside buffer: linear page to host pointer, by right.
//!
//! Invariant: an entry's `write` tag is valid only while the page's watch byte is zero, and any
//! valid tag names the page whose host address is `host`.

use memory::PAGE_SIZE;

/// Entries in a set.
const ENTRIES: usize = 1024;
/// Sets, see `mmu::SET_*`.
const SETS: usize = 4;

/// One page, with a tag for each right: the linear page address, or a value no access can match.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) read: u64,
    pub(crate) write: u64,
    pub(crate) fetch: u64,
    /// Host address of the page.
    pub(crate) host: usize,
}

impl Entry {
    /// Entries in a set.
    pub(crate) const COUNT: usize = ENTRIES;

    /// Host address of `linear`, which the entry is for.
    #[inline(always)]
    pub(crate) fn pointer(&self, linear: u64) -> usize {
        self.host + (linear & (PAGE_SIZE - 1)) as usize
    }
}

const _: () = assert!(size_of::<Entry>() == 32, "compiled code shifts by 5");

/// Physical side of an entry, away from the hot path.
#[derive(Clone, Copy, Default)]
struct Cold {
    physical: u64,
}

/// The TLB.
pub(crate) struct Tlb {
    entries: Box<[Entry; ENTRIES * SETS]>,
    cold: Box<[Cold; ENTRIES * SETS]>,
    /// First entry of the selected set.
    base: usize,
    /// Entries that are not empty, so that a flush costs what was filled.
    filled: Vec<u16>,
    /// Bit a page index: a write tag for it may exist.
    writable: Vec<u64>,
    /// Page indices with a bit in `writable`.
    writable_list: Vec<u32>,
}

/// Index of the entry for a linear address in its set.
#[inline(always)]
fn slot(linear: u64) -> usize {
    let page = linear >> 12;
    ((page ^ (page >> 10)) as usize) & (ENTRIES - 1)
}

/// A tag for entry `index` that no linear address which selects that entry can match: its own
/// slot is another one.
const fn nowhere(index: usize) -> u64 {
    (1 << 62) | ((((index & (ENTRIES - 1)) ^ 1) as u64) << 12)
}

const fn empty(index: usize) -> Entry {
    let tag = nowhere(index);
    Entry {
        read: tag,
        write: tag,
        fetch: tag,
        host: 0,
    }
}

impl Tlb {
    pub(crate) fn new() -> Tlb {
        let entries: Vec<Entry> = (0..ENTRIES * SETS).map(empty).collect();
        let cold = vec![Cold::default(); ENTRIES * SETS];
        Tlb {
            entries: entries
                .into_boxed_slice()
                .try_into()
                .ok()
                .expect("length is constant"),
            cold: cold
                .into_boxed_slice()
                .try_into()
                .ok()
                .expect("length is constant"),
            base: 0,
            filled: Vec::new(),
            writable: Vec::new(),
            writable_list: Vec::new(),
        }
    }

    /// Selects the set that `entry` uses.
    #[inline(always)]
    pub(crate) fn select(&mut self, set: usize) {
        self.base = set * ENTRIES;
    }

    /// Address of the selected set's first entry, for compiled code.
    pub(crate) fn selected_address(&self) -> u64 {
        self.entries[self.base..].as_ptr().expose_provenance() as u64
    }

    /// The selected set.
    pub(crate) fn selected(&self) -> usize {
        self.base / ENTRIES
    }

    /// The entry of the selected set for `linear`; its tags say whether it is the right one.
    #[inline(always)]
    pub(crate) fn entry(&self, linear: u64) -> &Entry {
        &self.entries[(self.base + slot(linear)) & (ENTRIES * SETS - 1)]
    }

    /// Physical page of a fetch from `linear` in `set`, if cached.
    #[inline(always)]
    pub(crate) fn fetch(&self, set: usize, linear: u64) -> Option<u64> {
        let index = set * ENTRIES + slot(linear);
        let hit = self.entries[index].fetch == linear & !(PAGE_SIZE - 1);
        hit.then(|| self.cold[index].physical)
    }

    /// Makes the entry for `page` in `set` hold that page, and returns it.
    fn claim(&mut self, set: usize, page: u64, physical: u64, host: usize) -> &mut Entry {
        let index = set * ENTRIES + slot(page);
        let entry = &mut self.entries[index];
        let none = nowhere(index);
        if entry.read == none && entry.write == none && entry.fetch == none {
            self.filled.push(index as u16);
        }
        let physical = physical & !(PAGE_SIZE - 1);
        let same = [entry.read, entry.write, entry.fetch]
            .iter()
            .all(|&t| t == page || t == none);
        if !same || entry.host != host || self.cold[index].physical != physical {
            *entry = Entry {
                host,
                ..empty(index)
            };
            self.cold[index].physical = physical;
        }
        entry
    }

    pub(crate) fn add_read(&mut self, set: usize, page: u64, physical: u64, host: usize) {
        self.claim(set, page, physical, host).read = page;
    }

    pub(crate) fn add_fetch(&mut self, set: usize, page: u64, physical: u64, host: usize) {
        self.claim(set, page, physical, host).fetch = page;
    }

    /// Adds read and write rights; `index` is the RAM page index.
    pub(crate) fn add_write(
        &mut self,
        set: usize,
        page: u64,
        physical: u64,
        host: usize,
        index: usize,
    ) {
        let entry = self.claim(set, page, physical, host);
        entry.read = page;
        entry.write = page;
        let (word, bit) = (index / 64, 1u64 << (index % 64));
        if self.writable.len() <= word {
            self.writable.resize(word + 1, 0);
        }
        if self.writable[word] & bit == 0 {
            self.writable[word] |= bit;
            self.writable_list.push(index as u32);
        }
    }

    /// True if a write tag for RAM page `index` may exist.
    fn may_write(&self, index: usize) -> bool {
        self.writable
            .get(index / 64)
            .is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    /// Drops every write tag for RAM page `index`, which lies at host address `host`.
    pub(crate) fn drop_writes_to(&mut self, index: usize, host: usize) {
        if !self.may_write(index) {
            return;
        }
        // Its place in the list stays: a stale bit costs a search at most.
        for &index in &self.filled {
            let index = usize::from(index);
            let entry = &mut self.entries[index];
            if entry.host == host {
                entry.write = nowhere(index);
            }
        }
    }

    /// Drops every write tag.
    pub(crate) fn drop_all_writes(&mut self) {
        for &index in &self.filled {
            self.entries[usize::from(index)].write = nowhere(usize::from(index));
        }
        self.forget_writable();
    }

    fn forget_writable(&mut self) {
        for index in self.writable_list.drain(..) {
            self.writable[index as usize / 64] &= !(1 << (index % 64));
        }
    }

    /// Drops the page of `linear` from every set.
    pub(crate) fn drop_page(&mut self, linear: u64) {
        let page = linear & !(PAGE_SIZE - 1);
        for set in 0..SETS {
            let index = set * ENTRIES + slot(linear);
            let entry = &mut self.entries[index];
            for tag in [&mut entry.read, &mut entry.write, &mut entry.fetch] {
                if *tag == page {
                    *tag = nowhere(index);
                }
            }
        }
    }

    /// Drops everything.
    pub(crate) fn flush(&mut self) {
        for index in self.filled.drain(..) {
            self.entries[usize::from(index)] = empty(usize::from(index));
        }
        self.forget_writable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_tags_match_no_address_that_selects_them() {
        for index in 0..ENTRIES * SETS {
            assert_ne!(slot(nowhere(index)), index % ENTRIES);
        }
    }

    #[test]
    fn rights_of_another_page_do_not_survive() {
        let mut tlb = Tlb::new();
        tlb.add_write(0, 0x5000, 0x1000, 0x7000_0000, 1);
        tlb.select(0);
        assert_eq!(tlb.entry(0x5000).write, 0x5000);
        // Same slot, other page.
        let other = 0x5000 + ((ENTRIES as u64) << 12) * 1024;
        assert_eq!(slot(other), slot(0x5000));
        tlb.add_read(0, other, 0x2000, 0x7100_0000);
        assert_ne!(tlb.entry(other).write, other);
        assert_ne!(tlb.entry(0x5000).write, 0x5000);
        tlb.flush();
        assert_ne!(tlb.entry(other).read, other);
        assert!(!tlb.may_write(1));
    }
}
