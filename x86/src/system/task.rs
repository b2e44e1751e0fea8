//! Hardware task switches (SDM vol. 3, chapter 9, "Task Management").
//!
//! Does: the switch by far JMP and CALL, by interrupts through a task gate, and by IRET with NT,
//! with 16-bit and 32-bit TSSs. Does not: exist in IA-32e mode, where all of these raise #GP.
//!
//! Invariant: until all of both TSSs is known to be accessible nothing has changed, and a fault is
//! one of the old task. After that the switch is complete but for the hidden parts of the segment
//! registers, and a fault is one of the new task, before its first instruction: `task_switched`
//! tells the run loop, which then leaves RIP alone.
//!
//! Our choice where the manuals leave one: LDTR, CS, SS and the data segments are checked in this
//! order; a 16-bit TSS clears the upper halves of the general registers and nulls FS and GS.

use crate::core::{Core, cr0};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags;
use crate::op::{CodeSize, Flow, Op, SEG_CS, SEG_NONE, SEG_SS};
use crate::state::Segment;
use crate::system::debug::DR6_TASK;
use crate::system::interrupt::Entry;
use crate::system::segment::{Descriptor, selector_error};

/// Descriptor type: busy; added to the types below.
const BUSY: u16 = 2;
/// Descriptor type: available 16-bit TSS.
const TSS_16: u16 = 1;
/// Descriptor type: available 32-bit TSS.
const TSS_32: u16 = 9;
/// DR7: the local enables, which a task switch clears.
const DR7_LOCAL: u64 = 0x155;

/// What asks for a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Jump,
    Call,
    Interrupt,
    Return,
}

impl Cause {
    /// The new task links to the old one, which stays busy.
    fn nests(self) -> bool {
        matches!(self, Cause::Call | Cause::Interrupt)
    }
}

/// Offsets within a TSS.
struct Layout {
    /// Bytes of a general register.
    width: u64,
    /// Smallest limit.
    limit: u32,
    /// EIP; EFLAGS, then EAX to EDI follow, each of `width`.
    instruction: u64,
    /// ES; each segment selector takes `width` bytes.
    segments: u64,
    /// Segment selectors: ES CS SS DS, FS GS.
    segment_count: u64,
    /// LDT selector.
    ldt: u64,
}

const LAYOUT_16: Layout = Layout {
    width: 2,
    limit: 0x2b,
    instruction: 14,
    segments: 34,
    segment_count: 4,
    ldt: 42,
};

const LAYOUT_32: Layout = Layout {
    width: 4,
    limit: 0x67,
    instruction: 32,
    segments: 72,
    segment_count: 6,
    ldt: 96,
};

/// CR3 in a 32-bit TSS.
const CR3: u64 = 28;
/// Bit 0 is T in a 32-bit TSS.
const TRAP: u64 = 100;

fn layout_of(kind: u16) -> &'static Layout {
    if kind & 8 == 0 {
        &LAYOUT_16
    } else {
        &LAYOUT_32
    }
}

/// What the new TSS says.
struct Image {
    cr3: Option<u64>,
    rip: u64,
    flags: u64,
    gpr: [u64; 8],
    segments: [u16; 6],
    ldt: u16,
    trap: bool,
}

/// True if far JMP and CALL take the descriptor for a task's.
pub(super) fn names_task(descriptor: &Descriptor) -> bool {
    matches!(descriptor.kind(), 1 | 3 | 5 | 9 | 11)
}

impl Core {
    /// Far JMP or CALL to a TSS or task gate (protected mode, not IA-32e mode).
    pub(super) fn transfer_to_task(
        &mut self,
        env: &mut Env<'_>,
        op: &Op,
        selector: u16,
        found: Descriptor,
        call: bool,
    ) -> Exec<Flow> {
        let error = selector_error(selector);
        let rpl = (selector & 3) as u8;
        if found.dpl() < self.cpl.max(rpl) {
            return self.raise(Fault::protection(error));
        }
        let (selector, tss) = if found.kind() == 5 {
            if !found.present() {
                return self.raise(Fault::not_present(error));
            }
            self.task_of_gate(env, (found.low >> 16) as u16, 0)?
        } else {
            self.check_available(&found, selector, 0)?;
            (selector, found)
        };
        let cause = if call { Cause::Call } else { Cause::Jump };
        let rip = self.next_rip(op);
        let image = self.flags.value() & !flags::RF;
        self.switch_task(env, cause, selector, tss, (rip, image), 0)?;
        Ok(Flow::Jump)
    }

    /// An event through a task gate.
    pub(super) fn enter_task(&mut self, env: &mut Env<'_>, gate: u16, entry: Entry) -> Exec<()> {
        let ext = u16::from(!entry.software);
        let (selector, tss) = self.task_of_gate(env, gate, ext)?;
        let saved = (entry.rip, entry.flags);
        self.switch_task(env, Cause::Interrupt, selector, tss, saved, ext)?;
        if let Some(error) = entry.error {
            let width = layout_of(self.tr.kind()).width;
            let stack = self.segments[usize::from(SEG_SS)];
            let values = [u64::from(error)];
            let esp = self.push_frame(env, &stack, self.gpr[4], width, self.cpl, &values, ext)?;
            self.set_stack_pointer(esp);
        }
        if self.rip > u64::from(self.segments[usize::from(SEG_CS)].limit) {
            return self.raise(Fault::protection(ext));
        }
        self.task_switched = false;
        Ok(())
    }

    /// IRET with NT set: back to the task that the current TSS links to.
    pub(super) fn return_from_task(&mut self, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
        let link = self.tr.base;
        let selector = self.system(|core| core.read::<u16>(env, link, SEG_NONE))?;
        let error = selector_error(selector);
        let found = if selector & 4 == 0 {
            self.descriptor(env, selector)?
        } else {
            None
        };
        let busy = |kind: u16| kind == TSS_16 | BUSY || kind == TSS_32 | BUSY;
        let Some(tss) = found.filter(|f| !f.is_code_data() && busy(f.kind())) else {
            return self.raise(Fault::task(error));
        };
        if !tss.present() {
            return self.raise(Fault::not_present(error));
        }
        let saved = (self.next_rip(op), self.flags.value() & !flags::RF);
        self.switch_task(env, Cause::Return, selector, tss, saved, 0)?;
        self.nmi_blocked = false;
        Ok(Flow::Jump)
    }

    /// The TSS that a task gate names.
    fn task_of_gate(
        &mut self,
        env: &mut Env<'_>,
        selector: u16,
        ext: u16,
    ) -> Exec<(u16, Descriptor)> {
        let found = if selector & 4 == 0 {
            self.descriptor(env, selector)?
        } else {
            None
        };
        let Some(tss) = found else {
            return self.raise(Fault::protection(selector_error(selector) | ext));
        };
        self.check_available(&tss, selector, ext)?;
        Ok((selector, tss))
    }

    /// The descriptor is an available TSS of the GDT, and present.
    fn check_available(&mut self, tss: &Descriptor, selector: u16, ext: u16) -> Exec<()> {
        let error = selector_error(selector) | ext;
        let available = !tss.is_code_data() && matches!(tss.kind(), TSS_16 | TSS_32);
        if !available || selector & 4 != 0 {
            return self.raise(Fault::protection(error));
        }
        if !tss.present() {
            return self.raise(Fault::not_present(error));
        }
        Ok(())
    }

    /// Switches to the task of `tss`; `saved` are the old task's RIP and flags. On `Err` with
    /// `task_switched` the new task runs.
    fn switch_task(
        &mut self,
        env: &mut Env<'_>,
        cause: Cause,
        selector: u16,
        tss: Descriptor,
        saved: (u64, u64),
        ext: u16,
    ) -> Exec<()> {
        let new = layout_of(tss.kind());
        let old = layout_of(self.tr.kind());
        if tss.limit() < new.limit {
            return self.raise(Fault::task(selector_error(selector) | ext));
        }
        if !self.tr.present() || self.tr.limit < old.limit {
            return self.raise(Fault::task(selector_error(self.tr.selector) | ext));
        }
        let old_base = self.tr.base;
        let old_descriptor = self.table_address(self.gdtr.base, u64::from(self.tr.selector & !7));
        self.system(|core| {
            let bytes = u64::from(new.limit) as usize + 1;
            core.check_read(env, tss.base(), bytes, SEG_NONE)?;
            if cause.nests() {
                core.check_write(env, tss.base(), 2, SEG_NONE)?;
            } else {
                core.check_write(env, old_descriptor.wrapping_add(5), 1, SEG_NONE)?;
            }
            if cause != Cause::Return {
                core.check_write(env, tss.address.wrapping_add(5), 1, SEG_NONE)?;
            }
            let from = old_base.wrapping_add(old.instruction);
            let end = old.segments + old.segment_count * old.width;
            core.check_write(env, from, (end - old.instruction) as usize, SEG_NONE)
        })?;
        // Nothing below can fault before the new task is there.
        self.save_task(env, old, cause, saved)?;
        let image = self.system(|core| core.read_task(env, &tss, new))?;
        if !cause.nests() {
            self.set_busy(env, old_descriptor, false)?;
        }
        let back = self.tr.selector;
        if cause.nests() {
            self.system(|core| core.write::<u16>(env, tss.base(), SEG_NONE, back))?;
        }
        if cause != Cause::Return {
            self.set_busy(env, tss.address, true)?;
        }
        self.tr = tss.segment(selector);
        self.tr.rights |= BUSY;
        self.task_switched = true;
        self.load_task(env, &image, cause, ext)?;
        if image.trap {
            self.pending_debug |= DR6_TASK;
        }
        if cause != Cause::Interrupt {
            // An interrupt has an error code to push first.
            if self.rip > u64::from(self.segments[usize::from(SEG_CS)].limit) {
                return self.raise(Fault::protection(ext));
            }
            self.task_switched = false;
        }
        Ok(())
    }

    /// Sets or clears the busy bit of the TSS descriptor at a linear address.
    fn set_busy(&mut self, env: &mut Env<'_>, descriptor: u64, busy: bool) -> Exec<()> {
        let address = descriptor.wrapping_add(5);
        self.system(|core| {
            let kind = core.read::<u8>(env, address, SEG_NONE)? & !(BUSY as u8);
            let bit = if busy { BUSY as u8 } else { 0 };
            core.write::<u8>(env, address, SEG_NONE, kind | bit)
        })
    }

    /// Saves the old task in its TSS.
    fn save_task(
        &mut self,
        env: &mut Env<'_>,
        layout: &Layout,
        cause: Cause,
        (rip, image): (u64, u64),
    ) -> Exec<()> {
        let base = self.tr.base;
        let nested = if cause == Cause::Return { flags::NT } else { 0 };
        let mut values = [0; 10];
        values[0] = rip;
        values[1] = image & !nested;
        values[2..].copy_from_slice(&self.gpr[..8]);
        let selectors = self.segments.map(|segment| segment.selector);
        self.system(|core| {
            let mut address = base.wrapping_add(layout.instruction);
            for value in values {
                if layout.width == 2 {
                    core.write::<u16>(env, address, SEG_NONE, value as u16)?;
                } else {
                    core.write::<u32>(env, address, SEG_NONE, value as u32)?;
                }
                address = address.wrapping_add(layout.width);
            }
            let mut address = base.wrapping_add(layout.segments);
            for selector in &selectors[..layout.segment_count as usize] {
                core.write::<u16>(env, address, SEG_NONE, *selector)?;
                address = address.wrapping_add(layout.width);
            }
            Ok(())
        })
    }

    fn read_task(&mut self, env: &mut Env<'_>, tss: &Descriptor, layout: &Layout) -> Exec<Image> {
        let base = tss.base();
        let wide = layout.width == 4;
        let mut values = [0; 10];
        let mut address = base.wrapping_add(layout.instruction);
        for value in &mut values {
            *value = if wide {
                u64::from(self.read::<u32>(env, address, SEG_NONE)?)
            } else {
                u64::from(self.read::<u16>(env, address, SEG_NONE)?)
            };
            address = address.wrapping_add(layout.width);
        }
        let mut segments = [0; 6];
        let mut address = base.wrapping_add(layout.segments);
        for selector in &mut segments[..layout.segment_count as usize] {
            *selector = self.read::<u16>(env, address, SEG_NONE)?;
            address = address.wrapping_add(layout.width);
        }
        let (mut cr3, mut trap) = (None, false);
        if wide {
            let value = self.read::<u32>(env, base.wrapping_add(CR3), SEG_NONE)?;
            cr3 = Some(u64::from(value));
            trap = self.read::<u8>(env, base.wrapping_add(TRAP), SEG_NONE)? & 1 != 0;
        }
        let mut gpr = [0; 8];
        gpr.copy_from_slice(&values[2..]);
        Ok(Image {
            cr3,
            rip: values[0],
            flags: values[1],
            gpr,
            segments,
            ldt: self.read::<u16>(env, base.wrapping_add(layout.ldt), SEG_NONE)?,
            trap,
        })
    }

    /// Loads the new task: first what cannot fail, with segment registers that cannot be used, then
    /// their descriptors.
    fn load_task(&mut self, env: &mut Env<'_>, image: &Image, cause: Cause, ext: u16) -> Exec<()> {
        self.cr0 |= cr0::TS;
        self.dr7 &= !DR7_LOCAL;
        self.gpr[..8].copy_from_slice(&image.gpr);
        self.rip = image.rip;
        let nested = if cause.nests() { flags::NT } else { 0 };
        self.flags
            .set_value((image.flags & flags::KNOWN) | nested | 2);
        for (segment, &selector) in self.segments.iter_mut().zip(&image.segments) {
            *segment = Segment {
                selector,
                ..Segment::default()
            };
        }
        self.ldtr = Segment {
            selector: image.ldt,
            ..Segment::default()
        };
        let cs = image.segments[usize::from(SEG_CS)];
        let v8086 = self.v8086();
        self.cpl = if v8086 { 3 } else { (cs & 3) as u8 };
        // CPL is the DPL of SS, whatever becomes of its descriptor.
        self.segments[usize::from(SEG_SS)].rights = u16::from(self.cpl) << 5;
        self.fresh_resume = self.flags.has(flags::RF);
        self.trap_suppressed = true;
        self.attention = true;
        self.mode_changed();
        if let Some(cr3) = image.cr3.filter(|_| self.cr0 & cr0::PG != 0) {
            self.write_cr3(env.ram, cr3)?;
        }
        self.load_task_ldt(env, image.ldt, ext)?;
        if v8086 {
            self.load_real_code(cs);
            for slot in [0, 2, 3, 4, 5] {
                self.load_real_segment(slot, image.segments[usize::from(slot)]);
            }
            self.mode_changed();
            return Ok(());
        }
        self.load_task_code(env, cs, ext)?;
        self.load_task_stack(env, image.segments[usize::from(SEG_SS)], ext)?;
        for slot in [3, 0, 4, 5] {
            self.load_task_data(env, slot, image.segments[usize::from(slot)], ext)?;
        }
        self.mode_changed();
        Ok(())
    }

    fn load_task_ldt(&mut self, env: &mut Env<'_>, selector: u16, ext: u16) -> Exec<()> {
        if selector & !3 == 0 {
            return Ok(());
        }
        let error = selector_error(selector) | ext;
        let found = if selector & 4 == 0 {
            self.descriptor(env, selector)?
        } else {
            None
        };
        let fits = |f: &Descriptor| !f.is_code_data() && f.kind() == 2 && f.present();
        let Some(found) = found.filter(fits) else {
            return self.raise(Fault::task(error));
        };
        self.ldtr = found.segment(selector);
        Ok(())
    }

    fn load_task_code(&mut self, env: &mut Env<'_>, selector: u16, ext: u16) -> Exec<()> {
        let error = selector_error(selector) | ext;
        let Some(mut code) = self.task_descriptor(env, selector)? else {
            return self.raise(Fault::task(error));
        };
        let privileged = if code.is_conforming() {
            code.dpl() <= self.cpl
        } else {
            code.dpl() == self.cpl
        };
        if !code.is_code() || !privileged {
            return self.raise(Fault::task(error));
        }
        if !code.present() {
            return self.raise(Fault::not_present(error));
        }
        self.mark_descriptor(env, &mut code, 1)?;
        self.segments[usize::from(SEG_CS)] = code.segment(selector);
        self.mode_changed();
        debug_assert_ne!(self.code_size, CodeSize::Bits64, "no tasks in IA-32e mode");
        Ok(())
    }

    fn load_task_stack(&mut self, env: &mut Env<'_>, selector: u16, ext: u16) -> Exec<()> {
        let error = selector_error(selector) | ext;
        let Some(mut stack) = self.task_descriptor(env, selector)? else {
            return self.raise(Fault::task(error));
        };
        let rpl = (selector & 3) as u8;
        if !stack.is_writable_data() || stack.dpl() != self.cpl || rpl != self.cpl {
            return self.raise(Fault::task(error));
        }
        if !stack.present() {
            return self.raise(Fault::stack(error));
        }
        self.mark_descriptor(env, &mut stack, 1)?;
        self.segments[usize::from(SEG_SS)] = stack.segment(selector);
        Ok(())
    }

    fn load_task_data(&mut self, env: &mut Env<'_>, slot: u8, selector: u16, ext: u16) -> Exec<()> {
        if selector & !3 == 0 {
            return Ok(());
        }
        let error = selector_error(selector) | ext;
        let Some(mut found) = self.task_descriptor(env, selector)? else {
            return self.raise(Fault::task(error));
        };
        let rpl = (selector & 3) as u8;
        let privileged = found.is_conforming() || found.dpl() >= self.cpl.max(rpl);
        if !found.is_readable() || !privileged {
            return self.raise(Fault::task(error));
        }
        if !found.present() {
            return self.raise(Fault::not_present(error));
        }
        self.mark_descriptor(env, &mut found, 1)?;
        self.segments[usize::from(slot)] = found.segment(selector);
        Ok(())
    }

    /// The descriptor of a selector that must not be null.
    fn task_descriptor(&mut self, env: &mut Env<'_>, selector: u16) -> Exec<Option<Descriptor>> {
        if selector & !3 == 0 {
            return Ok(None);
        }
        self.descriptor(env, selector)
    }
}
