//! The host's SSE2 unit: one function for each vector operation that has one definition everywhere.
//!
//! Does: run integer lanes (the manuals define every bit of their results) and IEEE 754 arithmetic
//! under the guest's rounding, FTZ and DAZ, and report which exceptions occurred. What only some
//! hosts have beyond SSE2 is offered as an `Option`: others compute the same bits in integers.
//! Does not: anything that hosts do differently (RCPPS and RSQRTPS are in `reciprocal`), trap, or
//! touch the guest's MXCSR.
//!
//! Invariant: MXCSR has Rust's default again when a function returns, and every exception is masked
//! while the guest's control is in force. This is the only file of the family with unsafe code.

#![allow(unsafe_code)]

use core::arch::asm;
use core::arch::x86_64::*;
use core::mem::transmute;

use super::float::{Elements, Kind};

/// MXCSR as Rust expects it: everything masked, round to nearest, no FTZ, no DAZ.
pub(super) const HOST_MXCSR: u32 = 0x1f80;

/// An operation on two vectors that needs no MXCSR.
pub(super) trait Binary: 'static {
    /// The result for destination `a` and source `b`.
    fn apply(a: u128, b: u128) -> u128;
}

/// An operation on two vectors that obeys MXCSR.
pub(super) trait Float: 'static {
    /// Which lanes of the operands count.
    const ELEMENTS: Elements;
    /// What it computes, as far as unmasked overflow and underflow need to know.
    const KIND: Kind;
    /// The result for destination `a` and source `b`, and the exception flags (bits 0–5), under
    /// `control` (rounding, FTZ, DAZ at their places in MXCSR) with every exception masked.
    fn run(a: u128, b: u128, control: u32) -> (u128, u32);
    /// The result, if it is obvious that at most an inexact result is to be reported, under the
    /// default control.
    #[inline(always)]
    fn quick(_a: u128, _b: u128) -> Option<u128> {
        None
    }
}

/// An operation from a vector to a general register that obeys MXCSR.
pub(super) trait ToInteger: 'static {
    /// The result, zero-extended, and the exception flags.
    fn run(b: u128, control: u32) -> (u64, u32);
}

/// An operation from a general register into a vector that obeys MXCSR.
pub(super) trait FromInteger: 'static {
    /// The result for destination `a`, and the exception flags.
    fn run(a: u128, b: u64, control: u32) -> (u128, u32);
}

/// A comparison that sets ZF, PF and CF.
pub(super) trait Comparison: 'static {
    /// ZF, PF, CF, and the exception flags.
    fn run(a: u128, b: u128, control: u32) -> ([bool; 3], u32);
}

/// The vector as the host's type.
#[inline(always)]
fn vector(value: u128) -> __m128i {
    // SAFETY: both are 16 bytes in which every bit pattern is a value.
    unsafe { transmute(value) }
}

/// The vector as an integer.
#[inline(always)]
fn integer(value: __m128i) -> u128 {
    // SAFETY: both are 16 bytes in which every bit pattern is a value.
    unsafe { transmute(value) }
}

/// Defines operations by the intrinsic that performs them.
macro_rules! lanes {
    ($($(#[$doc:meta])* $name:ident: $intrinsic:ident;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Binary for $name {
            #[inline(always)]
            fn apply(a: u128, b: u128) -> u128 {
                // SAFETY: SSE2 is part of every x86-64 CPU.
                integer(unsafe { $intrinsic(vector(a), vector(b)) })
            }
        }
    )*};
}

lanes! {
    /// PADDB.
    AddB: _mm_add_epi8;
    /// PADDW.
    AddW: _mm_add_epi16;
    /// PADDD.
    AddD: _mm_add_epi32;
    /// PADDQ.
    AddQ: _mm_add_epi64;
    /// PADDSB.
    AddSignedB: _mm_adds_epi8;
    /// PADDSW.
    AddSignedW: _mm_adds_epi16;
    /// PADDUSB.
    AddUnsignedB: _mm_adds_epu8;
    /// PADDUSW.
    AddUnsignedW: _mm_adds_epu16;
    /// PSUBB.
    SubB: _mm_sub_epi8;
    /// PSUBW.
    SubW: _mm_sub_epi16;
    /// PSUBD.
    SubD: _mm_sub_epi32;
    /// PSUBQ.
    SubQ: _mm_sub_epi64;
    /// PSUBSB.
    SubSignedB: _mm_subs_epi8;
    /// PSUBSW.
    SubSignedW: _mm_subs_epi16;
    /// PSUBUSB.
    SubUnsignedB: _mm_subs_epu8;
    /// PSUBUSW.
    SubUnsignedW: _mm_subs_epu16;
    /// PCMPEQB.
    EqualB: _mm_cmpeq_epi8;
    /// PCMPEQW.
    EqualW: _mm_cmpeq_epi16;
    /// PCMPEQD.
    EqualD: _mm_cmpeq_epi32;
    /// PCMPGTB.
    GreaterB: _mm_cmpgt_epi8;
    /// PCMPGTW.
    GreaterW: _mm_cmpgt_epi16;
    /// PCMPGTD.
    GreaterD: _mm_cmpgt_epi32;
    /// PMINUB.
    MinUnsignedB: _mm_min_epu8;
    /// PMAXUB.
    MaxUnsignedB: _mm_max_epu8;
    /// PMINSW.
    MinSignedW: _mm_min_epi16;
    /// PMAXSW.
    MaxSignedW: _mm_max_epi16;
    /// PAVGB.
    AverageB: _mm_avg_epu8;
    /// PAVGW.
    AverageW: _mm_avg_epu16;
    /// PMULLW.
    MulLowW: _mm_mullo_epi16;
    /// PMULHW.
    MulHighW: _mm_mulhi_epi16;
    /// PMULHUW.
    MulHighUnsignedW: _mm_mulhi_epu16;
    /// PMULUDQ.
    MulUnsignedD: _mm_mul_epu32;
    /// PMADDWD.
    MulAddW: _mm_madd_epi16;
    /// PSADBW.
    SumOfDifferences: _mm_sad_epu8;
    /// PACKSSWB.
    PackSignedW: _mm_packs_epi16;
    /// PACKSSDW.
    PackSignedD: _mm_packs_epi32;
    /// PACKUSWB.
    PackUnsignedW: _mm_packus_epi16;
    /// PUNPCKLBW.
    UnpackLowB: _mm_unpacklo_epi8;
    /// PUNPCKLWD.
    UnpackLowW: _mm_unpacklo_epi16;
    /// PUNPCKLDQ, UNPCKLPS.
    UnpackLowD: _mm_unpacklo_epi32;
    /// PUNPCKHBW.
    UnpackHighB: _mm_unpackhi_epi8;
    /// PUNPCKHWD.
    UnpackHighW: _mm_unpackhi_epi16;
    /// PUNPCKHDQ, UNPCKHPS.
    UnpackHighD: _mm_unpackhi_epi32;
    /// PSLLW; the count is the low quadword of the source.
    ShiftLeftW: _mm_sll_epi16;
    /// PSLLD.
    ShiftLeftD: _mm_sll_epi32;
    /// PSLLQ.
    ShiftLeftQ: _mm_sll_epi64;
    /// PSRLW.
    ShiftRightW: _mm_srl_epi16;
    /// PSRLD.
    ShiftRightD: _mm_srl_epi32;
    /// PSRLQ.
    ShiftRightQ: _mm_srl_epi64;
    /// PSRAW.
    ShiftSignedW: _mm_sra_epi16;
    /// PSRAD.
    ShiftSignedD: _mm_sra_epi32;
}

/// Defines what only some hosts have, with one definition everywhere: `None` where it is lacking.
macro_rules! optional {
    ($($(#[$doc:meta])* $name:ident: $feature:tt, |$a:ident, $b:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(super) fn $name(a: u128, b: u128) -> Option<u128> {
            #[target_feature(enable = $feature)]
            fn run($a: __m128i, $b: __m128i) -> __m128i {
                $body
            }
            is_x86_feature_detected!($feature).then(|| {
                // SAFETY: the host has the feature.
                integer(unsafe { run(vector(a), vector(b)) })
            })
        }
    )*};
}

optional! {
    /// PSHUFB.
    shuffle_bytes: "ssse3", |a, b| _mm_shuffle_epi8(a, b);
    /// AESENC.
    aes_encrypt: "aes", |a, b| _mm_aesenc_si128(a, b);
    /// AESENCLAST.
    aes_encrypt_last: "aes", |a, b| _mm_aesenclast_si128(a, b);
    /// AESDEC.
    aes_decrypt: "aes", |a, b| _mm_aesdec_si128(a, b);
    /// AESDECLAST.
    aes_decrypt_last: "aes", |a, b| _mm_aesdeclast_si128(a, b);
    /// PCLMULQDQ of the low quadwords.
    carryless_product: "pclmulqdq", |a, b| _mm_clmulepi64_si128::<0>(a, b);
}

/// PMOVMSKB: the sign bits of the sixteen bytes.
#[inline(always)]
pub(super) fn byte_signs(value: u128) -> u32 {
    // SAFETY: SSE2 is part of every x86-64 CPU.
    unsafe { _mm_movemask_epi8(vector(value)) as u32 }
}

/// Runs one instruction under the guest's control and gives the exception flags. The operands of
/// `asm!` follow the instruction; `{m}` is taken.
macro_rules! under_control {
    ($control:expr, [$($line:expr),+], $($operands:tt)*) => {{
        let mut mxcsr = [$control & !0x3f | HOST_MXCSR, HOST_MXCSR];
        // SAFETY: SSE2 is part of every x86-64 CPU. `m` points to two words of which the first
        // is read and written, the second read. All exceptions are masked, so nothing traps, and
        // MXCSR has its default again at the end.
        unsafe {
            asm!(
                "ldmxcsr [{m}]",
                $($line,)+
                "stmxcsr [{m}]",
                "ldmxcsr [{m} + 4]",
                m = in(reg) mxcsr.as_mut_ptr(),
                $($operands)*
                options(nostack),
            );
        }
        mxcsr[0] & 0x3f
    }};
}

/// `x * y + z` of doubles, rounded once, and the exception flags; `None` if the host has no FMA.
pub(super) fn fused_double(x: u64, y: u64, z: u64, control: u32) -> Option<(u64, u32)> {
    if !is_x86_feature_detected!("fma") {
        return None;
    }
    let mut result = vector(x.into());
    let flags = under_control!(
        control,
        ["vfmadd213sd {x}, {y}, {z}"],
        x = inout(xmm_reg) result,
        y = in(xmm_reg) vector(y.into()),
        z = in(xmm_reg) vector(z.into()),
    );
    Some((integer(result) as u64, flags))
}

/// As [`fused_double`], of singles.
pub(super) fn fused_single(x: u32, y: u32, z: u32, control: u32) -> Option<(u32, u32)> {
    if !is_x86_feature_detected!("fma") {
        return None;
    }
    let mut result = vector(x.into());
    let flags = under_control!(
        control,
        ["vfmadd213ss {x}, {y}, {z}"],
        x = inout(xmm_reg) result,
        y = in(xmm_reg) vector(y.into()),
        z = in(xmm_reg) vector(z.into()),
    );
    Some((integer(result) as u32, flags))
}

/// Defines MXCSR operations by their instruction.
macro_rules! floats {
    ($($(#[$doc:meta])* $name:ident: $insn:literal, $elements:ident, $kind:ident $(, $quick:path)?;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Float for $name {
            const ELEMENTS: Elements = Elements::$elements;
            const KIND: Kind = Kind::$kind;

            #[inline]
            fn run(a: u128, b: u128, control: u32) -> (u128, u32) {
                let mut result = vector(a);
                let flags = under_control!(
                    control,
                    [concat!($insn, " {a}, {b}")],
                    a = inout(xmm_reg) result,
                    b = in(xmm_reg) vector(b),
                );
                (integer(result), flags)
            }

            $(
                #[inline(always)]
                fn quick(a: u128, b: u128) -> Option<u128> {
                    $quick(a, b)
                }
            )?
        }
    )*};
}

floats! {
    /// ADDPS.
    AddPs: "addps", Singles, Add;
    /// ADDPD.
    AddPd: "addpd", Doubles, Add;
    /// ADDSS.
    AddSs: "addss", Single, Add;
    /// ADDSD.
    AddSd: "addsd", Double, Add, super::quick::add_sd;
    /// SUBPS.
    SubPs: "subps", Singles, Sub;
    /// SUBPD.
    SubPd: "subpd", Doubles, Sub;
    /// SUBSS.
    SubSs: "subss", Single, Sub;
    /// SUBSD.
    SubSd: "subsd", Double, Sub, super::quick::sub_sd;
    /// MULPS.
    MulPs: "mulps", Singles, Mul;
    /// MULPD.
    MulPd: "mulpd", Doubles, Mul;
    /// MULSS.
    MulSs: "mulss", Single, Mul;
    /// MULSD.
    MulSd: "mulsd", Double, Mul, super::quick::mul_sd;
    /// DIVPS.
    DivPs: "divps", Singles, Div;
    /// DIVPD.
    DivPd: "divpd", Doubles, Div;
    /// DIVSS.
    DivSs: "divss", Single, Div;
    /// DIVSD.
    DivSd: "divsd", Double, Div, super::quick::div_sd;
    /// SQRTPS.
    SqrtPs: "sqrtps", Singles, Other;
    /// SQRTPD.
    SqrtPd: "sqrtpd", Doubles, Other;
    /// SQRTSS.
    SqrtSs: "sqrtss", Single, Other;
    /// SQRTSD.
    SqrtSd: "sqrtsd", Double, Other;
    /// MINPS.
    MinPs: "minps", Singles, Other;
    /// MINPD.
    MinPd: "minpd", Doubles, Other;
    /// MINSS.
    MinSs: "minss", Single, Other;
    /// MINSD.
    MinSd: "minsd", Double, Other;
    /// MAXPS.
    MaxPs: "maxps", Singles, Other;
    /// MAXPD.
    MaxPd: "maxpd", Doubles, Other;
    /// MAXSS.
    MaxSs: "maxss", Single, Other;
    /// MAXSD.
    MaxSd: "maxsd", Double, Other;
    /// CVTSS2SD.
    SingleToDouble: "cvtss2sd", Single, Other;
    /// CVTSD2SS.
    DoubleToSingle: "cvtsd2ss", Double, Narrow;
    /// CVTPS2PD.
    SinglesToDoubles: "cvtps2pd", Singles, Other;
    /// CVTPD2PS.
    DoublesToSingles: "cvtpd2ps", Doubles, Narrow;
    /// CVTPS2DQ.
    SinglesToIntegers: "cvtps2dq", Singles, Other;
    /// CVTTPS2DQ.
    TruncateSingles: "cvttps2dq", Singles, Other;
    /// CVTPD2DQ.
    DoublesToIntegers: "cvtpd2dq", Doubles, Other;
    /// CVTTPD2DQ.
    TruncateDoubles: "cvttpd2dq", Doubles, Other;
    /// CVTDQ2PS.
    IntegersToSingles: "cvtdq2ps", Singles, Other;
    /// CVTDQ2PD.
    IntegersToDoubles: "cvtdq2pd", Singles, Other;
}

/// Defines comparisons with a predicate by their instruction.
macro_rules! predicates {
    ($($(#[$doc:meta])* $name:ident: $insn:literal, $elements:ident;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name<const PREDICATE: u8>;

        impl<const PREDICATE: u8> Float for $name<PREDICATE> {
            const ELEMENTS: Elements = Elements::$elements;
            const KIND: Kind = Kind::Other;

            #[inline]
            fn run(a: u128, b: u128, control: u32) -> (u128, u32) {
                let mut result = vector(a);
                let flags = under_control!(
                    control,
                    [concat!($insn, " {a}, {b}, {p}")],
                    a = inout(xmm_reg) result,
                    b = in(xmm_reg) vector(b),
                    p = const PREDICATE,
                );
                (integer(result), flags)
            }
        }
    )*};
}

predicates! {
    /// CMPPS.
    ComparePs: "cmpps", Singles;
    /// CMPPD.
    ComparePd: "cmppd", Doubles;
    /// CMPSS.
    CompareSs: "cmpss", Single;
    /// CMPSD.
    CompareSd: "cmpsd", Double;
}

/// Defines conversions to general registers.
macro_rules! to_integers {
    ($($(#[$doc:meta])* $name:ident: $insn:literal;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl ToInteger for $name {
            #[inline]
            fn run(b: u128, control: u32) -> (u64, u32) {
                let result: u64;
                let flags = under_control!(
                    control,
                    [$insn],
                    r = out(reg) result,
                    b = in(xmm_reg) vector(b),
                );
                (result, flags)
            }
        }
    )*};
}

to_integers! {
    /// CVTSS2SI r32.
    SingleToD: "cvtss2si {r:e}, {b}";
    /// CVTSS2SI r64.
    SingleToQ: "cvtss2si {r}, {b}";
    /// CVTSD2SI r32.
    DoubleToD: "cvtsd2si {r:e}, {b}";
    /// CVTSD2SI r64.
    DoubleToQ: "cvtsd2si {r}, {b}";
    /// CVTTSS2SI r32.
    TruncateSingleToD: "cvttss2si {r:e}, {b}";
    /// CVTTSS2SI r64.
    TruncateSingleToQ: "cvttss2si {r}, {b}";
    /// CVTTSD2SI r32.
    TruncateDoubleToD: "cvttsd2si {r:e}, {b}";
    /// CVTTSD2SI r64.
    TruncateDoubleToQ: "cvttsd2si {r}, {b}";
}

/// Defines conversions from general registers.
macro_rules! from_integers {
    ($($(#[$doc:meta])* $name:ident: $insn:literal;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl FromInteger for $name {
            #[inline]
            fn run(a: u128, b: u64, control: u32) -> (u128, u32) {
                let mut result = vector(a);
                let flags = under_control!(
                    control,
                    [$insn],
                    a = inout(xmm_reg) result,
                    b = in(reg) b,
                );
                (integer(result), flags)
            }
        }
    )*};
}

from_integers! {
    /// CVTSI2SS from 32 bits.
    DToSingle: "cvtsi2ss {a}, {b:e}";
    /// CVTSI2SS from 64 bits.
    QToSingle: "cvtsi2ss {a}, {b}";
    /// CVTSI2SD from 32 bits.
    DToDouble: "cvtsi2sd {a}, {b:e}";
    /// CVTSI2SD from 64 bits.
    QToDouble: "cvtsi2sd {a}, {b}";
}

/// Defines comparisons that set flags.
macro_rules! comparisons {
    ($($(#[$doc:meta])* $name:ident: $insn:literal;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Comparison for $name {
            #[inline]
            fn run(a: u128, b: u128, control: u32) -> ([bool; 3], u32) {
                let (zero, parity, carry): (u8, u8, u8);
                let flags = under_control!(
                    control,
                    [concat!($insn, " {a}, {b}"), "setz {z}", "setp {p}", "setc {c}"],
                    a = in(xmm_reg) vector(a),
                    b = in(xmm_reg) vector(b),
                    z = out(reg_byte) zero,
                    p = out(reg_byte) parity,
                    c = out(reg_byte) carry,
                );
                ([zero != 0, parity != 0, carry != 0], flags)
            }
        }
    )*};
}

comparisons! {
    /// COMISS.
    CompareSingle: "comiss";
    /// COMISD.
    CompareDouble: "comisd";
    /// UCOMISS.
    CompareSingleQuietly: "ucomiss";
    /// UCOMISD.
    CompareDoubleQuietly: "ucomisd";
}
