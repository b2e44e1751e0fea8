//! The layouts of FNSTENV and FNSAVE.

use super::*;

/// A bench whose environment has something in every field.
fn filled(mode: Mode) -> Bench {
    let mut bench = Bench::in_mode(mode);
    let x87 = &mut bench.core.x87;
    x87.instruction = 0x9876_5432;
    x87.instruction_selector = 0x4321;
    x87.operand = 0xfedc_ba98;
    x87.operand_selector = 0x8765;
    x87.opcode = 0x5a5;
    x87.set_control(0xf72);
    // Empty, empty, empty, infinity, denormal, NaN, zero, one: from physical register 0 on.
    x87.push(F80::ONE);
    x87.push(F80::ZERO);
    x87.push(F80::INDEFINITE);
    x87.push(F80::new(false, 0, 5));
    x87.push(F80::INFINITY);
    x87.status |= 0x4720;
    bench
}

/// `TOP` is 3; C3, C2, C1, C0 and PE are set, PE is masked.
const STATUS: u16 = 3 << 11 | 0x4720;
const TAGS: u16 = 0b0001_1010_1011_1111;

fn words<const N: usize>(fields: [u16; N]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect()
}

fn long_words<const N: usize>(fields: [u32; N]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect()
}

/// Where the environment lies, and the instruction with the operand-size prefix or without.
fn place(mode: Mode, narrow: bool, opcode: u8, reg: u8) -> (u64, Vec<u8>) {
    let short = matches!(mode, Mode::Real | Mode::Virtual8086);
    // [RDI] or [DI].
    let modrm = reg << 3 | if short { 5 } else { 7 };
    let mut bytes = vec![opcode, modrm];
    if narrow != short {
        bytes.insert(0, 0x66);
    }
    (DATA + if short { REAL_BASE } else { 0 }, bytes)
}

fn layout(mode: Mode, narrow: bool) -> Vec<u8> {
    let ones = 0xffff_0000;
    let (control, status, tags) = (0xf72, u32::from(STATUS), u32::from(TAGS));
    let words32 = [control | ones, status | ones, tags | ones];
    // Real mode has linear pointers.
    let instruction = 0x9876_5432 + 0x4_3210;
    let operand = 0xfedc_ba98 + 0x8_7650;
    let real = matches!(mode, Mode::Real | Mode::Virtual8086);
    match (real, narrow) {
        (false, true) => words([0xf72, STATUS, TAGS, 0x5432, 0x4321, 0xba98, 0x8765]),
        (false, false) => {
            let [a, b, c] = words32;
            long_words([
                a,
                b,
                c,
                0x9876_5432,
                0x05a5_4321,
                0xfedc_ba98,
                ones | 0x8765,
            ])
        }
        (true, true) => words([
            0xf72,
            STATUS,
            TAGS,
            instruction as u16,
            (instruction >> 16 << 12) as u16 | 0x5a5,
            operand as u16,
            (operand >> 16 << 12) as u16,
        ]),
        (true, false) => {
            let [a, b, c] = words32;
            let high = |pointer: u32| pointer >> 16 << 12;
            long_words([
                a,
                b,
                c,
                instruction & 0xffff,
                high(instruction) | 0x5a5,
                operand & 0xffff,
                high(operand),
            ])
        }
    }
}

const MODES: [Mode; 4] = [Mode::Long, Mode::Protected32, Mode::Real, Mode::Virtual8086];

#[test]
fn environments() {
    for mode in MODES {
        for narrow in [false, true] {
            let (address, store) = place(mode, narrow, 0xd9, 6);
            let (_, load) = place(mode, narrow, 0xd9, 4);
            let expected = layout(mode, narrow);
            let mut bench = filled(mode);
            let before = bench.core.x87;
            bench.poke(address, &[0xcc; 32]);
            bench.run(&store).unwrap();
            let stored: [u8; 32] = bench.peek(address);
            assert_eq!(stored[..expected.len()], expected);
            assert!(stored[expected.len()..].iter().all(|&byte| byte == 0xcc));
            // Everything is masked now, and nothing else has changed.
            let mut masked = before;
            masked.set_control(before.control | 0x3f);
            assert_eq!(bench.core.x87, masked);

            let mut other = Bench::in_mode(mode);
            other.core.x87.registers = before.registers;
            other.poke(address, &stored);
            other.run(&load).unwrap();
            let loaded = other.core.x87;
            assert_eq!(loaded.control, before.control);
            assert_eq!(loaded.status, before.status);
            assert_eq!(loaded.valid, before.valid);
            // Loaded linear pointers are stored alike.
            other.run(&store).unwrap();
            assert_eq!(other.peek::<32>(address), stored);
        }
    }
}

#[test]
fn states() {
    for mode in MODES {
        for narrow in [false, true] {
            let (address, save) = place(mode, narrow, 0xdd, 6);
            let (_, restore) = place(mode, narrow, 0xdd, 4);
            let mut expected = layout(mode, narrow);
            let mut bench = filled(mode);
            let before = bench.core.x87;
            for i in 0..8 {
                expected.extend(before.raw(i).to_bytes());
            }
            bench.poke(address, &[0xcc; 112]);
            bench.run(&save).unwrap();
            let saved: [u8; 112] = bench.peek(address);
            assert_eq!(saved[..expected.len()], expected);
            assert!(saved[expected.len()..].iter().all(|&byte| byte == 0xcc));
            assert_eq!((bench.core.x87.valid, bench.core.x87.status), (0, 0));

            let mut other = Bench::in_mode(mode);
            other.poke(address, &saved);
            other.run(&restore).unwrap();
            assert_eq!(other.core.x87.registers, before.registers);
            assert_eq!(other.core.x87.status, before.status);
            other.run(&save).unwrap();
            assert_eq!(other.peek::<112>(address), saved);
        }
    }
}

#[test]
fn summary_follows_from_flags_and_masks() {
    let mut image = layout(Mode::Long, false);
    // ES and B without an unmasked flag.
    image[4] |= 0x80;
    image[5] |= 0x80;
    let mut bench = Bench::in_mode(Mode::Long);
    bench.poke(DATA, &image);
    bench.run(&[0xd9, 0x27]).unwrap();
    assert_eq!(bench.core.x87.status, STATUS);
    // An unmasked flag without ES and B.
    image[4] = 1;
    image[5] = 0;
    bench.poke(DATA, &image);
    image[0] = 0x7e;
    bench.poke(DATA, &image);
    bench.run(&[0xd9, 0x27]).unwrap();
    assert_eq!(bench.core.x87.status, 0x8081);
    assert_eq!(bench.run(FLD1), Err(Fault::X87));
}

#[test]
fn straddling_pages() {
    let mut bench = filled(Mode::Long);
    let at = 0x8000 - 33;
    bench.core.gpr[7] = at;
    let before = bench.core.x87;
    bench.run(&[0xdd, 0x37]).unwrap();
    bench.run(&[0xdd, 0x27]).unwrap();
    assert_eq!(bench.core.x87.registers, before.registers);
    assert_eq!(bench.core.x87.control, before.control);
}
