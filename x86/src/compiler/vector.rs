//! Templates of SSE to AVX2: the same instruction on the host's registers.
//!
//! Does: say which of them have a template; make sure that the vector registers and MXCSR are the
//! guest's; check alignment. Does not: run with an unmasked exception; then the interpreter does
//! (`run::load_vectors`).
//!
//! Invariant: an instruction with a template has one result on every x86-64 processor. The
//! approximations have not, nor may those that choose among several NaNs: FMA, dot products,
//! horizontal sums.

use arch::cpuid::Features;
use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};

use super::family::has_memory;
use super::flags::{Fix, written};
use super::frame::Live;
use super::memory::Access;
use super::translate::Translator;
use crate::features::offers;

/// True if the instruction has a template, on a host that has it.
pub(super) fn has_template(insn: &Instruction) -> bool {
    match insn.encoding() {
        EncodingKind::Legacy => is_legacy(insn),
        EncodingKind::VEX => is_vex(insn),
        _ => false,
    }
}

/// SSE to SSE4.2 on XMM registers.
#[rustfmt::skip]
fn is_legacy(insn: &Instruction) -> bool {
    use Mnemonic as M;
    let is_xmm = |n| {
        let register = insn.op_register(n);
        (Register::XMM0..=Register::XMM15).contains(&register)
    };
    matches!(
        insn.mnemonic(),
        // SSE and SSE2
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
        // SSE3 and SSSE3
        | M::Movddup | M::Movshdup | M::Movsldup | M::Lddqu | M::Addsubps | M::Addsubpd
        | M::Pshufb | M::Palignr | M::Phaddw | M::Phaddd | M::Phaddsw | M::Phsubw | M::Phsubd
        | M::Phsubsw | M::Psignb | M::Psignw | M::Psignd | M::Pabsb | M::Pabsw | M::Pabsd
        | M::Pmulhrsw | M::Pmaddubsw
        // SSE4.1 and SSE4.2
        | M::Pblendw | M::Blendps | M::Blendpd | M::Pblendvb | M::Blendvps | M::Blendvpd | M::Ptest
        | M::Pminsb | M::Pminuw | M::Pminsd | M::Pminud | M::Pmaxsb | M::Pmaxuw | M::Pmaxsd
        | M::Pmaxud | M::Pmulld | M::Pmuldq | M::Pcmpeqq | M::Pcmpgtq | M::Packusdw
        | M::Pmovsxbw | M::Pmovsxbd | M::Pmovsxbq | M::Pmovsxwd | M::Pmovsxwq | M::Pmovsxdq
        | M::Pmovzxbw | M::Pmovzxbd | M::Pmovzxbq | M::Pmovzxwd | M::Pmovzxwq | M::Pmovzxdq
        | M::Pextrb | M::Pextrd | M::Pextrq | M::Pinsrb | M::Pinsrd | M::Pinsrq
        | M::Insertps | M::Extractps | M::Roundps | M::Roundpd | M::Roundss | M::Roundsd
        | M::Mpsadbw | M::Phminposuw | M::Movntdqa
        // AES, PCLMULQDQ, SHA
        | M::Aesenc | M::Aesenclast | M::Aesdec | M::Aesdeclast | M::Aesimc | M::Aeskeygenassist
        | M::Pclmulqdq | M::Sha1rnds4 | M::Sha1nexte | M::Sha1msg1 | M::Sha1msg2
        | M::Sha256rnds2 | M::Sha256msg1 | M::Sha256msg2
    ) && (0..insn.op_count()).any(is_xmm)
}

/// AVX and AVX2 but for some.
fn is_vex(insn: &Instruction) -> bool {
    use Mnemonic as M;
    const SETS: Features = Features::AVX
        .union(Features::AVX2)
        .union(Features::AES)
        .union(Features::PCLMULQDQ);
    let excluded = matches!(
        insn.mnemonic(),
        // No single result.
        M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss | M::Vdpps | M::Vdppd
        | M::Vhaddps | M::Vhaddpd | M::Vhsubps | M::Vhsubpd
        // Memory of a shape that `memory` does not know.
        | M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq | M::Vmaskmovdqu
        | M::Vgatherdps | M::Vgatherdpd | M::Vgatherqps | M::Vgatherqpd
        | M::Vpgatherdd | M::Vpgatherdq | M::Vpgatherqd | M::Vpgatherqq
        // MXCSR is the host's own business here.
        | M::Vldmxcsr | M::Vstmxcsr
        // General registers that are not named.
        | M::Vpcmpestri | M::Vpcmpestri64 | M::Vpcmpestrm | M::Vpcmpestrm64
        | M::Vpcmpistri | M::Vpcmpistrm
    );
    !excluded && offers(SETS, insn)
}

impl Translator<'_> {
    pub(super) fn vector(&mut self, insn: &Instruction) {
        let is_vex = insn.encoding() == EncodingKind::VEX;
        self.want_vectors(if is_vex { Live::Ymm } else { Live::Xmm });
        if has_memory(insn) {
            self.vector_operand(insn, is_vex);
        }
        let mut insn = *insn;
        match insn.mnemonic() {
            Mnemonic::Cmpps | Mnemonic::Cmppd | Mnemonic::Cmpss | Mnemonic::Cmpsd => {
                insn.set_immediate8(insn.immediate8() & 7);
            }
            Mnemonic::Vcmpps | Mnemonic::Vcmppd | Mnemonic::Vcmpss | Mnemonic::Vcmpsd => {
                insn.set_immediate8(insn.immediate8() & 31);
            }
            _ => {}
        }
        self.rewrite(&insn);
        if written(&insn) != 0 {
            self.flags_written(Fix::Exact);
        }
    }

    fn vector_operand(&mut self, insn: &Instruction, is_vex: bool) {
        use Mnemonic as M;
        let access = if insn.op0_kind() == OpKind::Memory {
            Access::Write
        } else {
            Access::Read
        };
        let size = insn.memory_size().size();
        let aligned = if is_vex {
            matches!(
                insn.mnemonic(),
                M::Vmovaps
                    | M::Vmovapd
                    | M::Vmovdqa
                    | M::Vmovntps
                    | M::Vmovntpd
                    | M::Vmovntdq
                    | M::Vmovntdqa
            )
        } else {
            let unaligned = matches!(
                insn.mnemonic(),
                M::Movups | M::Movupd | M::Movdqu | M::Lddqu
            );
            size == 16 && !unaligned
        };
        if aligned {
            self.aligned_operand(insn, size, access);
        } else {
            self.operand(insn, size, access);
        }
    }
}
