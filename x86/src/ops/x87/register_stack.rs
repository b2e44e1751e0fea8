//! The register stack, and the instructions that do no more than move registers in it.
//!
//! Does: TOP, empty registers, stack overflow and underflow with their masked responses; FXCH,
//! FCMOVcc, FINCSTP, FDECSTP, FFREE, FFREEP, FNOP. Does not: the tag word, which `environment`
//! computes from the registers.
//!
//! Invariant: bit `i` of `valid` belongs to physical register `i`, and ST(j) is physical register
//! TOP + j; an empty register keeps its last value, which MMX and FXSAVE can see.

use iced_x86::{Code, Instruction};

use super::status::{C1, begin};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::flags::{CF, PF, ZF};
use crate::op::{Flow, Handler, Op};
use crate::softfloat::{Control, F80, Flags};
use crate::state::X87State;

/// Where TOP lies in the status word.
const TOP_SHIFT: u32 = 11;

impl X87State {
    /// Number of the physical register that ST(i) is.
    pub(super) fn physical(&self, i: u8) -> usize {
        usize::from((self.status >> TOP_SHIFT) + u16::from(i)) & 7
    }

    /// The value in ST(i), be it empty or not.
    pub(super) fn raw(&self, i: u8) -> F80 {
        self.registers[self.physical(i)]
    }

    /// The value of ST(i) unless it is empty.
    pub(super) fn get(&self, i: u8) -> Option<F80> {
        let physical = self.physical(i);
        (self.valid >> physical & 1 != 0).then(|| self.registers[physical])
    }

    /// The values of ST0 and ST(i) unless one is empty.
    pub(super) fn get_with(&self, i: u8) -> Option<(F80, F80)> {
        Some((self.get(0)?, self.get(i)?))
    }

    /// Sets ST(i), which is not empty then.
    pub(super) fn set(&mut self, i: u8, value: F80) {
        let physical = self.physical(i);
        self.registers[physical] = value;
        self.valid |= 1 << physical;
    }

    /// Makes ST(i) empty.
    pub(super) fn free(&mut self, i: u8) {
        self.valid &= !(1 << self.physical(i));
    }

    /// Adds to TOP, modulo 8.
    pub(super) fn turn(&mut self, by: u16) {
        let top = (self.status >> TOP_SHIFT).wrapping_add(by) & 7;
        self.status = self.status & !(7 << TOP_SHIFT) | top << TOP_SHIFT;
    }

    /// Makes ST0 empty and takes it off the stack.
    pub(super) fn pop(&mut self) {
        self.free(0);
        self.turn(1);
    }

    /// True if a push would overflow.
    pub(super) fn full(&self) -> bool {
        self.get(7).is_some()
    }

    /// Puts a value on the stack, which is not full.
    pub(in crate::ops) fn push(&mut self, value: F80) {
        self.turn(7);
        self.set(0, value);
    }

    /// What a push onto a full stack does: an indefinite on top of it, if that is masked.
    pub(super) fn overflow(&mut self) {
        if self.stack_fault(true) {
            self.push(F80::INDEFINITE);
        }
    }

    /// What an empty operand does to the result in ST(i): an indefinite there, if that is masked.
    /// True if so, that is, if the instruction goes on.
    pub(super) fn underflow(&mut self, i: u8) -> bool {
        let masked = self.stack_fault(false);
        if masked {
            self.set(i, F80::INDEFINITE);
        }
        masked
    }

    /// Writes a result to ST(i) and reports, unless an unmasked exception forbids to write. True
    /// if the instruction goes on.
    pub(super) fn deliver(&mut self, i: u8, value: F80, control: &Control, flags: &Flags) -> bool {
        self.report(flags);
        let written = !flags.blocks_register(control);
        if written {
            self.set(i, value);
        }
        written
    }
}

/// FXCH. Registers that are empty become indefinites first, if that is masked.
fn exchange(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    let (a, b) = (x87.get(0), x87.get(op.src));
    if a.is_some() && b.is_some() {
        x87.set_codes(C1, 0);
    } else if !x87.stack_fault(false) {
        return core.next(env, op);
    }
    x87.set(0, b.unwrap_or(F80::INDEFINITE));
    x87.set(op.src, a.unwrap_or(F80::INDEFINITE));
    core.next(env, op)
}

/// FCMOVcc if any of `FLAGS` is set, or with `NOT` if none is. Empty registers are a fault whether
/// the condition holds or not.
fn conditional_move<const FLAGS: u64, const NOT: bool>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    begin(core, op)?;
    let holds = core.flags.value() & FLAGS != 0;
    match core.x87.get_with(op.src) {
        None => {
            core.x87.underflow(0);
        }
        Some((_, value)) if holds != NOT => core.x87.set(0, value),
        Some(_) => {}
    }
    core.next(env, op)
}

/// FINCSTP with 1, FDECSTP with 7.
fn turn<const BY: u16>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    core.x87.turn(BY);
    core.x87.set_codes(C1, 0);
    core.next(env, op)
}

/// FFREE and, with `POP`, FFREEP.
fn free<const POP: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    core.x87.free(op.src);
    core.x87.set_codes(C1, 0);
    if POP {
        core.x87.pop();
    }
    core.next(env, op)
}

/// FNOP.
fn nothing(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    core.next(env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Handler> {
    Some(match insn.code() {
        Code::Fxch_st0_sti | Code::Fxch_st0_sti_DDC8 | Code::Fxch_st0_sti_DFC8 => exchange,
        Code::Fcmovb_st0_sti => conditional_move::<CF, false>,
        Code::Fcmove_st0_sti => conditional_move::<ZF, false>,
        Code::Fcmovbe_st0_sti => conditional_move::<{ CF | ZF }, false>,
        Code::Fcmovu_st0_sti => conditional_move::<PF, false>,
        Code::Fcmovnb_st0_sti => conditional_move::<CF, true>,
        Code::Fcmovne_st0_sti => conditional_move::<ZF, true>,
        Code::Fcmovnbe_st0_sti => conditional_move::<{ CF | ZF }, true>,
        Code::Fcmovnu_st0_sti => conditional_move::<PF, true>,
        Code::Fincstp => turn::<1>,
        Code::Fdecstp => turn::<7>,
        Code::Ffree_sti => free::<false>,
        Code::Ffreep_sti => free::<true>,
        Code::Fnop => nothing,
        _ => return None,
    })
}
