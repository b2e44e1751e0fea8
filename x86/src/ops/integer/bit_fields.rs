//! BMI1 and BMI2: ANDN BLSI BLSMSK BLSR BEXTR, BZHI PDEP PEXT MULX RORX SARX SHLX SHRX.
//!
//! Does: every form, of 32 and 64 bits. Does not: TZCNT (`bits`), which has a legacy encoding.
//!
//! Invariant: all of these have a VEX prefix, and raise #UD in real and virtual-8086 mode.

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use super::gpr::RDX;
use super::memory::with_loaded;
use crate::core::Core;
use crate::decode::operands::{gpr, immediate};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::flags::Flags;
use crate::op::{CodeSize, Flow, Handler, Op, Selected};
use crate::word::Word;

/// An operation. Flags that are left undefined are those of a logical operation: PF of the result,
/// AF 0.
trait Operation: 'static {
    /// The result of `source` (a register or memory) and `other` (a register or an immediate).
    fn apply<T: Word>(flags: &mut Flags, source: T, other: T) -> T;
}

macro_rules! operation {
    ($(#[$doc:meta])* $name:ident, |$flags:ident, $source:ident, $other:ident| $body:block) => {
        $(#[$doc])*
        struct $name;
        impl Operation for $name {
            #[inline(always)]
            fn apply<T: Word>($flags: &mut Flags, $source: T, $other: T) -> T $body
        }
    };
}

operation!(AndNot, |flags, source, other| {
    let result = T::from64(!other.to64() & source.to64());
    flags.set_logic(result);
    result
});
operation!(
    /// BLSI. The destination is the other operand, whose value does not count.
    LowestSet,
    |flags, source, _other| {
        let source = source.to64();
        let result = T::from64(source & source.wrapping_neg());
        flags.set_result(result, source != 0, false, false);
        result
    }
);
operation!(
    /// BLSMSK.
    MaskToLowestSet,
    |flags, source, _other| {
        let source = source.to64();
        let result = T::from64(source ^ source.wrapping_sub(1));
        flags.set_result(result, source == 0, false, false);
        result
    }
);
operation!(
    /// BLSR.
    ResetLowestSet,
    |flags, source, _other| {
        let source = source.to64();
        let result = T::from64(source & source.wrapping_sub(1));
        flags.set_result(result, source == 0, false, false);
        result
    }
);
operation!(
    /// BEXTR.
    Extract,
    |flags, source, other| {
        let (start, length) = (other.to64() & 0xff, other.to64() >> 8 & 0xff);
        let shifted = source.to64().checked_shr(start as u32).unwrap_or(0);
        let result = T::from64(below(shifted, length));
        flags.set_logic(result);
        result
    }
);
operation!(
    /// BZHI.
    ZeroHigh,
    |flags, source, other| {
        let length = other.to64() & 0xff;
        let result = T::from64(below(source.to64(), length));
        flags.set_result(result, length >= u64::from(T::BITS), false, false);
        result
    }
);
operation!(
    /// PDEP: the source is the mask.
    Deposit,
    |_flags, source, other| {
        let (mut mask, mut bits, mut result) = (source.to64(), other.to64(), 0);
        while mask != 0 {
            if bits & 1 != 0 {
                result |= mask & mask.wrapping_neg();
            }
            mask &= mask - 1;
            bits >>= 1;
        }
        T::from64(result)
    }
);
operation!(
    /// PEXT: the source is the mask.
    Gather,
    |_flags, source, other| {
        let (mut mask, mut result, mut place) = (source.to64(), 0, 0);
        while mask != 0 {
            if other.to64() & mask & mask.wrapping_neg() != 0 {
                result |= 1 << place;
            }
            mask &= mask - 1;
            place += 1;
        }
        T::from64(result)
    }
);
operation!(
    /// RORX.
    RotateRight,
    |_flags, source, other| {
        let count = other.to64() as u32 & (T::BITS - 1);
        let source = source.to64();
        let wrapped = if count == 0 { 0 } else { source << (T::BITS - count) };
        T::from64(source >> count | wrapped)
    }
);
operation!(
    /// SARX.
    ShiftSigned,
    |_flags, source, other| {
        let count = other.to64() as u32 & (T::BITS - 1);
        T::from64((source.sign64() as i64 >> count) as u64)
    }
);
operation!(
    /// SHLX.
    ShiftLeft,
    |_flags, source, other| {
        let count = other.to64() as u32 & (T::BITS - 1);
        T::from64(source.to64() << count)
    }
);
operation!(
    /// SHRX.
    ShiftRight,
    |_flags, source, other| {
        let count = other.to64() as u32 & (T::BITS - 1);
        T::from64(source.to64() >> count)
    }
);

/// The low `length` bits of `value`.
fn below(value: u64, length: u64) -> u64 {
    if length > 63 {
        value
    } else {
        value & ((1 << length) - 1)
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    Selected::inline(match insn.mnemonic() {
        M::Andn => operation::<AndNot>(insn, op),
        M::Blsi => operation::<LowestSet>(insn, op),
        M::Blsmsk => operation::<MaskToLowestSet>(insn, op),
        M::Blsr => operation::<ResetLowestSet>(insn, op),
        M::Bextr => operation::<Extract>(insn, op),
        M::Bzhi => operation::<ZeroHigh>(insn, op),
        M::Pdep => operation::<Deposit>(insn, op),
        M::Pext => operation::<Gather>(insn, op),
        M::Rorx => operation::<RotateRight>(insn, op),
        M::Sarx => operation::<ShiftSigned>(insn, op),
        M::Shlx => operation::<ShiftLeft>(insn, op),
        M::Shrx => operation::<ShiftRight>(insn, op),
        M::Mulx => multiply(insn, op),
        _ => return None,
    })
}

/// The source is the register or memory operand that VEX.vvvv does not name: the second or the
/// third. What remains goes to `Op::aux`.
fn operation<O: Operation>(insn: &Instruction, op: &mut Op) -> Handler {
    let wide = insn.op0_register().is_gpr64();
    op.dst = gpr(insn.op0_register());
    op.aux = op.dst;
    let source = match insn.mnemonic() {
        M::Andn | M::Pdep | M::Pext => {
            op.aux = gpr(insn.op1_register());
            2
        }
        M::Rorx => {
            op.imm = immediate(insn, 2);
            1
        }
        _ => {
            if insn.op_count() > 2 {
                op.aux = gpr(insn.op2_register());
            }
            1
        }
    };
    if insn.op_kind(source) == OpKind::Memory {
        return match (wide, insn.mnemonic() == M::Rorx) {
            (false, false) => memory::<O, u32, false>,
            (true, false) => memory::<O, u64, false>,
            (false, true) => memory::<O, u32, true>,
            (true, true) => memory::<O, u64, true>,
        };
    }
    op.src = gpr(insn.op_register(source));
    match (wide, insn.mnemonic() == M::Rorx) {
        (false, false) => register::<O, u32, false>,
        (true, false) => register::<O, u64, false>,
        (false, true) => register::<O, u32, true>,
        (true, true) => register::<O, u64, true>,
    }
}

/// Raises #UD where there is no VEX prefix.
#[inline(always)]
fn ready(core: &mut Core) -> Exec<()> {
    if core.in_64bit() || core.protected() && !core.v8086() {
        return Ok(());
    }
    core.raise(Fault::UNDEFINED)
}

#[inline(always)]
fn apply<O: Operation, T: Word, const IMMEDIATE: bool>(core: &mut Core, op: &Op, source: T) {
    let other = if IMMEDIATE {
        T::from64(op.imm)
    } else {
        core.reg::<T>(op.aux)
    };
    let result = O::apply(&mut core.flags, source, other);
    core.set_reg(op.dst, result);
}

fn register<O: Operation, T: Word, const IMMEDIATE: bool>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready(core)?;
    let source = core.reg::<T>(op.src);
    apply::<O, T, IMMEDIATE>(core, op, source);
    core.next(env, op)
}

fn memory<O: Operation, T: Word, const IMMEDIATE: bool>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready(core)?;
    with_loaded::<T>(core, env, op, apply::<O, T, IMMEDIATE>)
}

// ---- MULX ----------------------------------------------------------------------------------

/// MULX: `Op::dst` gets the high half, `Op::aux` the low one.
fn multiply(insn: &Instruction, op: &mut Op) -> Handler {
    let wide = insn.op0_register().is_gpr64();
    op.dst = gpr(insn.op0_register());
    op.aux = gpr(insn.op1_register());
    if insn.op2_kind() == OpKind::Memory {
        return if wide {
            multiply_memory::<u64>
        } else {
            multiply_memory::<u32>
        };
    }
    op.src = gpr(insn.op2_register());
    if wide {
        multiply_register::<u64>
    } else {
        multiply_register::<u32>
    }
}

/// The high half is written last: it stays if both go to one register.
#[inline(always)]
fn multiply_by<T: Word>(core: &mut Core, op: &Op, source: T) {
    let product = u128::from(source.to64()) * u128::from(core.reg::<T>(RDX).to64());
    core.set_reg(op.aux, T::from64(product as u64));
    core.set_reg(op.dst, T::from64((product >> T::BITS) as u64));
}

fn multiply_register<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready(core)?;
    let source = core.reg::<T>(op.src);
    multiply_by(core, op, source);
    core.next(env, op)
}

fn multiply_memory<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready(core)?;
    with_loaded::<T>(core, env, op, multiply_by::<T>)
}
