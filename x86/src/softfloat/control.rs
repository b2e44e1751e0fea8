//! What steers a computation and what it reports: control word and exception flags.
//!
//! What it does not: keep the status word. A [`Flags`] is the outcome of one instruction.
//!
//! Invariant: flag bits have the positions that FCW and FSW give them.

/// Rounding control, FCW bits 10 and 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
    /// Towards zero.
    Zero,
}

/// Precision control, FCW bits 8 and 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 24 bits of significand.
    Single,
    /// 53 bits of significand.
    Double,
    /// 64 bits of significand.
    Extended,
}

impl Precision {
    /// The number of significand bits, the integer bit included.
    pub(super) const fn bits(self) -> u32 {
        match self {
            Self::Single => 24,
            Self::Double => 53,
            Self::Extended => 64,
        }
    }
}

/// The control word, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// How to round.
    pub rounding: Rounding,
    /// To how many bits FADD, FSUB, FMUL, FDIV and FSQRT round.
    pub precision: Precision,
    /// The exceptions that are masked, as bits of [`Flags`].
    pub masks: u16,
}

impl Control {
    /// Decodes a control word. The reserved precision 01 is taken as extended, as the hardware
    /// does.
    #[must_use]
    pub const fn from_fcw(fcw: u16) -> Self {
        Self {
            rounding: match (fcw >> 10) & 3 {
                0 => Rounding::Nearest,
                1 => Rounding::Down,
                2 => Rounding::Up,
                _ => Rounding::Zero,
            },
            precision: match (fcw >> 8) & 3 {
                0 => Precision::Single,
                2 => Precision::Double,
                _ => Precision::Extended,
            },
            masks: fcw & Flags::ALL,
        }
    }

    /// The same control with the full 64 bits of precision, for the instructions that precision
    /// control does not concern.
    pub(super) const fn extended(&self) -> Self {
        Self {
            rounding: self.rounding,
            precision: Precision::Extended,
            masks: self.masks,
        }
    }

    /// Whether the exception is masked.
    #[must_use]
    pub const fn masked(&self, exception: u16) -> bool {
        self.masks & exception != 0
    }
}

/// What an instruction reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The exceptions that were detected, masked or not, as bits of the status word.
    pub exceptions: u16,
    /// Condition code C1: whether the result was rounded away from zero.
    pub c1: bool,
}

impl Flags {
    /// IE: invalid arithmetic operand.
    pub const INVALID: u16 = 1 << 0;
    /// DE: denormal operand.
    pub const DENORMAL: u16 = 1 << 1;
    /// ZE: division by zero.
    pub const ZERO_DIVIDE: u16 = 1 << 2;
    /// OE: overflow.
    pub const OVERFLOW: u16 = 1 << 3;
    /// UE: underflow.
    pub const UNDERFLOW: u16 = 1 << 4;
    /// PE: inexact result.
    pub const PRECISION: u16 = 1 << 5;
    /// All six.
    pub const ALL: u16 = 0x3f;

    /// Adds an exception.
    pub(super) const fn raise(&mut self, exception: u16) {
        self.exceptions |= exception;
    }

    /// Whether an unmasked exception keeps the instruction from writing its register result:
    /// #IA, #D or #Z, which are found before the computation.
    #[must_use]
    pub const fn blocks_register(&self, control: &Control) -> bool {
        let before = Self::INVALID | Self::DENORMAL | Self::ZERO_DIVIDE;
        self.exceptions & before & !control.masks != 0
    }

    /// Whether an unmasked exception keeps a load (FLD m32 and m64) from pushing its value: #IA
    /// only. A denormal is loaded even if #D is unmasked.
    #[must_use]
    pub const fn blocks_load(&self, control: &Control) -> bool {
        self.exceptions & Self::INVALID & !control.masks != 0
    }

    /// Whether an unmasked exception keeps a store from writing memory (and from popping): any
    /// but #P.
    #[must_use]
    pub const fn blocks_store(&self, control: &Control) -> bool {
        self.exceptions & !Self::PRECISION & !control.masks != 0
    }
}
