//! Alignment, FXSAVE, FXRSTOR, LDMXCSR, STMXCSR.

use super::{Bench, DATA, Random};
use crate::fault::Fault;
use crate::softfloat::F80;
use crate::state::{RIGHTS_BIG, RIGHTS_LONG};

const FXSAVE: &[u8] = &[0x0f, 0xae, 0x07];
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x07];
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x0f];
const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x0f];

#[test]
fn aligned_forms_refuse_other_addresses() {
    let aligned: &[&[u8]] = &[
        &[0x0f, 0x28, 0x57, 0x08],
        &[0x0f, 0x29, 0x57, 0x08],
        &[0x66, 0x0f, 0x6f, 0x57, 0x01],
        &[0x66, 0x0f, 0xe7, 0x57, 0x01],
        &[0x66, 0x0f, 0xfc, 0x57, 0x04],
        &[0x0f, 0x58, 0x57, 0x04],
        &[0x0f, 0xc6, 0x57, 0x04, 0x00],
        &[0x66, 0x0f, 0x2d, 0x57, 0x08],
        &[0x0f, 0x53, 0x57, 0x08],
        &[0x0f, 0xae, 0x47, 0x08],
        &[0x0f, 0xae, 0x4f, 0x08],
    ];
    for bytes in aligned {
        let mut bench = Bench::new();
        let before = bench.core.to_state();
        assert_eq!(bench.run(bytes), Err(Fault::protection(0)), "{bytes:02x?}");
        assert_eq!(bench.core.to_state(), before);
    }
    let unaligned: &[&[u8]] = &[
        &[0x0f, 0x10, 0x57, 0x01],
        &[0xf3, 0x0f, 0x6f, 0x57, 0x01],
        &[0xf3, 0x0f, 0x7f, 0x57, 0x01],
        &[0xf3, 0x0f, 0x58, 0x57, 0x01],
        &[0xf2, 0x0f, 0x58, 0x57, 0x01],
        &[0x0f, 0x5a, 0x57, 0x01],
        &[0xf3, 0x0f, 0xe6, 0x57, 0x01],
        &[0x0f, 0xfc, 0x57, 0x01],
        &[0xf3, 0x0f, 0x53, 0x57, 0x01],
    ];
    for bytes in unaligned {
        assert_eq!(Bench::new().run(bytes), Ok(()), "{bytes:02x?}");
    }
}

/// A CPU with something in every register.
fn full() -> Bench {
    let mut bench = Bench::new();
    let mut random = Random(9);
    for register in &mut bench.core.xmm {
        *register = random.vector();
    }
    for register in &mut bench.core.x87.registers {
        let mantissa = random.next();
        *register = F80 {
            mantissa,
            sign_exponent: random.next() as u16,
        };
    }
    let x87 = &mut bench.core.x87;
    x87.control = 0x027f;
    x87.status = 3 << 11 | 0x4700;
    x87.valid = 0b1011_0001;
    x87.opcode = 0x123;
    x87.instruction = 0x1122_3344_5566_7788;
    x87.instruction_selector = 0x9900;
    x87.operand = 0xaabb_ccdd_eeff_0011;
    x87.operand_selector = 0x2233;
    bench.core.mxcsr = 0x9fa0;
    bench.poke(DATA, &[0xcc; 512]);
    bench
}

#[test]
fn fxsave_lays_out_the_image() {
    for wide in [false, true] {
        let mut bench = full();
        bench
            .run(if wide { FXSAVE64 } else { FXSAVE })
            .expect("fxsave");
        let image: [u8; 512] = bench.peek(DATA);
        assert_eq!(
            image[0..8],
            [0x7f, 0x02, 0x00, 0x5f, 0b1011_0001, 0, 0x23, 0x01]
        );
        if wide {
            assert_eq!(image[8..16], 0x1122_3344_5566_7788u64.to_le_bytes());
            assert_eq!(image[16..24], 0xaabb_ccdd_eeff_0011u64.to_le_bytes());
        } else {
            assert_eq!(image[8..16], [0x88, 0x77, 0x66, 0x55, 0x00, 0x99, 0, 0]);
            assert_eq!(image[16..24], [0x11, 0x00, 0xff, 0xee, 0x33, 0x22, 0, 0]);
        }
        assert_eq!(image[24..32], [0xa0, 0x9f, 0, 0, 0xff, 0xff, 0, 0]);
        for i in 0..8 {
            let register = bench.core.x87.registers[(3 + i) % 8].to_bytes();
            assert_eq!(image[32 + 16 * i..][..10], register);
            assert_eq!(image[32 + 16 * i + 10..][..6], [0; 6]);
        }
        for i in 0..16 {
            assert_eq!(image[160 + 16 * i..][..16], bench.core.xmm[i].to_le_bytes());
        }
        assert_eq!(image[416..], [0xcc; 96]);
    }
}

#[test]
fn fxrstor_brings_back_what_fxsave_saved() {
    let mut bench = full();
    bench.run(FXSAVE64).expect("fxsave64");
    let saved = bench.core.to_state();
    let mut other = Bench::new();
    other.poke(DATA, &bench.peek::<512>(DATA));
    other.run(FXRSTOR64).expect("fxrstor64");
    let mut wanted = saved.x87;
    wanted.instruction_selector = 0;
    wanted.operand_selector = 0;
    assert_eq!(other.core.x87, wanted);
    assert_eq!((other.core.xmm, other.core.mxcsr), (saved.xmm, saved.mxcsr));
    bench.run(FXSAVE).expect("fxsave");
    other.poke(DATA, &bench.peek::<512>(DATA));
    other.run(FXRSTOR).expect("fxrstor");
    wanted = saved.x87;
    wanted.instruction &= 0xffff_ffff;
    wanted.operand &= 0xffff_ffff;
    assert_eq!(other.core.x87, wanted);
}

#[test]
fn fxrstor_keeps_to_bits_that_exist() {
    // (FCW, FSW) in the image, then in the registers, as CPUs do it.
    let cases = [
        ((0xffff, 0xffff), (0x1f7f, 0x7f7f)),
        ((0x037f, 0x8080), (0x037f, 0x0000)),
        ((0x037f, 0x0001), (0x037f, 0x0001)),
        ((0x037e, 0x0001), (0x037e, 0x8081)),
        ((0x0000, 0x0080), (0x0040, 0x0000)),
        ((0x0000, 0x7f00), (0x0040, 0x7f00)),
    ];
    for ((control, status), wanted) in cases {
        let mut bench = Bench::new();
        bench.poke(DATA, &[0; 512]);
        bench.poke(DATA, &u16::to_le_bytes(control));
        bench.poke(DATA + 2, &u16::to_le_bytes(status));
        bench.poke(DATA + 6, &[0xff; 2]);
        bench.run(FXRSTOR).expect("fxrstor");
        let x87 = &bench.core.x87;
        assert_eq!(
            (x87.control, x87.status, x87.opcode),
            (wanted.0, wanted.1, 0x7ff)
        );
    }
}

#[test]
fn fxrstor_refuses_reserved_bits_of_mxcsr() {
    let mut bench = full();
    bench.run(FXSAVE).expect("fxsave");
    bench.core.xmm = [0; 16];
    bench.poke(DATA + 26, &[1]);
    let before = bench.core.to_state();
    assert_eq!(bench.run(FXRSTOR), Err(Fault::protection(0)));
    assert_eq!(bench.core.to_state(), before);
}

#[test]
fn outside_64_bit_mode_there_are_eight_registers() {
    let mut bench = full();
    for segment in &mut bench.core.segments {
        segment.limit = u32::MAX;
        segment.rights |= RIGHTS_BIG;
        segment.base = 0;
    }
    bench.core.segments[1].rights &= !RIGHTS_LONG;
    bench.core.mode_changed();
    bench.run(FXSAVE).expect("fxsave");
    let image: [u8; 512] = bench.peek(DATA);
    assert_eq!(image[272..288], bench.core.xmm[7].to_le_bytes());
    assert_eq!(image[288..], [0xcc; 224]);
    let before = bench.core.xmm;
    bench.core.xmm[7] = 0;
    bench.run(FXRSTOR).expect("fxrstor");
    assert_eq!(bench.core.xmm, before);
}

#[test]
fn mxcsr_goes_to_and_from_memory() {
    let mut bench = Bench::new();
    bench.poke(DATA, &0xffffu32.to_le_bytes());
    bench.run(&[0x0f, 0xae, 0x17]).expect("ldmxcsr");
    assert_eq!(bench.core.mxcsr, 0xffff);
    bench.run(&[0x0f, 0xae, 0x5f, 0x08]).expect("stmxcsr");
    assert_eq!(bench.peek::<4>(DATA + 8), 0xffffu32.to_le_bytes());
    bench.poke(DATA, &0x1_0000u32.to_le_bytes());
    assert_eq!(bench.run(&[0x0f, 0xae, 0x17]), Err(Fault::protection(0)));
    assert_eq!(bench.core.mxcsr, 0xffff);
}
