//! Linear to physical addresses: page walks, and the TLB that must never be seen.
//!
//! Does: translate, set accessed and dirty bits, raise page faults, cache translations.
//! Does not: check segments (`access`), or know what lies at a physical address beyond "RAM or not".
//!
//! Invariant: **the TLB is invisible.** An entry exists only while every paging-structure entry its
//! walk used is unchanged; `tables` tracks those entries and every store to one of them drops what
//! it made stale before the next step. So INVLPG and writes of CR3 have nothing to flush, and a CPU
//! that starts with an empty TLB behaves like one with a full one.

pub mod access;
mod address;
mod quick;
mod spaces;
mod tables;
mod tlb;
mod translate;
mod walk;

use spaces::{SpaceMask, Spaces};
use tables::Tables;
pub(crate) use tlb::{Entry, Tlb};
pub(crate) use walk::{Access, PHYSICAL_BITS, Paging, Translation, walk};

use memory::{GuestRam, PAGE_SIZE, WATCH_CODE, WATCH_TABLE, Write};

/// TLB sets: which rights a cached entry was checked for.
pub(crate) const SET_SUPERVISOR: usize = 0;
/// Supervisor accesses that may reach user pages (SMAP off, or EFLAGS.AC).
pub(crate) const SET_SUPERVISOR_OVERRIDE: usize = 1;
/// CPL 3.
pub(crate) const SET_USER: usize = 2;
/// Never filled: every access takes the slow path (alignment checks).
pub(crate) const SET_NONE: usize = 3;

/// Translation caches of one CPU.
pub(crate) struct Mmu {
    /// The current address space's.
    pub(crate) tlb: Tlb,
    spaces: Spaces,
    tables: Tables,
    /// `GuestRam::rearmed` when write rights were last dropped.
    rearmed: u64,
}

impl Mmu {
    /// Empty caches.
    pub(crate) fn new(paging: Paging) -> Mmu {
        Mmu {
            tlb: Tlb::new(),
            spaces: Spaces::new(paging),
            tables: Tables::new(),
            rearmed: 0,
        }
    }

    /// Names the translations of code at this moment: whoever maps linear addresses to blocks
    /// believes only what it noted under the same number. A switch of address spaces brings the
    /// space's number back.
    #[inline(always)]
    pub(crate) fn code_epoch(&self) -> u64 {
        self.spaces.code_epoch()
    }

    /// The highest code epoch there was.
    pub(crate) fn epochs(&self) -> u64 {
        self.spaces.epochs()
    }

    /// Later code epochs are above `epochs`.
    pub(crate) fn skip_epochs(&mut self, epochs: u64) {
        self.spaces.skip_epochs(epochs);
    }

    /// Base or limit of the code segment changed.
    pub(crate) fn code_extent_changed(&mut self) {
        self.spaces.extent_changed();
    }

    /// How paging is set up, as it was last told.
    pub(crate) fn paging(&self) -> &Paging {
        self.spaces.paging()
    }

    /// Paging is set up in another way now (or in the same).
    pub(crate) fn set_paging(&mut self, ram: &mut GuestRam, paging: Paging) {
        self.spaces
            .switch(ram, &mut self.tables, &mut self.tlb, paging);
    }

    /// Chooses the set for data accesses.
    #[inline(always)]
    pub(crate) fn select(&mut self, user: bool, override_smap: bool) {
        self.tlb.select(if user {
            SET_USER
        } else if override_smap {
            SET_SUPERVISOR_OVERRIDE
        } else {
            SET_SUPERVISOR
        });
    }

    /// Forgets every translation.
    pub(crate) fn flush(&mut self, ram: &mut GuestRam) {
        self.spaces.flush(&mut self.tlb, SpaceMask::MAX);
        self.tables.clear(ram);
    }

    /// Drops cached write rights if the dirty log was re-armed since the last call.
    pub(crate) fn follow_dirty_log(&mut self, ram: &GuestRam) {
        if self.rearmed != ram.rearmed() {
            self.rearmed = ram.rearmed();
            self.tlb.drop_all_writes();
            for tlb in self.spaces.parked_tlbs() {
                tlb.drop_all_writes();
            }
        }
    }

    /// Drops what a store to a page with [`WATCH_TABLE`] made stale.
    pub(crate) fn table_written(&mut self, ram: &mut GuestRam, write: Write) {
        let first = write.address / 8;
        let last = (write.address + u64::from(write.length) - 1) / 8;
        for entry in first..=last {
            match self.tables.forget(ram, entry * 8) {
                tables::Stale::Nothing => {}
                tables::Stale::Page {
                    linear,
                    code,
                    spaces,
                } => self.spaces.drop_page(&mut self.tlb, spaces, linear, code),
                tables::Stale::Everything(spaces) => {
                    self.spaces.flush(&mut self.tlb, spaces);
                    self.tables.leave(ram, spaces);
                }
            }
        }
    }

    /// Starts watching the page with `index` for `bits`: no store may reach it unseen any more.
    pub(crate) fn watch(&mut self, ram: &mut GuestRam, index: usize, bits: u8) {
        if ram.watch(index) & bits != bits {
            ram.add_watch(index, bits);
            let host = ram
                .page_pointer(ram.page_address(index))
                .expect("page index")
                .as_ptr() as usize;
            self.tlb.drop_writes_to(index, host);
            for tlb in self.spaces.parked_tlbs() {
                tlb.drop_writes_to(index, host);
            }
        }
    }

    /// Caches a translation for the selected rights. True if that made room by forgetting all
    /// others: the running block must end, since the code it came from is no longer tracked.
    ///
    /// `set` is the TLB set, `linear` any address in the page.
    pub(crate) fn fill(
        &mut self,
        ram: &mut GuestRam,
        set: usize,
        linear: u64,
        found: &Translation,
        access: Access,
    ) -> bool {
        let Some(index) = ram.page_index(found.physical) else {
            return false;
        };
        let full = self.tables.is_full();
        if full {
            self.flush(ram);
        }
        if !self.track(ram, linear, found, access == Access::Fetch) {
            return full;
        }
        let host = ram
            .page_pointer(found.physical)
            .expect("page is RAM")
            .as_ptr() as usize;
        let page = linear & !(PAGE_SIZE - 1);
        match access {
            Access::Fetch => self.tlb.add_fetch(set, page, found.physical, host),
            Access::Read => self.tlb.add_read(set, page, found.physical, host),
            Access::Write => {
                // Only a page nobody watches may be stored to through a pointer.
                if ram.watch(index) & (WATCH_CODE | WATCH_TABLE) == 0 {
                    ram.mark_dirty(index);
                    self.tlb.add_write(set, page, found.physical, host, index);
                } else {
                    self.tlb.add_read(set, page, found.physical, host);
                }
            }
        }
        full
    }

    /// Tracks the entries of a walk; false if that is impossible and nothing may be cached.
    fn track(&mut self, ram: &mut GuestRam, linear: u64, found: &Translation, code: bool) -> bool {
        let space = self.spaces.current();
        for (level, &address) in found.entries[..found.depth].iter().enumerate() {
            let Some(index) = ram.page_index(address) else {
                return false;
            };
            let is_leaf = level + 1 == found.depth;
            let role = if is_leaf && found.page_shift == 12 {
                tables::Role::Leaf {
                    linear: linear & !(PAGE_SIZE - 1),
                    code,
                }
            } else {
                tables::Role::Upper
            };
            self.watch(ram, index, WATCH_TABLE);
            self.tables
                .remember(index, address, role, found.entry_bytes, space);
        }
        true
    }
}
