//! Reads and writes of guest memory by instructions.
//!
//! Does: compute operand addresses, check segments, go through the TLB, fall back to walks and
//! MMIO. Every access is all or nothing: each page it touches is translated before the first byte
//! moves.
//!
//! Invariant: the fast path is taken only on a TLB hit for the right of the access, so it never
//! differs from the slow path but in speed.

#![allow(unsafe_code)]

use memory::{GuestRam, PAGE_SIZE, Write};

use super::walk::{Asker, Mode};
use super::{Access, Paging, SET_NONE, SET_SUPERVISOR, SET_SUPERVISOR_OVERRIDE, SET_USER, walk};
use crate::core::{Core, GPR_SLOTS, canonical, cr0, cr4, efer};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags;
use crate::op::{ADDRESS_16, ADDRESS_32, ADDRESS_SLOW, Op, SEG_NONE, SEG_SS};
use crate::state::{RIGHTS_BIG, RIGHTS_CODE_DATA};
use crate::word::Word;

/// Largest operand: FXSAVE's 512 bytes never go through here in one piece.
const LARGEST: usize = 64;

/// A memory operand that was checked for writing and read: what a read-modify-write stores to.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    linear: u64,
}

impl Core {
    // ---- addresses -------------------------------------------------------------------------

    /// Effective address of the memory operand: offset within its segment.
    #[inline(always)]
    pub fn effective(&self, op: &Op) -> u64 {
        let offset = self.gpr[usize::from(op.base) % GPR_SLOTS]
            .wrapping_add(self.gpr[usize::from(op.index) % GPR_SLOTS] << op.scale)
            .wrapping_add(op.disp);
        if op.bits & (ADDRESS_32 | ADDRESS_16) == 0 {
            offset
        } else if op.bits & ADDRESS_32 != 0 {
            offset & 0xffff_ffff
        } else {
            offset & 0xffff
        }
    }

    /// Linear address of the memory operand of `size` bytes, after the checks of its segment.
    #[inline(always)]
    pub fn linear(&mut self, op: &Op, size: u64, write: bool) -> Exec<u64> {
        if op.bits & ADDRESS_SLOW == 0 {
            let offset = self.gpr[usize::from(op.base) % GPR_SLOTS]
                .wrapping_add(self.gpr[usize::from(op.index) % GPR_SLOTS] << op.scale)
                .wrapping_add(op.disp);
            return Ok(offset.wrapping_add(self.seg_base[usize::from(op.seg) & 7]));
        }
        self.segmented(op.seg, self.effective(op), size, write)
    }

    /// Linear address of `offset` in segment slot `seg`, for `size` bytes, after the segment's
    /// checks (none in 64-bit mode).
    #[inline(never)]
    pub fn segmented(&mut self, seg: u8, offset: u64, size: u64, write: bool) -> Exec<u64> {
        if self.in_64bit() || seg == SEG_NONE {
            return Ok(offset.wrapping_add(self.seg_base[usize::from(seg) & 7]));
        }
        let segment = &self.segments[usize::from(seg)];
        let code = segment.rights & 8 != 0;
        let usable = if !self.protected() || self.v8086() {
            true
        } else if segment.rights & RIGHTS_CODE_DATA == 0 || !segment.present() {
            false
        } else if write {
            !code && segment.rights & 2 != 0
        } else {
            !code || segment.rights & 2 != 0
        };
        let limit = u64::from(segment.limit);
        let last = offset.wrapping_add(size - 1);
        let expands_down = !code && segment.rights & 4 != 0 && self.protected() && !self.v8086();
        let inside = if expands_down {
            let top = if segment.rights & RIGHTS_BIG != 0 {
                0xffff_ffff
            } else {
                0xffff
            };
            offset > limit && last <= top
        } else {
            last <= limit
        };
        if !usable || !inside {
            return self.raise(if seg == SEG_SS {
                Fault::stack(0)
            } else {
                Fault::protection(0)
            });
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    // ---- memory operands, if nothing stands in the way ----------------------------------------
    //
    // These answer only on a TLB hit for a simple address; then nothing can fault and nobody calls
    // for attention. Otherwise nothing has happened, and the caller goes the general way.

    /// Linear address of a simple memory operand.
    #[inline(always)]
    fn simple_address(&self, op: &Op) -> Option<u64> {
        (op.bits & ADDRESS_SLOW == 0).then(|| {
            self.gpr[usize::from(op.base) % GPR_SLOTS]
                .wrapping_add(self.gpr[usize::from(op.index) % GPR_SLOTS] << op.scale)
                .wrapping_add(op.disp)
                .wrapping_add(self.seg_base[usize::from(op.seg) & 7])
        })
    }

    /// Reads at a linear address.
    #[inline(always)]
    pub(crate) fn quick_read<T: Word>(&self, linear: u64) -> Option<T> {
        let entry = self.mmu.tlb.entry(linear);
        if linear.wrapping_sub(entry.read) > PAGE_SIZE - T::BYTES {
            return None;
        }
        let host = entry.host.wrapping_add(linear as usize) as *const T;
        // SAFETY: as in `read`.
        Some(unsafe { host.read_unaligned() })
    }

    /// Writes at a linear address; false if it did not.
    #[inline(always)]
    pub(crate) fn quick_write<T: Word>(&mut self, linear: u64, value: T) -> bool {
        let entry = self.mmu.tlb.entry(linear);
        if linear.wrapping_sub(entry.write) > PAGE_SIZE - T::BYTES {
            return false;
        }
        let host = entry.host.wrapping_add(linear as usize) as *mut T;
        // SAFETY: as in `write`.
        unsafe { host.write_unaligned(value) };
        true
    }

    /// Reads the memory operand.
    #[inline(always)]
    pub(crate) fn quick_load<T: Word>(&self, op: &Op) -> Option<T> {
        self.quick_read(self.simple_address(op)?)
    }

    /// Writes the memory operand; false if it did not.
    #[inline(always)]
    pub(crate) fn quick_store<T: Word>(&mut self, op: &Op, value: T) -> bool {
        match self.simple_address(op) {
            Some(linear) => self.quick_write(linear, value),
            None => false,
        }
    }

    /// Replaces the memory operand by what `modify` makes of it, which may change registers and
    /// flags; false if it did not.
    #[inline(always)]
    pub(crate) fn quick_modify<T: Word>(
        &mut self,
        op: &Op,
        modify: impl FnOnce(&mut Core, &Op, T) -> T,
    ) -> bool {
        let Some(linear) = self.simple_address(op) else {
            return false;
        };
        let entry = self.mmu.tlb.entry(linear);
        if linear.wrapping_sub(entry.write) > PAGE_SIZE - T::BYTES {
            return false;
        }
        let host = entry.host.wrapping_add(linear as usize) as *mut T;
        // SAFETY: as in `write`; a page that can be written can be read.
        let old = unsafe { host.read_unaligned() };
        let new = modify(self, op, old);
        // SAFETY: as in `write`; a change of registers unmaps nothing.
        unsafe { host.write_unaligned(new) };
        true
    }

    // ---- memory operands -------------------------------------------------------------------

    /// Reads the memory operand.
    #[inline(always)]
    pub fn load<T: Word>(&mut self, env: &mut Env<'_>, op: &Op) -> Exec<T> {
        let linear = self.linear(op, T::BYTES, false)?;
        self.read(env, linear, op.seg)
    }

    /// Writes the memory operand.
    #[inline(always)]
    pub fn store<T: Word>(&mut self, env: &mut Env<'_>, op: &Op, value: T) -> Exec<()> {
        let linear = self.linear(op, T::BYTES, true)?;
        self.write(env, linear, op.seg, value)
    }

    /// Reads the memory operand of a read-modify-write, after the checks of a write: the later
    /// [`Core::store_back`] cannot fault.
    #[inline(always)]
    pub fn load_to_modify<T: Word>(&mut self, env: &mut Env<'_>, op: &Op) -> Exec<(T, Place)> {
        let linear = self.linear(op, T::BYTES, true)?;
        Ok((self.read_to_modify(env, linear, op.seg)?, Place { linear }))
    }

    /// [`Core::load_to_modify`] by linear address.
    #[inline(always)]
    pub fn read_to_modify<T: Word>(&mut self, env: &mut Env<'_>, linear: u64, seg: u8) -> Exec<T> {
        let entry = self.mmu.tlb.entry(linear);
        if linear.wrapping_sub(entry.write) > PAGE_SIZE - T::BYTES {
            self.check(env, linear, T::BYTES as usize, Access::Write, seg)?;
        }
        self.read(env, linear, seg)
    }

    /// Stores the result of a read-modify-write.
    #[inline(always)]
    pub fn store_back<T: Word>(&mut self, env: &mut Env<'_>, place: Place, value: T) -> Exec<()> {
        self.write(env, place.linear, SEG_NONE, value)
    }

    /// Reads `N` bytes (at most 64) of the memory operand.
    pub fn load_bytes<const N: usize>(&mut self, env: &mut Env<'_>, op: &Op) -> Exec<[u8; N]> {
        let linear = self.linear(op, N as u64, false)?;
        self.read_bytes(env, linear, op.seg)
    }

    /// Writes `N` bytes (at most 64) to the memory operand.
    pub fn store_bytes<const N: usize>(
        &mut self,
        env: &mut Env<'_>,
        op: &Op,
        bytes: &[u8; N],
    ) -> Exec<()> {
        let linear = self.linear(op, N as u64, true)?;
        self.write_bytes(env, linear, op.seg, bytes)
    }

    /// Reads 16 bytes of the memory operand, which must be aligned (#GP(0) if not).
    #[inline(always)]
    pub fn load_aligned(&mut self, env: &mut Env<'_>, op: &Op) -> Exec<u128> {
        let linear = self.linear(op, 16, false)?;
        if linear & 15 != 0 {
            return self.raise(Fault::protection(0));
        }
        Ok(u128::from_le_bytes(self.read_bytes(env, linear, op.seg)?))
    }

    // ---- linear accesses -------------------------------------------------------------------

    /// Reads a word at a linear address; `seg` tells #SS from #GP for non-canonical addresses.
    #[inline(always)]
    pub fn read<T: Word>(&mut self, env: &mut Env<'_>, linear: u64, seg: u8) -> Exec<T> {
        let entry = self.mmu.tlb.entry(linear);
        if linear.wrapping_sub(entry.read) <= PAGE_SIZE - T::BYTES {
            let host = entry.host.wrapping_add(linear as usize) as *const T;
            // SAFETY: a matching read tag means that `host` points into the mapped page that
            // `linear` translates to, with all of T inside it; RAM outlives the run, and only
            // this thread writes it.
            return Ok(unsafe { host.read_unaligned() });
        }
        self.read_slow(env, linear, seg)
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Word>(&mut self, env: &mut Env<'_>, linear: u64, seg: u8) -> Exec<T> {
        let mut bytes = [0; 8];
        let size = T::BYTES as usize;
        self.access(env, linear, seg, Transfer::Read(&mut bytes[..size]))?;
        Ok(T::from64(u64::from_le_bytes(bytes)))
    }

    /// Writes a word at a linear address.
    #[inline(always)]
    pub fn write<T: Word>(
        &mut self,
        env: &mut Env<'_>,
        linear: u64,
        seg: u8,
        value: T,
    ) -> Exec<()> {
        let entry = self.mmu.tlb.entry(linear);
        if linear.wrapping_sub(entry.write) <= PAGE_SIZE - T::BYTES {
            let host = entry.host.wrapping_add(linear as usize) as *mut T;
            // SAFETY: as in `read`; a matching write tag also means that nobody watches the page.
            unsafe { host.write_unaligned(value) };
            return Ok(());
        }
        self.write_slow(env, linear, seg, value)
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Word>(
        &mut self,
        env: &mut Env<'_>,
        linear: u64,
        seg: u8,
        value: T,
    ) -> Exec<()> {
        let bytes = value.to64().to_le_bytes();
        self.access(
            env,
            linear,
            seg,
            Transfer::Write(&bytes[..T::BYTES as usize]),
        )
    }

    /// Reads `N` bytes (at most 64) at a linear address.
    #[inline(always)]
    pub fn read_bytes<const N: usize>(
        &mut self,
        env: &mut Env<'_>,
        linear: u64,
        seg: u8,
    ) -> Exec<[u8; N]> {
        const { assert!(N <= LARGEST) };
        let entry = self.mmu.tlb.entry(linear);
        if linear.wrapping_sub(entry.read) <= PAGE_SIZE - N as u64 {
            let host = entry.host.wrapping_add(linear as usize) as *const [u8; N];
            // SAFETY: as in `read`.
            return Ok(unsafe { host.read_unaligned() });
        }
        let mut bytes = [0; N];
        self.access(env, linear, seg, Transfer::Read(&mut bytes))?;
        Ok(bytes)
    }

    /// Writes `N` bytes (at most 64) at a linear address.
    #[inline(always)]
    pub fn write_bytes<const N: usize>(
        &mut self,
        env: &mut Env<'_>,
        linear: u64,
        seg: u8,
        bytes: &[u8; N],
    ) -> Exec<()> {
        const { assert!(N <= LARGEST) };
        let entry = self.mmu.tlb.entry(linear);
        if linear.wrapping_sub(entry.write) <= PAGE_SIZE - N as u64 {
            let host = entry.host.wrapping_add(linear as usize) as *mut [u8; N];
            // SAFETY: as in `write`.
            unsafe { host.write_unaligned(*bytes) };
            return Ok(());
        }
        self.access(env, linear, seg, Transfer::Write(bytes))
    }

    /// Checks an access without making it.
    pub fn check_write(
        &mut self,
        env: &mut Env<'_>,
        linear: u64,
        size: usize,
        seg: u8,
    ) -> Exec<()> {
        self.check(env, linear, size, Access::Write, seg)
    }

    /// Checks a read without making it.
    pub fn check_read(&mut self, env: &mut Env<'_>, linear: u64, size: usize, seg: u8) -> Exec<()> {
        self.check(env, linear, size, Access::Read, seg)
    }

    fn check(
        &mut self,
        env: &mut Env<'_>,
        linear: u64,
        size: usize,
        access: Access,
        seg: u8,
    ) -> Exec<()> {
        self.check_linear(linear, size, seg)?;
        let first = ((PAGE_SIZE - (linear & 0xfff)) as usize).min(size);
        self.translate(env.ram, linear, access)?;
        if first < size {
            self.translate(
                env.ram,
                self.wrap_linear(linear.wrapping_add(first as u64)),
                access,
            )?;
        }
        Ok(())
    }

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

    /// True if #AC is possible. Implicit accesses are those of a supervisor.
    pub(crate) fn checks_alignment(&self) -> bool {
        !self.implicit && self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.flags.has(flags::AC)
    }

    /// True if a data breakpoint is armed.
    pub(crate) fn watches_data(&self) -> bool {
        (0..4).any(|i| self.dr7 >> (2 * i) & 3 != 0 && self.dr7 >> (16 + 4 * i) & 3 != 0)
    }

    fn wrap_linear(&self, linear: u64) -> u64 {
        if self.in_64bit() || (self.long_mode() && self.implicit) {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    /// Canonical form and alignment.
    fn check_linear(&mut self, linear: u64, size: usize, seg: u8) -> Exec<()> {
        let last = linear.wrapping_add(size as u64 - 1);
        if self.long_mode() && (!canonical(linear) || !canonical(last)) {
            return self.raise(if seg == SEG_SS {
                Fault::stack(0)
            } else {
                Fault::protection(0)
            });
        }
        let power = size.is_power_of_two() && size <= 8;
        if power && linear & (size as u64 - 1) != 0 && self.checks_alignment() {
            return self.raise(Fault::ALIGNMENT);
        }
        Ok(())
    }

    /// The slow path of every access.
    #[cold]
    #[inline(never)]
    fn access(
        &mut self,
        env: &mut Env<'_>,
        linear: u64,
        seg: u8,
        mut transfer: Transfer<'_>,
    ) -> Exec<()> {
        let linear = self.wrap_linear(linear);
        let size = transfer.len();
        let kind = match transfer {
            Transfer::Read(_) => Access::Read,
            Transfer::Write(_) => Access::Write,
        };
        self.check_linear(linear, size, seg)?;
        let first = ((PAGE_SIZE - (linear & 0xfff)) as usize).min(size);
        let physical = self.translate(env.ram, linear, kind)?;
        let rest = if first < size {
            let second = self.wrap_linear(linear.wrapping_add(first as u64));
            Some(self.translate(env.ram, second, kind)?)
        } else {
            None
        };
        self.note_data_access(linear, size, kind);
        self.transfer(env, physical, transfer.part(0, first));
        if let Some(physical) = rest {
            self.transfer(env, physical, transfer.part(first, size));
        }
        Ok(())
    }

    /// Moves bytes within one physical page.
    fn transfer(&mut self, env: &mut Env<'_>, physical: u64, transfer: Transfer<'_>) {
        match transfer {
            Transfer::Read(bytes) => {
                if env.ram.read(physical, bytes).is_err() {
                    self.mmio_read(env, physical, bytes);
                }
            }
            Transfer::Write(bytes) => {
                if env.ram.write(physical, bytes).is_err() {
                    self.mmio_write(env, physical, bytes);
                } else if env.ram.has_touched() {
                    self.attention = true;
                    // What the store made stale must not serve the rest of the instruction.
                    let length = bytes.len() as u32;
                    self.mmu.table_written(
                        env.ram,
                        Write {
                            address: physical,
                            length,
                        },
                    );
                }
            }
        }
    }

    /// A device may have stored to page tables: nothing cached serves the rest of the instruction.
    pub(crate) fn follow_device(&mut self, ram: &mut GuestRam) {
        self.attention = true;
        self.bus_used = true;
        if ram.has_touched() {
            self.mmu.flush(ram);
        }
    }

    fn mmio_read(&mut self, env: &mut Env<'_>, physical: u64, bytes: &mut [u8]) {
        let at = self.progress();
        for (address, range) in mmio_parts(physical, bytes.len()) {
            let size = range.len();
            let value = env.bus.mmio_read(env.ram, at, address, size as u8);
            bytes[range].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        self.follow_device(env.ram);
    }

    fn mmio_write(&mut self, env: &mut Env<'_>, physical: u64, bytes: &[u8]) {
        let at = self.progress();
        for (address, range) in mmio_parts(physical, bytes.len()) {
            let size = range.len();
            let mut value = [0; 8];
            value[..size].copy_from_slice(&bytes[range]);
            env.bus
                .mmio_write(env.ram, at, address, size as u8, u64::from_le_bytes(value));
        }
        self.follow_device(env.ram);
    }

    // ---- translation -----------------------------------------------------------------------

    /// How paging is set up now.
    pub(crate) fn paging(&self) -> Paging {
        let mode = if self.cr0 & cr0::PG == 0 {
            Mode::Off
        } else if self.long_mode() {
            Mode::Level4
        } else if self.cr4 & cr4::PAE != 0 {
            Mode::Pae
        } else {
            Mode::Bits32
        };
        Paging {
            mode,
            cr3: self.cr3,
            pdptes: self.pdptes,
            write_protect: self.cr0 & cr0::WP != 0,
            no_execute: self.msr.efer & efer::NXE != 0,
            large_4m: self.cr4 & cr4::PSE != 0,
            smep: self.cr4 & cr4::SMEP != 0,
            smap: self.cr4 & cr4::SMAP != 0,
        }
    }

    /// Physical address of a data access with the rights of the selected TLB set, which it fills.
    fn translate(&mut self, ram: &mut GuestRam, linear: u64, access: Access) -> Exec<u64> {
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
        let outcome = walk(ram, &self.paging(), linear, access, asker);
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
        let outcome = walk(ram, &self.paging(), linear, Access::Fetch, asker);
        self.attention |= ram.has_touched();
        match outcome {
            Ok(found) => {
                self.attention |= self.mmu.fill(ram, set, linear, &found, Access::Fetch);
                Ok(found.physical)
            }
            Err(error) => self.raise(Fault::page(linear, error)),
        }
    }

    // ---- runs ------------------------------------------------------------------------------

    /// Copies elements forwards from `source` to `target` (linear), as a loop over them would: at
    /// most `most` bytes, and no further than both pages go. Returns how many bytes it copied; 0
    /// asks for the loop.
    pub(crate) fn copy_run<T: Word>(&mut self, source: u64, target: u64, most: u64) -> u64 {
        let (from, to) = (self.mmu.tlb.entry(source), self.mmu.tlb.entry(target));
        if source.wrapping_sub(from.read) >= PAGE_SIZE || target.wrapping_sub(to.write) >= PAGE_SIZE
        {
            return 0;
        }
        let mut bytes = most.min(rest_of_page(source)).min(rest_of_page(target));
        let source = from.host.wrapping_add(source as usize);
        let target = to.host.wrapping_add(target as usize);
        if target > source {
            // The loop reads what it wrote that far ahead.
            bytes = bytes.min((target - source) as u64);
        }
        bytes -= bytes % T::BYTES;
        // SAFETY: matching tags mean that both addresses point into mapped pages, the target's
        // unwatched, with `bytes` bytes of each left; RAM outlives the run, and only this thread
        // writes it.
        unsafe { std::ptr::copy(source as *const u8, target as *mut u8, bytes as usize) };
        bytes
    }

    /// Fills with `value` from `target` (linear) on: at most `most` bytes, within the page. Returns
    /// how many bytes it wrote; 0 asks for the loop.
    pub(crate) fn fill_run<T: Word>(&mut self, target: u64, most: u64, value: T) -> u64 {
        let to = self.mmu.tlb.entry(target);
        if target.wrapping_sub(to.write) >= PAGE_SIZE {
            return 0;
        }
        let count = most.min(rest_of_page(target)) / T::BYTES;
        let host = to.host.wrapping_add(target as usize) as *mut T;
        for i in 0..count as usize {
            // SAFETY: as in `copy_run`.
            unsafe { host.add(i).write_unaligned(value) };
        }
        count * T::BYTES
    }
}

/// Bytes from a linear address to the end of its page.
fn rest_of_page(linear: u64) -> u64 {
    PAGE_SIZE - (linear & (PAGE_SIZE - 1))
}

/// Bytes on their way.
enum Transfer<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Transfer<'_> {
    fn len(&self) -> usize {
        match self {
            Transfer::Read(bytes) => bytes.len(),
            Transfer::Write(bytes) => bytes.len(),
        }
    }

    fn part(&mut self, from: usize, to: usize) -> Transfer<'_> {
        match self {
            Transfer::Read(bytes) => Transfer::Read(&mut bytes[from..to]),
            Transfer::Write(bytes) => Transfer::Write(&bytes[from..to]),
        }
    }
}

/// Splits an MMIO access into aligned pieces of 1, 2, 4 or 8 bytes.
fn mmio_parts(physical: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let address = physical + done as u64;
        let mut size = 8usize;
        while size > length - done || !address.is_multiple_of(size as u64) {
            size /= 2;
        }
        let range = done..done + size;
        done += size;
        Some((address, range))
    })
}
