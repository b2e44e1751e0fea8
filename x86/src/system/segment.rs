//! Segment descriptors and segment registers (SDM vol. 3, chapters 3 and 6).
//!
//! Does: read descriptors, load segment registers with all checks, LAR, LSL, VERR, VERW.
//! Does not: far transfers (`far`) or interrupts (`interrupt`).
//!
//! Invariant: a load that faults has changed nothing but accessed bits of page tables.

use crate::core::{Core, canonical};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{SEG_CS, SEG_NONE, SEG_SS};
use crate::state::{
    RIGHTS_BIG, RIGHTS_CODE_DATA, RIGHTS_GRANULAR, RIGHTS_LONG, RIGHTS_PRESENT, Segment,
    TableRegister,
};

/// A descriptor as it lies in memory, the upper half of 16-byte ones included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) low: u64,
    pub(crate) high: u64,
    /// Linear address it was read from.
    pub(crate) address: u64,
}

impl Descriptor {
    pub(crate) fn rights(&self) -> u16 {
        (self.low >> 40) as u16 & 0xf0ff
    }

    pub(crate) fn is_code_data(&self) -> bool {
        self.rights() & RIGHTS_CODE_DATA != 0
    }

    pub(crate) fn is_code(&self) -> bool {
        self.is_code_data() && self.rights() & 8 != 0
    }

    pub(crate) fn is_conforming(&self) -> bool {
        self.is_code() && self.rights() & 4 != 0
    }

    pub(crate) fn is_writable_data(&self) -> bool {
        self.is_code_data() && self.rights() & 10 == 2
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.is_code_data() && (self.rights() & 8 == 0 || self.rights() & 2 != 0)
    }

    pub(crate) fn kind(&self) -> u16 {
        self.rights() & 15
    }

    pub(crate) fn dpl(&self) -> u8 {
        (self.rights() >> 5 & 3) as u8
    }

    pub(crate) fn present(&self) -> bool {
        self.rights() & RIGHTS_PRESENT != 0
    }

    pub(crate) fn long(&self) -> bool {
        self.rights() & RIGHTS_LONG != 0
    }

    pub(crate) fn big(&self) -> bool {
        self.rights() & RIGHTS_BIG != 0
    }

    pub(crate) fn limit(&self) -> u32 {
        let raw = (self.low & 0xffff) as u32 | (self.low >> 32 & 0xf_0000) as u32;
        if self.rights() & RIGHTS_GRANULAR != 0 {
            raw << 12 | 0xfff
        } else {
            raw
        }
    }

    /// Base of an 8-byte descriptor.
    pub(crate) fn base(&self) -> u64 {
        (self.low >> 16 & 0xff_ffff) | (self.low >> 32 & 0xff00_0000)
    }

    /// Base of a 16-byte (system, long mode) descriptor.
    pub(crate) fn base_long(&self) -> u64 {
        self.base() | self.high << 32
    }

    /// The hidden part for a segment register.
    pub(crate) fn segment(&self, selector: u16) -> Segment {
        Segment {
            selector,
            rights: self.rights(),
            limit: self.limit(),
            base: self.base(),
        }
    }
}

/// An error code for a selector: the selector without RPL.
pub(crate) fn selector_error(selector: u16) -> u16 {
    selector & !3
}

impl Core {
    fn table_of(&self, selector: u16) -> (TableRegister, bool) {
        if selector & 4 == 0 {
            (self.gdtr, true)
        } else {
            let usable = self.ldtr.present();
            let limit = self.ldtr.limit.min(0xffff) as u16;
            (
                TableRegister {
                    base: self.ldtr.base,
                    limit,
                },
                usable,
            )
        }
    }

    /// Reads the 8-byte descriptor of a selector; `None` if it lies outside its table.
    pub(crate) fn descriptor(
        &mut self,
        env: &mut Env<'_>,
        selector: u16,
    ) -> Exec<Option<Descriptor>> {
        let (table, usable) = self.table_of(selector);
        let offset = u64::from(selector & !7);
        if !usable || offset + 7 > u64::from(table.limit) {
            return Ok(None);
        }
        let address = self.table_address(table.base, offset);
        let low = self.system(|core| core.read::<u64>(env, address, SEG_NONE))?;
        Ok(Some(Descriptor {
            low,
            high: 0,
            address,
        }))
    }

    /// Reads a system descriptor: 16 bytes in IA-32e mode. `None` if outside its table.
    pub(crate) fn system_descriptor(
        &mut self,
        env: &mut Env<'_>,
        selector: u16,
    ) -> Exec<Option<Descriptor>> {
        let Some(mut found) = self.descriptor(env, selector)? else {
            return Ok(None);
        };
        if self.long_mode() {
            let (table, _) = self.table_of(selector);
            if u64::from(selector & !7) + 15 > u64::from(table.limit) {
                return Ok(None);
            }
            let address = found.address.wrapping_add(8);
            found.high = self.system(|core| core.read::<u64>(env, address, SEG_NONE))?;
        }
        Ok(Some(found))
    }

    pub(crate) fn table_address(&self, base: u64, offset: u64) -> u64 {
        let address = base.wrapping_add(offset);
        if self.long_mode() {
            address
        } else {
            address & 0xffff_ffff
        }
    }

    /// Sets a descriptor's accessed bit (or other type bits) in memory and in the copy.
    pub(crate) fn mark_descriptor(
        &mut self,
        env: &mut Env<'_>,
        descriptor: &mut Descriptor,
        bit: u64,
    ) -> Exec<()> {
        let bits = bit << 40;
        if descriptor.low & bits == 0 {
            let byte = (descriptor.low >> 40) as u8 | bit as u8;
            let address = descriptor.address.wrapping_add(5);
            self.system(|core| core.write::<u8>(env, address, SEG_NONE, byte))?;
            descriptor.low |= bits;
        }
        Ok(())
    }

    /// Loads ES, SS, DS, FS or GS (slot) with a selector.
    pub(crate) fn load_segment(&mut self, env: &mut Env<'_>, slot: u8, selector: u16) -> Exec<()> {
        debug_assert_ne!(slot, SEG_CS, "CS is loaded by far transfers");
        if !self.protected() || self.v8086() {
            self.load_real_segment(slot, selector);
            return Ok(());
        }
        if selector & !3 == 0 {
            if slot == SEG_SS {
                let rpl = (selector & 3) as u8;
                if !self.in_64bit() || self.cpl == 3 || rpl != self.cpl {
                    return self.raise(Fault::protection(0));
                }
            }
            self.load_null(slot, selector);
            return Ok(());
        }
        let error = selector_error(selector);
        let Some(mut found) = self.descriptor(env, selector)? else {
            return self.raise(Fault::protection(error));
        };
        let rpl = (selector & 3) as u8;
        let (allowed, absent) = if slot == SEG_SS {
            let right = rpl == self.cpl && found.dpl() == self.cpl && found.is_writable_data();
            (right, Fault::stack(error))
        } else {
            let privileged = found.dpl() >= self.cpl.max(rpl);
            (
                found.is_readable() && (found.is_conforming() || privileged),
                Fault::not_present(error),
            )
        };
        if !allowed {
            return self.raise(Fault::protection(error));
        }
        if !found.present() {
            return self.raise(absent);
        }
        self.mark_descriptor(env, &mut found, 1)?;
        self.segments[usize::from(slot)] = found.segment(selector);
        self.mode_changed();
        Ok(())
    }

    /// A null selector: unusable, base and limit 0 (in 64-bit mode the base of FS and GS goes too).
    pub(crate) fn load_null(&mut self, slot: u8, selector: u16) {
        let dpl = if slot == SEG_SS {
            u16::from(self.cpl) << 5
        } else {
            0
        };
        self.segments[usize::from(slot)] = Segment {
            selector,
            rights: dpl,
            limit: 0,
            base: 0,
        };
        self.mode_changed();
    }

    /// Real and virtual-8086 mode: base from the selector. Real mode keeps limit and rights, so
    /// that "unreal" segments work.
    pub(crate) fn load_real_segment(&mut self, slot: u8, selector: u16) {
        let v8086 = self.v8086();
        let segment = &mut self.segments[usize::from(slot)];
        segment.selector = selector;
        segment.base = u64::from(selector) << 4;
        if v8086 {
            segment.limit = 0xffff;
            segment.rights = RIGHTS_CODE_DATA | RIGHTS_PRESENT | 3 << 5 | 3;
        }
        self.mode_changed();
    }

    /// LAR and LSL: the descriptor, if the instruction may see it. `valid` lists system types.
    pub(crate) fn visible_descriptor(
        &mut self,
        env: &mut Env<'_>,
        selector: u16,
        valid: &[u16],
    ) -> Exec<Option<Descriptor>> {
        if selector & !3 == 0 {
            return Ok(None);
        }
        let Some(found) = self.descriptor(env, selector)? else {
            return Ok(None);
        };
        let rpl = (selector & 3) as u8;
        let seen = found.is_conforming() || found.dpl() >= self.cpl.max(rpl);
        let known = found.is_code_data() || valid.contains(&found.kind());
        if !seen || !known {
            return Ok(None);
        }
        if !found.is_code_data()
            && self.long_mode()
            && self.system_descriptor(env, selector)?.is_none()
        {
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// VERR (`write` false) or VERW.
    pub(crate) fn verify(&mut self, env: &mut Env<'_>, selector: u16, write: bool) -> Exec<bool> {
        if selector & !3 == 0 {
            return Ok(false);
        }
        let Some(found) = self.descriptor(env, selector)? else {
            return Ok(false);
        };
        let rpl = (selector & 3) as u8;
        let privileged = found.is_conforming() || found.dpl() >= self.cpl.max(rpl);
        let able = if write {
            found.is_writable_data()
        } else {
            found.is_readable()
        };
        Ok(privileged && able)
    }

    /// LLDT.
    pub(crate) fn load_ldt(&mut self, env: &mut Env<'_>, selector: u16) -> Exec<()> {
        if selector & !3 == 0 {
            self.ldtr = Segment {
                selector,
                ..Segment::default()
            };
            return Ok(());
        }
        let error = selector_error(selector);
        let found = if selector & 4 == 0 {
            self.system_descriptor(env, selector)?
        } else {
            None
        };
        let Some(found) = found.filter(|f| !f.is_code_data() && f.kind() == 2) else {
            return self.raise(Fault::protection(error));
        };
        if !found.present() {
            return self.raise(Fault::not_present(error));
        }
        self.ldtr = self.system_segment(&found, selector)?;
        Ok(())
    }

    /// LTR.
    pub(crate) fn load_task_register(&mut self, env: &mut Env<'_>, selector: u16) -> Exec<()> {
        let error = selector_error(selector);
        if selector & !3 == 0 {
            return self.raise(Fault::protection(0));
        }
        let found = if selector & 4 == 0 {
            self.system_descriptor(env, selector)?
        } else {
            None
        };
        let long = self.long_mode();
        let available = |kind: u16| kind == 9 || (kind == 1 && !long);
        let Some(mut found) = found.filter(|f| !f.is_code_data() && available(f.kind())) else {
            return self.raise(Fault::protection(error));
        };
        if !found.present() {
            return self.raise(Fault::not_present(error));
        }
        let segment = self.system_segment(&found, selector)?;
        self.mark_descriptor(env, &mut found, 2)?;
        self.tr = Segment {
            rights: found.rights(),
            ..segment
        };
        Ok(())
    }

    fn system_segment(&mut self, found: &Descriptor, selector: u16) -> Exec<Segment> {
        let mut segment = found.segment(selector);
        if self.long_mode() {
            segment.base = found.base_long();
            if !canonical(segment.base) || found.high >> 32 & 0x1f00 != 0 {
                return self.raise(Fault::protection(selector_error(selector)));
            }
        }
        Ok(segment)
    }
}
