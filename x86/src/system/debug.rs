//! Debug registers: breakpoints on instructions, data and I/O (SDM vol. 3, chapter 18).
//!
//! Does: say which breakpoints an access hits. Does not: deliver #DB (`cpu`, at the boundary).

use crate::core::Core;
use crate::mmu::Access;

/// DR6 bit: a task switch to a TSS with T set.
pub(crate) const DR6_TASK: u64 = 1 << 15;
/// DR6 bit: single step.
pub(crate) const DR6_STEP: u64 = 1 << 14;
/// DR6 bit: a debug register was touched while DR7.GD was set.
pub(crate) const DR6_GENERAL: u64 = 1 << 13;
/// DR6 bits: which breakpoints were hit.
const DR6_HITS: u64 = 0xf;
/// DR6 with nothing set.
pub(crate) const DR6_CLEAR: u64 = 0xffff_0ff0;
/// DR7 with nothing set.
pub(crate) const DR7_CLEAR: u64 = 0x400;

/// R/W field: instruction execution.
const ON_EXECUTE: u64 = 0;
/// R/W field: data writes.
const ON_WRITE: u64 = 1;
/// R/W field: I/O, with CR4.DE.
const ON_IO: u64 = 2;
/// R/W field: data reads and writes.
const ON_ACCESS: u64 = 3;

impl Core {
    /// Notes in DR6 why a debug exception is delivered: B0 to B3 say what hit this time, the
    /// others stay until software clears them.
    pub(crate) fn note_debug_cause(&mut self, cause: u64) {
        self.dr6 = (self.dr6 & !DR6_HITS) | cause;
    }

    /// Breakpoint `i` is enabled, locally or globally.
    fn armed(&self, i: usize) -> bool {
        self.dr7 >> (2 * i) & 3 != 0
    }

    fn condition_of(&self, i: usize) -> u64 {
        self.dr7 >> (16 + 4 * i) & 3
    }

    fn range_of(&self, i: usize) -> (u64, u64) {
        let length = match self.dr7 >> (18 + 4 * i) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        (self.dr[i] & !(length - 1), length)
    }

    fn hits(&self, address: u64, size: u64, wanted: impl Fn(u64) -> bool) -> u64 {
        let mut hits = 0;
        for i in 0..4 {
            if !self.armed(i) || !wanted(self.condition_of(i)) {
                continue;
            }
            let (start, length) = self.range_of(i);
            if address < start.saturating_add(length) && start < address.saturating_add(size) {
                hits |= 1 << i;
            }
        }
        hits
    }

    /// Notes the data breakpoints that an access hits; they trap after the instruction.
    pub(crate) fn note_data_access(&mut self, linear: u64, size: usize, access: Access) {
        if self.dr7 & 0xff == 0 {
            return;
        }
        let write = access == Access::Write;
        let hits = self.hits(linear, size as u64, |c| {
            c == ON_ACCESS || (write && c == ON_WRITE)
        });
        if hits != 0 {
            self.pending_debug |= hits;
            self.attention = true;
        }
    }

    /// Notes the I/O breakpoints that a port access hits.
    pub(crate) fn note_port_access(&mut self, port: u16, size: u8) {
        if self.dr7 & 0xff == 0 || self.cr4 & crate::core::cr4::DE == 0 {
            return;
        }
        let hits = self.hits(u64::from(port), u64::from(size), |c| c == ON_IO);
        self.pending_debug |= hits;
    }

    /// Instruction breakpoints at linear address `linear`, as DR6 bits.
    pub(crate) fn execution_hits(&self, linear: u64) -> u64 {
        if self.dr7 & 0xff == 0 {
            0
        } else {
            self.hits(linear, 1, |c| c == ON_EXECUTE)
        }
    }

    /// True if an instruction breakpoint is armed.
    pub(crate) fn watches_execution(&self) -> bool {
        self.dr7 & 0xff != 0 && (0..4).any(|i| self.armed(i) && self.condition_of(i) == ON_EXECUTE)
    }
}
