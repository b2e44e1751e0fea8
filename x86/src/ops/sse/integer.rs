//! Integer lanes: PADD*, PSUB*, PMUL*, PMADDWD, PSADBW, PAVG*, PMIN*, PMAX*, PCMP*, and bitwise
//! operations under all their names.
//!
//! Does: name the handler. Does not: compute (`native`).

use iced_x86::{Instruction, Mnemonic as M};

use super::native::{
    AddB, AddD, AddQ, AddSignedB, AddSignedW, AddUnsignedB, AddUnsignedW, AddW, AverageB, AverageW,
    Binary, EqualB, EqualD, EqualW, GreaterB, GreaterD, GreaterW, MaxSignedW, MaxUnsignedB,
    MinSignedW, MinUnsignedB, MulAddW, MulHighUnsignedW, MulHighW, MulLowW, MulUnsignedD, SubB,
    SubD, SubQ, SubSignedB, SubSignedW, SubUnsignedB, SubUnsignedW, SubW, SumOfDifferences,
};
use super::operands::{select_either, select_vector};
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
        M::Pxor | M::Vpxor => select_either::<Xor>(insn),
        M::Por | M::Vpor => select_either::<Or>(insn),
        M::Pand | M::Vpand => select_either::<And>(insn),
        M::Pandn | M::Vpandn => select_either::<AndNot>(insn),
        M::Xorps | M::Vxorps | M::Xorpd | M::Vxorpd => select_vector::<Xor>(insn),
        M::Orps | M::Vorps | M::Orpd | M::Vorpd => select_vector::<Or>(insn),
        M::Andps | M::Vandps | M::Andpd | M::Vandpd => select_vector::<And>(insn),
        M::Andnps | M::Vandnps | M::Andnpd | M::Vandnpd => select_vector::<AndNot>(insn),
        M::Pcmpeqb | M::Vpcmpeqb => select_either::<EqualB>(insn),
        M::Pcmpeqw | M::Vpcmpeqw => select_either::<EqualW>(insn),
        M::Pcmpeqd | M::Vpcmpeqd => select_either::<EqualD>(insn),
        M::Pcmpgtb | M::Vpcmpgtb => select_either::<GreaterB>(insn),
        M::Pcmpgtw | M::Vpcmpgtw => select_either::<GreaterW>(insn),
        M::Pcmpgtd | M::Vpcmpgtd => select_either::<GreaterD>(insn),
        M::Paddb | M::Vpaddb => select_either::<AddB>(insn),
        M::Paddw | M::Vpaddw => select_either::<AddW>(insn),
        M::Paddd | M::Vpaddd => select_either::<AddD>(insn),
        M::Paddq | M::Vpaddq => select_either::<AddQ>(insn),
        M::Paddsb | M::Vpaddsb => select_either::<AddSignedB>(insn),
        M::Paddsw | M::Vpaddsw => select_either::<AddSignedW>(insn),
        M::Paddusb | M::Vpaddusb => select_either::<AddUnsignedB>(insn),
        M::Paddusw | M::Vpaddusw => select_either::<AddUnsignedW>(insn),
        M::Psubb | M::Vpsubb => select_either::<SubB>(insn),
        M::Psubw | M::Vpsubw => select_either::<SubW>(insn),
        M::Psubd | M::Vpsubd => select_either::<SubD>(insn),
        M::Psubq | M::Vpsubq => select_either::<SubQ>(insn),
        M::Psubsb | M::Vpsubsb => select_either::<SubSignedB>(insn),
        M::Psubsw | M::Vpsubsw => select_either::<SubSignedW>(insn),
        M::Psubusb | M::Vpsubusb => select_either::<SubUnsignedB>(insn),
        M::Psubusw | M::Vpsubusw => select_either::<SubUnsignedW>(insn),
        M::Pminub | M::Vpminub => select_either::<MinUnsignedB>(insn),
        M::Pmaxub | M::Vpmaxub => select_either::<MaxUnsignedB>(insn),
        M::Pminsw | M::Vpminsw => select_either::<MinSignedW>(insn),
        M::Pmaxsw | M::Vpmaxsw => select_either::<MaxSignedW>(insn),
        M::Pavgb | M::Vpavgb => select_either::<AverageB>(insn),
        M::Pavgw | M::Vpavgw => select_either::<AverageW>(insn),
        M::Pmullw | M::Vpmullw => select_either::<MulLowW>(insn),
        M::Pmulhw | M::Vpmulhw => select_either::<MulHighW>(insn),
        M::Pmulhuw | M::Vpmulhuw => select_either::<MulHighUnsignedW>(insn),
        M::Pmuludq | M::Vpmuludq => select_either::<MulUnsignedD>(insn),
        M::Pmaddwd | M::Vpmaddwd => select_either::<MulAddW>(insn),
        M::Psadbw | M::Vpsadbw => select_either::<SumOfDifferences>(insn),
        _ => None,
    }
}
