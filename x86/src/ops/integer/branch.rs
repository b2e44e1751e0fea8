//! Near JMP, CALL, RET, Jcc, JCXZ and LOOP.
//!
//! Does: set RIP after checking the target. Does not: far transfers and interrupts (`system`).
//!
//! Invariant: the target is checked and the stack written before RIP, RSP or the count changes.
//!
//! The parameter `T` is the operand size: it truncates the target. 64 bits exist in 64-bit mode
//! alone and are all there is in it (a 66h prefix changes nothing, as on Intel's CPUs).

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::conditional::code_of;
use super::gpr::{RCX, RSP};
use super::{by_condition, sized_wide, width};
use crate::core::{Core, canonical};
use crate::decode::operands::{gpr, immediate};
use crate::env::Env;
use crate::fault::{Exec, Fault};
use crate::op::{CodeSize, Flow, Handler, Op, SLOT_BLOCK_RIP, Selected};
use crate::word::Word;

/// Names the handler.
#[rustfmt::skip]
pub(super) fn select(insn: &Instruction, op: &mut Op, _: CodeSize) -> Option<Selected> {
    use Mnemonic as M;
    let run: Handler = match insn.mnemonic() {
        M::Jo | M::Jno | M::Jb | M::Jae | M::Je | M::Jne | M::Jbe | M::Ja
        | M::Js | M::Jns | M::Jp | M::Jnp | M::Jl | M::Jge | M::Jle | M::Jg => {
            let code = code_of(insn);
            // The block goes on where the branch does not.
            return Selected::inline(match direct(insn, op)? {
                2 => by_condition!(code, jcc, u16),
                4 => by_condition!(code, jcc, u32),
                _ => by_condition!(code, jcc, u64),
            });
        }
        M::Jmp => jmp(insn, op)?,
        M::Call => call(insn, op)?,
        M::Ret => ret(insn, op),
        M::Loop => counted::<Loop>(insn, op)?,
        M::Loope => counted::<LoopEqual>(insn, op)?,
        M::Loopne => counted::<LoopNotEqual>(insn, op)?,
        M::Jcxz | M::Jecxz | M::Jrcxz => counted::<IfZero>(insn, op)?,
        _ => return None,
    };
    Selected::last(run)
}

/// Notes the target of a direct near branch; its operand size in bytes.
fn direct(insn: &Instruction, op: &mut Op) -> Option<usize> {
    let bytes = match insn.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        OpKind::NearBranch64 => 8,
        _ => return None,
    };
    op.imm = insn.near_branch_target();
    Some(bytes)
}

fn jmp(insn: &Instruction, op: &mut Op) -> Option<Handler> {
    match insn.op0_kind() {
        OpKind::Register => {
            op.src = gpr(insn.op0_register());
            Some(sized_wide!(width(insn, 0), jmp_register))
        }
        OpKind::Memory
            if matches!(
                insn.code(),
                Code::Jmp_rm16 | Code::Jmp_rm32 | Code::Jmp_rm64
            ) =>
        {
            Some(sized_wide!(width(insn, 0), jmp_memory))
        }
        OpKind::Memory => None,
        _ => Some(sized_wide!(direct(insn, op)?, jmp_direct)),
    }
}

fn call(insn: &Instruction, op: &mut Op) -> Option<Handler> {
    match insn.op0_kind() {
        OpKind::Register => {
            op.src = gpr(insn.op0_register());
            Some(sized_wide!(width(insn, 0), call_register))
        }
        OpKind::Memory
            if matches!(
                insn.code(),
                Code::Call_rm16 | Code::Call_rm32 | Code::Call_rm64
            ) =>
        {
            Some(sized_wide!(width(insn, 0), call_memory))
        }
        OpKind::Memory => None,
        _ => Some(sized_wide!(direct(insn, op)?, call_direct)),
    }
}

fn ret(insn: &Instruction, op: &mut Op) -> Handler {
    match insn.code() {
        Code::Retnw => return_from::<u16>,
        Code::Retnd => return_from::<u32>,
        Code::Retnq => return_from::<u64>,
        code => {
            op.imm = immediate(insn, 0);
            match code {
                Code::Retnw_imm16 => return_and_drop::<u16>,
                Code::Retnd_imm16 => return_and_drop::<u32>,
                _ => return_and_drop::<u64>,
            }
        }
    }
}

/// Raises #GP(0) if a near branch of `T`'s size cannot go to `target`.
#[inline(always)]
fn check<T: Word>(core: &mut Core, target: u64) -> Exec<()> {
    let fine = match T::BITS {
        64 => canonical(target),
        _ => target <= u64::from(core.segments[1].limit),
    };
    if fine {
        Ok(())
    } else {
        core.raise(Fault::protection(0))
    }
}

/// Jumps to `target`, already of `T`'s size.
#[inline(always)]
fn go<T: Word>(core: &mut Core, target: u64) -> Exec<Flow> {
    check::<T>(core, target)?;
    core.rip = target;
    Ok(Flow::Jump)
}

/// Target of a direct branch.
#[inline(always)]
fn target<T: Word>(core: &Core, op: &Op) -> u64 {
    core.branch_target(op) & T::MASK
}

/// Address of the next instruction.
#[inline(always)]
fn next<T: Word>(core: &Core, op: &Op) -> u64 {
    if T::BITS == 64 {
        let past = u64::from(op.offset) + u64::from(op.length);
        core.gpr[usize::from(SLOT_BLOCK_RIP)].wrapping_add(past)
    } else {
        core.next_rip(op)
    }
}

fn jcc<T: Word, const CODE: u8>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if core.flags.condition(CODE) {
        let target = target::<T>(core, op);
        go::<T>(core, target)
    } else {
        core.next(env, op)
    }
}

fn jmp_direct<T: Word>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let target = target::<T>(core, op);
    go::<T>(core, target)
}

fn jmp_register<T: Word>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let target = core.reg::<T>(op.src).to64();
    go::<T>(core, target)
}

fn jmp_memory<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let target = core.load::<T>(env, op)?.to64();
    go::<T>(core, target)
}

#[inline(always)]
fn call_to<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op, target: u64) -> Exec<Flow> {
    check::<T>(core, target)?;
    let back = next::<T>(core, op);
    if T::BITS == 64 && core.quick_push(back) {
        core.rip = target;
        return Ok(Flow::Jump);
    }
    call_slowly::<T>(core, env, back, target)
}

#[cold]
#[inline(never)]
fn call_slowly<T: Word>(core: &mut Core, env: &mut Env<'_>, back: u64, target: u64) -> Exec<Flow> {
    core.push(env, T::from64(back))?;
    core.rip = target;
    Ok(Flow::Jump)
}

fn call_direct<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let target = target::<T>(core, op);
    call_to::<T>(core, env, op, target)
}

fn call_register<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let target = core.reg::<T>(op.src).to64();
    call_to::<T>(core, env, op, target)
}

fn call_memory<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let target = core.load::<T>(env, op)?.to64();
    call_to::<T>(core, env, op, target)
}

fn return_from<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    if T::BITS == 64
        && let Some(target) = core.quick_top()
    {
        let flow = go::<T>(core, target)?;
        core.drop64(8);
        return Ok(flow);
    }
    return_slowly::<T>(core, env, op)
}

#[cold]
#[inline(never)]
fn return_slowly<T: Word>(core: &mut Core, env: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    let (target, after) = core.peek::<T>(env)?;
    let flow = go::<T>(core, target.to64())?;
    core.set_stack_pointer(after);
    Ok(flow)
}

fn return_and_drop<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let flow = return_from::<T>(core, env, op)?;
    let after = core.reg::<u64>(RSP).wrapping_add(op.imm);
    core.set_stack_pointer(after);
    Ok(flow)
}

/// Branches that look at rCX.
trait Counted: 'static {
    /// Takes one from the count first.
    const DECREMENTS: bool = true;
    /// Whether to branch.
    fn taken(core: &Core, count_is_zero: bool) -> bool;
}

struct Loop;
impl Counted for Loop {
    fn taken(_: &Core, count_is_zero: bool) -> bool {
        !count_is_zero
    }
}

struct LoopEqual;
impl Counted for LoopEqual {
    fn taken(core: &Core, count_is_zero: bool) -> bool {
        !count_is_zero && core.flags.zf()
    }
}

struct LoopNotEqual;
impl Counted for LoopNotEqual {
    fn taken(core: &Core, count_is_zero: bool) -> bool {
        !count_is_zero && !core.flags.zf()
    }
}

/// JCXZ, JECXZ, JRCXZ.
struct IfZero;
impl Counted for IfZero {
    const DECREMENTS: bool = false;
    fn taken(_: &Core, count_is_zero: bool) -> bool {
        count_is_zero
    }
}

fn counted<K: Counted>(insn: &Instruction, op: &mut Op) -> Option<Handler> {
    let bytes = direct(insn, op)?;
    Some(match count_bytes(insn.code()) {
        2 => sized_wide!(bytes, by_count, K, u16),
        4 => sized_wide!(bytes, by_count, K, u32),
        _ => sized_wide!(bytes, by_count, K, u64),
    })
}

/// Width of the count: the address size.
#[rustfmt::skip]
fn count_bytes(code: Code) -> usize {
    match code {
        Code::Loop_rel8_16_CX | Code::Loop_rel8_32_CX | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX | Code::Loopne_rel8_16_CX | Code::Loopne_rel8_32_CX
        | Code::Jcxz_rel8_16 | Code::Jcxz_rel8_32 => 2,
        Code::Loop_rel8_16_ECX | Code::Loop_rel8_32_ECX | Code::Loop_rel8_64_ECX
        | Code::Loope_rel8_16_ECX | Code::Loope_rel8_32_ECX | Code::Loope_rel8_64_ECX
        | Code::Loopne_rel8_16_ECX | Code::Loopne_rel8_32_ECX | Code::Loopne_rel8_64_ECX
        | Code::Jecxz_rel8_16 | Code::Jecxz_rel8_32 | Code::Jecxz_rel8_64 => 4,
        _ => 8,
    }
}

fn by_count<K: Counted, C: Word, T: Word>(core: &mut Core, _: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let mut count = core.reg::<C>(RCX).to64();
    if K::DECREMENTS {
        count = count.wrapping_sub(1) & C::MASK;
    }
    if K::taken(core, count == 0) {
        let target = target::<T>(core, op);
        go::<T>(core, target)?;
    } else {
        core.rip = next::<T>(core, op);
    }
    if K::DECREMENTS {
        core.set_reg(RCX, C::from64(count));
    }
    Ok(Flow::Jump)
}
