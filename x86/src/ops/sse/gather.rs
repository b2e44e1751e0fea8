//! Loads from a vector of addresses: VPGATHER*, VGATHER*.
//!
//! Does: read the chosen elements in order, from the lowest. Does not: read one whose mask is not
//! negative.
//!
//! Invariant: what was read before a fault stays, and its mask is zero, so that the instruction
//! goes on where it was when it is executed again; the rest of both registers is unchanged.

use iced_x86::{Instruction, Mnemonic as M, Register};

use super::masked::{address, chosen, element, set_element};
use super::operands::{Form, Vex128, Vex256, get, ready, set};
use crate::core::Core;
use crate::decode::operands::{number, set_address_size};
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{CodeSize, Flow, Op, SLOT_ZERO, Selected};
use crate::word::Word;

/// Gathers `COUNT` elements of `T` by indices of `I`. `Op::src` is the vector of indices, `Op::aux`
/// the mask.
fn gather<F: Form, T: Word, I: Word, const COUNT: u32>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let indices = get::<Vex256>(core, op.src);
    let mut mask = get::<Vex256>(core, op.aux);
    let mut result = get::<Vex256>(core, op.dst);
    for n in 0..COUNT {
        if chosen::<T>(mask, n) {
            let index = I::from64(element::<I>(indices, n)).sign64();
            let offset = core.effective(op).wrapping_add(index << op.scale);
            let loaded = address(core, op, offset, T::BYTES, false)
                .and_then(|linear| core.read::<T>(env, linear, op.seg));
            match loaded {
                Ok(value) => set_element::<T>(&mut result, n, value.to64()),
                Err(raised) => {
                    set::<Vex256>(core, op.dst, result);
                    set::<Vex256>(core, op.aux, mask);
                    return Err(raised);
                }
            }
        }
        set_element::<T>(&mut mask, n, 0);
    }
    for n in COUNT..256 / T::BITS {
        set_element::<T>(&mut result, n, 0);
    }
    set::<Vex256>(core, op.dst, result);
    set::<Vex256>(core, op.aux, [0; 2]);
    core.next_after_access(env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    let wide = insn.op0_register().is_ymm();
    let run = match (insn.mnemonic(), wide) {
        (M::Vpgatherdd | M::Vgatherdps, false) => gather::<Vex128, u32, u32, 4>,
        (M::Vpgatherdd | M::Vgatherdps, true) => gather::<Vex256, u32, u32, 8>,
        (M::Vpgatherdq | M::Vgatherdpd, false) => gather::<Vex128, u64, u32, 2>,
        (M::Vpgatherdq | M::Vgatherdpd, true) => gather::<Vex256, u64, u32, 4>,
        // As many elements as there are indices.
        (M::Vpgatherqd | M::Vgatherqps, _) if insn.memory_index().is_ymm() => {
            gather::<Vex128, u32, u64, 4>
        }
        (M::Vpgatherqd | M::Vgatherqps, _) => gather::<Vex128, u32, u64, 2>,
        (M::Vpgatherqq | M::Vgatherqpd, false) => gather::<Vex128, u64, u64, 2>,
        (M::Vpgatherqq | M::Vgatherqpd, true) => gather::<Vex256, u64, u64, 4>,
        _ => return None,
    };
    op.dst = number(insn.op0_register());
    op.src = number(insn.memory_index());
    op.aux = number(insn.op2_register());
    op.index = SLOT_ZERO;
    if insn.memory_base() == Register::None {
        set_address_size(op, insn.memory_displ_size() as usize, size);
    }
    Selected::inline(run)
}
