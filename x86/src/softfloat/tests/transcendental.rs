//! The transcendental functions against the host's, within a bound.
//!
//! What it does not: expect the same bits. The host is within one unit in the last place, and so
//! are we; where we round correctly it may not, so the two may differ by one unit, or by two when
//! both err in a directed rounding. The exceptions are those of AMD's processors, and are not
//! compared on others; nor are operands out of the defined range.

use super::super::{
    Control, F80, Flags, Pair, Rounding, atan, cos, exp2_minus_1, log2, log2_plus_1, sin, sincos,
    tan,
};
use super::host::{self, Native, State};
use super::operands::Random;

/// Random cases a function.
const CASES: usize = 40_000;

/// What one of our functions gives: what replaces ST0, what is pushed, C2.
type Outcome = Option<(F80, Option<F80>)>;
type Model = fn(F80, F80, &Control, &mut Flags) -> Outcome;

fn one(value: F80) -> Outcome {
    Some((value, None))
}

fn two(pair: Pair) -> Outcome {
    Some((pair.replaced, Some(pair.pushed)))
}

/// The distance of two finite values of one sign in units in the last place.
fn distance(a: F80, b: F80) -> u128 {
    // The integer bit of a number of the next exponent follows all ones: counting on over the
    // exponents leaves it out, and a denormal counts like exponent 1 without it.
    let place = |v: F80| (u128::from(v.biased_exponent().max(1)) << 63) + u128::from(v.mantissa);
    place(a).abs_diff(place(b))
}

/// What the two differ in where they may.
struct Statistics {
    cases: u32,
    differ: u32,
    c1: u32,
}

fn describe(name: &str, seed: u64, a: F80, b: F80, fcw: u16, host: &State, ours: &str) -> String {
    format!(
        "{name}, seed {seed:#x}, fcw {fcw:#06x}\n  st0 {a:x?}\n  st1 {b:x?}\n  {host:x?}\n  {ours}"
    )
}

fn check(
    name: &str,
    seed: u64,
    native: Native,
    model: Model,
    operands: fn(&mut Random) -> (F80, F80),
) {
    let mut random = Random::new(seed);
    let mut statistics = Statistics {
        cases: 0,
        differ: 0,
        c1: 0,
    };
    let amd = host::is_amd();
    for _ in 0..CASES {
        let (a, b) = operands(&mut random);
        let fcw = random.control_word();
        if !amd && undefined(name, a) {
            continue;
        }
        let host = native(a, b, [0; 16], fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let outcome = model(a, b, &control, &mut flags);
        let what = describe(
            name,
            seed,
            a,
            b,
            fcw,
            &host,
            &format!("{outcome:x?} {flags:x?}"),
        );
        let Some((value, pushed)) = outcome else {
            assert!(
                host.c2() && host.st[0] == a && host.exceptions() == 0,
                "{what}"
            );
            assert_eq!(flags, Flags::default(), "{what}");
            continue;
        };
        assert!(!host.c2(), "{what}");
        assert!(!amd || flags.exceptions == host.exceptions(), "{what}");
        if flags.blocks_register(&control) {
            assert_eq!(host.st[0], a, "{what}");
            continue;
        }
        let results = match pushed {
            Some(pushed) => vec![(value, host.st[1]), (pushed, host.st[0])],
            None => vec![(value, host.st[0])],
        };
        let bound = if control.rounding == Rounding::Nearest {
            1
        } else {
            2
        };
        let mut same = true;
        for (ours, theirs) in results {
            let finite = |v: F80| !v.is_nan() && !v.is_infinite();
            if finite(ours) && finite(theirs) {
                let near = distance(ours, theirs) <= bound;
                assert!(near && ours.is_negative() == theirs.is_negative(), "{what}");
            } else {
                assert_eq!(ours, theirs, "{what}");
            }
            same &= ours == theirs;
        }
        statistics.cases += 1;
        statistics.differ += u32::from(!same);
        statistics.c1 += u32::from(same && flags.c1 != host.c1());
    }
    let Statistics { cases, differ, c1 } = statistics;
    println!("{name}: of {cases}, {differ} values and {c1} C1 differ");
}

/// Operands for which the manuals leave the result undefined.
fn undefined(name: &str, a: F80) -> bool {
    match name {
        "f2xm1" => a.biased_exponent() >= 0x3fff,
        "fyl2xp1" => a.biased_exponent() >= 0x3ffd,
        _ => false,
    }
}

fn any(random: &mut Random) -> (F80, F80) {
    let a = random.value();
    (a, random.partner(a))
}

/// A normal value of magnitude from 2^low up to below 2^high.
fn between(random: &mut Random, low: i32, high: i32) -> F80 {
    let exponent = 0x3fff + low + random.below((high - low) as u64) as i32;
    F80::new(
        random.below(2) != 0,
        exponent as u16,
        random.mantissa() | 1 << 63,
    )
}

#[test]
fn sines() {
    let model: Model = |a, _, c, f| sin(a, c, f).and_then(one);
    check("fsin", 0x7a01, host::fsin, model, any);
    check("fsin", 0x7a02, host::fsin, model, |r| {
        (between(r, -70, 64), F80::ONE)
    });
    check("fsin", 0x7a03, host::fsin, model, |r| {
        (between(r, -6, 6), F80::ONE)
    });
}

#[test]
fn cosines() {
    let model: Model = |a, _, c, f| cos(a, c, f).and_then(one);
    check("fcos", 0x7a04, host::fcos, model, any);
    check("fcos", 0x7a05, host::fcos, model, |r| {
        (between(r, -70, 64), F80::ONE)
    });
    check("fcos", 0x7a06, host::fcos, model, |r| {
        (between(r, -6, 6), F80::ONE)
    });
}

#[test]
fn sines_and_cosines() {
    let model: Model = |a, _, c, f| sincos(a, c, f).and_then(two);
    check("fsincos", 0x7a07, host::fsincos, model, any);
    check("fsincos", 0x7a08, host::fsincos, model, |r| {
        (between(r, -40, 64), F80::ONE)
    });
}

#[test]
fn tangents() {
    let model: Model = |a, _, c, f| tan(a, c, f).and_then(two);
    check("fptan", 0x7a09, host::fptan, model, any);
    check("fptan", 0x7a0a, host::fptan, model, |r| {
        (between(r, -70, 64), F80::ONE)
    });
    check("fptan", 0x7a0b, host::fptan, model, |r| {
        (between(r, -6, 6), F80::ONE)
    });
}

#[test]
fn arctangents() {
    let model: Model = |a, b, c, f| one(atan(a, b, c, f));
    check("fpatan", 0x7a0c, host::fpatan, model, any);
    check("fpatan", 0x7a0d, host::fpatan, model, |r| {
        (between(r, -10, 10), between(r, -10, 10))
    });
}

#[test]
fn exponentials() {
    let model: Model = |a, _, c, f| one(exp2_minus_1(a, c, f));
    check("f2xm1", 0x7a0e, host::f2xm1, model, any);
    check("f2xm1", 0x7a0f, host::f2xm1, model, |r| {
        (between(r, -70, 0), F80::ONE)
    });
    check("f2xm1", 0x7a10, host::f2xm1, model, |r| {
        (between(r, -4, 0), F80::ONE)
    });
}

#[test]
fn logarithms() {
    let model: Model = |a, b, c, f| one(log2(a, b, c, f));
    check("fyl2x", 0x7a11, host::fyl2x, model, any);
    check("fyl2x", 0x7a12, host::fyl2x, model, |r| {
        (between(r, -3, 3).abs(), between(r, -9, 9))
    });
    check("fyl2x", 0x7a13, host::fyl2x, model, |r| {
        // Next to one.
        let step = r.next() >> r.below(62);
        let x = match r.below(2) {
            0 => F80::new(false, 0x3ffe, !(step >> 1)),
            _ => F80::new(false, 0x3fff, 1 << 63 | step >> 1),
        };
        (x, F80::ONE)
    });
}

#[test]
fn logarithms_plus_one() {
    let model: Model = |a, b, c, f| one(log2_plus_1(a, b, c, f));
    check("fyl2xp1", 0x7a14, host::fyl2xp1, model, any);
    check("fyl2xp1", 0x7a15, host::fyl2xp1, model, |r| {
        (between(r, -70, -2), between(r, -9, 9))
    });
}
