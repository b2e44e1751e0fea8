//! The double extended format: 64 bits of significand with an explicit integer bit.
//!
//! What it does not: arithmetic. Here a value is only taken apart and put together.
//!
//! Invariant: an [`F80`] is the exact image of an x87 register; equality is equality of bits.

use serde::{Deserialize, Serialize};

/// The exponent field of infinities and NaNs, and the mask of the field.
pub(super) const EXPONENT_MAX: u16 = 0x7fff;
/// The exponent field of 1.0.
pub(super) const BIAS: i32 = 0x3fff;
/// The explicit integer bit.
pub(super) const INTEGER_BIT: u64 = 1 << 63;
/// The bit that tells a quiet NaN from a signaling one.
const QUIET_BIT: u64 = 1 << 62;
/// The sign, in the word that holds the exponent.
const SIGN_BIT: u16 = 0x8000;

/// An 80-bit value as an x87 register holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct F80 {
    /// The significand with its integer bit.
    pub mantissa: u64,
    /// The sign (bit 15) and the biased exponent.
    pub sign_exponent: u16,
}

/// The classes that the FPU distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An unnormal, a pseudo-NaN or a pseudo-infinity: encodings that no operation accepts.
    Unsupported,
    /// Quiet or signaling.
    Nan,
    /// A normalised, nonzero finite value.
    Normal,
    /// An infinity.
    Infinity,
    /// A zero.
    Zero,
    /// A denormal, or a pseudo-denormal (exponent field 0 with the integer bit set).
    Denormal,
}

/// A nonzero finite value with a normalised significand:
/// `mantissa / 2^63 * 2^(exponent - BIAS)`, where the top bit of the mantissa is set and the
/// exponent has no bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finite {
    pub(super) negative: bool,
    pub(super) exponent: i32,
    pub(super) mantissa: u64,
}

impl F80 {
    /// Plus zero.
    pub const ZERO: Self = Self::new(false, 0, 0);
    /// One.
    pub const ONE: Self = Self::new(false, 0x3fff, INTEGER_BIT);
    /// Plus infinity.
    pub const INFINITY: Self = Self::new(false, EXPONENT_MAX, INTEGER_BIT);
    /// The real indefinite, a negative quiet NaN: the masked response to an invalid operation.
    pub const INDEFINITE: Self = Self::new(true, EXPONENT_MAX, INTEGER_BIT | QUIET_BIT);

    /// Puts a value together from its fields.
    #[must_use]
    pub const fn new(negative: bool, exponent: u16, mantissa: u64) -> Self {
        let sign = if negative { SIGN_BIT } else { 0 };
        Self {
            mantissa,
            sign_exponent: sign | (exponent & EXPONENT_MAX),
        }
    }

    /// Reads the ten bytes of the memory image.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 10]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j] = bytes;
        Self {
            mantissa: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            sign_exponent: u16::from_le_bytes([i, j]),
        }
    }

    /// Gives the ten bytes of the memory image.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 10] {
        let [a, b, c, d, e, f, g, h] = self.mantissa.to_le_bytes();
        let [i, j] = self.sign_exponent.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j]
    }

    /// Whether the sign bit is set.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.sign_exponent & SIGN_BIT != 0
    }

    /// The exponent field.
    #[must_use]
    pub const fn biased_exponent(self) -> u16 {
        self.sign_exponent & EXPONENT_MAX
    }

    /// The value with its sign cleared (FABS).
    #[must_use]
    pub const fn abs(self) -> Self {
        Self {
            mantissa: self.mantissa,
            sign_exponent: self.sign_exponent & !SIGN_BIT,
        }
    }

    /// The value with its sign flipped (FCHS).
    #[must_use]
    pub const fn negate(self) -> Self {
        Self {
            mantissa: self.mantissa,
            sign_exponent: self.sign_exponent ^ SIGN_BIT,
        }
    }

    /// The value with the given sign.
    pub(super) const fn with_sign(self, negative: bool) -> Self {
        Self::new(negative, self.biased_exponent(), self.mantissa)
    }

    /// The class of the value, as FXAM reports it for a register that is not empty.
    #[must_use]
    pub const fn class(self) -> Class {
        let integer_bit = self.mantissa & INTEGER_BIT != 0;
        match self.biased_exponent() {
            0 if self.mantissa == 0 => Class::Zero,
            0 => Class::Denormal,
            _ if !integer_bit => Class::Unsupported,
            EXPONENT_MAX if self.mantissa == INTEGER_BIT => Class::Infinity,
            EXPONENT_MAX => Class::Nan,
            _ => Class::Normal,
        }
    }

    /// Whether the value is zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        matches!(self.class(), Class::Zero)
    }

    /// Whether the value is infinite.
    #[must_use]
    pub const fn is_infinite(self) -> bool {
        matches!(self.class(), Class::Infinity)
    }

    /// Whether the value is a quiet or signaling NaN.
    #[must_use]
    pub const fn is_nan(self) -> bool {
        matches!(self.class(), Class::Nan)
    }

    /// Whether the value is a signaling NaN.
    #[must_use]
    pub const fn is_signaling(self) -> bool {
        self.is_nan() && self.mantissa & QUIET_BIT == 0
    }

    /// Whether the value is denormal or pseudo-denormal.
    #[must_use]
    pub const fn is_denormal(self) -> bool {
        matches!(self.class(), Class::Denormal)
    }

    /// The NaN made quiet.
    pub(super) const fn quieted(self) -> Self {
        Self {
            mantissa: self.mantissa | QUIET_BIT,
            sign_exponent: self.sign_exponent,
        }
    }

    /// Normalises a nonzero finite value.
    pub(super) const fn unpack(self) -> Finite {
        debug_assert!(matches!(self.class(), Class::Normal | Class::Denormal));
        let shift = self.mantissa.leading_zeros();
        // A denormal has the exponent of the smallest normal number.
        let field = if self.biased_exponent() == 0 {
            1
        } else {
            self.biased_exponent()
        };
        Finite {
            negative: self.is_negative(),
            exponent: field as i32 - shift as i32,
            mantissa: self.mantissa << shift,
        }
    }
}
