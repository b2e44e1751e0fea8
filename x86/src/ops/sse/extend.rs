//! Elements made wider: PMOVSX*, PMOVZX*.

use iced_x86::{Instruction, Mnemonic as M};

use super::lanes::{bytes, dwords, from_dwords, from_qwords, from_words, words};
use super::native::Binary;
use super::operands::{PartOfMemory, PartOfRegister, binary, by_form, by_source};
use crate::op::Selected;

/// Defines extensions of the lowest elements of the source.
macro_rules! extensions {
    ($($(#[$doc:meta])* $name:ident: $take:ident as $signed:ty as $wide:ty => $join:ident;)*) => {$(
        $(#[$doc])*
        struct $name;

        impl Binary for $name {
            #[inline(always)]
            fn apply(_: u128, b: u128) -> u128 {
                let narrow = $take(b);
                $join(std::array::from_fn(|n| narrow[n] as $signed as $wide))
            }
        }
    )*};
}

extensions! {
    /// PMOVSXBW.
    SignBW: bytes as i8 as u16 => from_words;
    /// PMOVSXBD.
    SignBD: bytes as i8 as u32 => from_dwords;
    /// PMOVSXBQ.
    SignBQ: bytes as i8 as u64 => from_qwords;
    /// PMOVSXWD.
    SignWD: words as i16 as u32 => from_dwords;
    /// PMOVSXWQ.
    SignWQ: words as i16 as u64 => from_qwords;
    /// PMOVSXDQ.
    SignDQ: dwords as i32 as u64 => from_qwords;
    /// PMOVZXBW.
    ZeroBW: bytes as u8 as u16 => from_words;
    /// PMOVZXBD.
    ZeroBD: bytes as u8 as u32 => from_dwords;
    /// PMOVZXBQ.
    ZeroBQ: bytes as u8 as u64 => from_qwords;
    /// PMOVZXWD.
    ZeroWD: words as u16 as u32 => from_dwords;
    /// PMOVZXWQ.
    ZeroWQ: words as u16 as u64 => from_qwords;
    /// PMOVZXDQ.
    ZeroDQ: dwords as u32 as u64 => from_qwords;
}

/// `B` of `BYTES` for each lane.
fn extend<B: Binary, const BYTES: u32>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_form!(insn, binary, B, PartOfRegister<BYTES>),
        by_form!(insn, binary, B, PartOfMemory<BYTES>),
    )
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Pmovsxbw | M::Vpmovsxbw => extend::<SignBW, 8>(insn),
        M::Pmovsxbd | M::Vpmovsxbd => extend::<SignBD, 4>(insn),
        M::Pmovsxbq | M::Vpmovsxbq => extend::<SignBQ, 2>(insn),
        M::Pmovsxwd | M::Vpmovsxwd => extend::<SignWD, 8>(insn),
        M::Pmovsxwq | M::Vpmovsxwq => extend::<SignWQ, 4>(insn),
        M::Pmovsxdq | M::Vpmovsxdq => extend::<SignDQ, 8>(insn),
        M::Pmovzxbw | M::Vpmovzxbw => extend::<ZeroBW, 8>(insn),
        M::Pmovzxbd | M::Vpmovzxbd => extend::<ZeroBD, 4>(insn),
        M::Pmovzxbq | M::Vpmovzxbq => extend::<ZeroBQ, 2>(insn),
        M::Pmovzxwd | M::Vpmovzxwd => extend::<ZeroWD, 8>(insn),
        M::Pmovzxwq | M::Vpmovzxwq => extend::<ZeroWQ, 4>(insn),
        M::Pmovzxdq | M::Vpmovzxdq => extend::<ZeroDQ, 8>(insn),
        _ => None,
    }
}
