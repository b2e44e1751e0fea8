//! Moves: which bits change and which stay.

use super::{Bench, DATA};

const A: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;
const B: u128 = 0xf0e1_d2c3_b4a5_9687_7869_5a4b_3c2d_1e0f;
const LOW: u128 = u64::MAX as u128;

/// XMM2 = A, XMM1 = B, memory = B, MM1 = low B, RCX = low B; then the instruction.
fn after(bytes: &[u8]) -> Bench {
    let mut bench = Bench::new();
    bench.core.xmm[2] = A;
    bench.core.xmm[1] = B;
    bench.set_mmx(1, B as u64);
    bench.core.gpr[1] = B as u64;
    bench.core.gpr[2] = u64::MAX;
    bench.poke(DATA, &B.to_le_bytes());
    bench.run(bytes).expect("no fault");
    bench
}

#[test]
fn loads_into_xmm() {
    let cases: &[(&[u8], u128)] = &[
        (&[0x0f, 0x28, 0xd1], B),
        (&[0x0f, 0x28, 0x17], B),
        (&[0x66, 0x0f, 0x28, 0x17], B),
        (&[0x66, 0x0f, 0x6f, 0x17], B),
        (&[0x66, 0x0f, 0x6f, 0xd1], B),
        (&[0xf3, 0x0f, 0x6f, 0x17], B),
        (&[0x0f, 0x10, 0x57, 0x01], B >> 8),
        (&[0x66, 0x0f, 0x10, 0x57, 0x01], B >> 8),
        // Register forms of the opcodes that store.
        (&[0x0f, 0x29, 0xca], B),
        (&[0x0f, 0x11, 0xca], B),
        (&[0xf3, 0x0f, 0x7f, 0xca], B),
        (&[0x66, 0x0f, 0xd6, 0xca], B & LOW),
        // MOVSS, MOVSD.
        (&[0xf3, 0x0f, 0x10, 0xd1], A >> 32 << 32 | B & 0xffff_ffff),
        (&[0xf3, 0x0f, 0x11, 0xca], A >> 32 << 32 | B & 0xffff_ffff),
        (&[0xf3, 0x0f, 0x10, 0x17], B & 0xffff_ffff),
        (&[0xf2, 0x0f, 0x10, 0xd1], A >> 64 << 64 | B & LOW),
        (&[0xf2, 0x0f, 0x11, 0xca], A >> 64 << 64 | B & LOW),
        (&[0xf2, 0x0f, 0x10, 0x17], B & LOW),
        // MOVLPS, MOVLPD, MOVHPS, MOVHPD, MOVHLPS, MOVLHPS.
        (&[0x0f, 0x12, 0x17], A >> 64 << 64 | B & LOW),
        (&[0x66, 0x0f, 0x12, 0x17], A >> 64 << 64 | B & LOW),
        (&[0x0f, 0x16, 0x17], A & LOW | B << 64),
        (&[0x66, 0x0f, 0x16, 0x17], A & LOW | B << 64),
        (&[0x0f, 0x12, 0xd1], A >> 64 << 64 | B >> 64),
        (&[0x0f, 0x16, 0xd1], A & LOW | B << 64),
        // MOVD, MOVQ.
        (&[0x66, 0x0f, 0x6e, 0xd1], B & 0xffff_ffff),
        (&[0x66, 0x0f, 0x6e, 0x17], B & 0xffff_ffff),
        (&[0x66, 0x48, 0x0f, 0x6e, 0xd1], B & LOW),
        (&[0x66, 0x48, 0x0f, 0x6e, 0x17], B & LOW),
        (&[0xf3, 0x0f, 0x7e, 0xd1], B & LOW),
        (&[0xf3, 0x0f, 0x7e, 0x17], B & LOW),
        (&[0xf3, 0x0f, 0xd6, 0xd1], B & LOW),
    ];
    for (bytes, wanted) in cases {
        assert_eq!(after(bytes).core.xmm[2], *wanted, "{bytes:02x?}");
    }
}

#[test]
fn loads_into_mmx() {
    let cases: &[(&[u8], u64)] = &[
        (&[0x0f, 0x6e, 0xd1], B as u32 as u64),
        (&[0x0f, 0x6e, 0x17], B as u32 as u64),
        (&[0x48, 0x0f, 0x6e, 0xd1], B as u64),
        (&[0x48, 0x0f, 0x6e, 0x17], B as u64),
        (&[0x0f, 0x6f, 0xd1], B as u64),
        (&[0x0f, 0x6f, 0x17], B as u64),
        (&[0x0f, 0x7f, 0xca], B as u64),
        (&[0xf2, 0x0f, 0xd6, 0xd1], B as u64),
    ];
    for (bytes, wanted) in cases {
        let bench = after(bytes);
        assert_eq!(bench.mmx(2), *wanted, "{bytes:02x?}");
        assert_eq!(bench.core.x87.registers[2].sign_exponent, 0xffff);
        assert_eq!(bench.core.x87.valid, 0xff);
    }
}

#[test]
fn stores() {
    const OLD: u128 = B;
    let keep = |bytes: u32| OLD >> (8 * bytes) << (8 * bytes);
    let cases: &[(&[u8], u128)] = &[
        (&[0x0f, 0x29, 0x17], A),
        (&[0x66, 0x0f, 0x29, 0x17], A),
        (&[0x66, 0x0f, 0x7f, 0x17], A),
        (&[0xf3, 0x0f, 0x7f, 0x17], A),
        (&[0x0f, 0x11, 0x17], A),
        (&[0x66, 0x0f, 0x11, 0x17], A),
        (&[0x0f, 0x2b, 0x17], A),
        (&[0x66, 0x0f, 0x2b, 0x17], A),
        (&[0x66, 0x0f, 0xe7, 0x17], A),
        (&[0xf3, 0x0f, 0x11, 0x17], keep(4) | A & 0xffff_ffff),
        (&[0xf2, 0x0f, 0x11, 0x17], keep(8) | A & LOW),
        (&[0x66, 0x0f, 0x7e, 0x17], keep(4) | A & 0xffff_ffff),
        (&[0x66, 0x48, 0x0f, 0x7e, 0x17], keep(8) | A & LOW),
        (&[0x66, 0x0f, 0xd6, 0x17], keep(8) | A & LOW),
        (&[0x0f, 0x13, 0x17], keep(8) | A & LOW),
        (&[0x66, 0x0f, 0x13, 0x17], keep(8) | A & LOW),
        (&[0x0f, 0x17, 0x17], keep(8) | A >> 64),
        (&[0x66, 0x0f, 0x17, 0x17], keep(8) | A >> 64),
        // MOVNTI from RCX, whose bytes are those of B; one byte further.
        (
            &[0x48, 0x0f, 0xc3, 0x4f, 0x01],
            keep(9) | (B & LOW) << 8 | B & 0xff,
        ),
        (
            &[0x0f, 0xc3, 0x4f, 0x01],
            keep(5) | (B & 0xffff_ffff) << 8 | B & 0xff,
        ),
        // From MM1, likewise.
        (
            &[0x0f, 0x7f, 0x4f, 0x01],
            keep(9) | (B & LOW) << 8 | B & 0xff,
        ),
        (
            &[0x0f, 0xe7, 0x4f, 0x01],
            keep(9) | (B & LOW) << 8 | B & 0xff,
        ),
        (
            &[0x0f, 0x7e, 0x4f, 0x01],
            keep(5) | (B & 0xffff_ffff) << 8 | B & 0xff,
        ),
    ];
    for (bytes, wanted) in cases {
        let stored = u128::from_le_bytes(after(bytes).peek(DATA));
        assert_eq!(stored, *wanted, "{bytes:02x?}: {stored:#x}");
    }
}

#[test]
fn into_general_registers() {
    let cases: &[(&[u8], u64)] = &[
        (&[0x66, 0x0f, 0x7e, 0xca], B as u32 as u64),
        (&[0x66, 0x48, 0x0f, 0x7e, 0xca], B as u64),
        (&[0x0f, 0x7e, 0xca], B as u32 as u64),
        (&[0x48, 0x0f, 0x7e, 0xca], B as u64),
        (&[0x66, 0x0f, 0xd7, 0xd1], 0xff00),
        (&[0x0f, 0xd7, 0xd1], 0),
        (&[0x0f, 0x50, 0xd1], 0b1100),
        (&[0x66, 0x0f, 0x50, 0xd1], 0b10),
    ];
    for (bytes, wanted) in cases {
        assert_eq!(after(bytes).core.gpr[2], *wanted, "{bytes:02x?}");
    }
    assert_eq!(after(&[0xf3, 0x0f, 0xd6, 0xd1]).core.x87.valid, 0xff);
}

#[test]
fn masked_stores_write_selected_bytes() {
    for mask in [0u16, 1, 0x8000, 0x8001, 0x5a5a, 0xffff, 0x0ff0] {
        let mut bench = Bench::new();
        let mut signs = [0x7f; 16];
        let mut wanted = B.to_le_bytes();
        for (i, sign) in signs.iter_mut().enumerate() {
            if mask >> i & 1 != 0 {
                *sign = 0x80;
                wanted[i] = A.to_le_bytes()[i];
            }
        }
        bench.core.xmm[2] = A;
        bench.core.xmm[1] = u128::from_le_bytes(signs);
        bench.poke(DATA + 3, &B.to_le_bytes());
        bench.core.gpr[7] = DATA + 3;
        bench.run(&[0x66, 0x0f, 0xf7, 0xd1]).expect("maskmovdqu");
        assert_eq!(bench.peek::<16>(DATA + 3), wanted, "{mask:#x}");
        bench.set_mmx(2, A as u64);
        bench.set_mmx(1, u128::from_le_bytes(signs) as u64);
        bench.poke(DATA + 3, &B.to_le_bytes());
        bench.run(&[0x0f, 0xf7, 0xd1]).expect("maskmovq");
        assert_eq!(bench.peek::<8>(DATA + 3), wanted[..8], "{mask:#x}");
        assert_eq!(bench.peek::<8>(DATA + 11), B.to_le_bytes()[8..]);
    }
}

#[test]
fn masked_stores_obey_the_segment_prefix() {
    let mut bench = Bench::new();
    bench.core.segments[5].base = 0x100;
    bench.core.mode_changed();
    bench.core.xmm[2] = A;
    bench.core.xmm[1] = u128::MAX;
    bench
        .run(&[0x65, 0x66, 0x0f, 0xf7, 0xd1])
        .expect("maskmovdqu gs:");
    assert_eq!(bench.peek::<16>(DATA + 0x100), A.to_le_bytes());
}
