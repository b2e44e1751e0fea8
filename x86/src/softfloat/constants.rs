//! The constants that the FPU can load.
//!
//! What it does not: raise anything. The loads are exact by definition: no PE, C1 clear.
//!
//! Invariant: rounding control chooses between the two neighbours of the true value; precision
//! control has no say.

use super::control::Rounding;
use super::format::F80;

/// A constant of the instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    /// FLDZ.
    Zero,
    /// FLD1.
    One,
    /// FLDL2T: the logarithm of ten to base two.
    Log2Of10,
    /// FLDL2E: the logarithm of e to base two.
    Log2OfE,
    /// FLDPI.
    Pi,
    /// FLDLG2: the logarithm of two to base ten.
    Log10Of2,
    /// FLDLN2: the logarithm of two to base e.
    LnOf2,
}

impl Constant {
    /// The value that is loaded.
    #[must_use]
    pub const fn load(self, rounding: Rounding) -> F80 {
        // The neighbour below, and whether the one above is nearer.
        let (exponent, below, above_is_nearer) = match self {
            Self::Zero => return F80::ZERO,
            Self::One => return F80::ONE,
            Self::Log2Of10 => (0x4000, 0xd49a_784b_cd1b_8afe, false),
            Self::Log2OfE => (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
            Self::Pi => (0x4000, 0xc90f_daa2_2168_c234, true),
            Self::Log10Of2 => (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
            Self::LnOf2 => (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
        };
        let up = match rounding {
            Rounding::Nearest => above_is_nearer,
            Rounding::Up => true,
            Rounding::Down | Rounding::Zero => false,
        };
        F80::new(false, exponent, below + up as u64)
    }
}
