//! Reads and writes of guest memory by instructions.
//!
//! Does: go through the TLB, fall back to walks and MMIO. Every access is all or nothing: each page
//! it touches is translated before the first byte moves. Does not: compute addresses (`address`).
//!
//! Invariant: the fast path is taken only on a TLB hit for the right of the access, so it never
//! differs from the slow path but in speed.

#![allow(unsafe_code)]

use memory::{GuestRam, PAGE_SIZE, Write};

use super::Access;
use crate::core::{Core, canonical, cr0};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags;
use crate::op::{Op, SEG_NONE, SEG_SS};
use crate::word::Word;

/// Largest operand: FXSAVE's 512 bytes never go through here in one piece.
const LARGEST: usize = 64;

/// A memory operand that was checked for writing and read: what a read-modify-write stores to.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    linear: u64,
}

impl Core {
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
            let host = entry.pointer(linear) as *const T;
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
            let host = entry.pointer(linear) as *mut T;
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
            let host = entry.pointer(linear) as *const [u8; N];
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
            let host = entry.pointer(linear) as *mut [u8; N];
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
