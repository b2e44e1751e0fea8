//! Accesses to memory if nothing stands in their way.
//!
//! Does: move bytes on a TLB hit, for operands of one word and for runs of string elements. Does
//! not: fault or call for attention: where an access would, nothing has happened, and the caller
//! goes the general way (`access`).
//!
//! Invariant: a hit says that the host address points into the mapped page that the linear address
//! translates to, and for writes that nobody watches the page.

#![allow(unsafe_code)]

use memory::PAGE_SIZE;

use crate::core::{Core, GPR_SLOTS};
use crate::op::{ADDRESS_SLOW, Op};
use crate::word::Word;

impl Core {
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
        let host = entry.pointer(linear) as *const T;
        // SAFETY: as in `Core::read`.
        Some(unsafe { host.read_unaligned() })
    }

    /// Writes at a linear address; false if it did not.
    #[inline(always)]
    pub(crate) fn quick_write<T: Word>(&mut self, linear: u64, value: T) -> bool {
        let entry = self.mmu.tlb.entry(linear);
        if linear.wrapping_sub(entry.write) > PAGE_SIZE - T::BYTES {
            return false;
        }
        let host = entry.pointer(linear) as *mut T;
        // SAFETY: as in `Core::write`.
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
        let host = entry.pointer(linear) as *mut T;
        // SAFETY: as in `Core::write`; a page that can be written can be read.
        let old = unsafe { host.read_unaligned() };
        let new = modify(self, op, old);
        // SAFETY: as in `Core::write`; a change of registers unmaps nothing.
        unsafe { host.write_unaligned(new) };
        true
    }

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
        let source = from.pointer(source);
        let target = to.pointer(target);
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
        let host = to.pointer(target) as *mut T;
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
