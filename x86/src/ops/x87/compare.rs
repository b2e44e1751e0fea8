//! Comparisons and classification.
//!
//! Does: FCOM, FUCOM, FICOM, FCOMI, FUCOMI with their popping forms, FTST, FXAM.
//! Does not: decide the order; that is `softfloat`.
//!
//! Invariant: the outcome is written even if an unmasked exception keeps the instruction from
//! popping. An empty operand is unordered.

use iced_x86::{Code, Instruction};

use super::formats::{Double, Int16, Int32, Single, Source};
use super::status::{C0, C1, C2, C3, begin, note_with_operand, ready};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::flags::{AF, CF, OF, PF, SF, ZF};
use crate::op::{Flow, Handler, Op};
use crate::softfloat::{self, Class, Comparison, F80, Flags, Operand, Ordering};

/// Which NaNs are invalid, as a constant parameter: all (FCOM).
const ORDERED: bool = true;
/// Only signaling NaNs are invalid (FUCOM).
const UNORDERED: bool = false;

/// Compares, reports, and pops `pops` times unless an unmasked exception forbids.
fn compare(core: &mut Core, operands: Option<(F80, Operand)>, ordered: bool, pops: u8) -> Ordering {
    let x87 = &mut core.x87;
    let (outcome, done) = match operands {
        None => (Ordering::Unordered, x87.stack_fault(false)),
        Some((a, b)) => {
            let kind = if ordered {
                Comparison::Ordered
            } else {
                Comparison::Unordered
            };
            let (control, mut flags) = (x87.steering(), Flags::default());
            let outcome = softfloat::compare(a, b, kind, &control, &mut flags);
            x87.report(&flags);
            (outcome, !flags.blocks_register(&control))
        }
    };
    if done {
        for _ in 0..pops {
            x87.pop();
        }
    }
    outcome
}

/// The outcome in C3, C2 and C0.
fn set_codes(core: &mut Core, outcome: Ordering) {
    let bits = u16::from(outcome.c3_c2_c0());
    let codes = bits >> 2 << 14 | (bits >> 1 & 1) << 10 | (bits & 1) << 8;
    core.x87.set_codes(C0 | C2 | C3, codes);
}

/// ST0 and ST(i), unless one is empty.
fn registers(core: &Core, i: u8) -> Option<(F80, Operand)> {
    let (a, b) = core.x87.get_with(i)?;
    Some((a, b.into()))
}

/// FCOM, FCOMP, FICOM and FICOMP with memory.
fn with_memory<M: Source, const POPS: u8>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready(core)?;
    let image = M::read(core, env, op)?;
    note_with_operand(core, op);
    let operands = core.x87.get(0).map(|a| (a, M::operand(image)));
    let outcome = compare(core, operands, ORDERED, POPS);
    set_codes(core, outcome);
    core.next_after_access(env, op)
}

/// FCOM, FUCOM and their popping forms with ST(i).
fn with_register<const KIND: bool, const POPS: u8>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    begin(core, op)?;
    let outcome = compare(core, registers(core, op.src), KIND, POPS);
    set_codes(core, outcome);
    core.next(env, op)
}

/// FCOMPP and FUCOMPP.
fn twice_popping<const KIND: bool>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let outcome = compare(core, registers(core, 1), KIND, 2);
    set_codes(core, outcome);
    core.next(env, op)
}

/// FTST.
fn with_zero(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let operands = core.x87.get(0).map(|a| (a, F80::ZERO.into()));
    let outcome = compare(core, operands, ORDERED, 0);
    set_codes(core, outcome);
    core.next(env, op)
}

/// FCOMI, FUCOMI and their popping forms: ZF, PF and CF are the outcome; OF, SF and AF are clear.
fn into_flags<const KIND: bool, const POPS: u8>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    begin(core, op)?;
    let outcome = compare(core, registers(core, op.src), KIND, POPS);
    let bits = u64::from(outcome.c3_c2_c0());
    let flag = |bit: u64, flag: u64| if bits & bit != 0 { flag } else { 0 };
    let status = flag(4, ZF) | flag(2, PF) | flag(1, CF);
    let kept = core.flags.value() & !(OF | SF | ZF | AF | PF | CF);
    core.flags.set_value(kept | status);
    core.next(env, op)
}

/// FXAM. C1 is the sign of the register, be it empty or not.
fn examine(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    begin(core, op)?;
    let class = match core.x87.get(0).map(F80::class) {
        None => C3 | C0,
        Some(Class::Unsupported) => 0,
        Some(Class::Nan) => C0,
        Some(Class::Normal) => C2,
        Some(Class::Infinity) => C2 | C0,
        Some(Class::Zero) => C3,
        Some(Class::Denormal) => C3 | C2,
    };
    let sign = if core.x87.raw(0).is_negative() { C1 } else { 0 };
    core.x87.set_codes(C0 | C1 | C2 | C3, class | sign);
    core.next(env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Handler> {
    Some(match insn.code() {
        Code::Fcom_m32fp => with_memory::<Single, 0>,
        Code::Fcomp_m32fp => with_memory::<Single, 1>,
        Code::Fcom_m64fp => with_memory::<Double, 0>,
        Code::Fcomp_m64fp => with_memory::<Double, 1>,
        Code::Ficom_m16int => with_memory::<Int16, 0>,
        Code::Ficomp_m16int => with_memory::<Int16, 1>,
        Code::Ficom_m32int => with_memory::<Int32, 0>,
        Code::Ficomp_m32int => with_memory::<Int32, 1>,
        Code::Fcom_st0_sti | Code::Fcom_st0_sti_DCD0 => with_register::<ORDERED, 0>,
        Code::Fcomp_st0_sti | Code::Fcomp_st0_sti_DCD8 | Code::Fcomp_st0_sti_DED0 => {
            with_register::<ORDERED, 1>
        }
        Code::Fucom_st0_sti => with_register::<UNORDERED, 0>,
        Code::Fucomp_st0_sti => with_register::<UNORDERED, 1>,
        Code::Fcompp => twice_popping::<ORDERED>,
        Code::Fucompp => twice_popping::<UNORDERED>,
        Code::Fcomi_st0_sti => into_flags::<ORDERED, 0>,
        Code::Fcomip_st0_sti => into_flags::<ORDERED, 1>,
        Code::Fucomi_st0_sti => into_flags::<UNORDERED, 0>,
        Code::Fucomip_st0_sti => into_flags::<UNORDERED, 1>,
        Code::Ftst => with_zero,
        Code::Fxam => examine,
        _ => return None,
    })
}
