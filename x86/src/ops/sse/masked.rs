//! Loads and stores of chosen elements: VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ.
//!
//! Does: reach only the elements whose mask is negative; others cannot fault. Does not: gather
//! (`gather`), or store single bytes (`moves`).
//!
//! Invariant: a store checks every chosen element before it writes one.

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use super::operands::{Form, Lanes, by_vex_form, get, ready, set};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{ADDRESS_16, ADDRESS_32, ADDRESS_SLOW, Flow, Op, Selected};
use crate::word::Word;

/// Element `n` of two lanes.
#[inline(always)]
pub(super) fn element<T: Word>(value: Lanes, n: u32) -> u64 {
    let per_lane = 128 / T::BITS;
    let lane = value[(n / per_lane) as usize & 1];
    T::from64((lane >> (T::BITS * (n % per_lane))) as u64).to64()
}

/// Sets element `n` of two lanes.
#[inline(always)]
pub(super) fn set_element<T: Word>(value: &mut Lanes, n: u32, element: u64) {
    let per_lane = 128 / T::BITS;
    let lane = &mut value[(n / per_lane) as usize & 1];
    let shift = T::BITS * (n % per_lane);
    *lane = *lane & !(u128::from(T::MASK) << shift) | u128::from(element & T::MASK) << shift;
}

/// True if element `n` of a mask is negative.
#[inline(always)]
pub(super) fn chosen<T: Word>(mask: Lanes, n: u32) -> bool {
    element::<T>(mask, n) >> (T::BITS - 1) != 0
}

/// Elements of `T` in a form.
fn count<F: Form, T: Word>() -> u32 {
    (if F::WIDE { 256 } else { 128 }) / T::BITS
}

/// Linear address of `size` bytes at `offset`, an effective address before it is cut to the address
/// size.
pub(super) fn address(core: &mut Core, op: &Op, offset: u64, size: u64, write: bool) -> Exec<u64> {
    if op.bits & ADDRESS_SLOW == 0 {
        return Ok(offset.wrapping_add(core.seg_base[usize::from(op.seg) & 7]));
    }
    let offset = if op.bits & ADDRESS_32 != 0 {
        offset & 0xffff_ffff
    } else if op.bits & ADDRESS_16 != 0 {
        offset & 0xffff
    } else {
        offset
    };
    core.segmented(op.seg, offset, size, write)
}

/// Chosen elements from memory, zeros elsewhere.
fn load<F: Form, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let mask = get::<F>(core, op.aux);
    let mut result = [0; 2];
    for n in (0..count::<F, T>()).filter(|&n| chosen::<T>(mask, n)) {
        let offset = core.effective(op).wrapping_add(u64::from(n) * T::BYTES);
        let linear = address(core, op, offset, T::BYTES, false)?;
        let value: T = core.read(env, linear, op.seg)?;
        set_element::<T>(&mut result, n, value.to64());
    }
    set::<F>(core, op.dst, result);
    core.next_after_access(env, op)
}

/// Chosen elements to memory.
fn store<F: Form, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let mask = get::<F>(core, op.aux);
    let value = get::<F>(core, op.src);
    let all = || (0..count::<F, T>()).filter(|&n| chosen::<T>(mask, n));
    let place = |core: &mut Core, n: u32| {
        let offset = core.effective(op).wrapping_add(u64::from(n) * T::BYTES);
        address(core, op, offset, T::BYTES, true)
    };
    for n in all() {
        let linear = place(core, n)?;
        core.check_write(env, linear, T::BYTES as usize, op.seg)?;
    }
    for n in all() {
        let linear = place(core, n)?;
        core.write(env, linear, op.seg, T::from64(element::<T>(value, n)))?;
    }
    core.next_after_access(env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    let stores = insn.op0_kind() == OpKind::Memory;
    Selected::inline(match insn.mnemonic() {
        M::Vmaskmovps | M::Vpmaskmovd if stores => by_vex_form!(insn, store, u32),
        M::Vmaskmovps | M::Vpmaskmovd => by_vex_form!(insn, load, u32),
        M::Vmaskmovpd | M::Vpmaskmovq if stores => by_vex_form!(insn, store, u64),
        M::Vmaskmovpd | M::Vpmaskmovq => by_vex_form!(insn, load, u64),
        _ => return None,
    })
}
