//! Which template an instruction gets.
//!
//! Does: sort instructions into families by what their template has to do. Does not: emit.
//!
//! Invariant: an instruction with a family has results and flags that every x86-64 processor agrees
//! on, or a template that makes them ours. Everything else is left to its handler.

use arch::cpuid::Features;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::registers::{self, Home};
use super::vector;
use crate::features::offers;
use crate::op::{ADDRESS_SLOW, Op};

/// Families of templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Nothing happens.
    Nothing,
    /// The same instruction with the host's operands.
    Plain,
    Lea,
    /// CBW to CQO.
    Widen,
    /// IMUL with two or three operands.
    Multiply,
    /// MUL and IMUL into rDX:rAX.
    MultiplyWide,
    Divide,
    /// SHL, SHR, SAR by a constant.
    Shift,
    /// SHL, SHR, SAR of a register by CL.
    ShiftByCl,
    /// ROL, ROR of a register by a constant.
    Rotate,
    /// BT and relatives.
    Bit,
    /// SHLD, SHRD by a constant.
    DoubleShift,
    /// BSF, BSR.
    Scan,
    /// TZCNT, LZCNT.
    CountZeros,
    /// ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI.
    LowBits,
    CompareExchange,
    Push,
    Pop,
    Leave,
    /// PUSHFQ.
    PushFlags,
    /// CLI.
    ClearInterrupt,
    Call,
    Return,
    Jump,
    Branch,
    /// SSE to AVX2.
    Vector,
}

impl Family {
    /// True if the instruction can be interrupted by a fault or a handler whatever its operands.
    pub(super) fn is_exposed(self) -> bool {
        matches!(
            self,
            Family::Divide
                | Family::Push
                | Family::Pop
                | Family::Leave
                | Family::PushFlags
                | Family::ClearInterrupt
                | Family::Call
                | Family::Return
                | Family::Jump
                | Family::Vector
        )
    }
}

/// True if an operand is in memory.
pub(super) fn has_memory(insn: &Instruction) -> bool {
    insn.op_kinds().any(|kind| kind == OpKind::Memory)
}

/// Family of an instruction in 64-bit code, on a host with `features`; `None` for the handler.
#[rustfmt::skip]
pub(super) fn of(insn: &Instruction, op: &Op, features: Features) -> Option<Family> {
    use Mnemonic as M;
    if op.length == 0 || !offers(features, insn) {
        return None;
    }
    let family = match insn.mnemonic() {
        M::Nop | M::Pause | M::Endbr64 | M::Endbr32 | M::Prefetchnta | M::Prefetcht0
        | M::Prefetcht1 | M::Prefetcht2 | M::Prefetchw | M::Lfence | M::Mfence | M::Sfence
        => return Some(Family::Nothing),
        M::Movsxd if insn.op0_register().size() == 2 => return None,
        M::Mov | M::Movzx | M::Movsx | M::Movsxd | M::Movnti | M::Xchg
        | M::Add | M::Or | M::Adc | M::Sbb | M::And | M::Sub | M::Xor | M::Cmp | M::Test
        | M::Inc | M::Dec | M::Neg | M::Not | M::Xadd
        | M::Seto | M::Setno | M::Setb | M::Setae | M::Sete | M::Setne | M::Setbe | M::Seta
        | M::Sets | M::Setns | M::Setp | M::Setnp | M::Setl | M::Setge | M::Setle | M::Setg
        | M::Cmovo | M::Cmovno | M::Cmovb | M::Cmovae | M::Cmove | M::Cmovne | M::Cmovbe | M::Cmova
        | M::Cmovs | M::Cmovns | M::Cmovp | M::Cmovnp | M::Cmovl | M::Cmovge | M::Cmovle | M::Cmovg
        => Family::Plain,
        M::Popcnt | M::Crc32 | M::Movbe | M::Rorx | M::Sarx | M::Shlx | M::Shrx | M::Pdep | M::Pext
        | M::Mulx => Family::Plain,
        M::Tzcnt | M::Lzcnt => Family::CountZeros,
        M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr | M::Bzhi => Family::LowBits,
        M::Bswap if insn.op0_register().size() != 2 => Family::Plain,
        M::Lea if insn.op0_register().size() != 2 => Family::Lea,
        M::Cbw | M::Cwde | M::Cdqe | M::Cwd | M::Cdq | M::Cqo => return Some(Family::Widen),
        M::Imul if insn.op_count() > 1 => Family::Multiply,
        M::Mul | M::Imul => Family::MultiplyWide,
        M::Div | M::Idiv if width(insn) >= 4 => Family::Divide,
        M::Shl | M::Sal | M::Shr | M::Sar => match insn.op1_kind() {
            // Not of the count's own register: it is looked at afterwards.
            OpKind::Register if insn.op0_kind() == OpKind::Register && width(insn) >= 4
                && registers::number(insn.op0_register()) != Some(1) => Family::ShiftByCl,
            OpKind::Register => return None,
            _ => {
                let count = shift_count(insn);
                if count == 0 || count >= 8 * width(insn) as u32 {
                    return None;
                }
                Family::Shift
            }
        },
        M::Rol | M::Ror if insn.op0_kind() == OpKind::Register && width(insn) >= 4 => {
            if insn.op1_kind() == OpKind::Register || shift_count(insn) == 0 {
                return None;
            }
            Family::Rotate
        }
        // Undefined flags of SHRD are made from the result, which must be at hand.
        M::Shld | M::Shrd if width(insn) >= 4 && insn.op2_kind() == OpKind::Immediate8
            && insn.immediate8() & 31 != 0
            && (insn.mnemonic() == M::Shld || insn.op0_kind() == OpKind::Register)
            => Family::DoubleShift,
        M::Bt | M::Bts | M::Btr | M::Btc
            if insn.op0_kind() == OpKind::Register || insn.op1_kind() != OpKind::Register
            => Family::Bit,
        M::Bsf | M::Bsr if insn.op0_register().size() != 2 => Family::Scan,
        // The accumulator as the destination is not worth a template.
        M::Cmpxchg if insn.op0_kind() == OpKind::Memory
            || registers::number(insn.op0_register()) != Some(0) => Family::CompareExchange,
        M::Push if matches!(insn.code(), Code::Push_r64 | Code::Pushq_imm8 | Code::Pushq_imm32
            | Code::Push_rm64) => Family::Push,
        M::Pop if insn.code() == Code::Pop_r64 => Family::Pop,
        M::Pushfq => return Some(Family::PushFlags),
        M::Cli => return Some(Family::ClearInterrupt),
        M::Leave if insn.code() == Code::Leaveq => Family::Leave,
        M::Call if matches!(insn.code(), Code::Call_rel32_64 | Code::Call_rm64) => Family::Call,
        M::Ret if matches!(insn.code(), Code::Retnq | Code::Retnq_imm16) => Family::Return,
        M::Jmp if matches!(insn.code(), Code::Jmp_rel8_64 | Code::Jmp_rel32_64 | Code::Jmp_rm64)
            => Family::Jump,
        _ if insn.is_jcc_short_or_near() && insn.op0_kind() == OpKind::NearBranch64
            => Family::Branch,
        _ if vector::has_template(insn) => Family::Vector,
        _ => return None,
    };
    let slow_address = has_memory(insn) && (op.bits & ADDRESS_SLOW != 0 || !reachable(insn));
    (!slow_address && operands_fit(insn) && scratch_suffices(insn)).then_some(family)
}

/// Bytes of the first operand.
pub(super) fn width(insn: &Instruction) -> usize {
    if insn.op0_kind() == OpKind::Memory {
        insn.memory_size().size()
    } else {
        insn.op0_register().size()
    }
}

/// Count of a shift by a constant.
pub(super) fn shift_count(insn: &Instruction) -> u32 {
    insn.immediate(1) as u32 & if width(insn) == 8 { 63 } else { 31 }
}

/// True if the displacement fits an instruction of the host.
fn reachable(insn: &Instruction) -> bool {
    i32::try_from(insn.memory_displacement64() as i64).is_ok()
}

/// True if no operand is of a kind that templates do not know: AH to BH, segment, control and MMX
/// registers, absolute addresses, strings.
fn operands_fit(insn: &Instruction) -> bool {
    let absolute = matches!(
        insn.code(),
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    );
    !absolute
        && (0..insn.op_count()).all(|n| match insn.op_kind(n) {
            OpKind::Register => {
                let register = insn.op_register(n);
                registers::number(register).is_some() || register.is_xmm() || register.is_ymm()
            }
            OpKind::Memory => !insn.memory_base().is_vector_register(),
            OpKind::NearBranch64 => true,
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => true,
            _ => false,
        })
}

/// True if there is a scratch register for each operand that lives in the frame.
fn scratch_suffices(insn: &Instruction) -> bool {
    let in_frame = |n| {
        let guest = registers::number(insn.op_register(n))?;
        (registers::home(guest) == Home::Frame).then_some(guest)
    };
    let mut guests: Vec<u8> = (0..insn.op_count()).filter_map(in_frame).collect();
    guests.sort_unstable();
    guests.dedup();
    guests.len() <= if has_memory(insn) { 1 } else { 2 }
}
