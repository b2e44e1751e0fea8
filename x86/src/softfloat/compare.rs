//! FCOM, FUCOM, FCOMI, FUCOMI and FTST.
//!
//! What it does not: condition codes or EFLAGS; the caller writes the [`Ordering`] in the place
//! that its instruction has for it.
//!
//! Invariant: a comparison never leaves C1 set.

use super::control::{Control, Flags};
use super::format::{Class, F80};
use super::operand::{Operand, denormal};

/// Which NaNs are an invalid operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// FCOM and its relatives: all of them.
    Ordered,
    /// FUCOM and its relatives: signaling ones.
    Unordered,
}

/// The outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// `a < b`.
    Less,
    /// `a = b`.
    Equal,
    /// `a > b`.
    Greater,
    /// One is a NaN or unsupported.
    Unordered,
}

impl Ordering {
    /// The outcome as C3, C2 and C0 (that is, as ZF, PF and CF), in bits 2, 1 and 0.
    #[must_use]
    pub const fn c3_c2_c0(self) -> u8 {
        match self {
            Self::Greater => 0b000,
            Self::Less => 0b001,
            Self::Equal => 0b100,
            Self::Unordered => 0b111,
        }
    }
}

/// Compares `a` (ST0) with `b`. An unmasked exception keeps the instruction from popping; the
/// codes or EFLAGS are written all the same.
pub fn compare(
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    kind: Comparison,
    control: &Control,
    flags: &mut Flags,
) -> Ordering {
    compare_operands(a.into(), b.into(), kind, control, flags)
}

fn compare_operands(
    a: Operand,
    b: Operand,
    kind: Comparison,
    control: &Control,
    flags: &mut Flags,
) -> Ordering {
    let classes = [a.value.class(), b.value.class()];
    let signaling = a.value.is_signaling() || b.value.is_signaling();
    if classes.contains(&Class::Unsupported) || signaling {
        flags.raise(Flags::INVALID);
        return Ordering::Unordered;
    }
    if classes.contains(&Class::Nan) {
        if kind == Comparison::Ordered {
            flags.raise(Flags::INVALID);
        }
        return Ordering::Unordered;
    }
    denormal(a.denormal || b.denormal, control, flags);
    match key(a.value).cmp(&key(b.value)) {
        std::cmp::Ordering::Less => Ordering::Less,
        std::cmp::Ordering::Equal => Ordering::Equal,
        std::cmp::Ordering::Greater => Ordering::Greater,
    }
}

/// An integer that orders as the value does. The exponent field of a denormal and of a
/// pseudo-denormal stands for the same exponent, so the significand alone orders them; next to a
/// normal number of exponent 1 a pseudo-denormal has to compare by value, hence the 1.
fn key(value: F80) -> i128 {
    let field = if value.mantissa == 0 {
        0
    } else {
        value.biased_exponent().max(1)
    };
    let magnitude = (i128::from(field) << 64) | i128::from(value.mantissa);
    if value.is_negative() {
        -magnitude
    } else {
        magnitude
    }
}
