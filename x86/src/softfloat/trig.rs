//! FSIN, FCOS, FSINCOS and FPTAN.
//!
//! What it does not: reduce by the true pi. As the hardware does, arguments are reduced by a pi
//! of 66 bits, and the result is that of the remainder; far from zero it thus differs from the
//! true sine by the argument times about 2^-67. The reduction itself is exact.
//!
//! Invariant: after reduction a result is correctly rounded unless it is within 2^-120 (relative)
//! of where rounding switches, so it is off by less than 0.5 + 2^-50 units in the last place to
//! nearest, and by less than 1 + 2^-50 in the other modes. Only zeros have exact results.
//!
//! The sine of a reduced argument r, |r| <= pi/4, is `r * P(r * r)` with the Taylor polynomial P
//! in fixed point; the cosine is such a polynomial; the tangent is their quotient.

use super::control::{Control, Flags};
use super::format::{BIAS, F80, Finite};
use super::operand::{denormal, invalid, screen_one};
use super::round::{Unrounded, pack};
use super::wide::{ONE, from_fixed, inexact, mul_fixed};

/// Pi with 66 bits, in units of 2^-64; so also pi/4 in units of 2^-66.
const PI_66: u128 = 0x3_243f_6a88_85a3_08d3;
/// Pi/2 in units of 2^-66.
const HALF_PI: u128 = PI_66 * 2;

/// The terms of the Taylor polynomials: (pi/4)^36 / 36! is below 2^-150.
const TERMS: u128 = 17;

/// Below 2^-TINY an argument's fourth power is out of sight.
const TINY: i32 = 40;

/// Sine and cosine, or tangent and one: what FSINCOS and FPTAN leave in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What replaces ST0: the sine, or the tangent.
    pub replaced: F80,
    /// What is then pushed: the cosine, or 1.0.
    pub pushed: F80,
}

/// An argument that was reduced to at most pi/4.
struct Reduced {
    /// How many times pi/2 was taken away, modulo 4.
    quadrant: u8,
    /// What is left; not zero.
    rest: Unrounded,
}

/// What an operand comes to before anything is computed.
enum Argument {
    /// A special operand: the result.
    Done(F80),
    /// Zero.
    Zero,
    /// Not below 2^63 (C2).
    OutOfRange,
    /// To be computed.
    Reduced(Reduced),
}

fn argument(a: F80, control: &Control, flags: &mut Flags) -> Argument {
    if let Some(result) = screen_one(a, flags) {
        return Argument::Done(result);
    }
    if a.is_infinite() {
        return Argument::Done(invalid(flags));
    }
    if a.is_zero() {
        return Argument::Zero;
    }
    if denormal(a.is_denormal(), control, flags) {
        return Argument::Done(F80::INDEFINITE);
    }
    let a = a.unpack();
    if a.exponent >= BIAS + 63 {
        Argument::OutOfRange
    } else {
        Argument::Reduced(reduce(a))
    }
}

/// Reduces a value below 2^63. The quadrants of a negative one are counted from the magnitude,
/// and the sign is the rest's: the caller turns it round where the function is odd.
fn reduce(a: Finite) -> Reduced {
    let unbiased = a.exponent - BIAS;
    if unbiased < -1 {
        return Reduced {
            quadrant: 0,
            rest: Unrounded::from(a).signed(false),
        };
    }
    // In units of 2^-66 the magnitude is an integer: double the significand as often as needed,
    // modulo 2 pi.
    let turn = 4 * HALF_PI;
    let mut value = u128::from(a.mantissa);
    for _ in 0..unbiased + 3 {
        value <<= 1;
        if value >= turn {
            value -= turn;
        }
    }
    let mut quadrant = (value / HALF_PI) as u8;
    let mut rest = value % HALF_PI;
    let negative = rest > PI_66;
    if negative {
        rest = HALF_PI - rest;
        quadrant = (quadrant + 1) & 3;
    }
    // 2^-66 is bit 0 of a significand whose exponent is 61.
    match Unrounded::normalize(negative, BIAS + 61, rest) {
        Some(rest) => Reduced { quadrant, rest },
        // 66-bit pi is odd and wider than a significand.
        None => unreachable!("no value is a multiple of pi/2"),
    }
}

/// The sine of a reduced argument.
fn sine_of_rest(rest: Unrounded) -> Unrounded {
    let square = mul_fixed(rest.to_fixed(), rest.to_fixed());
    let mut sum = ONE;
    for k in (1..=TERMS).rev() {
        sum = ONE - mul_fixed(square, sum) / (2 * k * (2 * k + 1));
    }
    // A sine is less than its argument, even where that does not show.
    rest.times(from_fixed(sum.min(ONE - 1)))
}

/// The cosine of a reduced argument.
fn cosine_of_rest(rest: Unrounded) -> Unrounded {
    let square = mul_fixed(rest.to_fixed(), rest.to_fixed());
    let mut sum = ONE;
    for k in (1..=TERMS).rev() {
        sum = ONE - mul_fixed(square, sum) / (2 * k * (2 * k - 1));
    }
    from_fixed(sum.min(ONE - 1))
}

/// The tangent of a reduced argument.
fn tangent_of_rest(rest: Unrounded) -> Unrounded {
    if rest.exponent < BIAS - TINY {
        // r + r^3/3, which is more than r even where that does not show.
        let third = mul_fixed(rest.to_fixed(), rest.to_fixed()) / 3;
        return rest.times(from_fixed(ONE + third.max(1)));
    }
    sine_of_rest(rest).over(cosine_of_rest(rest))
}

impl Reduced {
    fn sine(&self, negative: bool) -> Unrounded {
        let value = if self.quadrant & 1 == 0 {
            sine_of_rest(self.rest)
        } else {
            cosine_of_rest(self.rest)
        };
        inexact(value.signed(value.negative ^ (self.quadrant & 2 != 0) ^ negative))
    }

    fn cosine(&self) -> Unrounded {
        let next = Self {
            quadrant: (self.quadrant + 1) & 3,
            rest: self.rest,
        };
        next.sine(false)
    }

    fn tangent(&self, negative: bool) -> Unrounded {
        let value = if self.quadrant & 1 == 0 {
            tangent_of_rest(self.rest)
        } else {
            let value = cosine_of_rest(self.rest).over(sine_of_rest(self.rest));
            value.signed(!self.rest.negative)
        };
        inexact(value.signed(value.negative ^ negative))
    }
}

/// The sine (FSIN); none if the argument is out of range (C2).
pub fn sin(a: F80, control: &Control, flags: &mut Flags) -> Option<F80> {
    match argument(a, control, flags) {
        Argument::Done(result) => Some(result),
        Argument::Zero => Some(a),
        Argument::OutOfRange => None,
        Argument::Reduced(x) => Some(pack(x.sine(a.is_negative()), &control.extended(), flags)),
    }
}

/// The cosine (FCOS); none if the argument is out of range (C2).
pub fn cos(a: F80, control: &Control, flags: &mut Flags) -> Option<F80> {
    match argument(a, control, flags) {
        Argument::Done(result) => Some(result),
        Argument::Zero => Some(F80::ONE),
        Argument::OutOfRange => None,
        Argument::Reduced(x) => Some(pack(x.cosine(), &control.extended(), flags)),
    }
}

/// Sine and cosine (FSINCOS); none if the argument is out of range (C2). C1 is the sine's.
pub fn sincos(a: F80, control: &Control, flags: &mut Flags) -> Option<Pair> {
    match argument(a, control, flags) {
        Argument::Done(result) => Some(Pair {
            replaced: result,
            pushed: result,
        }),
        Argument::Zero => Some(Pair {
            replaced: a,
            pushed: F80::ONE,
        }),
        Argument::OutOfRange => None,
        Argument::Reduced(x) => {
            let pushed = pack(x.cosine(), &control.extended(), flags);
            let replaced = pack(x.sine(a.is_negative()), &control.extended(), flags);
            Some(Pair { replaced, pushed })
        }
    }
}

/// The tangent, and 1.0 to be pushed (FPTAN); none if the argument is out of range (C2).
pub fn tan(a: F80, control: &Control, flags: &mut Flags) -> Option<Pair> {
    match argument(a, control, flags) {
        Argument::Done(result) => Some(Pair {
            replaced: result,
            pushed: result,
        }),
        Argument::Zero => Some(Pair {
            replaced: a,
            pushed: F80::ONE,
        }),
        Argument::OutOfRange => None,
        Argument::Reduced(x) => {
            let replaced = pack(x.tangent(a.is_negative()), &control.extended(), flags);
            Some(Pair {
                replaced,
                pushed: F80::ONE,
            })
        }
    }
}
