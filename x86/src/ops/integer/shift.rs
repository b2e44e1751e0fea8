//! SHL SHR SAR ROL ROR RCL RCR SHLD SHRD.
//!
//! Does: shifts and rotates by one, an immediate or CL. Counts are taken modulo 32, or 64 for
//! 64-bit operands; a count of 0 changes no flag, but a destination register is still written (a
//! 32-bit one loses its upper half), and memory too.
//!
//! Our definition of what is undefined, for counts other than 1: OF is what the last of that many
//! shifts by one would give; AF is 0 after every shift.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::gpr::RCX;
use super::memory::with_modified;
use super::{sized, sized_wide, width};
use crate::core::Core;
use crate::decode::operands::{gpr, immediate};
use crate::env::Env;
use crate::fault::Exec;
use crate::flags::Flags;
use crate::op::{CodeSize, Flow, Handler, Op, Selected};
use crate::word::Word;

/// A shift or rotate by a count that is not 0 and below 32 (64 for 64-bit operands).
trait Shift: 'static {
    fn apply<T: Word>(flags: &mut Flags, value: T, count: u32) -> T;
}

/// Top bit.
#[inline(always)]
fn top<T: Word>(value: T) -> bool {
    value.to64() >> (T::BITS - 1) != 0
}

/// The bit below the top one.
#[inline(always)]
fn below_top<T: Word>(value: T) -> bool {
    value.to64() >> (T::BITS - 2) & 1 != 0
}

struct Shl;
impl Shift for Shl {
    #[inline(always)]
    fn apply<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let wide = value.to64();
        let result = T::from64(wide << count);
        let cf = if T::BITS == 64 {
            wide >> (64 - count) & 1 != 0
        } else {
            (wide << count) >> T::BITS & 1 != 0
        };
        flags.set_result(result, cf, cf != top(result), false);
        result
    }
}

struct Shr;
impl Shift for Shr {
    #[inline(always)]
    fn apply<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let before_last = value.to64() >> (count - 1);
        let result = T::from64(before_last >> 1);
        let of = before_last >> (T::BITS - 1) != 0;
        flags.set_result(result, before_last & 1 != 0, of, false);
        result
    }
}

struct Sar;
impl Shift for Sar {
    #[inline(always)]
    fn apply<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let before_last = value.sign64() as i64 >> (count - 1);
        let result = T::from64((before_last >> 1) as u64);
        flags.set_result(result, before_last & 1 != 0, false, false);
        result
    }
}

struct Rol;
impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let result = rotate_left(value, count % T::BITS);
        let cf = result.to64() & 1 != 0;
        flags.set_cf(cf);
        flags.set_of(cf != top(result));
        result
    }
}

struct Ror;
impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let result = rotate_left(value, (T::BITS - count % T::BITS) % T::BITS);
        flags.set_cf(top(result));
        flags.set_of(top(result) != below_top(result));
        result
    }
}

/// `count` is below the width.
#[inline(always)]
fn rotate_left<T: Word>(value: T, count: u32) -> T {
    let value = value.to64();
    let rest = (T::BITS - count) % T::BITS;
    T::from64(value << count | value >> rest)
}

/// CF and the value as one number, rotated left by `count`, at most the width.
#[inline(always)]
fn rotate_through_carry<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
    let wide = u128::from(flags.cf()) << T::BITS | u128::from(value.to64());
    let rotated = wide << count | wide >> (T::BITS + 1 - count);
    flags.set_cf(rotated >> T::BITS & 1 != 0);
    T::from64(rotated as u64)
}

struct Rcl;
impl Shift for Rcl {
    #[inline(always)]
    fn apply<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let count = count % (T::BITS + 1);
        if count == 0 {
            return value;
        }
        let result = rotate_through_carry(flags, value, count);
        let of = flags.cf() != top(result);
        flags.set_of(of);
        result
    }
}

struct Rcr;
impl Shift for Rcr {
    #[inline(always)]
    fn apply<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let count = count % (T::BITS + 1);
        if count == 0 {
            return value;
        }
        let result = rotate_through_carry(flags, value, T::BITS + 1 - count);
        flags.set_of(top(result) != below_top(result));
        result
    }
}

/// A double shift by a count that is not 0 and below 32 (64 for 64-bit operands).
///
/// 16-bit operands shifted by more than 16 are undefined: as if the destination followed the
/// source again.
trait DoubleShift: 'static {
    fn apply<T: Word>(flags: &mut Flags, value: T, filler: T, count: u32) -> T;
}

struct Shld;
impl DoubleShift for Shld {
    #[inline(always)]
    fn apply<T: Word>(flags: &mut Flags, value: T, filler: T, count: u32) -> T {
        let (high, low) = (value.to64(), filler.to64());
        let (result, cf) = if T::BITS == 16 {
            let ring = high << 32 | low << 16 | high;
            (ring >> (32 - count), ring >> (48 - count) & 1 != 0)
        } else {
            let result = high << count | low >> (T::BITS - count);
            (result, high >> (T::BITS - count) & 1 != 0)
        };
        let result = T::from64(result);
        flags.set_result(result, cf, cf != top(result), false);
        result
    }
}

struct Shrd;
impl DoubleShift for Shrd {
    #[inline(always)]
    fn apply<T: Word>(flags: &mut Flags, value: T, filler: T, count: u32) -> T {
        let (low, high) = (value.to64(), filler.to64());
        let (result, cf) = if T::BITS == 16 {
            let ring = low << 32 | high << 16 | low;
            (ring >> count, ring >> (count - 1) & 1 != 0)
        } else {
            let result = low >> count | high << (T::BITS - count);
            (result, low >> (count - 1) & 1 != 0)
        };
        let result = T::from64(result);
        flags.set_result(result, cf, top(result) != below_top(result), false);
        result
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    Selected::inline(match insn.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => single::<Shl>(insn, op),
        Mnemonic::Shr => single::<Shr>(insn, op),
        Mnemonic::Sar => single::<Sar>(insn, op),
        Mnemonic::Rol => single::<Rol>(insn, op),
        Mnemonic::Ror => single::<Ror>(insn, op),
        Mnemonic::Rcl => single::<Rcl>(insn, op),
        Mnemonic::Rcr => single::<Rcr>(insn, op),
        Mnemonic::Shld => double::<Shld>(insn, op),
        Mnemonic::Shrd => double::<Shrd>(insn, op),
        _ => return None,
    })
}

fn count_mask(bytes: usize) -> u64 {
    if bytes == 8 { 63 } else { 31 }
}

fn single<S: Shift>(insn: &Instruction, op: &mut Op) -> Handler {
    let bytes = width(insn, 0);
    let by_cl = insn.op1_kind() == OpKind::Register;
    if !by_cl {
        op.imm = immediate(insn, 1) & count_mask(bytes);
    }
    if insn.op0_kind() == OpKind::Memory {
        return if by_cl {
            sized!(bytes, memory_by_cl, S)
        } else {
            sized!(bytes, memory_by_immediate, S)
        };
    }
    op.dst = gpr(insn.op0_register());
    if by_cl {
        sized!(bytes, register_by_cl, S)
    } else if op.imm == 0 {
        sized!(bytes, rewrite)
    } else {
        sized!(bytes, register_by_immediate, S)
    }
}

fn double<S: DoubleShift>(insn: &Instruction, op: &mut Op) -> Handler {
    let bytes = width(insn, 0);
    op.src = gpr(insn.op1_register());
    let by_cl = insn.op2_kind() == OpKind::Register;
    if !by_cl {
        op.imm = immediate(insn, 2) & count_mask(bytes);
    }
    if insn.op0_kind() == OpKind::Memory {
        return if by_cl {
            sized_wide!(bytes, double_memory_by_cl, S)
        } else {
            sized_wide!(bytes, double_memory_by_immediate, S)
        };
    }
    op.dst = gpr(insn.op0_register());
    if by_cl {
        sized_wide!(bytes, double_register_by_cl, S)
    } else {
        sized_wide!(bytes, double_register_by_immediate, S)
    }
}

/// CL as a count for operands of `T`.
#[inline(always)]
fn count_in_cl<T: Word>(core: &Core) -> u32 {
    let mask = if T::BITS == 64 { 63 } else { 31 };
    core.reg::<u32>(RCX) & mask
}

fn register_by_immediate<S: Shift, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let value = core.operand::<T>(op.dst);
    let result = S::apply(&mut core.flags, value, op.imm as u32 & 63);
    core.set_operand(op.dst, result);
    core.next(env, op)
}

/// A shift of a register by a count of 0.
fn rewrite<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.operand::<T>(op.dst);
    core.set_operand(op.dst, value);
    core.next(env, op)
}

fn register_by_cl<S: Shift, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let count = count_in_cl::<T>(core);
    let value = core.operand::<T>(op.dst);
    let result = shifted::<S, T>(core, value, count);
    core.set_operand(op.dst, result);
    core.next(env, op)
}

/// `value` shifted, by 0 too.
#[inline(always)]
fn shifted<S: Shift, T: Word>(core: &mut Core, value: T, count: u32) -> T {
    if count == 0 {
        value
    } else {
        S::apply(&mut core.flags, value, count)
    }
}

fn memory_by_immediate<S: Shift, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    with_modified::<T>(core, env, op, |core, op, value| {
        shifted::<S, T>(core, value, op.imm as u32)
    })
}

fn memory_by_cl<S: Shift, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_modified::<T>(core, env, op, |core, _, value| {
        let count = count_in_cl::<T>(core);
        shifted::<S, T>(core, value, count)
    })
}

/// `value` and the source operand shifted as one.
#[inline(always)]
fn double_shifted<S: DoubleShift, T: Word>(core: &mut Core, op: &Op, value: T, count: u32) -> T {
    if count == 0 {
        return value;
    }
    let filler = core.reg::<T>(op.src);
    S::apply(&mut core.flags, value, filler, count)
}

fn double_register_by_immediate<S: DoubleShift, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let value = core.reg::<T>(op.dst);
    let result = double_shifted::<S, T>(core, op, value, op.imm as u32);
    core.set_reg(op.dst, result);
    core.next(env, op)
}

fn double_register_by_cl<S: DoubleShift, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let value = core.reg::<T>(op.dst);
    let count = count_in_cl::<T>(core);
    let result = double_shifted::<S, T>(core, op, value, count);
    core.set_reg(op.dst, result);
    core.next(env, op)
}

fn double_memory_by_immediate<S: DoubleShift, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    with_modified::<T>(core, env, op, |core, op, value| {
        double_shifted::<S, T>(core, op, value, op.imm as u32)
    })
}

fn double_memory_by_cl<S: DoubleShift, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    with_modified::<T>(core, env, op, |core, op, value| {
        let count = count_in_cl::<T>(core);
        double_shifted::<S, T>(core, op, value, count)
    })
}
