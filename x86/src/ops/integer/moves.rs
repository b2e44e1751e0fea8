//! MOV, MOVZX, MOVSX, MOVSXD, MOVNTI, MOVBE, LEA, XCHG, BSWAP, XLAT.
//!
//! Does: move values between general registers, immediates and memory. Does not: touch flags, or
//! move segment, control and debug registers (`system`); exchanges that compare or add are in
//! `compare_exchange`.
//!
//! Invariant: a 32-bit destination register loses its upper half, a narrower one keeps it.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::gpr::{RAX, RBX};
use super::memory::{self, with_loaded, with_modified};
use super::{sized, sized_wide, width};
use crate::core::Core;
use crate::decode::operands::{gpr, immediate};
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{ADDRESS_16, ADDRESS_32, CodeSize, Flow, Handler, Op, Selected};
use crate::word::Word;

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    let run = match insn.mnemonic() {
        Mnemonic::Mov => return mov(insn, op),
        Mnemonic::Movnti => {
            op.src = gpr(insn.op1_register());
            sized_wide!(width(insn, 0), store)
        }
        Mnemonic::Lea => {
            op.dst = gpr(insn.op0_register());
            sized_wide!(width(insn, 0), lea)
        }
        Mnemonic::Movzx => extending::<Zero>(insn, op),
        Mnemonic::Movsx | Mnemonic::Movsxd => extending::<Sign>(insn, op),
        Mnemonic::Xchg => xchg(insn, op),
        Mnemonic::Bswap => {
            op.dst = gpr(insn.op0_register());
            sized_wide!(width(insn, 0), bswap)
        }
        Mnemonic::Xlatb => xlat,
        Mnemonic::Movbe if insn.op0_kind() == OpKind::Memory => {
            op.src = gpr(insn.op1_register());
            sized_wide!(width(insn, 0), store_reversed)
        }
        Mnemonic::Movbe => {
            op.dst = gpr(insn.op0_register());
            sized_wide!(width(insn, 0), load_reversed)
        }
        _ => return None,
    };
    Selected::inline(run)
}

fn mov(insn: &Instruction, op: &mut Op) -> Option<Selected> {
    let register = |n| insn.op_kind(n) == OpKind::Register;
    if register(0) && !insn.op0_register().is_gpr() || register(1) && !insn.op1_register().is_gpr()
    {
        return None;
    }
    let bytes = width(insn, 0);
    let run = match (insn.op0_kind(), insn.op1_kind()) {
        (OpKind::Register, OpKind::Register) => {
            op.dst = gpr(insn.op0_register());
            op.src = gpr(insn.op1_register());
            sized!(bytes, copy)
        }
        (OpKind::Register, OpKind::Memory) => {
            op.dst = gpr(insn.op0_register());
            sized!(bytes, load)
        }
        (OpKind::Memory, OpKind::Register) => {
            op.src = gpr(insn.op1_register());
            sized!(bytes, store)
        }
        (OpKind::Memory, _) => {
            op.imm = immediate(insn, 1);
            sized!(bytes, store_immediate)
        }
        _ => {
            op.dst = gpr(insn.op0_register());
            op.imm = immediate(insn, 1);
            sized!(bytes, set)
        }
    };
    Selected::inline(run)
}

fn copy<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.operand::<T>(op.src);
    core.set_operand(op.dst, value);
    core.next(env, op)
}

fn set<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    core.set_operand(op.dst, T::from64(op.imm));
    core.next(env, op)
}

fn load<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_loaded::<T>(core, env, op, |core, op, value| {
        core.set_operand(op.dst, value);
    })
}

fn store<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.operand::<T>(op.src);
    memory::store(core, env, op, value)
}

/// MOVBE from memory.
fn load_reversed<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_loaded::<T>(core, env, op, |core, op, value| {
        core.set_reg(op.dst, reversed(value));
    })
}

/// MOVBE to memory.
fn store_reversed<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = reversed(core.reg::<T>(op.src));
    memory::store(core, env, op, value)
}

/// The bytes in the other order.
fn reversed<T: Word>(value: T) -> T {
    T::from64(value.to64().swap_bytes() >> (64 - T::BITS))
}

fn store_immediate<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    memory::store(core, env, op, T::from64(op.imm))
}

fn lea<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let address = core.effective(op);
    core.set_reg(op.dst, T::from64(address));
    core.next(env, op)
}

/// How a narrow source fills a wide destination.
trait Extension: 'static {
    fn extend<S: Word>(value: S) -> u64;
}

struct Zero;
impl Extension for Zero {
    #[inline(always)]
    fn extend<S: Word>(value: S) -> u64 {
        value.to64()
    }
}

struct Sign;
impl Extension for Sign {
    #[inline(always)]
    fn extend<S: Word>(value: S) -> u64 {
        value.sign64()
    }
}

fn extending<E: Extension>(insn: &Instruction, op: &mut Op) -> Handler {
    op.dst = gpr(insn.op0_register());
    let to = width(insn, 0);
    if insn.op1_kind() == OpKind::Memory {
        return match width(insn, 1) {
            1 => sized_wide!(to, extend_memory, E, u8),
            2 => sized_wide!(to, extend_memory, E, u16),
            _ => sized_wide!(to, extend_memory, E, u32),
        };
    }
    op.src = gpr(insn.op1_register());
    match width(insn, 1) {
        1 => sized_wide!(to, extend_register, E, u8),
        2 => sized_wide!(to, extend_register, E, u16),
        _ => sized_wide!(to, extend_register, E, u32),
    }
}

fn extend_register<E: Extension, S: Word, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let value = E::extend(core.operand::<S>(op.src));
    core.set_reg(op.dst, T::from64(value));
    core.next(env, op)
}

fn extend_memory<E: Extension, S: Word, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    with_loaded::<S>(core, env, op, |core, op, value| {
        core.set_reg(op.dst, T::from64(E::extend(value)));
    })
}

fn xchg(insn: &Instruction, op: &mut Op) -> Handler {
    let bytes = width(insn, 0);
    match (insn.op0_kind(), insn.op1_kind()) {
        (OpKind::Memory, _) => {
            op.src = gpr(insn.op1_register());
            sized!(bytes, exchange_memory)
        }
        (_, OpKind::Memory) => {
            op.src = gpr(insn.op0_register());
            sized!(bytes, exchange_memory)
        }
        _ => {
            op.dst = gpr(insn.op0_register());
            op.src = gpr(insn.op1_register());
            sized!(bytes, exchange_registers)
        }
    }
}

fn exchange_registers<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let (a, b) = (core.operand::<T>(op.dst), core.operand::<T>(op.src));
    core.set_operand(op.dst, b);
    core.set_operand(op.src, a);
    core.next(env, op)
}

fn exchange_memory<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_modified::<T>(core, env, op, |core, op, old| {
        let new = core.operand::<T>(op.src);
        core.set_operand(op.src, old);
        new
    })
}

/// BSWAP of a 16-bit register is undefined: zero.
fn bswap<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.reg::<T>(op.dst).to64();
    let swapped = match T::BITS {
        64 => value.swap_bytes(),
        32 => u64::from((value as u32).swap_bytes()),
        _ => 0,
    };
    core.set_reg(op.dst, T::from64(swapped));
    core.next(env, op)
}

/// XLAT: AL from seg:[rBX + AL].
fn xlat(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let offset = core
        .reg::<u64>(RBX)
        .wrapping_add(u64::from(core.reg::<u8>(RAX)));
    let offset = if op.bits & ADDRESS_32 != 0 {
        offset & 0xffff_ffff
    } else if op.bits & ADDRESS_16 != 0 {
        offset & 0xffff
    } else {
        offset
    };
    let linear = core.segmented(op.seg, offset, 1, false)?;
    let value = core.read::<u8>(env, linear, op.seg)?;
    core.set_reg(RAX, value);
    core.next_after_access(env, op)
}
