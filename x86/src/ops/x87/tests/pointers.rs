//! The last instruction and its operand.

use super::*;
use crate::ops::x87::opcode;

#[test]
fn opcodes() {
    assert_eq!(opcode(&[0xd9, 0xe8]), 0x1e8);
    assert_eq!(opcode(&[0x66, 0x2e, 0x48, 0xdd, 0x44, 0x24, 0x08]), 0x544);
    assert_eq!(opcode(&[0xdf, 0xe0]), 0x7e0);
    assert_eq!(opcode(&[0x9b]), 0);
    assert_eq!(opcode(&[0xb8, 0xd8, 0xc0, 0, 0]), 0);
    assert_eq!(opcode(&[0x66, 0x66]), 0);
    assert_eq!(opcode(&[]), 0);
}

/// Instruction, its opcode, operand.
fn pointers(bench: &Bench) -> (u64, u16, u64) {
    let x87 = &bench.core.x87;
    (x87.instruction, x87.opcode, x87.operand)
}

#[test]
fn are_updated() {
    let mut bench = Bench::in_mode(Mode::Long);
    bench.core.segments[1].selector = 0x33;
    bench.core.segments[3].selector = 0x2b;
    // FLD dword ptr [RDI+8].
    bench.run(&[0xd9, 0x47, 0x08]).unwrap();
    assert_eq!(pointers(&bench), (RIP, 0x147, DATA + 8));
    assert_eq!(bench.core.x87.instruction_selector, 0x33);
    assert_eq!(bench.core.x87.operand_selector, 0x2b);
    // Without a memory operand, that of the last one stays.
    for (bytes, opcode) in [
        (FLD1, 0x1e8),
        (&[0xd9, 0xd0], 0x1d0),
        (&[0xd9, 0xf7], 0x1f7),
        (&[0xd9, 0xc1], 0x1c1),
        (&[0xd8, 0xc1], 0x0c1),
        (&[0xdd, 0xc0], 0x5c0),
    ] {
        bench.run(bytes).unwrap();
        assert_eq!(pointers(&bench), (RIP, opcode, DATA + 8));
    }
}

#[test]
fn control_instructions_are_not_noted() {
    let controls: &[&[u8]] = &[
        &[0xdb, 0xe2],
        &[0xdb, 0xe0],
        &[0xdf, 0xe0],
        &[0x9b],
        &[0xd9, 0x2f],
        &[0xd9, 0x3f],
        &[0xdd, 0x3f],
        FNSTENV,
    ];
    for bytes in controls {
        let mut bench = Bench::in_mode(Mode::Long);
        bench.poke(DATA, &[0x7f, 3]);
        bench.core.x87.instruction = 0x1111;
        bench.core.x87.opcode = 0x222;
        bench.core.x87.operand = 0x3333;
        bench.run(bytes).unwrap();
        assert_eq!(pointers(&bench), (0x1111, 0x222, 0x3333), "{bytes:02x?}");
    }
}

#[test]
fn are_forgotten_by_initialisation() {
    // FNINIT, FNSAVE.
    for bytes in [[0xdb, 0xe3], [0xdd, 0x37]] {
        let mut bench = Bench::in_mode(Mode::Long);
        bench.run(&[0xd9, 0x07]).unwrap();
        bench.run(&bytes).unwrap();
        assert_eq!(pointers(&bench), (0, 0, 0));
        assert_eq!(bench.core.x87.valid, 0);
        assert_eq!(bench.core.x87.control, 0x37f);
    }
}
