//! Delivery of exceptions and interrupts (SDM vol. 3, chapter 7).
//!
//! Does: go through the IDT (or the real-mode vector table), switch stacks, push the frame, turn
//! faults during delivery into #DF and a triple fault. Does not: decide what to deliver (`cpu`).
//!
//! Invariant: a delivery is one step. Until its last check passed, no register has changed; bytes
//! pushed before a fault lie below the stack pointer that stays.

use crate::core::{Core, canonical};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags;
use crate::op::{SEG_CS, SEG_NONE, SEG_SS};
use crate::state::{RIGHTS_CODE_DATA, RIGHTS_PRESENT, Segment};
use crate::system::segment::{Descriptor, selector_error};
use crate::word::Word;

/// Something to deliver at a boundary.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// An exception whose saved RIP is the instruction itself, with RF set in the saved flags.
    Fault(Fault),
    /// An exception after an instruction, or an instruction breakpoint: RF is saved as it is.
    Trap(Fault),
    /// An external interrupt or NMI.
    External(u8),
}

/// Where a delivery comes from, for privilege checks and error codes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) vector: u8,
    pub(crate) error: Option<u32>,
    /// INT n, INT3, INTO: the gate's DPL counts, and EXT is clear in error codes.
    pub(crate) software: bool,
    /// RIP to save.
    pub(crate) rip: u64,
    /// RFLAGS to save.
    pub(crate) flags: u64,
}

/// A gate of the IDT.
struct Gate {
    selector: u16,
    offset: u64,
    ist: u8,
    kind: u16,
}

/// Exceptions that make #DF of a second fault.
fn contributory(vector: u8) -> bool {
    matches!(vector, 0 | 10..=13)
}

impl Core {
    /// Delivers an event: one step, whatever comes of it.
    pub(crate) fn deliver(&mut self, env: &mut Env<'_>, event: Event) {
        self.cursor.leave();
        self.sti_shadow = false;
        self.ss_shadow = false;
        self.attention = true;
        let mut image = self.flags.value();
        let (mut fault, external) = match event {
            Event::Fault(fault) => {
                image |= flags::RF;
                (fault, false)
            }
            Event::Trap(fault) => (fault, false),
            Event::External(vector) => (
                Fault {
                    vector,
                    error: None,
                    address: 0,
                },
                true,
            ),
        };
        let mut first_external = external;
        loop {
            if fault.vector == 14 && !first_external {
                self.cr2 = fault.address;
            }
            let entry = Entry {
                vector: fault.vector,
                error: fault.error,
                software: false,
                rip: self.rip,
                flags: image,
            };
            if self.enter(env, entry) == Ok(()) {
                break;
            }
            let second = self.fault;
            if second.vector == 14 {
                self.cr2 = second.address;
            }
            let doubles = !first_external
                && ((contributory(fault.vector) && contributory(second.vector))
                    || (fault.vector == 14
                        && (contributory(second.vector) || second.vector == 14)));
            if fault.vector == 8
                && !first_external
                && (contributory(second.vector) || second.vector == 14)
            {
                self.task_switched = false;
                self.shutdown = true;
                break;
            }
            // Of the new task, if a task switch got that far.
            self.task_switched = false;
            image = self.flags.value() | flags::RF;
            fault = if doubles { Fault::DOUBLE } else { second };
            first_external = false;
        }
        self.steps += 1;
    }

    /// Enters the handler of a vector.
    pub(crate) fn enter(&mut self, env: &mut Env<'_>, entry: Entry) -> Exec<()> {
        if !self.protected() {
            return self.enter_real(env, entry);
        }
        let ext = u16::from(!entry.software);
        let gate = self.read_gate(env, entry, ext)?;
        if gate.kind == 5 {
            return self.enter_task(env, gate.selector, entry);
        }
        let error = selector_error(gate.selector) | ext;
        if gate.selector & !3 == 0 {
            return self.raise(Fault::protection(ext));
        }
        let Some(mut code) = self.descriptor(env, gate.selector)? else {
            return self.raise(Fault::protection(error));
        };
        let long = self.long_mode();
        if !code.is_code() || code.dpl() > self.cpl || (long && (!code.long() || code.big())) {
            return self.raise(Fault::protection(error));
        }
        if !code.present() {
            return self.raise(Fault::not_present(error));
        }
        let inner = !code.is_conforming() && code.dpl() < self.cpl;
        if self.v8086() && (!inner || code.dpl() != 0) {
            return self.raise(Fault::protection(error));
        }
        if long {
            self.enter_long(env, entry, &gate, &mut code, inner, ext)?;
        } else {
            self.enter_legacy(env, entry, &gate, &mut code, inner, ext)?;
        }
        if entry.vector == 1 && !entry.software {
            // The handler may touch the debug registers.
            self.dr7 &= !(1 << 13);
        }
        let interrupt_gate = gate.kind & 1 == 0;
        self.flags.system &= !(flags::TF | flags::NT | flags::RF | flags::VM);
        if interrupt_gate {
            self.flags.system &= !flags::IF;
        }
        self.mode_changed();
        Ok(())
    }

    fn read_gate(&mut self, env: &mut Env<'_>, entry: Entry, ext: u16) -> Exec<Gate> {
        let error = u16::from(entry.vector) * 8 + 2 + ext;
        let long = self.long_mode();
        let size = if long { 16 } else { 8 };
        let offset = u64::from(entry.vector) * size;
        if offset + size - 1 > u64::from(self.idtr.limit) {
            return self.raise(Fault::protection(error));
        }
        let address = self.table_address(self.idtr.base, offset);
        let low = self.system(|core| core.read::<u64>(env, address, SEG_NONE))?;
        let high = if long {
            let address = address.wrapping_add(8);
            self.system(|core| core.read::<u64>(env, address, SEG_NONE))?
        } else {
            0
        };
        let kind = (low >> 40 & 15) as u16;
        let is_system = low >> 44 & 1 == 0;
        let known = if long {
            matches!(kind, 14 | 15)
        } else {
            matches!(kind, 5 | 6 | 7 | 14 | 15)
        };
        if !is_system || !known {
            return self.raise(Fault::protection(error));
        }
        let dpl = (low >> 45 & 3) as u8;
        if entry.software && dpl < self.cpl {
            return self.raise(Fault::protection(error));
        }
        if low >> 47 & 1 == 0 {
            return self.raise(Fault::not_present(error));
        }
        let mut offset = (low & 0xffff) | (low >> 32 & 0xffff_0000) | high << 32;
        if kind < 8 {
            offset &= 0xffff;
        }
        Ok(Gate {
            selector: (low >> 16) as u16,
            offset,
            ist: (low >> 32 & 7) as u8,
            kind,
        })
    }

    fn enter_long(
        &mut self,
        env: &mut Env<'_>,
        entry: Entry,
        gate: &Gate,
        code: &mut Descriptor,
        inner: bool,
        ext: u16,
    ) -> Exec<()> {
        let cpl = if inner { code.dpl() } else { self.cpl };
        let mut rsp = if gate.ist != 0 {
            self.stack_from_tss(env, 28 + 8 * u64::from(gate.ist), ext)?
        } else if inner {
            self.stack_from_tss(env, 4 + 8 * u64::from(cpl), ext)?
        } else {
            self.gpr[4]
        };
        rsp &= !15;
        let old_ss = self.segments[usize::from(SEG_SS)].selector;
        let old_cs = self.segments[usize::from(SEG_CS)].selector;
        if !canonical(gate.offset) {
            return self.raise(Fault::protection(ext));
        }
        let mut frame = [
            u64::from(old_ss),
            self.gpr[4],
            entry.flags,
            u64::from(old_cs),
            entry.rip,
            0,
        ];
        let mut count = 5;
        if let Some(error) = entry.error {
            frame[5] = u64::from(error);
            count = 6;
        }
        self.as_privilege(cpl, |core| {
            for value in &frame[..count] {
                rsp = rsp.wrapping_sub(8);
                if !canonical(rsp) {
                    return core.raise(Fault::stack(ext));
                }
                core.write::<u64>(env, rsp, SEG_SS, *value)?;
            }
            Ok(())
        })?;
        self.mark_descriptor(env, code, 1)?;
        self.segments[usize::from(SEG_CS)] = code.segment((gate.selector & !3) | u16::from(cpl));
        self.cpl = cpl;
        if inner {
            self.load_null(SEG_SS, u16::from(cpl));
        }
        self.gpr[4] = rsp;
        self.rip = gate.offset;
        Ok(())
    }

    /// Runs `f` with the memory rights of `cpl`; as a supervisor without SMAP's override.
    fn as_privilege<T>(&mut self, cpl: u8, f: impl FnOnce(&mut Core) -> Exec<T>) -> Exec<T> {
        if cpl == 3 { f(self) } else { self.system(f) }
    }

    /// Reads a 64-bit stack pointer at `offset` of the TSS.
    fn stack_from_tss(&mut self, env: &mut Env<'_>, offset: u64, ext: u16) -> Exec<u64> {
        if offset + 7 > u64::from(self.tr.limit) {
            return self.raise(Fault::task(selector_error(self.tr.selector) | ext));
        }
        let address = self.tr.base.wrapping_add(offset);
        let rsp = self.system(|core| core.read::<u64>(env, address, SEG_NONE))?;
        if !canonical(rsp) {
            return self.raise(Fault::stack(ext));
        }
        Ok(rsp)
    }

    fn enter_legacy(
        &mut self,
        env: &mut Env<'_>,
        entry: Entry,
        gate: &Gate,
        code: &mut Descriptor,
        inner: bool,
        ext: u16,
    ) -> Exec<()> {
        let wide = gate.kind >= 8;
        let cpl = if inner { code.dpl() } else { self.cpl };
        let old_esp = self.gpr[4] & 0xffff_ffff;
        let selector = |core: &Core, slot: u8| u64::from(core.segments[usize::from(slot)].selector);
        let mut frame: Vec<u64> = Vec::with_capacity(10);
        let (stack, esp) = if inner {
            if self.v8086() {
                for slot in [5, 4, 3, 0] {
                    frame.push(selector(self, slot));
                }
            }
            frame.push(selector(self, SEG_SS));
            frame.push(old_esp);
            self.inner_stack(env, cpl, ext)?
        } else {
            (self.segments[usize::from(SEG_SS)], old_esp)
        };
        frame.extend([entry.flags, selector(self, SEG_CS), entry.rip]);
        frame.extend(entry.error.map(u64::from));
        if gate.offset > u64::from(code.limit()) {
            return self.raise(Fault::protection(ext));
        }
        let width = if wide { 4 } else { 2 };
        let error = if inner {
            selector_error(stack.selector) | ext
        } else {
            ext
        };
        let esp = self.push_frame(env, &stack, esp, width, cpl, &frame, error)?;
        self.mark_descriptor(env, code, 1)?;
        if self.v8086() {
            for slot in [0, 3, 4, 5] {
                self.segments[slot] = Segment::default();
            }
        }
        self.segments[usize::from(SEG_CS)] = code.segment((gate.selector & !3) | u16::from(cpl));
        self.segments[usize::from(SEG_SS)] = stack;
        self.cpl = cpl;
        self.gpr[4] = if stack.big() {
            esp
        } else {
            (self.gpr[4] & !0xffff) | (esp & 0xffff)
        };
        self.rip = gate.offset;
        Ok(())
    }

    /// Pushes values on a stack that may not be the current one; the new stack pointer.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn push_frame(
        &mut self,
        env: &mut Env<'_>,
        stack: &Segment,
        mut esp: u64,
        width: u64,
        cpl: u8,
        values: &[u64],
        error: u16,
    ) -> Exec<u64> {
        let mask = if stack.big() { 0xffff_ffff } else { 0xffff };
        for &value in values {
            esp = esp.wrapping_sub(width) & mask;
            let last = esp + width - 1;
            let down = stack.rights & 4 != 0;
            let inside = if down {
                esp > u64::from(stack.limit) && last <= mask
            } else {
                last <= u64::from(stack.limit)
            };
            if !inside {
                return self.raise(Fault::stack(error));
            }
            let linear = stack.base.wrapping_add(esp) & 0xffff_ffff;
            self.as_privilege(cpl, |core| match width {
                2 => core.write::<u16>(env, linear, SEG_NONE, u16::from64(value)),
                4 => core.write::<u32>(env, linear, SEG_NONE, u32::from64(value)),
                _ => core.write::<u64>(env, linear, SEG_NONE, value),
            })?;
        }
        Ok(esp)
    }

    /// Stack segment and pointer for an inner privilege level, from the TSS.
    pub(crate) fn inner_stack(
        &mut self,
        env: &mut Env<'_>,
        cpl: u8,
        ext: u16,
    ) -> Exec<(Segment, u64)> {
        let task_error = selector_error(self.tr.selector) | ext;
        let wide = self.tr.kind() & 8 != 0;
        let (offset, size) = if wide {
            (4 + 8 * u64::from(cpl), 6)
        } else {
            (2 + 4 * u64::from(cpl), 4)
        };
        if offset + size - 1 > u64::from(self.tr.limit) {
            return self.raise(Fault::task(task_error));
        }
        let base = self.tr.base;
        let (esp, ss) = self.system(|core| {
            if wide {
                let esp = core.read::<u32>(env, base.wrapping_add(offset), SEG_NONE)?;
                let ss = core.read::<u16>(env, base.wrapping_add(offset + 4), SEG_NONE)?;
                Ok((u64::from(esp), ss))
            } else {
                let sp = core.read::<u16>(env, base.wrapping_add(offset), SEG_NONE)?;
                let ss = core.read::<u16>(env, base.wrapping_add(offset + 2), SEG_NONE)?;
                Ok((u64::from(sp), ss))
            }
        })?;
        let error = selector_error(ss) | ext;
        if ss & !3 == 0 {
            return self.raise(Fault::task(ext));
        }
        let Some(mut found) = self.descriptor(env, ss)? else {
            return self.raise(Fault::task(error));
        };
        if (ss & 3) as u8 != cpl || found.dpl() != cpl || !found.is_writable_data() {
            return self.raise(Fault::task(error));
        }
        if !found.present() {
            return self.raise(Fault::stack(error));
        }
        self.mark_descriptor(env, &mut found, 1)?;
        Ok((found.segment(ss), esp))
    }

    fn enter_real(&mut self, env: &mut Env<'_>, entry: Entry) -> Exec<()> {
        let offset = u64::from(entry.vector) * 4;
        if offset + 3 > u64::from(self.idtr.limit) {
            return self.raise(Fault::protection(0));
        }
        let target = self.read::<u32>(env, self.idtr.base.wrapping_add(offset), SEG_NONE)?;
        let stack = self.segments[usize::from(SEG_SS)];
        let cs = u64::from(self.segments[usize::from(SEG_CS)].selector);
        let frame = [entry.flags, cs, entry.rip];
        let esp = self.push_frame(env, &stack, self.gpr[4], 2, 0, &frame, 0)?;
        self.gpr[4] = if stack.big() {
            esp
        } else {
            (self.gpr[4] & !0xffff) | (esp & 0xffff)
        };
        self.load_real_code((target >> 16) as u16);
        self.rip = u64::from(target & 0xffff);
        self.flags.system &= !(flags::TF | flags::IF | flags::RF | flags::AC);
        self.mode_changed();
        Ok(())
    }

    /// CS in real and virtual-8086 mode.
    pub(crate) fn load_real_code(&mut self, selector: u16) {
        let v8086 = self.v8086();
        let code = &mut self.segments[usize::from(SEG_CS)];
        code.selector = selector;
        code.base = u64::from(selector) << 4;
        if v8086 {
            code.limit = 0xffff;
            code.rights = RIGHTS_CODE_DATA | RIGHTS_PRESENT | 3 << 5 | 3;
        }
    }
}
