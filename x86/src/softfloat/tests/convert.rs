//! Loads and stores of the memory formats.

use super::super::{Class, Constant, Control, F80, Flags, Rounding, from_bcd, to_bcd};
use super::host::{self, Native, State};
use super::operands::Random;

/// Random cases an instruction.
const CASES: usize = 150_000;

fn case(name: &str, seed: u64, a: F80, fcw: u16, memory: &[u8], host: &State) -> String {
    format!(
        "{name}, seed {seed:#x}, fcw {fcw:#06x}\n  a    {:04x}:{:016x}\n  memory {memory:02x?}\n  \
         host {:04x}:{:016x} fsw {:04x} {:02x?}",
        a.sign_exponent,
        a.mantissa,
        host.st[0].sign_exponent,
        host.st[0].mantissa,
        host.fsw,
        host.memory
    )
}

/// A value that often is near the ends of the integers of `bits`, of single or of double.
fn value(random: &mut Random) -> F80 {
    let near = match random.below(4) {
        0 => return random.value(),
        1 => 0x3fff + random.below(66),
        2 => 0x3fff - 1080 + random.below(80),
        _ => [
            0x3fff - 160 + random.below(40),
            0x3fff + 120 + random.below(10),
            0x3fff + 1020 + random.below(8),
        ][random.below(3) as usize],
    };
    F80::new(
        random.below(2) != 0,
        near as u16,
        random.mantissa() | 1 << 63,
    )
}

type Store = fn(F80, &Control, &mut Flags) -> u64;

fn check_store(name: &str, seed: u64, size: usize, native: Native, model: Store) {
    let mut random = Random::new(seed);
    for _ in 0..CASES {
        let a = value(&mut random);
        let fcw = random.control_word();
        let host = native(a, a, [0xa5; 16], fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let image = model(a, &control, &mut flags);
        let mut memory = [0xa5; 16];
        if !flags.blocks_store(&control) {
            memory[..size].copy_from_slice(&image.to_le_bytes()[..size]);
        }
        let what = case(name, seed, a, fcw, &memory, &host);
        let ours = (memory, flags.exceptions, flags.c1);
        assert_eq!(ours, (host.memory, host.exceptions(), host.c1()), "{what}");
    }
}

#[test]
fn stores_of_reals() {
    check_store("fst m32", 0xc001, 4, host::fst_m32, |a, c, f| {
        u64::from(a.to_f32_bits(c, f))
    });
    check_store("fst m64", 0xc002, 8, host::fst_m64, |a, c, f| {
        a.to_f64_bits(c, f)
    });
}

#[test]
fn stores_of_integers() {
    check_store("fist m16", 0xc003, 2, host::fist_m16, |a, c, f| {
        a.to_i16(c.rounding, f) as u64
    });
    check_store("fist m32", 0xc004, 4, host::fist_m32, |a, c, f| {
        a.to_i32(c.rounding, f) as u64
    });
    check_store("fistp m64", 0xc005, 8, host::fistp_m64, |a, c, f| {
        a.to_i64(c.rounding, f) as u64
    });
    check_store("fisttp m16", 0xc006, 2, host::fisttp_m16, |a, _, f| {
        a.to_i16(Rounding::Zero, f) as u64
    });
    check_store("fisttp m32", 0xc007, 4, host::fisttp_m32, |a, _, f| {
        a.to_i32(Rounding::Zero, f) as u64
    });
    check_store("fisttp m64", 0xc008, 8, host::fisttp_m64, |a, _, f| {
        a.to_i64(Rounding::Zero, f) as u64
    });
}

#[test]
fn stores_of_bcd() {
    let seed = 0xc009;
    let mut random = Random::new(seed);
    for _ in 0..CASES {
        let a = value(&mut random);
        let fcw = random.control_word();
        let host = host::fbstp(a, a, [0xa5; 16], fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let bytes = to_bcd(a, &control, &mut flags);
        let mut memory = [0xa5; 16];
        if !flags.blocks_store(&control) {
            memory[..10].copy_from_slice(&bytes);
        }
        let what = case("fbstp", seed, a, fcw, &memory, &host);
        let ours = (memory, flags.exceptions, flags.c1);
        assert_eq!(ours, (host.memory, host.exceptions(), host.c1()), "{what}");
    }
}

type Load = fn([u8; 16], &Control, &mut Flags) -> F80;

fn check_load(
    name: &str,
    seed: u64,
    native: Native,
    memory: fn(&mut Random) -> [u8; 16],
    model: Load,
) {
    let mut random = Random::new(seed);
    for _ in 0..CASES {
        let memory = memory(&mut random);
        let fcw = random.control_word();
        let host = native(F80::ONE, F80::ONE, memory, fcw);
        let control = Control::from_fcw(fcw);
        let mut flags = Flags::default();
        let result = model(memory, &control, &mut flags);
        let result = if flags.blocks_load(&control) {
            F80::ONE
        } else {
            result
        };
        let what = case(name, seed, result, fcw, &memory, &host);
        let ours = (result, flags.exceptions, flags.c1);
        assert_eq!(ours, (host.st[0], host.exceptions(), host.c1()), "{what}");
    }
}

fn low(memory: [u8; 16]) -> u64 {
    u64::from_le_bytes(memory[..8].try_into().unwrap())
}

fn bytes(image: u64) -> [u8; 16] {
    u128::from(image).to_le_bytes()
}

#[test]
fn loads_of_reals() {
    check_load(
        "fld m32",
        0xc010,
        host::fld_m32,
        |r| bytes(r.image(8, 23)),
        |m, _, f| F80::from_f32_bits(low(m) as u32, f),
    );
    check_load(
        "fld m64",
        0xc011,
        host::fld_m64,
        |r| bytes(r.image(11, 52)),
        |m, _, f| F80::from_f64_bits(low(m), f),
    );
}

#[test]
fn loads_of_integers() {
    check_load(
        "fild m16",
        0xc012,
        host::fild_m16,
        |r| bytes(r.mantissa()),
        |m, _, _| F80::from_i64(i64::from(low(m) as i16)),
    );
    check_load(
        "fild m32",
        0xc013,
        host::fild_m32,
        |r| bytes(r.mantissa()),
        |m, _, _| F80::from_i64(i64::from(low(m) as i32)),
    );
    check_load(
        "fild m64",
        0xc014,
        host::fild_m64,
        |r| bytes(r.mantissa()),
        |m, _, _| F80::from_i64(low(m) as i64),
    );
}

#[test]
fn loads_of_bcd() {
    let digits = |r: &mut Random| {
        let mut memory = [0; 16];
        for byte in &mut memory[..10] {
            *byte = (r.below(16) << 4 | r.below(16)) as u8;
        }
        memory
    };
    let ten = |m: [u8; 16]| from_bcd(m[..10].try_into().unwrap());
    check_load("fbld", 0xc015, host::fbld, digits, move |m, _, _| {
        from_bcd(m[..10].try_into().unwrap())
    });
    assert_eq!(ten([0; 16]), F80::ZERO);
}

#[test]
fn constants() {
    let all: [(Native, Constant); 7] = [
        (host::fldz, Constant::Zero),
        (host::fld1, Constant::One),
        (host::fldl2t, Constant::Log2Of10),
        (host::fldl2e, Constant::Log2OfE),
        (host::fldpi, Constant::Pi),
        (host::fldlg2, Constant::Log10Of2),
        (host::fldln2, Constant::LnOf2),
    ];
    for (native, constant) in all {
        for control in 0..16_u16 {
            let fcw = (control << 8) | 0x7f;
            let host = native(F80::ZERO, F80::ZERO, [0; 16], fcw);
            let ours = constant.load(Control::from_fcw(fcw).rounding);
            assert_eq!(
                (ours, 0),
                (host.st[0], host.fsw & !0x3800),
                "{constant:?}, {fcw:#06x}"
            );
        }
    }
}

#[test]
fn classes() {
    let seed = 0xc016;
    let mut random = Random::new(seed);
    for _ in 0..CASES {
        let a = random.value();
        let host = host::fxam(a, a, [0; 16], 0x37f);
        let c3_c2_c0 = match a.class() {
            Class::Unsupported => 0b000,
            Class::Nan => 0b001,
            Class::Normal => 0b010,
            Class::Infinity => 0b011,
            Class::Zero => 0b100,
            Class::Denormal => 0b110,
        };
        let theirs = u8::from(host.c3()) << 2 | u8::from(host.c2()) << 1 | u8::from(host.c0());
        let what = case("fxam", seed, a, 0x37f, &[], &host);
        assert_eq!((c3_c2_c0, a.is_negative()), (theirs, host.c1()), "{what}");
    }
}
