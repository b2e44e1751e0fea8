//! Integer lanes that SSSE3, SSE4 and AVX2 added: PSHUFB, PHADD*, PHSUB*, PMADDUBSW, PSIGN*,
//! PMULHRSW, PABS*, PALIGNR, PACKUSDW, PMIN*, PMAX*, PMULDQ, PMULLD, PCMPEQQ, PCMPGTQ, PHMINPOSUW,
//! MPSADBW.
//!
//! Does: define them element by element, since not every host has them. Does not: extend elements
//! (`extend`), or mix vectors (`blend`).

use iced_x86::{Instruction, Mnemonic as M};

use super::lanes::{
    bytes, dwords, from_dwords, from_words, map_bytes, map_dwords, map_words, words, zip_bytes,
    zip_dwords, zip_qwords, zip_words,
};
use super::native::{Binary, shuffle_bytes};
use super::operands::{
    Legacy, Mem64, Mmx, Source, WithImmediate, after, by_source, mmx, mmx_binary, mmx_ready,
    select_either, select_mmx, select_vector, select_with_immediate, set_mmx,
};
use super::shuffle::PackMmx;
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

/// Defines operations.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: |$a:ident, $b:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        struct $name;

        impl Binary for $name {
            #[inline(always)]
            fn apply($a: u128, $b: u128) -> u128 {
                $body
            }
        }
    )*};
}

/// `compute` of neighbours: those of `a`, then those of `b`.
#[inline(always)]
fn neighbour_words(a: u128, b: u128, compute: impl Fn(i16, i16) -> i16) -> u128 {
    let (a, b) = (words(a), words(b));
    from_words(std::array::from_fn(|n| {
        let (from, at) = if n < 4 { (&a, 2 * n) } else { (&b, 2 * n - 8) };
        compute(from[at] as i16, from[at + 1] as i16) as u16
    }))
}

/// As [`neighbour_words`].
#[inline(always)]
fn neighbour_dwords(a: u128, b: u128, compute: impl Fn(u32, u32) -> u32) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    from_dwords([
        compute(a[0], a[1]),
        compute(a[2], a[3]),
        compute(b[0], b[1]),
        compute(b[2], b[3]),
    ])
}

/// PSHUFB.
fn shuffle(a: u128, b: u128) -> u128 {
    let table = bytes(a);
    map_bytes(b, |n| {
        if n & 0x80 != 0 {
            0
        } else {
            table[usize::from(n & 15)]
        }
    })
}

/// A signed number as an unsigned word.
#[inline(always)]
fn saturated_word(value: i32) -> u16 {
    value.clamp(-0x8000, 0x7fff) as u16
}

operations! {
    /// PSHUFB.
    ShuffleB: |a, b| shuffle_bytes(a, b).unwrap_or_else(|| shuffle(a, b));
    /// PSHUFB of MMX registers.
    ShuffleMmxB: |a, b| ShuffleB::apply(a, b & 0x8787_8787_8787_8787);
    /// PHADDW.
    HorizontalAddW: |a, b| neighbour_words(a, b, i16::wrapping_add);
    /// PHADDD.
    HorizontalAddD: |a, b| neighbour_dwords(a, b, u32::wrapping_add);
    /// PHADDSW.
    HorizontalAddSignedW: |a, b| neighbour_words(a, b, i16::saturating_add);
    /// PHSUBW.
    HorizontalSubW: |a, b| neighbour_words(a, b, i16::wrapping_sub);
    /// PHSUBD.
    HorizontalSubD: |a, b| neighbour_dwords(a, b, u32::wrapping_sub);
    /// PHSUBSW.
    HorizontalSubSignedW: |a, b| neighbour_words(a, b, i16::saturating_sub);
    /// PMADDUBSW: bytes of `a` are unsigned, those of `b` signed.
    MulAddB: |a, b| zip_words(a, b, |x, y| {
        let product = |shift: u32| {
            i32::from((x >> shift) as u8) * i32::from((y >> shift) as u8 as i8)
        };
        saturated_word(product(0) + product(8))
    });
    /// PSIGNB.
    SignB: |a, b| zip_bytes(a, b, |x, y| match y as i8 {
        ..=-1 => x.wrapping_neg(),
        0 => 0,
        _ => x,
    });
    /// PSIGNW.
    SignW: |a, b| zip_words(a, b, |x, y| match y as i16 {
        ..=-1 => x.wrapping_neg(),
        0 => 0,
        _ => x,
    });
    /// PSIGND.
    SignD: |a, b| zip_dwords(a, b, |x, y| match y as i32 {
        ..=-1 => x.wrapping_neg(),
        0 => 0,
        _ => x,
    });
    /// PMULHRSW.
    MulHighRoundedW: |a, b| zip_words(a, b, |x, y| {
        let product = i32::from(x as i16) * i32::from(y as i16);
        (((product >> 14) + 1) >> 1) as u16
    });
    /// PABSB.
    AbsoluteB: |_a, b| map_bytes(b, |x| (x as i8).unsigned_abs());
    /// PABSW.
    AbsoluteW: |_a, b| map_words(b, |x| (x as i16).unsigned_abs());
    /// PABSD.
    AbsoluteD: |_a, b| map_dwords(b, |x| (x as i32).unsigned_abs());
    /// PACKUSDW.
    PackUnsignedD: |a, b| {
        let (a, b) = (dwords(a), dwords(b));
        let saturated = |value: u32| (value as i32).clamp(0, 0xffff) as u16;
        from_words(std::array::from_fn(|n| saturated(if n < 4 { a[n] } else { b[n - 4] })))
    };
    /// PMINSB.
    MinSignedB: |a, b| zip_bytes(a, b, |x, y| (x as i8).min(y as i8) as u8);
    /// PMAXSB.
    MaxSignedB: |a, b| zip_bytes(a, b, |x, y| (x as i8).max(y as i8) as u8);
    /// PMINUW.
    MinUnsignedW: |a, b| zip_words(a, b, u16::min);
    /// PMAXUW.
    MaxUnsignedW: |a, b| zip_words(a, b, u16::max);
    /// PMINSD.
    MinSignedD: |a, b| zip_dwords(a, b, |x, y| (x as i32).min(y as i32) as u32);
    /// PMAXSD.
    MaxSignedD: |a, b| zip_dwords(a, b, |x, y| (x as i32).max(y as i32) as u32);
    /// PMINUD.
    MinUnsignedD: |a, b| zip_dwords(a, b, u32::min);
    /// PMAXUD.
    MaxUnsignedD: |a, b| zip_dwords(a, b, u32::max);
    /// PMULDQ.
    MulSignedD: |a, b| zip_qwords(a, b, |x, y| {
        (i64::from(x as i32) * i64::from(y as i32)) as u64
    });
    /// PMULLD.
    MulLowD: |a, b| zip_dwords(a, b, u32::wrapping_mul);
    /// PCMPEQQ.
    EqualQ: |a, b| zip_qwords(a, b, |x, y| if x == y { u64::MAX } else { 0 });
    /// PCMPGTQ.
    GreaterQ: |a, b| zip_qwords(a, b, |x, y| if x as i64 > y as i64 { u64::MAX } else { 0 });
    /// PHMINPOSUW: the smallest word and its first place.
    SmallestW: |_a, b| {
        let smallest = words(b).into_iter().zip(0u32..).min().unwrap_or_default();
        u128::from(smallest.0) | u128::from(smallest.1) << 16
    };
}

/// PALIGNR.
struct AlignRight;
/// MPSADBW.
struct SumsOfDifferences;

impl WithImmediate for AlignRight {
    #[inline(always)]
    fn apply(a: u128, b: u128, count: u8) -> u128 {
        let bits = 8 * u32::from(count);
        match count {
            0 => b,
            1..16 => b >> bits | a << (128 - bits),
            16..32 => a >> (bits - 128),
            _ => 0,
        }
    }
}

impl WithImmediate for SumsOfDifferences {
    const UPPER_SHIFT: u32 = 3;

    #[inline(always)]
    fn apply(a: u128, b: u128, selector: u8) -> u128 {
        let (a, b) = (bytes(a), bytes(b));
        let (from, block) = (
            4 * usize::from(selector >> 2 & 1),
            4 * usize::from(selector & 3),
        );
        from_words(std::array::from_fn(|n| {
            (0..4)
                .map(|i| u16::from(a[from + n + i].abs_diff(b[block + i])))
                .sum()
        }))
    }
}

/// PALIGNR of MMX registers.
fn align_mmx<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    mmx_ready(core)?;
    let [b, _] = S::load::<Legacy>(core, env, op)?;
    let both = u128::from(mmx(core, op.dst)) << 64 | b;
    let bits = 8 * (op.imm as u32 & 0xff);
    set_mmx(core, op.dst, both.checked_shr(bits).unwrap_or(0) as u64);
    after::<S>(core, env, op)
}

/// Operations on neighbours, whose MMX forms take both operands as one vector.
fn neighbours<B: Binary>(insn: &Instruction) -> Option<Selected> {
    if insn.op0_register().is_mm() {
        select_mmx::<PackMmx<B>>(insn)
    } else {
        select_vector::<B>(insn)
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Pshufb if insn.op0_register().is_mm() => by_source(
            insn,
            mmx_binary::<ShuffleMmxB, Mmx>,
            mmx_binary::<ShuffleMmxB, Mem64>,
        ),
        M::Pshufb | M::Vpshufb => select_vector::<ShuffleB>(insn),
        M::Phaddw | M::Vphaddw => neighbours::<HorizontalAddW>(insn),
        M::Phaddd | M::Vphaddd => neighbours::<HorizontalAddD>(insn),
        M::Phaddsw | M::Vphaddsw => neighbours::<HorizontalAddSignedW>(insn),
        M::Phsubw | M::Vphsubw => neighbours::<HorizontalSubW>(insn),
        M::Phsubd | M::Vphsubd => neighbours::<HorizontalSubD>(insn),
        M::Phsubsw | M::Vphsubsw => neighbours::<HorizontalSubSignedW>(insn),
        M::Pmaddubsw | M::Vpmaddubsw => select_either::<MulAddB>(insn),
        M::Psignb | M::Vpsignb => select_either::<SignB>(insn),
        M::Psignw | M::Vpsignw => select_either::<SignW>(insn),
        M::Psignd | M::Vpsignd => select_either::<SignD>(insn),
        M::Pmulhrsw | M::Vpmulhrsw => select_either::<MulHighRoundedW>(insn),
        M::Pabsb | M::Vpabsb => select_either::<AbsoluteB>(insn),
        M::Pabsw | M::Vpabsw => select_either::<AbsoluteW>(insn),
        M::Pabsd | M::Vpabsd => select_either::<AbsoluteD>(insn),
        M::Palignr if insn.op0_register().is_mm() => {
            by_source(insn, align_mmx::<Mmx>, align_mmx::<Mem64>)
        }
        M::Palignr | M::Vpalignr => select_with_immediate::<AlignRight>(insn),
        M::Packusdw | M::Vpackusdw => select_vector::<PackUnsignedD>(insn),
        M::Pminsb | M::Vpminsb => select_vector::<MinSignedB>(insn),
        M::Pmaxsb | M::Vpmaxsb => select_vector::<MaxSignedB>(insn),
        M::Pminuw | M::Vpminuw => select_vector::<MinUnsignedW>(insn),
        M::Pmaxuw | M::Vpmaxuw => select_vector::<MaxUnsignedW>(insn),
        M::Pminsd | M::Vpminsd => select_vector::<MinSignedD>(insn),
        M::Pmaxsd | M::Vpmaxsd => select_vector::<MaxSignedD>(insn),
        M::Pminud | M::Vpminud => select_vector::<MinUnsignedD>(insn),
        M::Pmaxud | M::Vpmaxud => select_vector::<MaxUnsignedD>(insn),
        M::Pmuldq | M::Vpmuldq => select_vector::<MulSignedD>(insn),
        M::Pmulld | M::Vpmulld => select_vector::<MulLowD>(insn),
        M::Pcmpeqq | M::Vpcmpeqq => select_vector::<EqualQ>(insn),
        M::Pcmpgtq | M::Vpcmpgtq => select_vector::<GreaterQ>(insn),
        M::Phminposuw | M::Vphminposuw => select_vector::<SmallestW>(insn),
        M::Mpsadbw | M::Vmpsadbw => select_with_immediate::<SumsOfDifferences>(insn),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sse::tests::Random;

    #[test]
    fn hosts_with_and_without_pshufb_agree() {
        let mut random = Random(21);
        for _ in 0..10_000 {
            let (a, b) = (random.vector(), random.vector());
            assert_eq!(shuffle(a, b), shuffle_bytes(a, b).unwrap_or(shuffle(a, b)));
        }
    }
}
