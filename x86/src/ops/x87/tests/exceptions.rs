//! When #UD, #NM, #MF, #AC and faults of the memory operand are raised, and what they leave alone.

use super::*;
use crate::flags;
use crate::softfloat::Flags;

/// A waiting instruction that reads memory: FLD m64 at RDI.
const FLD: &[u8] = &[0xdd, 0x07];
/// FSTP m64 at RDI.
const FSTP: &[u8] = &[0xdd, 0x1f];
/// FSTP m80 at RDI.
const FSTP_LONG: &[u8] = &[0xdb, 0x3f];
/// FWAIT.
const FWAIT: &[u8] = &[0x9b];

/// Instructions that do not wait: FNINIT, FNCLEX, FNENI, FNDISI, FNSETPM, FNSTSW AX, and FNSTCW,
/// FNSTSW, FNSTENV and FNSAVE at RDI.
const NOT_WAITING: &[&[u8]] = &[
    &[0xdb, 0xe3],
    &[0xdb, 0xe2],
    &[0xdb, 0xe0],
    &[0xdb, 0xe1],
    &[0xdb, 0xe4],
    &[0xdf, 0xe0],
    &[0xd9, 0x3f],
    &[0xdd, 0x3f],
    FNSTENV,
    &[0xdd, 0x37],
];

/// Instructions that wait: FLD1, FNOP, FINCSTP, FFREE, FXCH, FLD, FSTP, FLDCW, FLDENV, FRSTOR.
const WAITING: &[&[u8]] = &[
    FLD1,
    &[0xd9, 0xd0],
    &[0xd9, 0xf7],
    &[0xdd, 0xc0],
    &[0xd9, 0xc9],
    FLD,
    FSTP,
    &[0xd9, 0x2f],
    &[0xd9, 0x27],
    &[0xdd, 0x27],
];

/// A bench with an unmasked exception that waits.
fn pending() -> Bench {
    let mut bench = Bench::in_mode(Mode::Long);
    bench.core.x87.status |= Flags::ZERO_DIVIDE;
    bench.core.x87.set_control(0x37b);
    bench
}

#[test]
fn absent_instructions() {
    // FRSTPM; what the 387SL had; gaps; LOCK.
    let absent: &[&[u8]] = &[
        &[0xdb, 0xe5],
        &[0xdf, 0xe1],
        &[0xdf, 0xe2],
        &[0xd9, 0xd1],
        &[0xdd, 0x2f],
        &[0xd9, 0x0f],
        &[0xf0, 0xdd, 0x1f],
    ];
    for bytes in absent {
        assert_eq!(
            Bench::in_mode(Mode::Long).run(bytes),
            Err(Fault::UNDEFINED),
            "{bytes:02x?}"
        );
    }
}

#[test]
fn device_not_available() {
    for bits in [cr0::EM, cr0::TS, cr0::EM | cr0::TS] {
        for bytes in WAITING.iter().chain(NOT_WAITING) {
            let mut bench = pending();
            bench.core.cr0 |= bits;
            assert_eq!(bench.run(bytes), Err(Fault::NO_DEVICE), "{bytes:02x?}");
        }
    }
}

#[test]
fn pending_exception() {
    for numeric_error in [0, cr0::NE] {
        for bytes in WAITING {
            let mut bench = pending();
            bench.core.cr0 = bench.core.cr0 & !cr0::NE | numeric_error;
            // Even before the memory operand.
            bench.core.gpr[7] = 1 << 47;
            let before = bench.core.x87;
            assert_eq!(bench.run(bytes), Err(Fault::X87), "{bytes:02x?}");
            assert_eq!(bench.core.x87, before);
        }
    }
    for bytes in NOT_WAITING {
        assert_eq!(pending().run(bytes), Ok(()), "{bytes:02x?}");
    }
}

#[test]
fn wait() {
    let cases = [
        (0, Err(Fault::X87)),
        (cr0::TS, Err(Fault::X87)),
        (cr0::MP, Err(Fault::X87)),
        (cr0::EM, Err(Fault::X87)),
        (cr0::MP | cr0::TS, Err(Fault::NO_DEVICE)),
    ];
    for (bits, expected) in cases {
        let mut bench = pending();
        bench.core.cr0 |= bits;
        assert_eq!(bench.run(FWAIT), expected);
    }
    let mut bench = Bench::in_mode(Mode::Long);
    let before = bench.core.x87;
    assert_eq!(bench.run(FWAIT), Ok(()));
    assert_eq!(bench.core.x87, before);
}

#[test]
fn memory_faults_change_nothing() {
    for bytes in WAITING
        .iter()
        .chain(NOT_WAITING)
        .filter(|bytes| bytes[1] & 0xc7 == 7)
    {
        let mut bench = Bench::in_mode(Mode::Long);
        bench.push(TWO);
        bench.core.gpr[7] = 1 << 47;
        let before = bench.core.x87;
        assert_eq!(bench.run(bytes), Err(Fault::protection(0)), "{bytes:02x?}");
        assert_eq!(bench.core.x87, before, "{bytes:02x?}");
    }
}

#[test]
fn blocked_store_checks_its_operand() {
    // FISTP m32 of a value that does not fit, with #IA unmasked.
    let fistp = [0xdb, 0x1f];
    let huge = F80::new(false, 0x4040, 1 << 63);
    let mut bench = Bench::in_mode(Mode::Long);
    bench.core.x87.set_control(0x37e);
    bench.push(huge);
    let before = bench.core.x87;
    bench.core.gpr[7] = 1 << 47;
    assert_eq!(bench.run(&fistp), Err(Fault::protection(0)));
    assert_eq!(bench.core.x87, before);

    bench.core.gpr[7] = DATA;
    bench.poke(DATA, &[0x55; 4]);
    assert_eq!(bench.run(&fistp), Ok(()));
    assert_eq!(bench.peek(DATA), [0x55; 4]);
    assert_eq!(bench.st(0), Some(huge));
    assert_eq!(bench.core.x87.status & 0x80ff, 0x8081);
    assert_eq!(bench.run(FWAIT), Err(Fault::X87));
}

#[test]
fn segment_limit() {
    // The last byte of FSTP m80 is beyond 64 KiB.
    let mut bench = Bench::in_mode(Mode::Real);
    bench.push(TWO);
    let store = [0xdb, 0x3d];
    bench.core.gpr[7] = 0xfff7;
    assert_eq!(bench.run(&store), Err(Fault::protection(0)));
    assert_eq!(bench.st(0), Some(TWO));
    bench.core.gpr[7] = 0xfff6;
    assert_eq!(bench.run(&store), Ok(()));
    assert_eq!(bench.peek(REAL_BASE + 0xfff6), TWO.to_bytes());
}

#[test]
fn alignment() {
    let cases: &[(&[u8], u64)] = &[
        (FSTP_LONG, 8),
        // FBSTP.
        (&[0xdf, 0x37], 8),
        (FSTP, 8),
        (FNSTENV, 4),
        (&[0x66, 0xd9, 0x37], 2),
        (&[0xdd, 0x37], 4),
        (&[0x66, 0xdd, 0x37], 2),
    ];
    for &(bytes, alignment) in cases {
        for offset in [alignment, alignment / 2] {
            let mut state = Bench::in_mode(Mode::Long).core.to_state();
            state.cr0 |= cr0::AM;
            state.rflags |= flags::AC;
            state.segments[2].rights |= 3 << 5;
            let mut bench = Bench::in_mode(Mode::Long);
            bench.core = Core::from_state(&state);
            bench.push(F80::ONE);
            bench.core.gpr[7] = DATA + offset;
            let expected = if offset == alignment {
                Ok(())
            } else {
                Err(Fault::ALIGNMENT)
            };
            assert_eq!(bench.run(bytes), expected, "{bytes:02x?} at {offset}");
        }
    }
}
