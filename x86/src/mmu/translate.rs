//! Who asks for a translation, and with which rights.
//!
//! Does: choose the TLB set and the walk's terms from mode, CPL and flags; fill the TLB. Does not:
//! walk (`walk`), or keep translations (`tlb`).

use memory::GuestRam;

use super::walk::Asker;
use super::{Access, Paging, SET_NONE, SET_SUPERVISOR, SET_SUPERVISOR_OVERRIDE, SET_USER, walk};
use crate::core::{Core, cr4};
use crate::fault::{Exec, Fault};
use crate::flags;

impl Core {
    /// A system access (descriptor tables, TSS): as a supervisor, whatever CPL, and never with
    /// SMAP's override.
    pub(crate) fn system<T>(&mut self, f: impl FnOnce(&mut Core) -> Exec<T>) -> Exec<T> {
        let set = self.mmu.tlb.selected();
        let outer = std::mem::replace(&mut self.implicit, true);
        let smap = self.cr4 & cr4::SMAP != 0;
        self.mmu.tlb.select(if self.watches_data() {
            SET_NONE
        } else if smap {
            SET_SUPERVISOR
        } else {
            SET_SUPERVISOR_OVERRIDE
        });
        let result = f(self);
        self.mmu.tlb.select(set);
        self.implicit = outer;
        result
    }

    /// How paging is set up now.
    fn paging(&self) -> Paging {
        Paging::of(self.cr0, self.cr3, self.cr4, self.msr.efer, self.pdptes)
    }

    /// Called after anything that [`Core::paging`] depends on changed.
    pub(crate) fn paging_changed(&mut self, ram: &mut GuestRam) {
        let paging = self.paging();
        self.mmu.set_paging(ram, paging);
    }

    /// Physical address of a data access with the rights of the selected TLB set, which it fills.
    pub(super) fn translate(
        &mut self,
        ram: &mut GuestRam,
        linear: u64,
        access: Access,
    ) -> Exec<u64> {
        let set = self.mmu.tlb.selected();
        let asker = match set {
            SET_USER => Asker {
                user: true,
                override_smap: false,
            },
            SET_SUPERVISOR => Asker {
                user: false,
                override_smap: false,
            },
            SET_SUPERVISOR_OVERRIDE => Asker {
                user: false,
                override_smap: true,
            },
            _ => Asker {
                user: self.cpl == 3 && !self.implicit,
                override_smap: self.cr4 & cr4::SMAP == 0
                    || (self.flags.has(flags::AC) && !self.implicit),
            },
        };
        debug_assert_eq!(*self.mmu.paging(), self.paging());
        let outcome = walk(ram, self.mmu.paging(), linear, access, asker);
        self.attention |= ram.has_touched();
        match outcome {
            Ok(found) => {
                if set != SET_NONE {
                    self.attention |= self.mmu.fill(ram, set, linear, &found, access);
                }
                Ok(found.physical)
            }
            Err(error) => self.raise(Fault::page(linear, error)),
        }
    }

    /// Physical address of an instruction fetch from `linear` (one byte).
    #[inline]
    pub(crate) fn translate_fetch(&mut self, ram: &mut GuestRam, linear: u64) -> Exec<u64> {
        let user = self.cpl == 3;
        let set = if user {
            SET_USER
        } else {
            SET_SUPERVISOR_OVERRIDE
        };
        if let Some(page) = self.mmu.tlb.fetch(set, linear) {
            return Ok(page | (linear & 0xfff));
        }
        let asker = Asker {
            user,
            override_smap: false,
        };
        debug_assert_eq!(*self.mmu.paging(), self.paging());
        let outcome = walk(ram, self.mmu.paging(), linear, Access::Fetch, asker);
        self.attention |= ram.has_touched();
        match outcome {
            Ok(found) => {
                self.attention |= self.mmu.fill(ram, set, linear, &found, Access::Fetch);
                Ok(found.physical)
            }
            Err(error) => self.raise(Fault::page(linear, error)),
        }
    }
}
