//! Integer lanes: PADD*, PSUB*, PMUL*, PMADDWD, PSADBW, PAVG*, PMIN*, PMAX*, PCMP*, and bitwise
//! operations under all their names.
//!
//! Does: name the handler. Does not: compute (`native`).

use iced_x86::{Instruction, Mnemonic};

use super::native::{
    AddB, AddD, AddQ, AddSignedB, AddSignedW, AddUnsignedB, AddUnsignedW, AddW, AverageB, AverageW,
    Binary, EqualB, EqualD, EqualW, GreaterB, GreaterD, GreaterW, MaxSignedW, MaxUnsignedB,
    MinSignedW, MinUnsignedB, MulAddW, MulHighUnsignedW, MulHighW, MulLowW, MulUnsignedD, SubB,
    SubD, SubQ, SubSignedB, SubSignedW, SubUnsignedB, SubUnsignedW, SubW, SumOfDifferences,
};
use super::operands::{select_either, select_xmm};
use crate::op::Selected;

/// PAND, ANDPS, ANDPD.
pub(super) struct And;
/// PANDN, ANDNPS, ANDNPD.
pub(super) struct AndNot;
/// POR, ORPS, ORPD.
pub(super) struct Or;
/// PXOR, XORPS, XORPD.
pub(super) struct Xor;

impl Binary for And {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        a & b
    }
}

impl Binary for AndNot {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        !a & b
    }
}

impl Binary for Or {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        a | b
    }
}

impl Binary for Xor {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        a ^ b
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        Mnemonic::Pxor => select_either::<Xor>(insn),
        Mnemonic::Por => select_either::<Or>(insn),
        Mnemonic::Pand => select_either::<And>(insn),
        Mnemonic::Pandn => select_either::<AndNot>(insn),
        Mnemonic::Xorps | Mnemonic::Xorpd => select_xmm::<Xor>(insn),
        Mnemonic::Orps | Mnemonic::Orpd => select_xmm::<Or>(insn),
        Mnemonic::Andps | Mnemonic::Andpd => select_xmm::<And>(insn),
        Mnemonic::Andnps | Mnemonic::Andnpd => select_xmm::<AndNot>(insn),
        Mnemonic::Pcmpeqb => select_either::<EqualB>(insn),
        Mnemonic::Pcmpeqw => select_either::<EqualW>(insn),
        Mnemonic::Pcmpeqd => select_either::<EqualD>(insn),
        Mnemonic::Pcmpgtb => select_either::<GreaterB>(insn),
        Mnemonic::Pcmpgtw => select_either::<GreaterW>(insn),
        Mnemonic::Pcmpgtd => select_either::<GreaterD>(insn),
        Mnemonic::Paddb => select_either::<AddB>(insn),
        Mnemonic::Paddw => select_either::<AddW>(insn),
        Mnemonic::Paddd => select_either::<AddD>(insn),
        Mnemonic::Paddq => select_either::<AddQ>(insn),
        Mnemonic::Paddsb => select_either::<AddSignedB>(insn),
        Mnemonic::Paddsw => select_either::<AddSignedW>(insn),
        Mnemonic::Paddusb => select_either::<AddUnsignedB>(insn),
        Mnemonic::Paddusw => select_either::<AddUnsignedW>(insn),
        Mnemonic::Psubb => select_either::<SubB>(insn),
        Mnemonic::Psubw => select_either::<SubW>(insn),
        Mnemonic::Psubd => select_either::<SubD>(insn),
        Mnemonic::Psubq => select_either::<SubQ>(insn),
        Mnemonic::Psubsb => select_either::<SubSignedB>(insn),
        Mnemonic::Psubsw => select_either::<SubSignedW>(insn),
        Mnemonic::Psubusb => select_either::<SubUnsignedB>(insn),
        Mnemonic::Psubusw => select_either::<SubUnsignedW>(insn),
        Mnemonic::Pminub => select_either::<MinUnsignedB>(insn),
        Mnemonic::Pmaxub => select_either::<MaxUnsignedB>(insn),
        Mnemonic::Pminsw => select_either::<MinSignedW>(insn),
        Mnemonic::Pmaxsw => select_either::<MaxSignedW>(insn),
        Mnemonic::Pavgb => select_either::<AverageB>(insn),
        Mnemonic::Pavgw => select_either::<AverageW>(insn),
        Mnemonic::Pmullw => select_either::<MulLowW>(insn),
        Mnemonic::Pmulhw => select_either::<MulHighW>(insn),
        Mnemonic::Pmulhuw => select_either::<MulHighUnsignedW>(insn),
        Mnemonic::Pmuludq => select_either::<MulUnsignedD>(insn),
        Mnemonic::Pmaddwd => select_either::<MulAddW>(insn),
        Mnemonic::Psadbw => select_either::<SumOfDifferences>(insn),
        _ => None,
    }
}
