//! The address spaces whose translations are cached.
//!
//! Does: keep a TLB for each of the last few ways in which paging was set up, so that a guest that
//! switches between processes finds its translations again; drop what a store made stale in all of
//! them. Does not: translate.
//!
//! Invariant: a TLB holds only what a walk under its space's [`Paging`] would find now, whichever
//! space is the current one. That is why a write of CR3 has nothing to flush, with PCIDs or without.

use memory::GuestRam;

use super::tables::Tables;
use super::{Paging, Tlb};

/// Most spaces at a time.
const MOST: usize = 8;

/// Bit per space: its number.
pub(super) type SpaceMask = u8;

const _: () = assert!(MOST <= SpaceMask::BITS as usize);

/// A space that is not the current one, or what the current one is beside its TLB.
struct Space {
    /// How its translations are found.
    paging: Paging,
    /// 0 to `MOST - 1`, as long as it lives.
    number: u8,
    /// When it was last current.
    last: u64,
    /// `Spaces::code_epoch` when it was last current.
    code_epoch: u64,
    /// `Spaces::extents` when it was last current.
    extents: u64,
}

/// The spaces.
pub(crate) struct Spaces {
    space: Space,
    parked: Vec<(Space, Tlb)>,
    /// Names the current space's translations of code at this moment: whoever maps linear addresses
    /// to blocks believes only what it noted under the same number. Numbers never return, but a
    /// space's does with the space.
    code_epoch: u64,
    /// The last number that was given out.
    epochs: u64,
    /// How often base or limit of CS have changed.
    extents: u64,
    switches: u64,
}

impl Spaces {
    /// One space.
    pub(super) fn new(paging: Paging) -> Spaces {
        Spaces {
            space: Space {
                paging,
                number: 0,
                last: 0,
                code_epoch: 0,
                extents: 0,
            },
            parked: Vec::new(),
            code_epoch: 1,
            epochs: 1,
            extents: 0,
            switches: 0,
        }
    }

    /// See the field.
    #[inline(always)]
    pub(super) fn code_epoch(&self) -> u64 {
        self.code_epoch
    }

    /// The last number that was given out.
    pub(super) fn epochs(&self) -> u64 {
        self.epochs
    }

    /// Later numbers are above `epochs`. To be called before there is a second space.
    pub(super) fn skip_epochs(&mut self, epochs: u64) {
        self.epochs = self.epochs.max(epochs);
        self.code_changed();
    }

    /// How the current space's translations are found.
    #[inline(always)]
    pub(super) fn paging(&self) -> &Paging {
        &self.space.paging
    }

    /// The bit of the current space.
    pub(super) fn current(&self) -> SpaceMask {
        1 << self.space.number
    }

    /// The current space's translations of code may have changed.
    pub(super) fn code_changed(&mut self) {
        self.epochs += 1;
        self.code_epoch = self.epochs;
    }

    /// Base or limit of CS changed: what was noted about code is void in every space.
    pub(super) fn extent_changed(&mut self) {
        self.extents += 1;
        self.code_changed();
    }

    /// Makes the space of `paging` the current one; `tlb` is the current one's before and after.
    pub(super) fn switch(
        &mut self,
        ram: &mut GuestRam,
        tables: &mut Tables,
        tlb: &mut Tlb,
        paging: Paging,
    ) {
        if self.space.paging == paging {
            return;
        }
        self.switches += 1;
        self.space.last = self.switches;
        self.space.code_epoch = self.code_epoch;
        self.space.extents = self.extents;
        let selected = tlb.selected();
        let known = self.parked.iter().position(|(s, _)| s.paging == paging);
        let index = match known {
            Some(index) => index,
            None => self.make(ram, tables, paging),
        };
        let (space, parked) = &mut self.parked[index];
        std::mem::swap(&mut self.space, space);
        std::mem::swap(tlb, parked);
        tlb.select(selected);
        self.code_epoch = self.space.code_epoch;
        if self.space.extents != self.extents {
            self.code_changed();
        }
    }

    /// A new space for `paging` among the parked, in the place of the one that was current longest
    /// ago if there are enough.
    fn make(&mut self, ram: &mut GuestRam, tables: &mut Tables, paging: Paging) -> usize {
        let oldest = (0..self.parked.len()).min_by_key(|&i| self.parked[i].0.last);
        let index = match oldest {
            Some(index) if self.parked.len() + 1 >= MOST => {
                let (space, tlb) = &mut self.parked[index];
                tlb.flush();
                tables.leave(ram, 1 << space.number);
                index
            }
            _ => {
                // The current space and the parked ones have the numbers below.
                let number = self.parked.len() as u8 + 1;
                let space = Space {
                    number,
                    ..self.space
                };
                self.parked.push((space, Tlb::new()));
                self.parked.len() - 1
            }
        };
        self.epochs += 1;
        let space = &mut self.parked[index].0;
        space.paging = paging;
        space.code_epoch = self.epochs;
        space.extents = self.extents;
        index
    }

    /// Every TLB but the current one.
    pub(super) fn parked_tlbs(&mut self) -> impl Iterator<Item = &mut Tlb> {
        self.parked.iter_mut().map(|(_, tlb)| tlb)
    }

    /// Drops a page from the spaces of `mask`; `code` if it was fetched from.
    pub(super) fn drop_page(&mut self, tlb: &mut Tlb, mask: SpaceMask, linear: u64, code: bool) {
        if mask & self.current() != 0 {
            tlb.drop_page(linear);
            if code {
                self.code_changed();
            }
        }
        for (space, tlb) in &mut self.parked {
            if mask & 1 << space.number != 0 {
                tlb.drop_page(linear);
                if code {
                    self.epochs += 1;
                    space.code_epoch = self.epochs;
                }
            }
        }
    }

    /// Forgets every translation of the spaces of `mask`.
    pub(super) fn flush(&mut self, tlb: &mut Tlb, mask: SpaceMask) {
        if mask & self.current() != 0 {
            tlb.flush();
            self.code_changed();
        }
        for (space, tlb) in &mut self.parked {
            if mask & 1 << space.number != 0 {
                tlb.flush();
                self.epochs += 1;
                space.code_epoch = self.epochs;
            }
        }
    }
}
