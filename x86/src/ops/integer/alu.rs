//! ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT, in all their forms.
//!
//! Does: one monomorphised handler for each operation, operand size and form.
//! Does not: decide how flags are kept (`flags`).
//!
//! Invariant: a read-modify-write is checked as a write before anything changes.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::memory::{with_loaded, with_modified};
use super::{sized, width};
use crate::core::Core;
use crate::decode::operands::{gpr, immediate};
use crate::env::Env;
use crate::fault::Exec;
use crate::flags::Flags;
use crate::op::{CodeSize, Flow, Handler, Op, Selected};
use crate::word::Word;

/// An operation on two operands.
trait Binary: 'static {
    /// False if only flags come out.
    const STORES: bool = true;
    /// The result; sets the flags.
    fn apply<T: Word>(flags: &mut Flags, a: T, b: T) -> T;
}

/// An operation on one operand.
trait Unary: 'static {
    /// The result; sets the flags.
    fn apply<T: Word>(flags: &mut Flags, a: T) -> T;
}

#[inline(always)]
fn sum<T: Word>(a: T, b: T, carry: bool) -> T {
    T::from64(
        a.to64()
            .wrapping_add(b.to64())
            .wrapping_add(u64::from(carry)),
    )
}

#[inline(always)]
fn difference<T: Word>(a: T, b: T, borrow: bool) -> T {
    T::from64(
        a.to64()
            .wrapping_sub(b.to64())
            .wrapping_sub(u64::from(borrow)),
    )
}

macro_rules! binary {
    ($name:ident, $stores:literal, |$flags:ident, $a:ident, $b:ident| $body:block) => {
        struct $name;
        impl Binary for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn apply<T: Word>($flags: &mut Flags, $a: T, $b: T) -> T $body
        }
    };
}

binary!(Add, true, |flags, a, b| {
    let result = sum(a, b, false);
    flags.set_add(a, b, result);
    result
});
binary!(Adc, true, |flags, a, b| {
    let result = sum(a, b, flags.cf());
    flags.set_add(a, b, result);
    result
});
binary!(Sub, true, |flags, a, b| {
    let result = difference(a, b, false);
    flags.set_sub(a, b, result);
    result
});
binary!(Sbb, true, |flags, a, b| {
    let result = difference(a, b, flags.cf());
    flags.set_sub(a, b, result);
    result
});
binary!(Cmp, false, |flags, a, b| {
    let result = difference(a, b, false);
    flags.set_sub(a, b, result);
    result
});
binary!(And, true, |flags, a, b| {
    let result = T::from64(a.to64() & b.to64());
    flags.set_logic(result);
    result
});
binary!(Or, true, |flags, a, b| {
    let result = T::from64(a.to64() | b.to64());
    flags.set_logic(result);
    result
});
binary!(Xor, true, |flags, a, b| {
    let result = T::from64(a.to64() ^ b.to64());
    flags.set_logic(result);
    result
});
binary!(Test, false, |flags, a, b| {
    let result = T::from64(a.to64() & b.to64());
    flags.set_logic(result);
    result
});

macro_rules! unary {
    ($name:ident, |$flags:ident, $a:ident| $body:block) => {
        struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn apply<T: Word>($flags: &mut Flags, $a: T) -> T $body
        }
    };
}

unary!(Inc, |flags, a| {
    let result = sum(a, T::from64(1), false);
    flags.set_inc(a, result);
    result
});
unary!(Dec, |flags, a| {
    let result = difference(a, T::from64(1), false);
    flags.set_dec(a, result);
    result
});
unary!(Neg, |flags, a| {
    let result = difference(T::from64(0), a, false);
    flags.set_sub(T::from64(0), a, result);
    result
});
unary!(Not, |_flags, a| { T::from64(!a.to64()) });

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    let run = match insn.mnemonic() {
        Mnemonic::Add => binary::<Add>(insn, op),
        Mnemonic::Or => binary::<Or>(insn, op),
        Mnemonic::Adc => binary::<Adc>(insn, op),
        Mnemonic::Sbb => binary::<Sbb>(insn, op),
        Mnemonic::And => binary::<And>(insn, op),
        Mnemonic::Sub if is_same_register(insn) => zeroing(insn, op),
        Mnemonic::Sub => binary::<Sub>(insn, op),
        Mnemonic::Xor if is_same_register(insn) => zeroing(insn, op),
        Mnemonic::Xor => binary::<Xor>(insn, op),
        Mnemonic::Cmp => binary::<Cmp>(insn, op),
        Mnemonic::Test if is_same_register(insn) => {
            op.dst = gpr(insn.op0_register());
            sized!(width(insn, 0), test_itself)
        }
        Mnemonic::Test => binary::<Test>(insn, op),
        Mnemonic::Inc => unary::<Inc>(insn, op),
        Mnemonic::Dec => unary::<Dec>(insn, op),
        Mnemonic::Neg => unary::<Neg>(insn, op),
        Mnemonic::Not => unary::<Not>(insn, op),
        _ => return None,
    };
    Selected::inline(run)
}

fn is_same_register(insn: &Instruction) -> bool {
    insn.op0_kind() == OpKind::Register
        && insn.op1_kind() == OpKind::Register
        && insn.op0_register() == insn.op1_register()
}

fn zeroing(insn: &Instruction, op: &mut Op) -> Handler {
    op.dst = gpr(insn.op0_register());
    sized!(width(insn, 0), zero)
}

fn binary<O: Binary>(insn: &Instruction, op: &mut Op) -> Handler {
    let bytes = width(insn, 0);
    match (insn.op0_kind(), insn.op1_kind()) {
        (OpKind::Register, OpKind::Register) => {
            op.dst = gpr(insn.op0_register());
            op.src = gpr(insn.op1_register());
            sized!(bytes, register_register, O)
        }
        (OpKind::Register, OpKind::Memory) => {
            op.dst = gpr(insn.op0_register());
            sized!(bytes, register_memory, O)
        }
        (OpKind::Memory, OpKind::Register) => {
            op.src = gpr(insn.op1_register());
            sized!(bytes, memory_register, O)
        }
        (OpKind::Memory, _) => {
            op.imm = immediate(insn, 1);
            sized!(bytes, memory_immediate, O)
        }
        _ => {
            op.dst = gpr(insn.op0_register());
            op.imm = immediate(insn, 1);
            sized!(bytes, register_immediate, O)
        }
    }
}

fn unary<O: Unary>(insn: &Instruction, op: &mut Op) -> Handler {
    let bytes = width(insn, 0);
    if insn.op0_kind() == OpKind::Memory {
        return sized!(bytes, unary_memory, O);
    }
    op.dst = gpr(insn.op0_register());
    sized!(bytes, unary_register, O)
}

fn register_register<O: Binary, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let (a, b) = (core.operand::<T>(op.dst), core.operand::<T>(op.src));
    let result = O::apply(&mut core.flags, a, b);
    if O::STORES {
        core.set_operand(op.dst, result);
    }
    core.next(env, op)
}

fn register_immediate<O: Binary, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let a = core.operand::<T>(op.dst);
    let result = O::apply(&mut core.flags, a, T::from64(op.imm));
    if O::STORES {
        core.set_operand(op.dst, result);
    }
    core.next(env, op)
}

fn register_memory<O: Binary, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_loaded::<T>(core, env, op, |core, op, b| {
        let a = core.operand::<T>(op.dst);
        let result = O::apply(&mut core.flags, a, b);
        if O::STORES {
            core.set_operand(op.dst, result);
        }
    })
}

fn memory_register<O: Binary, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if O::STORES {
        with_modified::<T>(core, env, op, |core, op, a| {
            let b = core.operand::<T>(op.src);
            O::apply(&mut core.flags, a, b)
        })
    } else {
        with_loaded::<T>(core, env, op, |core, op, a| {
            let b = core.operand::<T>(op.src);
            O::apply(&mut core.flags, a, b);
        })
    }
}

fn memory_immediate<O: Binary, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if O::STORES {
        with_modified::<T>(core, env, op, |core, op, a| {
            O::apply(&mut core.flags, a, T::from64(op.imm))
        })
    } else {
        with_loaded::<T>(core, env, op, |core, op, a| {
            O::apply(&mut core.flags, a, T::from64(op.imm));
        })
    }
}

fn unary_register<O: Unary, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let a = core.operand::<T>(op.dst);
    let result = O::apply(&mut core.flags, a);
    core.set_operand(op.dst, result);
    core.next(env, op)
}

fn unary_memory<O: Unary, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_modified::<T>(core, env, op, |core, _, a| O::apply(&mut core.flags, a))
}

/// XOR or SUB of a register with itself.
fn zero<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    core.set_operand(op.dst, T::from64(0));
    core.flags.set_logic(T::from64(0));
    core.next(env, op)
}

/// TEST of a register with itself.
fn test_itself<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.operand::<T>(op.dst);
    core.flags.set_logic(value);
    core.next(env, op)
}
