//! The status word, and what every instruction begins with.
//!
//! Does: #NM and #MF, exception flags and their summary, condition codes, the pointers to the last
//! instruction. Does not: registers and tags (`register_stack`).
//!
//! Invariant: ES and B are set exactly if a flag is set that FCW does not mask; whoever changes
//! flags or masks calls [`X87State::summarize`].

use crate::core::{Core, cr0};
use crate::fault::{Exec, Fault};
use crate::op::Op;
use crate::softfloat::{Control, Flags};
use crate::state::X87State;

/// SF: the invalid operation was a stack fault.
pub(super) const STACK_FAULT: u16 = 1 << 6;
/// ES: an unmasked exception waits.
pub(super) const SUMMARY: u16 = 1 << 7;
/// Condition code C0.
pub(super) const C0: u16 = 1 << 8;
/// Condition code C1.
pub(super) const C1: u16 = 1 << 9;
/// Condition code C2.
pub(super) const C2: u16 = 1 << 10;
/// Condition code C3.
pub(super) const C3: u16 = 1 << 14;
/// B: the same as ES.
pub(super) const BUSY: u16 = 1 << 15;

/// FCW: the bits that can be set.
const CONTROL_KNOWN: u16 = 0x1f7f;
/// FCW: reads as one.
const CONTROL_FIXED: u16 = 0x40;

/// Raises what forbids a waiting instruction now: #NM, or #MF for an exception that waits.
#[inline(always)]
pub(super) fn ready(core: &mut Core) -> Exec<()> {
    if core.cr0 & (cr0::EM | cr0::TS) == 0 && core.x87.status & SUMMARY == 0 {
        return Ok(());
    }
    available(core)?;
    pending(core)
}

/// Raises what forbids even an instruction that does not wait: #NM.
#[inline(always)]
pub(super) fn available(core: &mut Core) -> Exec<()> {
    if core.cr0 & (cr0::EM | cr0::TS) != 0 {
        return core.raise(Fault::NO_DEVICE);
    }
    Ok(())
}

/// Raises #MF if an exception waits, whatever CR0.NE says: there is no FERR# to assert.
pub(super) fn pending(core: &mut Core) -> Exec<()> {
    if core.x87.status & SUMMARY != 0 {
        return core.raise(Fault::X87);
    }
    Ok(())
}

/// [`ready`] and [`note`], for an instruction without a memory operand.
#[inline(always)]
pub(super) fn begin(core: &mut Core, op: &Op) -> Exec<()> {
    ready(core)?;
    note(core, op);
    Ok(())
}

/// Notes the instruction as the last one that was no control instruction.
pub(super) fn note(core: &mut Core, op: &Op) {
    core.x87.instruction = core.rip_of(op);
    core.x87.instruction_selector = core.segments[1].selector;
    core.x87.opcode = op.extra;
}

/// [`note`], and the memory operand with it.
pub(super) fn note_with_operand(core: &mut Core, op: &Op) {
    note(core, op);
    core.x87.operand = core.effective(op);
    core.x87.operand_selector = core.segments[usize::from(op.seg) % 6].selector;
}

impl X87State {
    /// FCW, decoded.
    pub(super) fn steering(&self) -> Control {
        Control::from_fcw(self.control)
    }

    /// Sets FCW, which can unmask or mask flags that are set.
    pub(super) fn set_control(&mut self, value: u16) {
        self.control = value & CONTROL_KNOWN | CONTROL_FIXED;
        self.summarize();
    }

    /// Makes ES and B follow from flags and masks.
    pub(super) fn summarize(&mut self) {
        if self.status & !self.control & Flags::ALL == 0 {
            self.status &= !(SUMMARY | BUSY);
        } else {
            self.status |= SUMMARY | BUSY;
        }
    }

    /// Sets the condition codes in `which` to those in `values`.
    pub(super) fn set_codes(&mut self, which: u16, values: u16) {
        self.status = self.status & !which | values & which;
    }

    /// Adds what an instruction reports; C1 becomes what it says.
    pub(super) fn report(&mut self, flags: &Flags) {
        self.set_codes(C1, if flags.c1 { C1 } else { 0 });
        self.status |= flags.exceptions;
        self.summarize();
    }

    /// Notes a stack fault: overflow, or else underflow. True if it is masked.
    pub(super) fn stack_fault(&mut self, overflow: bool) -> bool {
        self.status |= STACK_FAULT;
        self.report(&Flags {
            exceptions: Flags::INVALID,
            c1: overflow,
        });
        self.steering().masked(Flags::INVALID)
    }
}
