//! Control and status words.
//!
//! Does: FNINIT, FNCLEX, FLDCW, FNSTCW, FNSTSW, FWAIT, and the 8087's and 80287's FNENI, FNDISI
//! and FNSETPM, which do nothing. Does not: FINIT and other waiting forms, which are FWAIT and
//! another instruction.
//!
//! Invariant: none of these is noted as the last instruction.

use iced_x86::{Code, Instruction};

use super::status::{BUSY, STACK_FAULT, SUMMARY, available, pending, ready};
use crate::core::{Core, cr0};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{Flow, Handler, Op};
use crate::softfloat::Flags;
use crate::state::X87State;

/// FCW after FNINIT.
const CONTROL_INITIAL: u16 = 0x37f;

impl X87State {
    /// What FNINIT and FNSAVE do. The registers keep their values, but are empty.
    pub(in crate::ops) fn initialize(&mut self) {
        *self = X87State {
            registers: self.registers,
            control: CONTROL_INITIAL,
            status: 0,
            valid: 0,
            opcode: 0,
            instruction: 0,
            instruction_selector: 0,
            operand: 0,
            operand_selector: 0,
        };
    }
}

/// FNINIT.
fn initialize(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    available(core)?;
    core.x87.initialize();
    core.next(env, op)
}

/// FNCLEX.
fn clear_exceptions(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    available(core)?;
    core.x87.status &= !(Flags::ALL | STACK_FAULT | SUMMARY | BUSY);
    core.next(env, op)
}

/// FLDCW.
fn load_control(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready(core)?;
    let value = core.load(env, op)?;
    core.x87.set_control(value);
    core.next_after_access(env, op)
}

/// FNSTCW.
fn store_control(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    available(core)?;
    let value = core.x87.control;
    core.store(env, op, value)?;
    core.next_after_access(env, op)
}

/// FNSTSW to memory.
fn store_status(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    available(core)?;
    let value = core.x87.status;
    core.store(env, op, value)?;
    core.next_after_access(env, op)
}

/// FNSTSW AX.
fn status_to_ax(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    available(core)?;
    let value = core.x87.status;
    core.set_reg(0, value);
    core.next(env, op)
}

/// FWAIT: #NM only if both CR0.MP and CR0.TS are set, whatever CR0.EM says.
fn wait(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if core.cr0 & cr0::MP != 0 && core.cr0 & cr0::TS != 0 {
        return core.raise(Fault::NO_DEVICE);
    }
    pending(core)?;
    core.next(env, op)
}

/// FNENI, FNDISI, FNSETPM.
fn nothing(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    available(core)?;
    core.next(env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Handler> {
    Some(match insn.code() {
        Code::Fninit => initialize,
        Code::Fnclex => clear_exceptions,
        Code::Fldcw_m2byte => load_control,
        Code::Fnstcw_m2byte => store_control,
        Code::Fnstsw_m2byte => store_status,
        Code::Fnstsw_AX => status_to_ax,
        Code::Wait => wait,
        Code::Fneni | Code::Fndisi | Code::Fnsetpm => nothing,
        _ => return None,
    })
}
