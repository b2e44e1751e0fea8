//! CMPXCHG, CMPXCHG8B, CMPXCHG16B, XADD.
//!
//! Does: compare or add, and exchange. LOCK adds nothing: every instruction is atomic here.
//!
//! Invariant: the memory operand is written whatever the comparison says (the old value, if it
//! failed), as on hardware: the page becomes dirty, and a read-only page faults.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::gpr::{RAX, RBX, RCX, RDX};
use super::memory::with_modified;
use super::{sized, width};
use crate::core::Core;
use crate::decode::operands::gpr;
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Op, Selected};
use crate::word::Word;

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    let run = match insn.mnemonic() {
        Mnemonic::Cmpxchg8b => return Selected::inline(compare_exchange_8),
        Mnemonic::Cmpxchg16b => return Selected::inline(compare_exchange_16),
        Mnemonic::Cmpxchg | Mnemonic::Xadd => {
            op.src = gpr(insn.op1_register());
            let bytes = width(insn, 0);
            let exchange = insn.mnemonic() == Mnemonic::Cmpxchg;
            if insn.op0_kind() == OpKind::Memory {
                if exchange {
                    sized!(bytes, compare_exchange_memory)
                } else {
                    sized!(bytes, add_memory)
                }
            } else {
                op.dst = gpr(insn.op0_register());
                if exchange {
                    sized!(bytes, compare_exchange_register)
                } else {
                    sized!(bytes, add_register)
                }
            }
        }
        _ => return None,
    };
    Selected::inline(run)
}

/// Compares the accumulator with `old`; true if they are equal.
#[inline(always)]
fn compare<T: Word>(core: &mut Core, old: T) -> bool {
    let accumulator = core.reg::<T>(RAX);
    let difference = T::from64(accumulator.to64().wrapping_sub(old.to64()));
    core.flags.set_sub(accumulator, old, difference);
    accumulator == old
}

fn compare_exchange_memory<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_modified::<T>(core, env, op, |core, op, old| {
        if compare(core, old) {
            core.operand::<T>(op.src)
        } else {
            core.set_reg(RAX, old);
            old
        }
    })
}

fn compare_exchange_register<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let old = core.operand::<T>(op.dst);
    if compare(core, old) {
        let new = core.operand::<T>(op.src);
        core.set_operand(op.dst, new);
    } else {
        core.set_reg(RAX, old);
    }
    core.next(env, op)
}

fn compare_exchange_8(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let (old, place) = core.load_to_modify::<u64>(env, op)?;
    let pair = |core: &Core, high, low| {
        u64::from(core.reg::<u32>(high)) << 32 | u64::from(core.reg::<u32>(low))
    };
    let equal = old == pair(core, RDX, RAX);
    let new = if equal { pair(core, RCX, RBX) } else { old };
    core.store_back(env, place, new)?;
    if !equal {
        core.set_reg(RAX, old as u32);
        core.set_reg(RDX, (old >> 32) as u32);
    }
    core.flags.set_zf(equal);
    core.next_after_access(env, op)
}

fn compare_exchange_16(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let linear = core.linear(op, 16, true)?;
    if linear & 15 != 0 {
        return core.raise(Fault::protection(0));
    }
    core.check_write(env, linear, 16, op.seg)?;
    let old = u128::from_le_bytes(core.read_bytes(env, linear, op.seg)?);
    let pair = |core: &Core, high, low| {
        u128::from(core.reg::<u64>(high)) << 64 | u128::from(core.reg::<u64>(low))
    };
    let equal = old == pair(core, RDX, RAX);
    let new = if equal { pair(core, RCX, RBX) } else { old };
    core.write_bytes(env, linear, op.seg, &new.to_le_bytes())?;
    if !equal {
        core.set_reg(RAX, old as u64);
        core.set_reg(RDX, (old >> 64) as u64);
    }
    core.flags.set_zf(equal);
    core.next_after_access(env, op)
}

#[inline(always)]
fn add<T: Word>(core: &mut Core, a: T, b: T) -> T {
    let sum = T::from64(a.to64().wrapping_add(b.to64()));
    core.flags.set_add(a, b, sum);
    sum
}

fn add_memory<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_modified::<T>(core, env, op, |core, op, old| {
        let addend = core.operand::<T>(op.src);
        let sum = add(core, old, addend);
        core.set_operand(op.src, old);
        sum
    })
}

/// The source gets the old value first, so that XADD of a register with itself leaves the sum.
fn add_register<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let (old, addend) = (core.operand::<T>(op.dst), core.operand::<T>(op.src));
    let sum = add(core, old, addend);
    core.set_operand(op.src, old);
    core.set_operand(op.dst, sum);
    core.next(env, op)
}
