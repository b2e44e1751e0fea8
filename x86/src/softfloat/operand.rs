//! Operands that decide a result before anything is computed: NaNs, unsupported encodings and
//! denormals.
//!
//! What it does not: the invalid operations that depend on the operation (infinities, zeros).
//!
//! Invariant: the priority is that of the manuals: unsupported or signaling operand, quiet NaN,
//! other invalid operations and division by zero, denormal operand.

use super::control::{Control, Flags};
use super::format::{Class, F80};

/// An operand as an arithmetic instruction sees it: an 80-bit value, and whether it counts as
/// denormal. The two differ for a single or double memory operand, which is denormal in its own
/// format and normal once it is widened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    pub(super) value: F80,
    pub(super) denormal: bool,
}

impl From<F80> for Operand {
    fn from(value: F80) -> Self {
        Self {
            value,
            denormal: value.is_denormal(),
        }
    }
}

/// The masked response to an invalid operation.
pub(super) fn invalid(flags: &mut Flags) -> F80 {
    flags.raise(Flags::INVALID);
    F80::INDEFINITE
}

/// The result of an operation of one operand when that is a NaN or unsupported.
pub(super) fn screen_one(a: F80, flags: &mut Flags) -> Option<F80> {
    match a.class() {
        Class::Unsupported => Some(invalid(flags)),
        Class::Nan => {
            if a.is_signaling() {
                flags.raise(Flags::INVALID);
            }
            Some(a.quieted())
        }
        _ => None,
    }
}

/// The result of an operation of two operands when one is a NaN or unsupported.
pub(super) fn screen_two(a: F80, b: F80, flags: &mut Flags) -> Option<F80> {
    let (class_a, class_b) = (a.class(), b.class());
    if class_a == Class::Unsupported || class_b == Class::Unsupported {
        return Some(invalid(flags));
    }
    match (class_a == Class::Nan, class_b == Class::Nan) {
        (false, false) => None,
        (true, false) => screen_one(a, flags),
        (false, true) => screen_one(b, flags),
        (true, true) => {
            if a.is_signaling() || b.is_signaling() {
                flags.raise(Flags::INVALID);
            }
            Some(choose_nan(a, b).quieted())
        }
    }
}

/// The x87 rule for two NaNs: a quiet one wins over a signaling one, otherwise the larger
/// significand wins, otherwise the positive one.
fn choose_nan(a: F80, b: F80) -> F80 {
    match (a.is_signaling(), b.is_signaling()) {
        (true, false) => b,
        (false, true) => a,
        _ if a.mantissa > b.mantissa => a,
        _ if a.mantissa < b.mantissa => b,
        _ if a.is_negative() => b,
        _ => a,
    }
}

/// Notes denormal operands; true if that ends the instruction because #D is unmasked.
pub(super) fn denormal(any: bool, control: &Control, flags: &mut Flags) -> bool {
    if any {
        flags.raise(Flags::DENORMAL);
    }
    any && !control.masked(Flags::DENORMAL)
}
