//! Loads, stores and constants.
//!
//! Does: FLD, FST, FSTP, FILD, FIST, FISTP, FISTTP, FBLD, FBSTP, and FLD1 with its relatives.
//!
//! Invariant: a store that an unmasked exception blocks writes and pops nothing, but its operand
//! is checked all the same; a store that faults reports nothing.

use iced_x86::{Code, Instruction};

use super::formats::{Decimal, Double, Extended, Format, Int16, Int32, Int64, Single};
use super::status::{C1, begin, note_with_operand, ready};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Handler, Op};
use crate::softfloat::{Constant, Control, F80, Flags, Rounding};

/// FLD, FILD and FBLD from memory.
fn load<M: Format>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready(core)?;
    let image = M::read(core, env, op)?;
    note_with_operand(core, op);
    let x87 = &mut core.x87;
    if x87.full() {
        x87.overflow();
        return core.next_after_access(env, op);
    }
    let mut flags = Flags::default();
    let value = M::widen(image, &mut flags);
    x87.report(&flags);
    if !flags.blocks_load(&x87.steering()) {
        x87.push(value);
    }
    core.next_after_access(env, op)
}

/// FST, FIST, FBSTP and their popping forms to memory.
fn store<M: Format, const POP: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let control = core.x87.steering();
    store_under::<M, POP>(core, env, op, control)
}

/// FISTTP: FISTP with truncation.
fn store_truncated<M: Format>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let control = Control {
        rounding: Rounding::Zero,
        ..core.x87.steering()
    };
    store_under::<M, true>(core, env, op, control)
}

#[inline(always)]
fn store_under<M: Format, const POP: bool>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    control: Control,
) -> Exec<Flow> {
    ready(core)?;
    let source = core.x87.get(0);
    let mut flags = Flags::default();
    let image = M::narrow(source.unwrap_or(F80::INDEFINITE), &control, &mut flags);
    if source.is_none() {
        flags.exceptions = Flags::INVALID;
    }
    let blocked = flags.blocks_store(&control);
    if blocked {
        M::check(core, env, op)?;
    } else {
        M::write(core, env, op, image)?;
    }
    note_with_operand(core, op);
    if source.is_none() {
        core.x87.stack_fault(false);
    } else {
        core.x87.report(&flags);
    }
    if POP && !blocked {
        core.x87.pop();
    }
    core.next_after_access(env, op)
}

/// FLD ST(i). An empty register counts before a full stack.
fn load_register(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    match x87.get(op.src) {
        Some(_) if x87.full() => x87.overflow(),
        Some(value) => {
            x87.set_codes(C1, 0);
            x87.push(value);
        }
        None if x87.stack_fault(false) => x87.push(F80::INDEFINITE),
        None => {}
    }
    core.next(env, op)
}

/// FST ST(i) and FSTP ST(i).
fn store_register<const POP: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    let done = match x87.get(0) {
        Some(value) => {
            x87.set_codes(C1, 0);
            x87.set(op.src, value);
            true
        }
        None => x87.underflow(op.src),
    };
    if POP && done {
        x87.pop();
    }
    core.next(env, op)
}

/// FSTPNCE (D9 D8+i): FSTP that merely pops if ST0 is empty.
fn store_register_quietly(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    x87.set_codes(C1, 0);
    if let Some(value) = x87.get(0) {
        x87.set(op.src, value);
    }
    x87.pop();
    core.next(env, op)
}

/// FLD1 and its relatives: number `N` of [`CONSTANTS`].
fn load_constant<const N: usize>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let x87 = &mut core.x87;
    if x87.full() {
        x87.overflow();
    } else {
        x87.set_codes(C1, 0);
        x87.push(CONSTANTS[N].load(x87.steering().rounding));
    }
    core.next(env, op)
}

/// The constants, in the order of their opcodes D9 E8 to D9 EE.
const CONSTANTS: [Constant; 7] = [
    Constant::One,
    Constant::Log2Of10,
    Constant::Log2OfE,
    Constant::Pi,
    Constant::Log10Of2,
    Constant::LnOf2,
    Constant::Zero,
];

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Handler> {
    Some(match insn.code() {
        Code::Fld_m32fp => load::<Single>,
        Code::Fld_m64fp => load::<Double>,
        Code::Fld_m80fp => load::<Extended>,
        Code::Fild_m16int => load::<Int16>,
        Code::Fild_m32int => load::<Int32>,
        Code::Fild_m64int => load::<Int64>,
        Code::Fbld_m80bcd => load::<Decimal>,
        Code::Fst_m32fp => store::<Single, false>,
        Code::Fst_m64fp => store::<Double, false>,
        Code::Fist_m16int => store::<Int16, false>,
        Code::Fist_m32int => store::<Int32, false>,
        Code::Fstp_m32fp => store::<Single, true>,
        Code::Fstp_m64fp => store::<Double, true>,
        Code::Fstp_m80fp => store::<Extended, true>,
        Code::Fistp_m16int => store::<Int16, true>,
        Code::Fistp_m32int => store::<Int32, true>,
        Code::Fistp_m64int => store::<Int64, true>,
        Code::Fisttp_m16int => store_truncated::<Int16>,
        Code::Fisttp_m32int => store_truncated::<Int32>,
        Code::Fisttp_m64int => store_truncated::<Int64>,
        Code::Fbstp_m80bcd => store::<Decimal, true>,
        Code::Fld_sti => load_register,
        Code::Fst_sti => store_register::<false>,
        Code::Fstp_sti | Code::Fstp_sti_DFD0 | Code::Fstp_sti_DFD8 => store_register::<true>,
        Code::Fstpnce_sti => store_register_quietly,
        Code::Fld1 => load_constant::<0>,
        Code::Fldl2t => load_constant::<1>,
        Code::Fldl2e => load_constant::<2>,
        Code::Fldpi => load_constant::<3>,
        Code::Fldlg2 => load_constant::<4>,
        Code::Fldln2 => load_constant::<5>,
        Code::Fldz => load_constant::<6>,
        _ => return None,
    })
}
