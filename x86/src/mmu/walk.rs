//! Page walks: 32-bit, PAE and 4-level paging (SDM vol. 3, chapter 5).
//!
//! Does: walk from CR3, check rights, set accessed and dirty bits. Does not: cache anything.
//!
//! Our order where the manuals leave freedom: the accessed bit of an upper entry is set as soon as
//! the walk goes through it, also when it faults further down; the leaf's accessed and dirty bits
//! are set only if the access is allowed, dirty together with accessed, by one store.

use memory::{GuestRam, WATCH_CODE, WATCH_TABLE};

use crate::core::{cr0, cr4, efer};

/// Physical-address bits of the CPU model.
pub(crate) const PHYSICAL_BITS: u32 = 46;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51–46 must be zero on a machine with 46 physical-address bits.
const ABOVE_PHYSICAL: u64 = ((1 << 52) - 1) & !((1 << PHYSICAL_BITS) - 1);
const FRAME: u64 = ((1 << PHYSICAL_BITS) - 1) & !0xfff;

/// Page-fault error code bits.
const ERROR_PRESENT: u32 = 1 << 0;
const ERROR_WRITE: u32 = 1 << 1;
const ERROR_USER: u32 = 1 << 2;
const ERROR_RESERVED: u32 = 1 << 3;
const ERROR_FETCH: u32 = 1 << 4;

/// Kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// How paging is set up: a pure function of CR0, CR3, CR4, EFER and the PDPTEs, and of nothing in
/// them that a walk does not depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paging {
    pub(crate) mode: Mode,
    /// Physical address of the root; 0 in PAE paging.
    pub(crate) root: u64,
    /// In PAE paging.
    pub(crate) pdptes: [u64; 4],
    pub(crate) write_protect: bool,
    pub(crate) no_execute: bool,
    pub(crate) large_4m: bool,
    pub(crate) smep: bool,
    pub(crate) smap: bool,
}

impl Paging {
    /// As the registers have it.
    pub(crate) fn of(cr0: u64, cr3: u64, cr4: u64, efer: u64, pdptes: [u64; 4]) -> Paging {
        let mode = if cr0 & cr0::PG == 0 {
            Mode::Off
        } else if efer & efer::LMA != 0 {
            Mode::Level4
        } else if cr4 & cr4::PAE != 0 {
            Mode::Pae
        } else {
            Mode::Bits32
        };
        let on = mode != Mode::Off;
        Paging {
            mode,
            root: match mode {
                Mode::Off | Mode::Pae => 0,
                Mode::Bits32 => cr3 & 0xffff_f000,
                Mode::Level4 => cr3 & FRAME,
            },
            pdptes: if mode == Mode::Pae { pdptes } else { [0; 4] },
            write_protect: on && cr0 & cr0::WP != 0,
            no_execute: on && efer & efer::NXE != 0,
            large_4m: mode == Mode::Bits32 && cr4 & cr4::PSE != 0,
            smep: on && cr4 & cr4::SMEP != 0,
            smap: on && cr4 & cr4::SMAP != 0,
        }
    }
}

/// Paging mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Off,
    Bits32,
    Pae,
    Level4,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    /// A user-mode access (CPL 3 and not implicit).
    pub(crate) user: bool,
    /// Supervisor data accesses may reach user pages although SMAP is on (EFLAGS.AC, explicit).
    pub(crate) override_smap: bool,
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    /// Physical address of the byte asked for.
    pub(crate) physical: u64,
    /// Physical addresses of the entries used, root first.
    pub(crate) entries: [u64; 4],
    /// How many of them.
    pub(crate) depth: usize,
    /// 12, 21, 22 or 30.
    pub(crate) page_shift: u32,
    /// Bytes in an entry: 4 or 8.
    pub(crate) entry_bytes: u64,
}

/// Reads an entry; what is no RAM reads as all ones, which is a reserved-bit violation.
fn read_entry(ram: &GuestRam, address: u64, bytes: u64) -> u64 {
    if bytes == 8 {
        ram.read_u64(address).unwrap_or(u64::MAX)
    } else {
        ram.read_u32(address).map_or(u64::from(u32::MAX), u64::from)
    }
}

/// Stores accessed and dirty bits. They make no cached translation stale, so tables are not told;
/// code and the dirty log are.
fn write_entry(ram: &mut GuestRam, address: u64, bytes: u64, value: u64) {
    let Some(index) = ram.page_index(address) else {
        return;
    };
    let table = ram.watch(index) & WATCH_TABLE != 0;
    let code = ram.watch(index) & WATCH_CODE != 0;
    if table && !code {
        ram.remove_watch(index, WATCH_TABLE);
    }
    let data = value.to_le_bytes();
    ram.write(address, &data[..bytes as usize])
        .expect("the page is RAM");
    if table && !code {
        ram.add_watch(index, WATCH_TABLE);
    }
}

/// Walks for `access` to `linear`. `Err` is the error code of the page fault.
pub(crate) fn walk(
    ram: &mut GuestRam,
    paging: &Paging,
    linear: u64,
    access: Access,
    asker: Asker,
) -> Result<Translation, u32> {
    let mut found = Translation {
        physical: linear,
        entries: [0; 4],
        depth: 0,
        page_shift: 12,
        entry_bytes: 8,
    };
    let (mut table, mut shift, entry_bytes) = match paging.mode {
        Mode::Off => return Ok(found),
        Mode::Bits32 => (paging.root, 22, 4),
        Mode::Pae => {
            let pdpte = paging.pdptes[(linear >> 30 & 3) as usize];
            if pdpte & PRESENT == 0 {
                return Err(error_code(paging, access, asker, 0));
            }
            (pdpte & FRAME, 21, 8)
        }
        Mode::Level4 => (paging.root, 39, 8),
    };
    found.entry_bytes = entry_bytes;
    let index_mask = if entry_bytes == 8 { 511 } else { 1023 };
    let index_bits = if entry_bytes == 8 { 9 } else { 10 };
    let mut rights = WRITABLE | USER;
    let mut no_execute = false;
    loop {
        let address = table + (linear >> shift & index_mask) * entry_bytes;
        let entry = read_entry(ram, address, entry_bytes);
        if entry & PRESENT == 0 {
            return Err(error_code(paging, access, asker, 0));
        }
        let may_be_large = match paging.mode {
            Mode::Bits32 => shift == 22 && paging.large_4m,
            _ => shift == 21 || shift == 30,
        };
        let leaf = shift == 12 || (may_be_large && entry & LARGE != 0);
        if reserved(paging, entry, shift, leaf, may_be_large) {
            return Err(error_code(
                paging,
                access,
                asker,
                ERROR_PRESENT | ERROR_RESERVED,
            ));
        }
        rights &= entry;
        no_execute |= entry_bytes == 8 && entry & NO_EXECUTE != 0;
        found.entries[found.depth] = address;
        found.depth += 1;
        if leaf {
            if !allowed(paging, rights, no_execute, access, asker) {
                return Err(error_code(paging, access, asker, ERROR_PRESENT));
            }
            let dirty = if access == Access::Write { DIRTY } else { 0 };
            if entry & (ACCESSED | dirty) != ACCESSED | dirty {
                write_entry(ram, address, entry_bytes, entry | ACCESSED | dirty);
            }
            let offset = linear & ((1 << shift) - 1);
            let frame = if entry_bytes == 4 && shift == 22 {
                // PSE-36: bits 20–13 are address bits 39–32.
                (entry & 0xffc0_0000) | (entry >> 13 & 0xff) << 32
            } else {
                entry & FRAME & !((1 << shift) - 1)
            };
            found.physical = frame | offset;
            found.page_shift = shift;
            return Ok(found);
        }
        if entry & ACCESSED == 0 {
            write_entry(ram, address, entry_bytes, entry | ACCESSED);
        }
        table = if entry_bytes == 4 {
            entry & 0xffff_f000
        } else {
            entry & FRAME
        };
        shift -= index_bits;
    }
}

/// True if a present entry has a reserved bit set.
fn reserved(paging: &Paging, entry: u64, shift: u32, leaf: bool, may_be_large: bool) -> bool {
    if paging.mode == Mode::Bits32 {
        // PSE-36 with 40 address bits: bit 21 is reserved in a 4 MiB entry.
        return leaf && shift == 22 && entry & (1 << 21) != 0;
    }
    let mut mask = ABOVE_PHYSICAL;
    if !paging.no_execute {
        mask |= NO_EXECUTE;
    }
    if paging.mode == Mode::Pae {
        mask |= 0x7ff << 52;
    }
    if leaf && shift > 12 {
        // Bit 12 is PAT.
        mask |= ((1 << shift) - 1) & !0x1fff;
    }
    if !leaf && !may_be_large && shift == 39 {
        mask |= LARGE;
    }
    entry & mask != 0
}

fn allowed(paging: &Paging, rights: u64, no_execute: bool, access: Access, asker: Asker) -> bool {
    let user_page = rights & USER != 0;
    let writable = rights & WRITABLE != 0;
    if asker.user && !user_page {
        return false;
    }
    match access {
        Access::Fetch => {
            !(paging.no_execute && no_execute) && (asker.user || !(paging.smep && user_page))
        }
        Access::Read | Access::Write => {
            if !asker.user && user_page && paging.smap && !asker.override_smap {
                return false;
            }
            access == Access::Read || writable || (!asker.user && !paging.write_protect)
        }
    }
}

fn error_code(paging: &Paging, access: Access, asker: Asker, cause: u32) -> u32 {
    let mut error = cause;
    if access == Access::Write {
        error |= ERROR_WRITE;
    }
    if asker.user {
        error |= ERROR_USER;
    }
    let tells_fetch = paging.smep || (paging.no_execute && paging.mode != Mode::Bits32);
    if access == Access::Fetch && tells_fetch {
        error |= ERROR_FETCH;
    }
    error
}
