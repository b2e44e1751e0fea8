//! Floating-point exceptions, masked and unmasked, against what a CPU did.

use super::{Bench, DATA, Random};
use crate::core::cr4;
use crate::fault::Fault;
use crate::ops::sse::native::{AddSd, DivSd, Float, MulSd, SubSd};

/// Recorded on a CPU of AMD's (family 25); no line depends on the vendor.
const RECORDED: &str = include_str!("exceptions.txt");

fn instruction(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(text, 16).expect("hexadecimal")
    };
    digits.map(byte).collect()
}

#[test]
fn exceptions_are_those_of_a_cpu() {
    let mut count = 0;
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [code, mxcsr, a, b, trapped, mxcsr_after, a_after] = fields[..] else {
            panic!("{line}");
        };
        let wide = |text| u128::from_str_radix(text, 16).expect("hexadecimal");
        let mut bench = Bench::new();
        bench.core.mxcsr = wide(mxcsr) as u32;
        bench.core.xmm[2] = wide(a);
        bench.core.xmm[1] = wide(b);
        let wanted = if trapped == "1" {
            Err(Fault::SIMD)
        } else {
            Ok(())
        };
        assert_eq!(bench.run(&instruction(code)), wanted, "{line}");
        assert_eq!(
            bench.core.mxcsr,
            wide(mxcsr_after) as u32,
            "{line}: {:#x}",
            bench.core.mxcsr
        );
        assert_eq!(
            bench.core.xmm[2],
            wide(a_after),
            "{line}: {:#x}",
            bench.core.xmm[2]
        );
        count += 1;
    }
    assert!(count > 500);
}

#[test]
fn without_osxmmexcpt_it_is_an_invalid_opcode() {
    let mut bench = Bench::new();
    bench.core.cr4 &= !cr4::OSXMMEXCPT;
    bench.core.mxcsr = 0x1f80 & !(1 << 9);
    bench.core.xmm[2] = 0x3f80_0000;
    // DIVSS by zero.
    assert_eq!(bench.run(&[0xf3, 0x0f, 0x5e, 0xd1]), Err(Fault::UNDEFINED));
    assert_eq!(bench.core.mxcsr, 0x1d84);
    assert_eq!(bench.core.xmm[2], 0x3f80_0000);
}

#[test]
fn flags_stay_set_until_they_are_cleared() {
    let mut bench = Bench::new();
    bench.core.mxcsr = 0x1f81;
    bench.core.xmm[2] = u128::from(1f64.to_bits());
    bench.core.xmm[1] = u128::from(3f64.to_bits());
    bench.run(&[0xf2, 0x0f, 0x5e, 0xd1]).expect("divsd");
    assert_eq!(bench.core.mxcsr, 0x1fa1);
    assert_eq!(bench.core.xmm[2], u128::from((1f64 / 3.0).to_bits()));
    bench.run(&[0xf2, 0x0f, 0x58, 0xd2]).expect("addsd");
    assert_eq!(bench.core.mxcsr, 0x1fa1);
}

/// A double that is often at an edge of the format.
fn double(random: &mut Random) -> u64 {
    let bits = random.next();
    let exponent = match random.next() % 8 {
        0 => 0,
        1 => 1 + random.next() % 3,
        2 => 0x7ff,
        3 => 0x7fe - random.next() % 3,
        4 => 0x3ff,
        5 => 0x200 + random.next() % 0x400,
        _ => bits >> 52 & 0x7ff,
    };
    let fraction = match random.next() % 4 {
        0 => 0,
        1 => 1 << (random.next() % 52),
        2 => (1 << 52) - 1,
        _ => bits & ((1 << 52) - 1),
    };
    bits & 1 << 63 | exponent << 52 | fraction
}

fn compare_quick<F: Float>(random: &mut Random) -> u32 {
    let mut answers = 0;
    for _ in 0..200_000 {
        let a = u128::from(double(random)) | 0xabcd << 64;
        let b = u128::from(double(random));
        if let Some(quick) = F::quick(a, b) {
            let (result, flags) = F::run(a, b, 0);
            assert_eq!(quick, result, "{a:#x} {b:#x}");
            assert_eq!(flags & !0x20, 0, "{a:#x} {b:#x}");
            answers += 1;
        }
    }
    answers
}

#[test]
fn quick_answers_are_the_hosts() {
    let mut random = Random(5);
    assert!(compare_quick::<AddSd>(&mut random) > 10_000);
    assert!(compare_quick::<SubSd>(&mut random) > 10_000);
    assert!(compare_quick::<MulSd>(&mut random) > 10_000);
    assert!(compare_quick::<DivSd>(&mut random) > 10_000);
}

#[test]
fn comparisons_set_flags() {
    let singles = [f32::NEG_INFINITY, -1.0, 0.0, 1.0, f32::INFINITY, f32::NAN];
    for a in singles {
        for b in singles {
            // COMISS, UCOMISS, COMISD, UCOMISD.
            for (prefix, opcode) in [(false, 0x2f), (false, 0x2e), (true, 0x2f), (true, 0x2e)] {
                let mut bench = Bench::new();
                let bits = |x: f32| {
                    u128::from(if prefix {
                        f64::from(x).to_bits()
                    } else {
                        x.to_bits().into()
                    })
                };
                bench.core.xmm[2] = bits(a);
                bench.core.xmm[1] = bits(b);
                bench.core.flags.set_value(0x8d5);
                let bytes = [0x66, 0x0f, opcode, 0xd1];
                bench
                    .run(if prefix { &bytes } else { &bytes[1..] })
                    .expect("comparison");
                let wanted = match a.partial_cmp(&b) {
                    None => 0x45,
                    Some(std::cmp::Ordering::Equal) => 0x40,
                    Some(std::cmp::Ordering::Less) => 0x01,
                    Some(std::cmp::Ordering::Greater) => 0x00,
                };
                assert_eq!(bench.core.flags.value(), wanted | 2, "{a} {b}");
                let invalid = (a.is_nan() || b.is_nan()) && opcode == 0x2f;
                assert_eq!(bench.core.mxcsr, 0x1f80 | u32::from(invalid));
            }
        }
    }
}

#[test]
fn an_unmasked_comparison_leaves_flags_alone() {
    let mut bench = Bench::new();
    bench.core.mxcsr = 0;
    bench.core.xmm[1] = 0x7fc0_0000;
    bench.core.flags.set_value(0x8d5);
    assert_eq!(bench.run(&[0x0f, 0x2f, 0xd1]), Err(Fault::SIMD));
    assert_eq!(bench.core.flags.value(), 0x8d7);
    assert_eq!(bench.core.mxcsr, 1);
}

#[test]
fn predicates_compare() {
    let singles = [-1.0f32, 0.0, 1.0, f32::NAN];
    for predicate in 0..=255u8 {
        for a in singles {
            for b in singles {
                let mut bench = Bench::new();
                bench.core.xmm[2] = u128::from(a.to_bits()) | 7 << 32;
                bench.core.xmm[1] = u128::from(b.to_bits());
                bench
                    .run(&[0xf3, 0x0f, 0xc2, 0xd1, predicate])
                    .expect("cmpss");
                let unordered = a.is_nan() || b.is_nan();
                let base = match predicate & 3 {
                    0 => a == b,
                    1 => a < b,
                    2 => a <= b,
                    _ => unordered,
                };
                let holds = base != (predicate & 4 != 0);
                let wanted = 7 << 32 | if holds { 0xffff_ffff } else { 0 };
                assert_eq!(bench.core.xmm[2], wanted, "{a} {b} {predicate}");
            }
        }
    }
}

#[test]
fn conversions_to_and_from_general_registers() {
    let mut bench = Bench::new();
    bench.core.xmm[1] = u128::from((-2.5f64).to_bits());
    bench.core.gpr[2] = u64::MAX;
    bench.run(&[0xf2, 0x0f, 0x2d, 0xd1]).expect("cvtsd2si edx");
    assert_eq!(bench.core.gpr[2], 0xffff_fffe);
    bench
        .run(&[0xf2, 0x48, 0x0f, 0x2c, 0xd1])
        .expect("cvttsd2si rdx");
    assert_eq!(bench.core.gpr[2], -2i64 as u64);
    assert_eq!(bench.core.mxcsr, 0x1fa0);
    bench.core.xmm[1] = u128::from(1e10f64.to_bits());
    bench.run(&[0xf2, 0x0f, 0x2d, 0xd1]).expect("cvtsd2si edx");
    assert_eq!((bench.core.gpr[2], bench.core.mxcsr), (0x8000_0000, 0x1fa1));
    bench
        .run(&[0xf2, 0x48, 0x0f, 0x2d, 0xd1])
        .expect("cvtsd2si rdx");
    assert_eq!(bench.core.gpr[2], 10_000_000_000);
    bench.core.gpr[1] = 0xffff_ffff_8000_0001;
    bench.core.xmm[2] = 5 << 64;
    bench.run(&[0xf2, 0x0f, 0x2a, 0xd1]).expect("cvtsi2sd ecx");
    let wanted = |x: f64| 5 << 64 | u128::from(x.to_bits());
    assert_eq!(bench.core.xmm[2], wanted(-2_147_483_647.0));
    bench.core.gpr[1] = i64::MIN as u64;
    bench
        .run(&[0xf2, 0x48, 0x0f, 0x2a, 0xd1])
        .expect("cvtsi2sd rcx");
    assert_eq!(bench.core.xmm[2], wanted(i64::MIN as f64));
    bench.poke(DATA, &7i32.to_le_bytes());
    bench
        .run(&[0xf3, 0x0f, 0x2a, 0x17])
        .expect("cvtsi2ss from memory");
    assert_eq!(bench.core.xmm[2] as u32, 7f32.to_bits());
}

#[test]
fn conversions_between_mmx_and_xmm() {
    let mut bench = Bench::new();
    let pair = |low: i32, high: i32| u64::from(low as u32) | u64::from(high as u32) << 32;
    bench.set_mmx(1, pair(-3, 5));
    bench.core.xmm[2] = 9 << 64;
    bench.run(&[0x0f, 0x2a, 0xd1]).expect("cvtpi2ps");
    let singles = u128::from(5f32.to_bits()) << 32 | u128::from((-3f32).to_bits());
    assert_eq!(bench.core.xmm[2], 9 << 64 | singles);
    bench.run(&[0x66, 0x0f, 0x2a, 0xd1]).expect("cvtpi2pd");
    let doubles =
        |low: f64, high: f64| u128::from(low.to_bits()) | u128::from(high.to_bits()) << 64;
    assert_eq!(bench.core.xmm[2], doubles(-3.0, 5.0));
    bench.core.xmm[1] = doubles(2.75, -2.75);
    bench.run(&[0x66, 0x0f, 0x2d, 0xd1]).expect("cvtpd2pi");
    assert_eq!(bench.mmx(2), pair(3, -3));
    bench.run(&[0x66, 0x0f, 0x2c, 0xd1]).expect("cvttpd2pi");
    assert_eq!(bench.mmx(2), pair(2, -2));
    // What lies above the two singles raises nothing.
    bench.core.mxcsr = 0x1f80;
    bench.core.xmm[1] = u128::from(7f32.to_bits()) | 0x7f80_0001 << 64;
    bench.run(&[0x0f, 0x2d, 0xd1]).expect("cvtps2pi");
    assert_eq!((bench.mmx(2), bench.core.mxcsr), (pair(7, 0), 0x1f80));
    bench.run(&[0x0f, 0x2c, 0xd1]).expect("cvttps2pi");
    assert_eq!((bench.mmx(2), bench.core.mxcsr), (pair(7, 0), 0x1f80));
    // An unmasked exception leaves the x87 stack as it was.
    bench.core.mxcsr = 0;
    bench.core.x87.valid = 0;
    bench.core.xmm[1] = 0x7fc0_0000;
    assert_eq!(bench.run(&[0x0f, 0x2d, 0xd1]), Err(Fault::SIMD));
    assert_eq!((bench.mmx(2), bench.core.x87.valid), (pair(7, 0), 0));
}
