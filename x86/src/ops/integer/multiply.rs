//! MUL IMUL DIV IDIV.
//!
//! Does: widening, truncating and dividing arithmetic; #DE.
//!
//! Our definition of what is undefined: a multiplication sets SF, ZF and PF by the low half of the
//! product and clears AF; a division leaves all flags alone.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::gpr::{RAX, RDX};
use super::memory::with_loaded;
use super::{sized, sized_wide, width};
use crate::core::Core;
use crate::decode::operands::{gpr, immediate};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Handler, Op, Selected};
use crate::word::Word;

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    Selected::inline(match insn.mnemonic() {
        Mnemonic::Mul => on_accumulator::<Mul>(insn, op),
        Mnemonic::Imul if insn.op_count() == 1 => on_accumulator::<Imul>(insn, op),
        Mnemonic::Imul => truncating(insn, op),
        Mnemonic::Div => on_accumulator::<Div>(insn, op),
        Mnemonic::Idiv => on_accumulator::<Idiv>(insn, op),
        _ => return None,
    })
}

/// An operation on the accumulator pair and one operand.
trait Accumulator: 'static {
    fn apply<T: Word>(core: &mut Core, operand: T) -> Exec<()>;
}

/// The accumulator pair as one number: AX, or rDX:rAX.
#[inline(always)]
fn pair<T: Word>(core: &Core) -> u128 {
    if T::BITS == 8 {
        return u128::from(core.reg::<u16>(RAX));
    }
    u128::from(core.reg::<T>(RDX).to64()) << T::BITS | u128::from(core.reg::<T>(RAX).to64())
}

/// Sets the accumulator pair.
#[inline(always)]
fn set_pair<T: Word>(core: &mut Core, low: T, high: T) {
    if T::BITS == 8 {
        core.set_reg(RAX, (high.to64() << 8 | low.to64()) as u16);
    } else {
        core.set_reg(RAX, low);
        core.set_reg(RDX, high);
    }
}

struct Mul;
impl Accumulator for Mul {
    #[inline(always)]
    fn apply<T: Word>(core: &mut Core, operand: T) -> Exec<()> {
        let product = u128::from(core.reg::<T>(RAX).to64()) * u128::from(operand.to64());
        let low = T::from64(product as u64);
        let high = T::from64((product >> T::BITS) as u64);
        set_pair(core, low, high);
        let overflow = high.to64() != 0;
        core.flags.set_result(low, overflow, overflow, false);
        Ok(())
    }
}

/// The whole signed product.
#[inline(always)]
fn signed_product<T: Word>(a: T, b: T) -> i128 {
    i128::from(a.sign64() as i64) * i128::from(b.sign64() as i64)
}

/// Flags of a signed product: CF and OF tell that `low` is not all of it.
#[inline(always)]
fn set_signed_flags<T: Word>(core: &mut Core, product: i128, low: T) {
    let overflow = product != i128::from(low.sign64() as i64);
    core.flags.set_result(low, overflow, overflow, false);
}

struct Imul;
impl Accumulator for Imul {
    #[inline(always)]
    fn apply<T: Word>(core: &mut Core, operand: T) -> Exec<()> {
        let product = signed_product(core.reg::<T>(RAX), operand);
        let low = T::from64(product as u64);
        set_pair(core, low, T::from64((product >> T::BITS) as u64));
        set_signed_flags(core, product, low);
        Ok(())
    }
}

struct Div;
impl Accumulator for Div {
    #[inline(always)]
    fn apply<T: Word>(core: &mut Core, operand: T) -> Exec<()> {
        let divisor = operand.to64();
        if divisor == 0 {
            return core.raise(Fault::DIVIDE);
        }
        let (quotient, remainder) = if T::BITS < 64 {
            let dividend = pair::<T>(core) as u64;
            (dividend / divisor, dividend % divisor)
        } else {
            let high = core.reg::<u64>(RDX);
            if high >= divisor {
                return core.raise(Fault::DIVIDE);
            }
            if high == 0 {
                let dividend = core.reg::<u64>(RAX);
                (dividend / divisor, dividend % divisor)
            } else {
                let (dividend, divisor) = (pair::<T>(core), u128::from(divisor));
                ((dividend / divisor) as u64, (dividend % divisor) as u64)
            }
        };
        if quotient > T::MASK {
            return core.raise(Fault::DIVIDE);
        }
        set_pair(core, T::from64(quotient), T::from64(remainder));
        Ok(())
    }
}

struct Idiv;
impl Accumulator for Idiv {
    #[inline(always)]
    fn apply<T: Word>(core: &mut Core, operand: T) -> Exec<()> {
        let divisor = operand.sign64() as i64;
        let low = core.reg::<u64>(RAX) as i64;
        let divided = if T::BITS < 64 {
            // Sign-extend the pair of 2 × BITS bits.
            let unused = 64 - 2 * T::BITS;
            let dividend = ((pair::<T>(core) as u64) << unused) as i64 >> unused;
            divide(dividend, divisor)
        } else if core.reg::<u64>(RDX) == (low >> 63) as u64 {
            divide(low, divisor)
        } else {
            divide_wide(pair::<T>(core) as i128, divisor)
        };
        let Some((quotient, remainder)) = divided else {
            return core.raise(Fault::DIVIDE);
        };
        let result = T::from64(quotient as u64);
        if result.sign64() != quotient as u64 {
            return core.raise(Fault::DIVIDE);
        }
        set_pair(core, result, T::from64(remainder as u64));
        Ok(())
    }
}

/// Quotient and remainder, unless the divisor is zero or the quotient too large.
#[inline(always)]
fn divide(dividend: i64, divisor: i64) -> Option<(i64, i64)> {
    Some((
        dividend.checked_div(divisor)?,
        dividend.checked_rem(divisor)?,
    ))
}

/// [`divide`] of a dividend that needs more than 64 bits.
#[cold]
fn divide_wide(dividend: i128, divisor: i64) -> Option<(i64, i64)> {
    let divisor = i128::from(divisor);
    let quotient = dividend.checked_div(divisor)?;
    let remainder = dividend.checked_rem(divisor)?;
    Some((i64::try_from(quotient).ok()?, remainder as i64))
}

fn on_accumulator<O: Accumulator>(insn: &Instruction, op: &mut Op) -> Handler {
    let bytes = width(insn, 0);
    if insn.op0_kind() == OpKind::Memory {
        return sized!(bytes, accumulator_memory, O);
    }
    op.src = gpr(insn.op0_register());
    sized!(bytes, accumulator_register, O)
}

fn accumulator_register<O: Accumulator, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let operand = core.operand::<T>(op.src);
    O::apply(core, operand)?;
    core.next(env, op)
}

fn accumulator_memory<O: Accumulator, T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let operand = core.load::<T>(env, op)?;
    O::apply(core, operand)?;
    core.next_after_access(env, op)
}

/// IMUL with two or three operands.
fn truncating(insn: &Instruction, op: &mut Op) -> Handler {
    let bytes = width(insn, 0);
    op.dst = gpr(insn.op0_register());
    let in_memory = insn.op1_kind() == OpKind::Memory;
    if !in_memory {
        op.src = gpr(insn.op1_register());
    }
    if insn.op_count() == 3 {
        op.imm = immediate(insn, 2);
        return if in_memory {
            sized_wide!(bytes, imul_memory_immediate)
        } else {
            sized_wide!(bytes, imul_register_immediate)
        };
    }
    if in_memory {
        sized_wide!(bytes, imul_memory)
    } else {
        sized_wide!(bytes, imul_register)
    }
}

#[inline(always)]
fn imul<T: Word>(core: &mut Core, op: &Op, a: T, b: T) {
    let product = signed_product(a, b);
    let low = T::from64(product as u64);
    set_signed_flags(core, product, low);
    core.set_reg(op.dst, low);
}

fn imul_register<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let (a, b) = (core.reg::<T>(op.dst), core.reg::<T>(op.src));
    imul(core, op, a, b);
    core.next(env, op)
}

fn imul_memory<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_loaded::<T>(core, env, op, |core, op, b| {
        let a = core.reg::<T>(op.dst);
        imul(core, op, a, b);
    })
}

fn imul_register_immediate<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let a = core.reg::<T>(op.src);
    imul(core, op, a, T::from64(op.imm));
    core.next(env, op)
}

fn imul_memory_immediate<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    with_loaded::<T>(core, env, op, |core, op, a| {
        imul(core, op, a, T::from64(op.imm));
    })
}
