//! Register instructions: all roundings, precisions and masks.

use super::super::{
    Comparison, Control, Extracted, F80, Flags, Operand, Remainder, RemainderKind, add, compare,
    div, extract, mul, remainder, round_to_integer, scale, sqrt, sub,
};
use super::host::{self, Native, State};
use super::operands::Random;

/// Random cases an instruction.
const CASES: usize = 150_000;

type Model = fn(F80, F80, &Control, &mut Flags) -> F80;

/// The case, for a message.
fn case(name: &str, seed: u64, a: F80, b: F80, fcw: u16, host: &State) -> String {
    format!(
        "{name}, seed {seed:#x}, fcw {fcw:#06x}\n  a    {:04x}:{:016x}\n  b    {:04x}:{:016x}\n  \
         host {:04x}:{:016x} fsw {:04x}",
        a.sign_exponent,
        a.mantissa,
        b.sign_exponent,
        b.mantissa,
        host.st[0].sign_exponent,
        host.st[0].mantissa,
        host.fsw
    )
}

/// Runs random cases of an instruction that replaces ST0.
fn check(name: &str, seed: u64, native: Native, model: Model) {
    let mut random = Random::new(seed);
    for _ in 0..CASES {
        let a = random.value();
        let b = random.partner(a);
        let fcw = random.control_word();
        let host = native(a, b, [0; 16], fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let result = model(a, b, &control, &mut flags);
        let result = if flags.blocks_register(&control) {
            a
        } else {
            result
        };
        let what = case(name, seed, a, b, fcw, &host);
        let ours = (result, flags.exceptions, flags.c1);
        assert_eq!(ours, (host.st[0], host.exceptions(), host.c1()), "{what}");
    }
}

#[test]
fn sums() {
    check("fadd", 0x5f01, host::fadd, add);
    check("fsub", 0x5f02, host::fsub, sub);
}

#[test]
fn products() {
    check("fmul", 0x5f03, host::fmul, mul);
}

#[test]
fn quotients() {
    check("fdiv", 0x5f04, host::fdiv, div);
}

#[test]
fn square_roots() {
    check("fsqrt", 0x5f05, host::fsqrt, |a, _, c, f| sqrt(a, c, f));
}

#[test]
fn roundings_to_integer() {
    check("frndint", 0x5f06, host::frndint, |a, _, c, f| {
        round_to_integer(a, c, f)
    });
}

#[test]
fn scalings() {
    check("fscale", 0x5f07, host::fscale, |a, b, c, f| {
        scale(a, b, c, f)
    });
    // Scale factors that matter are rare among random values.
    let mut random = Random::new(0x5f08);
    for _ in 0..CASES {
        let a = random.value();
        let b = F80::from_i64(random.below(80_000) as i64 - 40_000);
        let b = F80 {
            mantissa: b.mantissa | random.below(2),
            ..b
        };
        let fcw = random.control_word();
        let host = host::fscale(a, b, [0; 16], fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let result = scale(a, b, &control, &mut flags);
        let result = if flags.blocks_register(&control) {
            a
        } else {
            result
        };
        let what = case("fscale", 0x5f08, a, b, fcw, &host);
        let ours = (result, flags.exceptions, flags.c1);
        assert_eq!(ours, (host.st[0], host.exceptions(), host.c1()), "{what}");
    }
}

fn check_remainder(name: &str, seed: u64, native: Native, kind: RemainderKind) {
    let mut random = Random::new(seed);
    for _ in 0..CASES {
        let a = random.value();
        let b = random.partner(a);
        let fcw = random.control_word();
        let host = native(a, b, [0; 16], fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let ours = remainder(a, b, kind, &control, &mut flags);
        let what = case(name, seed, a, b, fcw, &host);
        assert_eq!(flags.exceptions, host.exceptions(), "{what}");
        if flags.blocks_register(&control) {
            assert_eq!(host.st[0], a, "{what}");
            continue;
        }
        let quotient = u8::from(host.c0()) << 2 | u8::from(host.c3()) << 1 | u8::from(host.c1());
        let theirs = Remainder {
            value: host.st[0],
            quotient,
            partial: host.c2(),
        };
        assert_eq!(ours, theirs, "{what}");
    }
}

#[test]
fn remainders() {
    check_remainder("fprem", 0x5f09, host::fprem, RemainderKind::Truncated);
    check_remainder("fprem1", 0x5f0a, host::fprem1, RemainderKind::Nearest);
}

#[test]
fn extractions() {
    let seed = 0x5f0b;
    let mut random = Random::new(seed);
    for _ in 0..CASES {
        let a = random.value();
        let fcw = random.control_word();
        let host = host::fxtract(a, a, [0; 16], fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let ours = extract(a, &control, &mut flags);
        let what = case("fxtract", seed, a, a, fcw, &host);
        assert_eq!(
            (flags.exceptions, flags.c1),
            (host.exceptions(), host.c1()),
            "{what}"
        );
        if flags.blocks_register(&control) {
            assert_eq!(host.st[0], a, "{what}");
        } else {
            let theirs = Extracted {
                significand: host.st[0],
                exponent: host.st[1],
            };
            assert_eq!(ours, theirs, "{what}");
        }
    }
}

fn check_comparison(
    name: &str,
    seed: u64,
    native: Native,
    kind: Comparison,
    partner: fn(&mut Random, F80) -> F80,
) {
    let mut random = Random::new(seed);
    for _ in 0..CASES {
        let a = random.value();
        let b = partner(&mut random, a);
        let fcw = random.control_word();
        let host = native(a, b, [0; 16], fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let ours = compare(a, b, kind, &control, &mut flags);
        let what = case(name, seed, a, b, fcw, &host);
        assert_eq!(
            (flags.exceptions, flags.c1),
            (host.exceptions(), host.c1()),
            "{what}"
        );
        // The codes are written even if an exception is unmasked.
        let theirs = u8::from(host.c3()) << 2 | u8::from(host.c2()) << 1 | u8::from(host.c0());
        assert_eq!(ours.c3_c2_c0(), theirs, "{what}");
    }
}

#[test]
fn comparisons() {
    check_comparison(
        "fcom",
        0x5f0c,
        host::fcom,
        Comparison::Ordered,
        Random::partner,
    );
    check_comparison(
        "fucom",
        0x5f0d,
        host::fucom,
        Comparison::Unordered,
        Random::partner,
    );
    check_comparison("ftst", 0x5f0e, host::ftst, Comparison::Ordered, |_, _| {
        F80::ZERO
    });
}

/// An unmasked exception keeps a comparison from popping, though not from its codes.
#[test]
fn pops_of_comparisons() {
    let seed = 0x5f16;
    let mut random = Random::new(seed);
    for _ in 0..CASES / 8 {
        let a = random.value();
        let b = random.partner(a);
        let fcw = random.control_word();
        let host = host::fcomp(a, b, [0; 16], fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        compare(a, b, Comparison::Ordered, &control, &mut flags);
        let popped = (host.fsw >> 11) & 7 == 7;
        let what = case("fcomp", seed, a, b, fcw, &host);
        assert_eq!(popped, !flags.blocks_register(&control), "{what}");
    }
}

#[test]
fn comparisons_into_eflags() {
    let seed = 0x5f0f;
    let mut random = Random::new(seed);
    for (native, kind) in [
        (host::fcomi as Native, Comparison::Ordered),
        (host::fucomi, Comparison::Unordered),
    ] {
        for _ in 0..CASES {
            let a = random.value();
            let b = random.partner(a);
            let fcw = random.control_word();
            let host = native(a, b, [0; 16], fcw);
            let control = Control::from_fcw(fcw);
            let mut flags = Flags::default();
            let ours = compare(a, b, kind, &control, &mut flags);
            let what = case("fcomi", seed, a, b, fcw, &host);
            assert_eq!(
                (flags.exceptions, flags.c1),
                (host.exceptions(), host.c1()),
                "{what}"
            );
            let eflags = host.memory[0];
            let theirs = (eflags >> 6 & 1) << 2 | (eflags >> 2 & 1) << 1 | (eflags & 1);
            // They are written even if an exception is unmasked.
            assert_eq!(ours.c3_c2_c0(), theirs, "{what} {eflags:#x}");
        }
    }
}

type OperandModel = fn(F80, Operand, &Control, &mut Flags) -> F80;

fn check_memory(name: &str, seed: u64, double: bool, native: Native, model: OperandModel) {
    let mut random = Random::new(seed);
    for _ in 0..CASES {
        let a = random.value();
        let image = if double {
            random.image(11, 52)
        } else {
            random.image(8, 23)
        };
        let operand = if double {
            Operand::from_f64_bits(image)
        } else {
            Operand::from_f32_bits(image as u32)
        };
        let fcw = random.control_word();
        let mut memory = [0; 16];
        memory[..8].copy_from_slice(&image.to_le_bytes());
        let host = native(a, F80::ZERO, memory, fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let result = model(a, operand, &control, &mut flags);
        let result = if flags.blocks_register(&control) {
            a
        } else {
            result
        };
        let what = case(name, seed, a, operand.value, fcw, &host);
        let ours = (result, flags.exceptions, flags.c1);
        assert_eq!(
            ours,
            (host.st[0], host.exceptions(), host.c1()),
            "{what}, {image:#x}"
        );
    }
}

#[test]
fn memory_operands() {
    check_memory("fadd m32", 0x5f10, false, host::fadd_m32, |a, b, c, f| {
        add(a, b, c, f)
    });
    check_memory("fadd m64", 0x5f11, true, host::fadd_m64, |a, b, c, f| {
        add(a, b, c, f)
    });
    check_memory("fmul m32", 0x5f12, false, host::fmul_m32, |a, b, c, f| {
        mul(a, b, c, f)
    });
    check_memory("fdiv m64", 0x5f13, true, host::fdiv_m64, |a, b, c, f| {
        div(a, b, c, f)
    });
    check_memory("fdivr m32", 0x5f14, false, host::fdivr_m32, |a, b, c, f| {
        div(b, a, c, f)
    });
    check_memory("fcom m32", 0x5f15, false, host::fcom_m32, |a, b, c, f| {
        compare(a, b, Comparison::Ordered, c, f);
        a
    });
}

#[test]
fn integer_operands() {
    let seed = 0x5f17;
    let mut random = Random::new(seed);
    for _ in 0..CASES / 4 {
        let a = random.value();
        let integer = random.mantissa() as i16;
        let fcw = random.control_word();
        let mut memory = [0; 16];
        memory[..2].copy_from_slice(&integer.to_le_bytes());
        let host = host::fiadd_m16(a, F80::ZERO, memory, fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let operand = F80::from_i64(i64::from(integer));
        let result = add(a, operand, &control, &mut flags);
        let result = if flags.blocks_register(&control) {
            a
        } else {
            result
        };
        let what = case("fiadd m16", seed, a, operand, fcw, &host);
        let ours = (result, flags.exceptions, flags.c1);
        assert_eq!(ours, (host.st[0], host.exceptions(), host.c1()), "{what}");
    }
}
