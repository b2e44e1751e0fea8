//! Single elements in and out: PEXTR*, PINSR*, EXTRACTPS, INSERTPS.

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use super::operands::{
    Form, Gpr32, Gpr64, Legacy, Mem8, Mem16, Mem32, Mem64, Register, Source, after, by_narrow_form,
    by_source, enter_mmx, first, mmx, mmx_ready, ready, set, set_mmx, xmm,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};
use crate::word::Word;

// ---- out -----------------------------------------------------------------------------------

/// The element that the immediate selects; its excess bits are ignored.
#[inline(always)]
fn element<T: Word>(core: &Core, op: &Op) -> u64 {
    let count = 128 / T::BITS;
    let shift = T::BITS * (op.imm as u32 & (count - 1));
    T::from64((xmm(core, op.src) >> shift) as u64).to64()
}

/// To a general register, zero-extended.
fn extract<F: Form, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    core.set_reg(op.dst, element::<T>(core, op));
    core.next(env, op)
}

/// To memory.
fn extract_to_memory<F: Form, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let value = element::<T>(core, op);
    core.store(env, op, T::from64(value))?;
    core.next_after_access(env, op)
}

/// PEXTRW from an MMX register.
fn extract_mmx(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let word = (mmx(core, op.src) >> (16 * (op.imm & 3))) as u16;
    enter_mmx(core);
    core.set_reg(op.dst, u64::from(word));
    core.next(env, op)
}

fn select_extract<T: Word>(insn: &Instruction) -> Option<Selected> {
    Selected::inline(if insn.op0_kind() == OpKind::Memory {
        by_narrow_form!(insn, extract_to_memory, T)
    } else {
        by_narrow_form!(insn, extract, T)
    })
}

// ---- in ------------------------------------------------------------------------------------

/// The low `T` of the source in the place that the immediate selects.
fn insert<F: Form, T: Word, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let [value, _] = S::load::<F>(core, env, op)?;
    let count = 128 / T::BITS;
    let shift = T::BITS * (op.imm as u32 & (count - 1));
    let ones = u128::from(T::MASK);
    let [a, _] = first::<F>(core, op);
    set::<F>(
        core,
        op.dst,
        [a & !(ones << shift) | (value & ones) << shift, 0],
    );
    after::<S>(core, env, op)
}

/// PINSRW into an MMX register.
fn insert_mmx<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let [value, _] = S::load::<Legacy>(core, env, op)?;
    let shift = 16 * (op.imm & 3);
    let rest = mmx(core, op.dst) & !(0xffff << shift);
    set_mmx(core, op.dst, rest | (value as u64 & 0xffff) << shift);
    after::<S>(core, env, op)
}

/// INSERTPS: bits 7–6 choose the single of a register, 5–4 its place, 3–0 the zeros.
fn insert_single<F: Form, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let [b, _] = S::load::<F>(core, env, op)?;
    let selector = op.imm as u32;
    let from = if S::MEMORY { 0 } else { selector >> 6 & 3 };
    let single = u128::from((b >> (32 * from)) as u32);
    let place = 32 * (selector >> 4 & 3);
    let [a, _] = first::<F>(core, op);
    let mut result = a & !(0xffff_ffff << place) | single << place;
    for n in 0..4 {
        if selector >> n & 1 != 0 {
            result &= !(0xffff_ffff << (32 * n));
        }
    }
    set::<F>(core, op.dst, [result, 0]);
    after::<S>(core, env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Pextrw if insn.op1_register().is_mm() => Selected::inline(extract_mmx),
        M::Pextrb | M::Vpextrb => select_extract::<u8>(insn),
        M::Pextrw | M::Vpextrw => select_extract::<u16>(insn),
        M::Pextrd | M::Vpextrd | M::Extractps | M::Vextractps => select_extract::<u32>(insn),
        M::Pextrq | M::Vpextrq => select_extract::<u64>(insn),
        M::Pinsrw if insn.op0_register().is_mm() => {
            by_source(insn, insert_mmx::<Gpr32>, insert_mmx::<Mem16>)
        }
        M::Pinsrb | M::Vpinsrb => by_source(
            insn,
            by_narrow_form!(insn, insert, u8, Gpr32),
            by_narrow_form!(insn, insert, u8, Mem8),
        ),
        M::Pinsrw | M::Vpinsrw => by_source(
            insn,
            by_narrow_form!(insn, insert, u16, Gpr32),
            by_narrow_form!(insn, insert, u16, Mem16),
        ),
        M::Pinsrd | M::Vpinsrd => by_source(
            insn,
            by_narrow_form!(insn, insert, u32, Gpr32),
            by_narrow_form!(insn, insert, u32, Mem32),
        ),
        M::Pinsrq | M::Vpinsrq => by_source(
            insn,
            by_narrow_form!(insn, insert, u64, Gpr64),
            by_narrow_form!(insn, insert, u64, Mem64),
        ),
        M::Insertps | M::Vinsertps => by_source(
            insn,
            by_narrow_form!(insn, insert_single, Register),
            by_narrow_form!(insn, insert_single, Mem32),
        ),
        _ => None,
    }
}
