//! Which template an instruction gets.
//!
//! Does: sort instructions into families by what their template has to do. Does not: emit.
//!
//! Invariant: an instruction with a family has results and flags that every x86-64 processor agrees
//! on, or a template that makes them ours. Everything else is left to its handler.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::registers;
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
    /// BSF, BSR.
    Scan,
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
    /// SSE and SSE2.
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

/// Family of an instruction in 64-bit code; `None` for the handler.
#[rustfmt::skip]
pub(super) fn of(insn: &Instruction, op: &Op) -> Option<Family> {
    use Mnemonic as M;
    if op.length == 0 {
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
        _ if is_vector(insn) => Family::Vector,
        _ => return None,
    };
    let slow_address = has_memory(insn) && (op.bits & ADDRESS_SLOW != 0 || !reachable(insn));
    (!slow_address && operands_fit(insn)).then_some(family)
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
                registers::number(register).is_some() || register.is_xmm()
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

/// SSE and SSE2 instructions whose results have one definition: not the approximations, not those
/// that use MMX registers.
#[rustfmt::skip]
fn is_vector(insn: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        insn.mnemonic(),
        M::Movaps | M::Movapd | M::Movups | M::Movupd | M::Movdqa | M::Movdqu | M::Movss | M::Movsd
        | M::Movlps | M::Movhps | M::Movlpd | M::Movhpd | M::Movhlps | M::Movlhps | M::Movd | M::Movq
        | M::Movntdq | M::Movntps | M::Movntpd | M::Movmskps | M::Movmskpd | M::Pmovmskb
        | M::Addps | M::Addpd | M::Addss | M::Addsd | M::Subps | M::Subpd | M::Subss | M::Subsd
        | M::Mulps | M::Mulpd | M::Mulss | M::Mulsd | M::Divps | M::Divpd | M::Divss | M::Divsd
        | M::Sqrtps | M::Sqrtpd | M::Sqrtss | M::Sqrtsd | M::Minps | M::Minpd | M::Minss | M::Minsd
        | M::Maxps | M::Maxpd | M::Maxss | M::Maxsd | M::Andps | M::Andpd | M::Andnps | M::Andnpd
        | M::Orps | M::Orpd | M::Xorps | M::Xorpd | M::Comiss | M::Comisd | M::Ucomiss | M::Ucomisd
        | M::Cmpps | M::Cmppd | M::Cmpss | M::Cmpsd
        | M::Shufps | M::Shufpd | M::Unpcklps | M::Unpcklpd | M::Unpckhps | M::Unpckhpd
        | M::Cvtsi2ss | M::Cvtsi2sd | M::Cvttss2si | M::Cvttsd2si | M::Cvtss2si | M::Cvtsd2si
        | M::Cvtss2sd | M::Cvtsd2ss | M::Cvtps2pd | M::Cvtpd2ps | M::Cvtdq2ps | M::Cvtps2dq
        | M::Cvttps2dq | M::Cvtdq2pd | M::Cvtpd2dq | M::Cvttpd2dq
        | M::Paddb | M::Paddw | M::Paddd | M::Paddq | M::Psubb | M::Psubw | M::Psubd | M::Psubq
        | M::Paddsb | M::Paddsw | M::Paddusb | M::Paddusw | M::Psubsb | M::Psubsw | M::Psubusb
        | M::Psubusw | M::Pcmpeqb | M::Pcmpeqw | M::Pcmpeqd | M::Pcmpgtb | M::Pcmpgtw | M::Pcmpgtd
        | M::Pand | M::Pandn | M::Por | M::Pxor | M::Pminub | M::Pmaxub | M::Pminsw | M::Pmaxsw
        | M::Pavgb | M::Pavgw | M::Pmullw | M::Pmulhw | M::Pmulhuw | M::Pmuludq | M::Pmaddwd
        | M::Psadbw | M::Packsswb | M::Packssdw | M::Packuswb
        | M::Punpcklbw | M::Punpcklwd | M::Punpckldq | M::Punpcklqdq
        | M::Punpckhbw | M::Punpckhwd | M::Punpckhdq | M::Punpckhqdq
        | M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad
        | M::Pslldq | M::Psrldq | M::Pshufd | M::Pshufhw | M::Pshuflw | M::Pextrw | M::Pinsrw
    ) && (0..insn.op_count()).any(|n| {
        insn.op_kind(n) == OpKind::Register && insn.op_register(n) >= Register::XMM0
            && insn.op_register(n) <= Register::XMM15
    }) && insn.encoding() == iced_x86::EncodingKind::Legacy
        && !matches!(insn.code(), Code::Pextrw_r32m16_xmm_imm8 | Code::Pextrw_r64m16_xmm_imm8)
}
