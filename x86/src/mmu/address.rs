//! From an operand to a linear address.
//!
//! Does: effective addresses, the checks of segments. Does not: canonical form or alignment
//! (`access`), which belong to the access.

use crate::core::{Core, GPR_SLOTS};
use crate::fault::{Exec, Fault};
use crate::op::{ADDRESS_16, ADDRESS_32, ADDRESS_SLOW, Op, SEG_NONE, SEG_SS};
use crate::state::{RIGHTS_BIG, RIGHTS_CODE_DATA};

impl Core {
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
}
