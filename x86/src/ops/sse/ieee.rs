//! IEEE 754 arithmetic in integers, for what not every host's unit can do: fused multiply-add,
//! half precision, rounding to integers.
//!
//! Does: take numbers apart, round exact values under MXCSR's rules, and say which exceptions that
//! is. Does not: choose between NaNs, or read operands of instructions.
//!
//! Invariant: every inexact result is rounded here, once; bit 0 of a significand stands for all that
//! lies below it.

use super::operands::{DAZ, FTZ, ROUNDING};

/// Exception flags of MXCSR.
pub(super) mod flag {
    /// Invalid operation.
    pub(in crate::ops::sse) const INVALID: u32 = 1 << 0;
    /// Denormal operand.
    pub(in crate::ops::sse) const DENORMAL: u32 = 1 << 1;
    /// Overflow.
    pub(in crate::ops::sse) const OVERFLOW: u32 = 1 << 3;
    /// Underflow.
    pub(in crate::ops::sse) const UNDERFLOW: u32 = 1 << 4;
    /// Inexact result.
    pub(in crate::ops::sse) const INEXACT: u32 = 1 << 5;
}

/// A binary interchange format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// Bits after the point.
    pub(super) fraction: u32,
    /// Bits of the exponent.
    pub(super) exponent: u32,
}

/// Half precision.
pub(super) const HALF: Format = Format {
    fraction: 10,
    exponent: 5,
};
/// Single precision.
pub(super) const SINGLE: Format = Format {
    fraction: 23,
    exponent: 8,
};
/// Double precision.
pub(super) const DOUBLE: Format = Format {
    fraction: 52,
    exponent: 11,
};

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Zero,
    Denormal,
    Normal,
    Infinity,
    Nan,
}

impl Format {
    /// The sign bit.
    pub(super) fn sign(self) -> u64 {
        1 << (self.fraction + self.exponent)
    }

    /// The bit that makes a NaN quiet.
    pub(super) fn quiet(self) -> u64 {
        1 << (self.fraction - 1)
    }

    /// Plus infinity, also the mask of the exponent.
    pub(super) fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    /// The NaN that answers an invalid operation.
    pub(super) fn default_nan(self) -> u64 {
        self.sign() | self.infinity() | self.quiet()
    }

    /// The exponent field of 1.
    pub(super) fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// The fraction of a number.
    pub(super) fn fraction_of(self, bits: u64) -> u64 {
        bits & ((1 << self.fraction) - 1)
    }

    /// The class of a number.
    pub(super) fn class(self, bits: u64) -> Class {
        let exponent = bits & self.infinity();
        match (exponent, self.fraction_of(bits)) {
            (0, 0) => Class::Zero,
            (0, _) => Class::Denormal,
            (field, 0) if field == self.infinity() => Class::Infinity,
            (field, _) if field == self.infinity() => Class::Nan,
            _ => Class::Normal,
        }
    }

    /// True for a NaN that raises invalid.
    pub(super) fn is_signalling(self, bits: u64) -> bool {
        self.class(bits) == Class::Nan && bits & self.quiet() == 0
    }

    /// A number that counts as zero under DAZ, made one.
    pub(super) fn flushed(self, bits: u64, control: u32) -> u64 {
        if control & DAZ != 0 && self.class(bits) == Class::Denormal {
            bits & self.sign()
        } else {
            bits
        }
    }

    /// Takes a finite number apart: its value is `significand / 2^127 * 2^exponent`, with the top
    /// bit of the significand set unless it is zero.
    pub(super) fn unpack(self, bits: u64) -> Value {
        let field = ((bits & self.infinity()) >> self.fraction) as i32;
        let implied = if field == 0 { 0 } else { 1 << self.fraction };
        let significand = u128::from(self.fraction_of(bits) | implied) << (127 - self.fraction);
        let shift = significand.leading_zeros().min(127);
        Value {
            negative: bits & self.sign() != 0,
            exponent: field.max(1) - self.bias() - shift as i32,
            significand: significand << shift,
        }
    }
}

/// A finite number: `significand / 2^127 * 2^exponent`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) negative: bool,
    pub(super) exponent: i32,
    pub(super) significand: u128,
}

/// How to round, and what tiny and huge results become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Environment {
    /// MXCSR's rounding control, 0–3.
    pub(super) rounding: u32,
    /// Tiny results become zeros.
    pub(super) flush: bool,
    /// Overflow and underflow ([`flag`]) that are unmasked.
    pub(super) unmasked: u32,
}

impl Environment {
    /// As MXCSR says. FTZ has no effect while underflow is unmasked.
    pub(super) fn of(mxcsr: u32) -> Environment {
        let unmasked = !(mxcsr >> 7) & (flag::OVERFLOW | flag::UNDERFLOW);
        Environment {
            rounding: (mxcsr & ROUNDING) >> 13,
            flush: mxcsr & FTZ != 0 && unmasked & flag::UNDERFLOW == 0,
            unmasked,
        }
    }
}

/// Shifts right and keeps what is lost in bit 0.
pub(super) fn shift_right(value: u128, count: u32) -> u128 {
    match count {
        0 => value,
        1..128 => value >> count | u128::from(value << (128 - count) != 0),
        _ => u128::from(value != 0),
    }
}

/// `significand` rounded to multiples of 2^`cut`, as such; and whether that is inexact.
fn round_off(significand: u128, cut: u32, negative: bool, rounding: u32) -> (u128, bool) {
    let (kept, rest) = if cut > 127 {
        (0, significand)
    } else {
        (significand >> cut, significand & ((1 << cut) - 1))
    };
    let half = if cut > 128 || cut == 0 {
        u128::MAX
    } else {
        1 << (cut - 1)
    };
    let up = match rounding {
        0 => rest > half || rest == half && kept & 1 != 0,
        1 => negative && rest != 0,
        2 => !negative && rest != 0,
        _ => false,
    };
    (kept + u128::from(up), rest != 0)
}

/// Rounds a value that is not zero to a number of `format`. The flags are those that the guest
/// sees: with overflow or underflow unmasked, underflow is any tiny result, and a result is inexact
/// only if it would be with an exponent without bounds (SDM vol. 1, 4.9.1).
pub(super) fn round(format: Format, value: Value, environment: Environment) -> (u64, u32) {
    let Value {
        negative,
        exponent,
        significand,
    } = value;
    let Environment {
        rounding,
        flush,
        unmasked,
    } = environment;
    let sign = if negative { format.sign() } else { 0 };
    let cut = 127 - format.fraction;
    let (digits, inexact) = round_off(significand, cut, negative, rounding);
    let carry = (digits >> (format.fraction + 1)) as i32;
    let field = exponent + carry + format.bias();
    let range_flags = |flag: u32| flag | if inexact { flag::INEXACT } else { 0 };
    if field >= (1 << format.exponent) - 1 {
        let to_infinity = match rounding {
            0 => true,
            1 => negative,
            2 => !negative,
            _ => false,
        };
        let result = format.infinity() - u64::from(!to_infinity);
        let flags = if unmasked & flag::OVERFLOW != 0 {
            range_flags(flag::OVERFLOW)
        } else {
            flag::OVERFLOW | flag::INEXACT
        };
        return (sign | result, flags);
    }
    if field >= 1 {
        // The implied bit adds one to the exponent's field, as does a carry.
        let bits = ((exponent + format.bias() - 1) as u64) << format.fraction;
        let flags = if inexact { flag::INEXACT } else { 0 };
        return (sign | bits.wrapping_add(digits as u64), flags);
    }
    if unmasked & flag::UNDERFLOW != 0 {
        return (sign, range_flags(flag::UNDERFLOW));
    }
    if flush {
        return (sign, flag::UNDERFLOW | flag::INEXACT);
    }
    let below = (1 - format.bias() - exponent) as u32;
    let (digits, inexact) = round_off(significand, cut + below, negative, rounding);
    let flags = if inexact {
        flag::UNDERFLOW | flag::INEXACT
    } else {
        0
    };
    (sign | digits as u64, flags)
}

/// ROUND*: a number rounded to an integer of the same format. Denormal operands are not reported.
pub(super) fn round_to_integer(format: Format, bits: u64, rounding: u32, daz: bool) -> (u64, u32) {
    match format.class(bits) {
        Class::Zero | Class::Infinity => return (bits, 0),
        Class::Nan if format.is_signalling(bits) => return (bits | format.quiet(), flag::INVALID),
        Class::Nan => return (bits, 0),
        Class::Denormal if daz => return (bits & format.sign(), 0),
        Class::Denormal | Class::Normal => {}
    }
    let value = format.unpack(bits);
    if value.exponent >= format.fraction as i32 {
        return (bits, 0);
    }
    let cut = (127 - value.exponent) as u32;
    let (integer, inexact) = round_off(value.significand, cut, value.negative, rounding);
    let sign = bits & format.sign();
    let flags = if inexact { flag::INEXACT } else { 0 };
    if integer == 0 {
        return (sign, flags);
    }
    let shift = integer.leading_zeros();
    let exact = Value {
        negative: value.negative,
        exponent: 127 - shift as i32,
        significand: integer << shift,
    };
    let (result, _) = round(format, exact, Environment::of(0x1f80));
    (result, flags)
}
