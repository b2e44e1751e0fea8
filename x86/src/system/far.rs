//! Transfers that load CS: far JMP, CALL and RET, call gates, IRET, INT n (SDM vol. 3, 6.8, 7.12).
//!
//! Does: all checks, stack switches and frames of the transfers an instruction asks for.
//! Does not: switch tasks (`task`).
//!
//! Invariant: CS, SS, RSP and RIP change together, after the last check.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::core::{Core, canonical, cr4};
use crate::decode::operands::is_memory;
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags;
use crate::op::{CodeSize, Flow, Handler, Op, SEG_CS, SEG_SS, Selected};
use crate::state::Segment;
use crate::system::interrupt::Entry;
use crate::system::segment::{Descriptor, selector_error};
use crate::system::task;

/// Names the handler. `op.aux` is the operand size in bytes.
pub(crate) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    let far_size = || match insn.code() {
        Code::Jmp_ptr1616 | Code::Call_ptr1616 | Code::Jmp_m1616 | Code::Call_m1616 => 2,
        Code::Jmp_ptr1632 | Code::Call_ptr1632 | Code::Jmp_m1632 | Code::Call_m1632 => 4,
        _ => 8,
    };
    let run: Handler = match insn.mnemonic() {
        Mnemonic::Jmp | Mnemonic::Call if insn.is_jmp_far() || insn.is_call_far() => {
            op.aux = far_size();
            op.imm = u64::from(insn.far_branch32());
            op.extra = insn.far_branch_selector();
            if insn.op0_kind() == OpKind::FarBranch16 {
                op.imm = u64::from(insn.far_branch16());
            }
            if insn.is_jmp_far() {
                far_direct::<false>
            } else {
                far_direct::<true>
            }
        }
        Mnemonic::Jmp if insn.is_jmp_far_indirect() && is_memory(insn, 0) => {
            op.aux = far_size();
            far_indirect::<false>
        }
        Mnemonic::Call if insn.is_call_far_indirect() && is_memory(insn, 0) => {
            op.aux = far_size();
            far_indirect::<true>
        }
        Mnemonic::Retf => {
            op.aux = match insn.code() {
                Code::Retfw | Code::Retfw_imm16 => 2,
                Code::Retfd | Code::Retfd_imm16 => 4,
                _ => 8,
            };
            op.imm = if insn.op_count() == 1 {
                u64::from(insn.immediate16())
            } else {
                0
            };
            return_far
        }
        Mnemonic::Iret => {
            op.aux = 2;
            return_interrupt
        }
        Mnemonic::Iretd => {
            op.aux = 4;
            return_interrupt
        }
        Mnemonic::Iretq => {
            op.aux = 8;
            return_interrupt
        }
        Mnemonic::Int => {
            op.aux = insn.immediate8();
            interrupt
        }
        Mnemonic::Int3 => {
            op.aux = 3;
            breakpoint
        }
        Mnemonic::Into => into,
        Mnemonic::Int1 => icebp,
        _ => return None,
    };
    Selected::last(run)
}

/// Wraps an offset to an operand size in bytes.
fn truncate(value: u64, size: u8) -> u64 {
    match size {
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

fn far_direct<const CALL: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    core.far_transfer(env, op, op.extra, op.imm, CALL)
}

fn far_indirect<const CALL: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let size = u64::from(op.aux);
    let linear = core.linear(op, size + 2, false)?;
    let offset = match op.aux {
        2 => u64::from(core.read::<u16>(env, linear, op.seg)?),
        4 => u64::from(core.read::<u32>(env, linear, op.seg)?),
        _ => core.read::<u64>(env, linear, op.seg)?,
    };
    let selector = core.read::<u16>(env, linear.wrapping_add(size), op.seg)?;
    core.far_transfer(env, op, selector, offset, CALL)
}

fn interrupt(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if core.v8086() {
        if core.cr4 & cr4::VME != 0 && !core.redirects_interrupt(env, op.aux)? {
            return core.interrupt_within_8086(env, op);
        }
        if core.iopl() < 3 {
            return core.raise(Fault::protection(0));
        }
    }
    core.software_interrupt(env, op, op.aux)
}

fn breakpoint(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    core.software_interrupt(env, op, 3)
}

fn into(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if core.flags.of() {
        core.software_interrupt(env, op, 4)
    } else {
        Ok(Flow::Leave)
    }
}

/// INT1: a trap-like #DB that skips the privilege check of the gate.
fn icebp(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    // What a load of SS has held back joins this debug exception.
    let held = std::mem::take(&mut core.pending_debug);
    let flow = core.enter_from_instruction(env, op, 1, false)?;
    if held != 0 {
        core.note_debug_cause(held);
    }
    Ok(flow)
}

fn return_far(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    core.far_return(env, op)
}

fn return_interrupt(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    core.interrupt_return(env, op)
}

impl Core {
    /// INT n and relatives.
    fn software_interrupt(&mut self, env: &mut Env<'_>, op: &Op, vector: u8) -> Exec<Flow> {
        self.enter_from_instruction(env, op, vector, true)
    }

    fn enter_from_instruction(
        &mut self,
        env: &mut Env<'_>,
        op: &Op,
        vector: u8,
        software: bool,
    ) -> Exec<Flow> {
        let entry = Entry {
            vector,
            error: None,
            software,
            rip: self.next_rip(op),
            flags: self.flags.value() & !flags::RF,
        };
        self.enter(env, entry)?;
        self.trap_suppressed = true;
        self.attention = true;
        Ok(Flow::Jump)
    }

    /// Far JMP or CALL to `selector:offset`.
    fn far_transfer(
        &mut self,
        env: &mut Env<'_>,
        op: &Op,
        selector: u16,
        offset: u64,
        call: bool,
    ) -> Exec<Flow> {
        let offset = truncate(offset, op.aux);
        if !self.protected() || self.v8086() {
            self.check_real_target(offset)?;
            if call {
                let cs = u64::from(self.segments[usize::from(SEG_CS)].selector);
                let frame = [cs, self.next_rip(op)];
                self.push_here(env, u64::from(op.aux), &frame)?;
            }
            self.load_real_code(selector);
            self.rip = offset;
            self.mode_changed();
            self.attention = true;
            return Ok(Flow::Jump);
        }
        if selector & !3 == 0 {
            return self.raise(Fault::protection(0));
        }
        let error = selector_error(selector);
        let Some(found) = self.descriptor(env, selector)? else {
            return self.raise(Fault::protection(error));
        };
        if !found.is_code_data() && !self.long_mode() && task::names_task(&found) {
            return self.transfer_to_task(env, op, selector, found, call);
        }
        if !found.is_code_data() {
            return self.through_gate(env, op, selector, found, call);
        }
        let mut code = found;
        let rpl = (selector & 3) as u8;
        let allowed = code.is_code()
            && if code.is_conforming() {
                code.dpl() <= self.cpl
            } else {
                rpl <= self.cpl && code.dpl() == self.cpl
            }
            && !(self.long_mode() && code.long() && code.big());
        if !allowed {
            return self.raise(Fault::protection(error));
        }
        if !code.present() {
            return self.raise(Fault::not_present(error));
        }
        self.check_target(&code, offset)?;
        if call {
            let cs = u64::from(self.segments[usize::from(SEG_CS)].selector);
            let frame = [cs, self.next_rip(op)];
            self.push_here(env, u64::from(op.aux), &frame)?;
        }
        self.mark_descriptor(env, &mut code, 1)?;
        let cpl = u16::from(self.cpl);
        self.segments[usize::from(SEG_CS)] = code.segment((selector & !3) | cpl);
        self.rip = offset;
        self.mode_changed();
        self.attention = true;
        Ok(Flow::Jump)
    }

    /// The target lies within the limit that CS keeps in real and virtual-8086 mode.
    fn check_real_target(&mut self, offset: u64) -> Exec<()> {
        let limit = if self.v8086() {
            0xffff
        } else {
            self.segments[usize::from(SEG_CS)].limit
        };
        if offset > u64::from(limit) {
            self.raise(Fault::protection(0))
        } else {
            Ok(())
        }
    }

    /// The target lies in the segment, or is canonical in 64-bit mode.
    fn check_target(&mut self, code: &Descriptor, offset: u64) -> Exec<()> {
        let fine = if self.long_mode() && code.long() {
            canonical(offset)
        } else {
            offset <= u64::from(code.limit())
        };
        if fine {
            Ok(())
        } else {
            self.raise(Fault::protection(0))
        }
    }

    /// Pushes values of `width` bytes on the current stack, first one highest, all or nothing.
    pub(crate) fn push_here(&mut self, env: &mut Env<'_>, width: u64, values: &[u64]) -> Exec<()> {
        if self.in_64bit() {
            let total = width * values.len() as u64;
            let mut rsp = self.gpr[4];
            self.check_write(env, rsp.wrapping_sub(total), total as usize, SEG_SS)?;
            for &value in values {
                rsp = rsp.wrapping_sub(width);
                match width {
                    2 => self.write::<u16>(env, rsp, SEG_SS, value as u16)?,
                    4 => self.write::<u32>(env, rsp, SEG_SS, value as u32)?,
                    _ => self.write::<u64>(env, rsp, SEG_SS, value)?,
                }
            }
            self.gpr[4] = rsp;
            return Ok(());
        }
        let stack = self.segments[usize::from(SEG_SS)];
        let esp = self.push_frame(env, &stack, self.gpr[4], width, self.cpl, values, 0)?;
        self.set_stack_pointer(esp);
        Ok(())
    }

    /// Reads the value `index` slots of `width` bytes above the stack pointer.
    pub(crate) fn stack_slot(&mut self, env: &mut Env<'_>, width: u64, index: u64) -> Exec<u64> {
        let offset = self.gpr[4].wrapping_add(width * index);
        let linear = self.segmented(SEG_SS, offset & self.stack_mask(), width, false)?;
        Ok(match width {
            2 => u64::from(self.read::<u16>(env, linear, SEG_SS)?),
            4 => u64::from(self.read::<u32>(env, linear, SEG_SS)?),
            _ => self.read::<u64>(env, linear, SEG_SS)?,
        })
    }

    /// Far JMP or CALL through a call gate.
    fn through_gate(
        &mut self,
        env: &mut Env<'_>,
        op: &Op,
        selector: u16,
        gate: Descriptor,
        call: bool,
    ) -> Exec<Flow> {
        let error = selector_error(selector);
        let long = self.long_mode();
        let known = if long {
            gate.kind() == 12
        } else {
            matches!(gate.kind(), 4 | 12)
        };
        let rpl = (selector & 3) as u8;
        if !known || gate.dpl() < self.cpl.max(rpl) {
            return self.raise(Fault::protection(error));
        }
        let gate = if long {
            match self.system_descriptor(env, selector)? {
                Some(whole) if whole.high >> 40 & 0x1f == 0 => whole,
                _ => return self.raise(Fault::protection(error)),
            }
        } else {
            gate
        };
        if !gate.present() {
            return self.raise(Fault::not_present(error));
        }
        let target = (gate.low >> 16) as u16;
        let target_error = selector_error(target);
        if target & !3 == 0 {
            return self.raise(Fault::protection(0));
        }
        let Some(mut code) = self.descriptor(env, target)? else {
            return self.raise(Fault::protection(target_error));
        };
        let privileged = if call || code.is_conforming() {
            code.dpl() <= self.cpl
        } else {
            code.dpl() == self.cpl
        };
        if !code.is_code() || !privileged || (long && (!code.long() || code.big())) {
            return self.raise(Fault::protection(target_error));
        }
        if !code.present() {
            return self.raise(Fault::not_present(target_error));
        }
        let mut offset = (gate.low & 0xffff) | (gate.low >> 32 & 0xffff_0000) | gate.high << 32;
        let width = match gate.kind() {
            4 => 2,
            _ if long => 8,
            _ => 4,
        };
        if width == 2 {
            offset &= 0xffff;
        }
        self.check_target(&code, offset)?;
        let inner = call && !code.is_conforming() && code.dpl() < self.cpl;
        let cpl = if inner { code.dpl() } else { self.cpl };
        let cs = u64::from(self.segments[usize::from(SEG_CS)].selector);
        let ss = u64::from(self.segments[usize::from(SEG_SS)].selector);
        let return_to = self.next_rip(op);
        if inner && long {
            self.call_inner_long(env, cpl, &[ss, self.gpr[4], cs, return_to])?;
        } else if inner {
            let count = gate.low >> 32 & 31;
            let mut frame = vec![ss, self.gpr[4] & 0xffff_ffff];
            for index in (0..count).rev() {
                frame.push(self.stack_slot(env, width, index)?);
            }
            frame.extend([cs, return_to]);
            let (stack, esp) = self.inner_stack(env, cpl, 0)?;
            let error = selector_error(stack.selector);
            let esp = self.push_frame(env, &stack, esp, width, cpl, &frame, error)?;
            self.segments[usize::from(SEG_SS)] = stack;
            self.set_stack_pointer(esp);
        } else if call {
            self.push_here(env, width, &[cs, return_to])?;
        }
        self.mark_descriptor(env, &mut code, 1)?;
        self.cpl = cpl;
        self.segments[usize::from(SEG_CS)] = code.segment((target & !3) | u16::from(cpl));
        if inner && long {
            self.load_null(SEG_SS, u16::from(cpl));
        }
        self.rip = offset;
        self.mode_changed();
        self.attention = true;
        Ok(Flow::Jump)
    }

    /// Pushes a frame on the 64-bit stack of an inner level, from the TSS.
    fn call_inner_long(&mut self, env: &mut Env<'_>, cpl: u8, frame: &[u64]) -> Exec<()> {
        let offset = 4 + 8 * u64::from(cpl);
        if offset + 7 > u64::from(self.tr.limit) {
            return self.raise(Fault::task(selector_error(self.tr.selector)));
        }
        let base = self.tr.base;
        let mut rsp = self
            .system(|core| core.read::<u64>(env, base.wrapping_add(offset), crate::op::SEG_NONE))?;
        if !canonical(rsp) {
            return self.raise(Fault::stack(0));
        }
        for &value in frame {
            rsp = rsp.wrapping_sub(8);
            self.system(|core| core.write::<u64>(env, rsp, SEG_SS, value))?;
        }
        self.gpr[4] = rsp;
        Ok(())
    }

    /// RETF.
    fn far_return(&mut self, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
        let width = u64::from(op.aux);
        let rip = self.stack_slot(env, width, 0)?;
        let cs = self.stack_slot(env, width, 1)? as u16;
        if !self.protected() || self.v8086() {
            self.check_real_target(rip)?;
            self.set_stack_pointer(self.gpr[4].wrapping_add(2 * width + op.imm));
            self.load_real_code(cs);
            self.rip = rip;
            self.mode_changed();
            self.attention = true;
            return Ok(Flow::Jump);
        }
        let mut code = self.return_code(env, cs)?;
        let rpl = (cs & 3) as u8;
        self.check_target(&code, rip)?;
        if rpl == self.cpl {
            self.mark_descriptor(env, &mut code, 1)?;
            self.set_stack_pointer(self.gpr[4].wrapping_add(2 * width + op.imm));
            self.segments[usize::from(SEG_CS)] = code.segment(cs);
            self.rip = rip;
        } else {
            let at = self.gpr[4];
            self.gpr[4] = at.wrapping_add(op.imm);
            let outer = self
                .stack_slot(env, width, 2)
                .and_then(|rsp| Ok((rsp, self.stack_slot(env, width, 3)?)));
            self.gpr[4] = at;
            let (rsp, ss) = outer?;
            let stack = self.return_stack(env, ss as u16, rpl, &code)?;
            self.mark_descriptor(env, &mut code, 1)?;
            self.segments[usize::from(SEG_CS)] = code.segment(cs);
            self.go_outer(rpl, stack, rsp.wrapping_add(op.imm), rip);
        }
        self.mode_changed();
        self.attention = true;
        Ok(Flow::Jump)
    }

    /// The code segment that a far return or IRET goes to.
    fn return_code(&mut self, env: &mut Env<'_>, cs: u16) -> Exec<Descriptor> {
        if cs & !3 == 0 {
            return self.raise(Fault::protection(0));
        }
        let error = selector_error(cs);
        let Some(code) = self.descriptor(env, cs)? else {
            return self.raise(Fault::protection(error));
        };
        let rpl = (cs & 3) as u8;
        let privileged = if code.is_conforming() {
            code.dpl() <= rpl
        } else {
            code.dpl() == rpl
        };
        let odd = self.long_mode() && code.long() && code.big();
        if !code.is_code() || rpl < self.cpl || !privileged || odd {
            return self.raise(Fault::protection(error));
        }
        if !code.present() {
            return self.raise(Fault::not_present(error));
        }
        Ok(code)
    }

    /// The stack segment of an outer level.
    fn return_stack(
        &mut self,
        env: &mut Env<'_>,
        ss: u16,
        rpl: u8,
        code: &Descriptor,
    ) -> Exec<Segment> {
        if ss & !3 == 0 {
            let null_allowed = self.long_mode() && code.long() && rpl != 3 && (ss & 3) as u8 == rpl;
            if !null_allowed {
                return self.raise(Fault::protection(0));
            }
            return Ok(Segment {
                selector: ss,
                rights: u16::from(rpl) << 5,
                limit: 0,
                base: 0,
            });
        }
        let error = selector_error(ss);
        let Some(mut found) = self.descriptor(env, ss)? else {
            return self.raise(Fault::protection(error));
        };
        if (ss & 3) as u8 != rpl || found.dpl() != rpl || !found.is_writable_data() {
            return self.raise(Fault::protection(error));
        }
        if !found.present() {
            return self.raise(Fault::stack(error));
        }
        self.mark_descriptor(env, &mut found, 1)?;
        Ok(found.segment(ss))
    }

    /// Goes to an outer level; CS is already loaded.
    fn go_outer(&mut self, cpl: u8, stack: Segment, rsp: u64, rip: u64) {
        self.cpl = cpl;
        self.segments[usize::from(SEG_SS)] = stack;
        let long = self.long_mode() && self.segments[usize::from(SEG_CS)].long();
        self.gpr[4] = if long {
            rsp
        } else if stack.big() {
            rsp & 0xffff_ffff
        } else {
            (self.gpr[4] & !0xffff) | (rsp & 0xffff)
        };
        self.rip = rip;
        // Data segments that the outer level may not use become null. The base stays, as what an
        // MSR gave it: 64-bit code uses it all the same.
        for slot in [0usize, 3, 4, 5] {
            let segment = self.segments[slot];
            let conforming = segment.rights & 0x1c == 0x1c;
            if segment.present() && !conforming && segment.dpl() < cpl {
                self.segments[slot] = Segment {
                    selector: 0,
                    rights: 0,
                    limit: 0,
                    base: segment.base,
                };
            }
        }
    }

    /// IRET, IRETD, IRETQ.
    fn interrupt_return(&mut self, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
        let width = u64::from(op.aux);
        if self.v8086() && self.iopl() < 3 {
            return self.return_with_virtual_flag(env, width);
        }
        if self.protected() && !self.v8086() && self.flags.has(flags::NT) {
            if self.long_mode() {
                return self.raise(Fault::protection(0));
            }
            return self.return_from_task(env, op);
        }
        let rip = self.stack_slot(env, width, 0)?;
        let cs = self.stack_slot(env, width, 1)? as u16;
        let image = self.stack_slot(env, width, 2)?;
        if !self.protected() || self.v8086() {
            self.check_real_target(rip)?;
            self.set_stack_pointer(self.gpr[4].wrapping_add(3 * width));
            self.load_real_code(cs);
            self.rip = rip;
            self.restore_flags(image, width);
            self.finish_return();
            return Ok(Flow::Jump);
        }
        if image & flags::VM != 0 && self.cpl == 0 && !self.long_mode() && width == 4 {
            return self.return_to_v8086(env, rip, cs, image);
        }
        let mut code = self.return_code(env, cs)?;
        let rpl = (cs & 3) as u8;
        self.check_target(&code, rip)?;
        let outer = rpl != self.cpl;
        if outer || self.in_64bit() {
            let rsp = self.stack_slot(env, width, 3)?;
            let ss = self.stack_slot(env, width, 4)? as u16;
            let stack = self.return_stack(env, ss, rpl, &code)?;
            self.mark_descriptor(env, &mut code, 1)?;
            self.restore_flags(image, width);
            self.segments[usize::from(SEG_CS)] = code.segment(cs);
            if outer {
                self.go_outer(rpl, stack, rsp, rip);
            } else {
                self.segments[usize::from(SEG_SS)] = stack;
                self.gpr[4] = truncate(rsp, op.aux);
                self.rip = rip;
            }
        } else {
            self.mark_descriptor(env, &mut code, 1)?;
            self.set_stack_pointer(self.gpr[4].wrapping_add(3 * width));
            self.restore_flags(image, width);
            self.segments[usize::from(SEG_CS)] = code.segment(cs);
            self.rip = rip;
        }
        self.finish_return();
        Ok(Flow::Jump)
    }

    pub(super) fn finish_return(&mut self) {
        self.nmi_blocked = false;
        self.fresh_resume = self.flags.has(flags::RF);
        self.mode_changed();
        self.attention = true;
    }

    /// Flags from an interrupt frame, with the privileges of the level that returns.
    pub(super) fn restore_flags(&mut self, image: u64, width: u64) {
        let mut mask = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;
        if width > 2 {
            mask |= flags::RF | flags::AC | flags::ID;
        }
        if self.v8086() {
            mask |= flags::IF;
        } else if !self.protected() || self.cpl == 0 {
            mask |= flags::IF | flags::IOPL;
            if width > 2 {
                mask |= flags::VIF | flags::VIP;
            }
        } else if self.cpl <= self.iopl() {
            mask |= flags::IF;
        }
        let value = self.flags.value();
        self.flags.set_value((value & !mask) | (image & mask));
    }

    fn return_to_v8086(&mut self, env: &mut Env<'_>, rip: u64, cs: u16, image: u64) -> Exec<Flow> {
        if rip > 0xffff {
            return self.raise(Fault::protection(0));
        }
        let mut values = [0; 6];
        for (index, value) in values.iter_mut().enumerate() {
            *value = self.stack_slot(env, 4, 3 + index as u64)?;
        }
        self.restore_flags(image, 4);
        self.flags.system |= flags::VM;
        self.cpl = 3;
        let [esp, ss, es, ds, fs, gs] = values;
        for (slot, selector) in [(0, es), (2, ss), (3, ds), (4, fs), (5, gs)] {
            self.load_real_segment(slot, selector as u16);
        }
        self.load_real_code(cs);
        self.gpr[4] = esp;
        self.rip = rip;
        self.finish_return();
        Ok(Flow::Jump)
    }
}
