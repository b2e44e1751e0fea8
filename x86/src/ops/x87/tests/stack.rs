//! Overflow and underflow of the register stack, and MMX's view of it.

use super::*;

/// FSW: IE and SF.
const STACK_FAULT: u16 = 0x41;
const C1: u16 = 0x200;

fn full(mode: Mode) -> Bench {
    let mut bench = Bench::in_mode(mode);
    for _ in 0..8 {
        bench.push(TWO);
    }
    bench
}

#[test]
fn masked_overflow() {
    let mut bench = full(Mode::Long);
    bench.run(FLD1).unwrap();
    assert_eq!(bench.st(0), Some(F80::INDEFINITE));
    assert_eq!(bench.st(1), Some(TWO));
    assert_eq!(bench.core.x87.status, 7 << 11 | STACK_FAULT | C1);
}

#[test]
fn unmasked_overflow() {
    let mut bench = full(Mode::Long);
    bench.core.x87.set_control(0x37e);
    bench.run(FLD1).unwrap();
    assert_eq!(bench.st(0), Some(TWO));
    assert_eq!(bench.core.x87.status, 0x8080 | STACK_FAULT | C1);
    assert_eq!(bench.run(FLD1), Err(Fault::X87));
}

#[test]
fn masked_underflow() {
    // FADDP ST1, ST0: the indefinite goes into ST1, and ST0 is popped.
    let mut bench = Bench::in_mode(Mode::Long);
    bench.run(&[0xde, 0xc1]).unwrap();
    assert_eq!(bench.st(0), Some(F80::INDEFINITE));
    assert_eq!(bench.core.x87.valid, 0b10);
    assert_eq!(bench.core.x87.status, 1 << 11 | STACK_FAULT);
}

#[test]
fn masked_underflow_of_stores() {
    let cases: &[(&[u8], &[u8])] = &[
        (&[0xd9, 0x1f], &[0, 0, 0xc0, 0xff]),
        (&[0xdd, 0x1f], &[0, 0, 0, 0, 0, 0, 0xf8, 0xff]),
        (&[0xdb, 0x3f], &[0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff]),
        (&[0xdf, 0x1f], &[0, 0x80]),
        (&[0xdb, 0x1f], &[0, 0, 0, 0x80]),
        (&[0xdf, 0x3f], &[0, 0, 0, 0, 0, 0, 0, 0x80]),
        (&[0xdf, 0x37], &[0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff]),
    ];
    for &(bytes, image) in cases {
        let mut bench = Bench::in_mode(Mode::Long);
        bench.poke(DATA, &[0x55; 16]);
        bench.run(bytes).unwrap();
        let stored: [u8; 16] = bench.peek(DATA);
        assert_eq!(&stored[..image.len()], image, "{bytes:02x?}");
        assert_eq!(stored[image.len()], 0x55);
        assert_eq!(bench.core.x87.status, 1 << 11 | STACK_FAULT);

        bench.core.x87.initialize();
        bench.core.x87.set_control(0x37e);
        bench.poke(DATA, &[0x55; 16]);
        bench.run(bytes).unwrap();
        assert_eq!(bench.peek(DATA), [0x55; 16], "{bytes:02x?}");
        assert_eq!(bench.core.x87.status, 0x8080 | STACK_FAULT);
    }
}

#[test]
fn physical_registers() {
    let mut bench = Bench::in_mode(Mode::Long);
    bench.run(FLD1).unwrap();
    assert_eq!(bench.core.x87.registers[7], F80::ONE);
    assert_eq!(bench.core.x87.valid, 0x80);
    // FINCSTP: ST7 is physical register 7 then.
    bench.run(&[0xd9, 0xf7]).unwrap();
    assert_eq!(bench.st(7), Some(F80::ONE));
    // FFREEP ST7 pops the empty ST0 too.
    bench.run(&[0xdf, 0xc7]).unwrap();
    assert_eq!(bench.core.x87.valid, 0);
    assert_eq!(bench.core.x87.status >> 11 & 7, 1);
    // A value stays in a register that is empty.
    assert_eq!(bench.core.x87.registers[7], F80::ONE);
}

#[test]
fn shares_registers_with_mmx() {
    let mut bench = Bench::in_mode(Mode::Long);
    bench.run(FLD1).unwrap();
    bench.core.gpr[0] = 0x1234_5678_9abc_def0;
    // MOVQ MM7, RAX; then EMMS.
    bench.run(&[0x48, 0x0f, 0x6e, 0xf8]).unwrap();
    assert_eq!(bench.core.x87.status >> 11 & 7, 0);
    assert_eq!(
        bench.st(7),
        Some(F80::new(true, 0x7fff, 0x1234_5678_9abc_def0))
    );
    bench.run(&[0x0f, 0x77]).unwrap();
    assert_eq!(bench.core.x87.valid, 0);
    bench.run(FLD1).unwrap();
    assert_eq!(bench.core.x87.registers[7], F80::ONE);
}

#[test]
fn examining_an_empty_register_sees_its_sign() {
    let mut bench = Bench::in_mode(Mode::Long);
    bench.push(F80::INDEFINITE);
    bench.core.x87.free(0);
    bench.run(&[0xd9, 0xe5]).unwrap();
    assert_eq!(bench.core.x87.status & 0x4700, 0x4300);
}
