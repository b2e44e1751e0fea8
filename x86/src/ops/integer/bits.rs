//! BT BTS BTR BTC, BSF BSR, TZCNT LZCNT POPCNT.
//!
//! Does: bit tests with register and immediate offsets, register offsets reaching beyond the
//! memory operand; bit scans and counts. Does not: decide whether F3 0F BC is TZCNT or BSF: the
//! decoder does, by the CPU model.
//!
//! Invariant: BT and its relatives change CF alone; a scan of zero leaves its destination alone.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::memory::{with_loaded, with_modified};
use super::{sized_wide, width};
use crate::core::Core;
use crate::decode::operands::{gpr, immediate};
use crate::env::Env;
use crate::fault::Exec;
use crate::flags;
use crate::op::{ADDRESS_16, ADDRESS_32, ADDRESS_SLOW, CodeSize, Flow, Handler, Op, Selected};
use crate::word::Word;

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    Selected::inline(match insn.mnemonic() {
        Mnemonic::Bt => test::<Keep>(insn, op),
        Mnemonic::Bts => test::<Set>(insn, op),
        Mnemonic::Btr => test::<Reset>(insn, op),
        Mnemonic::Btc => test::<Complement>(insn, op),
        Mnemonic::Bsf => scan::<Forward>(insn, op),
        Mnemonic::Bsr => scan::<Reverse>(insn, op),
        Mnemonic::Tzcnt => count::<TrailingZeros>(insn, op),
        Mnemonic::Lzcnt => count::<LeadingZeros>(insn, op),
        Mnemonic::Popcnt => count::<Ones>(insn, op),
        _ => return None,
    })
}

/// What becomes of a tested bit.
trait Change: 'static {
    const STORES: bool = true;
    fn change(value: u64, bit: u64) -> u64;
}

struct Keep;
impl Change for Keep {
    const STORES: bool = false;
    fn change(value: u64, _: u64) -> u64 {
        value
    }
}

struct Set;
impl Change for Set {
    fn change(value: u64, bit: u64) -> u64 {
        value | bit
    }
}

struct Reset;
impl Change for Reset {
    fn change(value: u64, bit: u64) -> u64 {
        value & !bit
    }
}

struct Complement;
impl Change for Complement {
    fn change(value: u64, bit: u64) -> u64 {
        value ^ bit
    }
}

fn test<C: Change>(insn: &Instruction, op: &mut Op) -> Handler {
    let bytes = width(insn, 0);
    let in_memory = insn.op0_kind() == OpKind::Memory;
    if !in_memory {
        op.dst = gpr(insn.op0_register());
    }
    if insn.op1_kind() == OpKind::Register {
        op.src = gpr(insn.op1_register());
        return if in_memory {
            sized_wide!(bytes, memory_register, C)
        } else {
            sized_wide!(bytes, register_register, C)
        };
    }
    op.imm = immediate(insn, 1);
    if in_memory {
        sized_wide!(bytes, memory_immediate, C)
    } else {
        sized_wide!(bytes, register_immediate, C)
    }
}

/// Tests bit `number` (modulo the width) of `value`; the value after it.
#[inline(always)]
fn apply<C: Change, T: Word>(core: &mut Core, value: T, number: u64) -> T {
    let bit = 1 << (number & u64::from(T::BITS - 1));
    let value = value.to64();
    core.flags.set_cf(value & bit != 0);
    T::from64(C::change(value, bit))
}

#[inline(always)]
fn in_register<C: Change, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    number: u64,
) -> Exec<Flow> {
    let value = core.reg::<T>(op.dst);
    let changed = apply::<C, T>(core, value, number);
    if C::STORES {
        core.set_reg(op.dst, changed);
    }
    core.next(env, op)
}

fn register_register<C: Change, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let number = core.reg::<T>(op.src).to64();
    in_register::<C, T>(core, env, op, number)
}

fn register_immediate<C: Change, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    in_register::<C, T>(core, env, op, op.imm)
}

fn memory_immediate<C: Change, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if C::STORES {
        with_modified::<T>(core, env, op, |core, op, value| {
            apply::<C, T>(core, value, op.imm)
        })
    } else {
        with_loaded::<T>(core, env, op, |core, op, value| {
            apply::<C, T>(core, value, op.imm);
        })
    }
}

/// The bit string starts at the memory operand; the offset is signed and may reach far from it.
fn memory_register<C: Change, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let number = core.reg::<T>(op.src).sign64();
    let words = (number as i64 >> T::BITS.trailing_zeros()) as u64;
    let mut offset = core
        .effective(op)
        .wrapping_add(words.wrapping_mul(T::BYTES));
    if op.bits & ADDRESS_32 != 0 {
        offset &= 0xffff_ffff;
    } else if op.bits & ADDRESS_16 != 0 {
        offset &= 0xffff;
    }
    let linear = if op.bits & ADDRESS_SLOW == 0 {
        offset.wrapping_add(core.seg_base[usize::from(op.seg) & 7])
    } else {
        core.segmented(op.seg, offset, T::BYTES, C::STORES)?
    };
    if C::STORES {
        let value = core.read_to_modify::<T>(env, linear, op.seg)?;
        let changed = apply::<C, T>(core, value, number);
        core.write(env, linear, op.seg, changed)?;
    } else {
        let value = core.read::<T>(env, linear, op.seg)?;
        apply::<C, T>(core, value, number);
    }
    core.next_after_access(env, op)
}

/// Where a scan starts.
trait Direction: 'static {
    /// Number of the first set bit of a value that is not zero.
    fn first(value: u64) -> u32;
}

struct Forward;
impl Direction for Forward {
    fn first(value: u64) -> u32 {
        value.trailing_zeros()
    }
}

struct Reverse;
impl Direction for Reverse {
    fn first(value: u64) -> u32 {
        63 - value.leading_zeros()
    }
}

fn scan<D: Direction>(insn: &Instruction, op: &mut Op) -> Handler {
    let bytes = width(insn, 0);
    op.dst = gpr(insn.op0_register());
    if insn.op1_kind() == OpKind::Memory {
        return sized_wide!(bytes, scan_memory, D);
    }
    op.src = gpr(insn.op1_register());
    sized_wide!(bytes, scan_register, D)
}

/// ZF tells a source of zero; the other five flags are our definition: those of TEST.
#[inline(always)]
fn scan_value<D: Direction, T: Word>(core: &mut Core, op: &Op, value: T) {
    core.flags.set_logic(value);
    let value = value.to64();
    if value != 0 {
        core.set_reg(op.dst, T::from64(u64::from(D::first(value))));
    }
}

fn scan_register<D: Direction, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.reg::<T>(op.src);
    scan_value::<D, T>(core, op, value);
    core.next(env, op)
}

fn scan_memory<D: Direction, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_loaded::<T>(core, env, op, scan_value::<D, T>)
}

/// What is counted.
trait Count: 'static {
    /// How many there are.
    fn count<T: Word>(value: T) -> u32;
    /// CF, for a source that is zero or not.
    fn carry(zero: bool) -> bool;
}

struct TrailingZeros;
impl Count for TrailingZeros {
    fn count<T: Word>(value: T) -> u32 {
        value.to64().trailing_zeros().min(T::BITS)
    }
    fn carry(zero: bool) -> bool {
        zero
    }
}

struct LeadingZeros;
impl Count for LeadingZeros {
    fn count<T: Word>(value: T) -> u32 {
        value.to64().leading_zeros() - (64 - T::BITS)
    }
    fn carry(zero: bool) -> bool {
        zero
    }
}

struct Ones;
impl Count for Ones {
    fn count<T: Word>(value: T) -> u32 {
        value.to64().count_ones()
    }
    fn carry(_: bool) -> bool {
        false
    }
}

fn count<C: Count>(insn: &Instruction, op: &mut Op) -> Handler {
    let bytes = width(insn, 0);
    op.dst = gpr(insn.op0_register());
    if insn.op1_kind() == OpKind::Memory {
        return sized_wide!(bytes, count_memory, C);
    }
    op.src = gpr(insn.op1_register());
    sized_wide!(bytes, count_register, C)
}

/// ZF tells a count of zero, CF a source of zero; the others are cleared, which for TZCNT and LZCNT
/// is our definition.
#[inline(always)]
fn count_value<C: Count, T: Word>(core: &mut Core, op: &Op, value: T) {
    let number = C::count(value);
    let zero = if number == 0 { flags::ZF } else { 0 };
    let carry = if C::carry(value.to64() == 0) {
        flags::CF
    } else {
        0
    };
    core.flags.set_arithmetic(zero | carry);
    core.set_reg(op.dst, T::from64(u64::from(number)));
}

fn count_register<C: Count, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.reg::<T>(op.src);
    count_value::<C, T>(core, op, value);
    core.next(env, op)
}

fn count_memory<C: Count, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_loaded::<T>(core, env, op, count_value::<C, T>)
}
