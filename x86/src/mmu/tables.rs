//! Which paging-structure entries the cached translations rest on.
//!
//! Does: remember, by physical address, each entry a cached walk used, and say what a store to it
//! makes stale. Does not: hold translations.
//!
//! Invariant: if a translation is cached, every entry it rests on is remembered here and its page
//! has [`memory::WATCH_TABLE`]. Absent entries are never remembered, because they are never cached.

use std::collections::BTreeMap;

use memory::{GuestRam, WATCH_TABLE};

use super::spaces::SpaceMask;

/// What an entry was to the walk that used it.
pub(crate) enum Role {
    /// Maps one 4 KiB page at this linear address; `code` if it was fetched from.
    Leaf {
        /// Linear address of the page.
        linear: u64,
        /// The walk was for a fetch.
        code: bool,
    },
    /// Anything else: a change drops every translation of the spaces that went through it.
    Upper,
}

/// What a store to an entry made stale.
pub(crate) enum Stale {
    /// The entry was not in use.
    Nothing,
    /// One page.
    Page {
        /// Its linear address.
        linear: u64,
        /// It was fetched from.
        code: bool,
        /// In these address spaces.
        spaces: SpaceMask,
    },
    /// More than can be told, in these address spaces.
    Everything(SpaceMask),
}

/// Most pages of paging structures that are tracked at a time.
const MOST_PAGES: usize = 16_384;

/// One page of paging structures.
struct TablePage {
    /// Page index in RAM.
    page: u32,
    /// Bit per 8-byte entry: a cached walk used it.
    used: [u64; 8],
    /// Bit per 8-byte entry: that walk was for a fetch.
    code: [u64; 8],
    /// Linear address that entry 0 maps, while every use as a leaf agrees on it.
    base: Option<u64>,
    /// Some entry was used as an upper one, or leaves disagree about `base`.
    mixed: bool,
    /// The address spaces whose walks used it.
    spaces: SpaceMask,
}

/// The entries in use.
pub(crate) struct Tables {
    pages: BTreeMap<u32, TablePage>,
}

impl Tables {
    pub(crate) fn new() -> Tables {
        Tables {
            pages: BTreeMap::new(),
        }
    }

    /// True if there is no room for the entries of another walk.
    pub(crate) fn is_full(&self) -> bool {
        self.pages.len() + 4 > MOST_PAGES
    }

    /// Remembers the entry at physical `address` (`entry_bytes` long, 4 or 8) in RAM page `index`,
    /// which a walk in `spaces` used.
    pub(crate) fn remember(
        &mut self,
        index: usize,
        address: u64,
        role: Role,
        entry_bytes: u64,
        spaces: SpaceMask,
    ) {
        let page = self.pages.entry(index as u32).or_insert_with(|| TablePage {
            page: index as u32,
            used: [0; 8],
            code: [0; 8],
            base: None,
            mixed: false,
            spaces: 0,
        });
        page.spaces |= spaces;
        let entry = (address & 0xfff) / 8;
        let (word, bit) = ((entry / 64) as usize, 1u64 << (entry % 64));
        page.used[word] |= bit;
        match role {
            Role::Upper => page.mixed = true,
            // Two 4-byte entries share a tracked slot: do not tell them apart.
            Role::Leaf { .. } if entry_bytes != 8 => page.mixed = true,
            Role::Leaf { linear, code } => {
                let base = linear.wrapping_sub(entry << 12);
                if page.base.is_some_and(|known| known != base) {
                    page.mixed = true;
                }
                page.base = Some(base);
                if code {
                    page.code[word] |= bit;
                }
            }
        }
    }

    /// Forgets the 8 bytes at `address` (a multiple of 8), which were stored to.
    pub(crate) fn forget(&mut self, ram: &mut GuestRam, address: u64) -> Stale {
        let Some(index) = ram.page_index(address) else {
            return Stale::Nothing;
        };
        let Some(page) = self.pages.get_mut(&(index as u32)) else {
            return Stale::Nothing;
        };
        let entry = (address & 0xfff) / 8;
        let (word, bit) = ((entry / 64) as usize, 1u64 << (entry % 64));
        if page.used[word] & bit == 0 {
            return Stale::Nothing;
        }
        let spaces = page.spaces;
        if page.mixed {
            return Stale::Everything(spaces);
        }
        page.used[word] &= !bit;
        let code = page.code[word] & bit != 0;
        page.code[word] &= !bit;
        let linear = page
            .base
            .expect("a used leaf has a base")
            .wrapping_add(entry << 12);
        if page.used == [0; 8] {
            ram.remove_watch(page.page as usize, WATCH_TABLE);
            self.pages.remove(&(index as u32));
        }
        Stale::Page {
            linear,
            code,
            spaces,
        }
    }

    /// Forgets that `spaces` used anything.
    pub(crate) fn leave(&mut self, ram: &mut GuestRam, spaces: SpaceMask) {
        self.pages.retain(|&index, page| {
            page.spaces &= !spaces;
            let used = page.spaces != 0;
            if !used {
                ram.remove_watch(index as usize, WATCH_TABLE);
            }
            used
        });
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, ram: &mut GuestRam) {
        for page in self.pages.keys() {
            ram.remove_watch(*page as usize, WATCH_TABLE);
        }
        self.pages.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracked_pages_have_a_bound() {
        let mut ram = GuestRam::new(1 << 20).expect("RAM can be mapped");
        let mut tables = Tables::new();
        for page in 0..MOST_PAGES {
            assert_eq!(tables.is_full(), page + 4 > MOST_PAGES);
            tables.remember(page, page as u64 * 4096, Role::Upper, 8, 1);
        }
        tables
            .pages
            .retain(|&page, _| (page as usize) < ram.pages());
        tables.clear(&mut ram);
        assert!(!tables.is_full());
    }
}
