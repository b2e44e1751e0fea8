//! Virtual-8086 mode extensions, CR4.VME (SDM vol. 3, 22.3): INT n within the mode, and VIF in the
//! place of IF where IOPL keeps IF from the program.
//!
//! Does: the redirection bitmap, INT n through the program's own vectors, IRET at IOPL < 3.
//! Does not: CLI and STI (`interruptibility`), PUSHF and POPF (`ops`), the ways in and out (`far`,
//! `interrupt`).
//!
//! Invariant: IF changes at IOPL 3 alone; below, VIF does.

use crate::core::{Core, cr4};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags;
use crate::op::{Flow, Op, SEG_CS, SEG_NONE};

impl Core {
    /// The bit of INT `vector` in the TSS's redirection bitmap, which lies below the I/O bitmap:
    /// true if it goes to protected mode.
    pub(super) fn redirects_interrupt(&mut self, env: &mut Env<'_>, vector: u8) -> Exec<bool> {
        let (base, limit) = (self.tr.base, u64::from(self.tr.limit));
        if self.tr.kind() & 8 == 0 || limit < 103 {
            return self.raise(Fault::protection(0));
        }
        let map = self.system(|core| core.read::<u16>(env, base.wrapping_add(102), SEG_NONE))?;
        let at = (u64::from(map) + u64::from(vector) / 8).wrapping_sub(32);
        if at > limit {
            return self.raise(Fault::protection(0));
        }
        let bits = self.system(|core| core.read::<u8>(env, base.wrapping_add(at), SEG_NONE))?;
        Ok(bits >> (vector % 8) & 1 != 0)
    }

    /// INT n as in real mode: through the vectors at linear address 0.
    pub(super) fn interrupt_within_8086(&mut self, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
        let own = self.iopl() == 3;
        let mut image = self.flags.value();
        if !own {
            // The program sees VIF as its IF, and IOPL 3.
            let enabled = if image & flags::VIF != 0 {
                flags::IF
            } else {
                0
            };
            image = (image & !flags::IF) | enabled | flags::IOPL;
        }
        let target = self.read::<u32>(env, u64::from(op.aux) * 4, SEG_NONE)?;
        let cs = u64::from(self.segments[usize::from(SEG_CS)].selector);
        let frame = [image, cs, self.next_rip(op)];
        self.push_here(env, 2, &frame)?;
        self.load_real_code((target >> 16) as u16);
        self.rip = u64::from(target & 0xffff);
        self.flags.system &= !(flags::TF | if own { flags::IF } else { flags::VIF });
        self.trap_suppressed = true;
        self.mode_changed();
        self.attention = true;
        Ok(Flow::Jump)
    }

    /// IRET at IOPL < 3: 16 bits wide, with VIF for IF; without the extensions #GP.
    pub(super) fn return_with_virtual_flag(&mut self, env: &mut Env<'_>, width: u64) -> Exec<Flow> {
        if self.cr4 & cr4::VME == 0 || width != 2 {
            return self.raise(Fault::protection(0));
        }
        let rip = self.stack_slot(env, width, 0)?;
        let cs = self.stack_slot(env, width, 1)? as u16;
        let image = self.stack_slot(env, width, 2)?;
        let enables = image & flags::IF != 0;
        if image & flags::TF != 0 || (enables && self.flags.has(flags::VIP)) {
            return self.raise(Fault::protection(0));
        }
        self.set_stack_pointer(self.gpr[4].wrapping_add(3 * width));
        self.load_real_code(cs);
        self.rip = rip;
        let kept = self.flags.value() & flags::IF;
        self.restore_flags((image & !flags::IF) | kept, width);
        self.flags.system &= !flags::VIF;
        if enables {
            self.flags.system |= flags::VIF;
        }
        self.finish_return();
        Ok(Flow::Jump)
    }
}
