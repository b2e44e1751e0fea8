//! VEX prefixes: when they may be used, what they may look like, and what becomes of the upper half
//! of a register.

use crate::core::{cr0, cr4};
use crate::fault::Fault;
use crate::ops::bench::{Bench, DATA, Mode};

/// One of each kind of instruction on vector registers.
const VECTOR: &[&[u8]] = &[
    // VADDPS, VPXOR of 256 bits, VMOVAPS, VMOVD, VPMOVMSKB, VUCOMISS, VCVTSI2SD.
    &[0xc5, 0xe8, 0x58, 0xd1],
    &[0xc5, 0xed, 0xef, 0xd1],
    &[0xc5, 0xf8, 0x28, 0xd1],
    &[0xc5, 0xf9, 0x6e, 0xd1],
    &[0xc5, 0xf9, 0xd7, 0xd1],
    &[0xc5, 0xf8, 0x2e, 0xd1],
    &[0xc5, 0xeb, 0x2a, 0xd1],
    // VZEROUPPER, VZEROALL, VLDMXCSR, VSTMXCSR.
    &[0xc5, 0xf8, 0x77],
    &[0xc5, 0xfc, 0x77],
    &[0xc5, 0xf8, 0xae, 0x1f],
    // VFMADD213PD, VCVTPH2PS, VAESENC, VPCLMULQDQ, VPTEST, VPERMD, VPMASKMOVD.
    &[0xc4, 0xe2, 0xe9, 0xa8, 0xd1],
    &[0xc4, 0xe2, 0x79, 0x13, 0xd1],
    &[0xc4, 0xe2, 0x69, 0xdc, 0xd1],
    &[0xc4, 0xe3, 0x69, 0x44, 0xd1, 0x00],
    &[0xc4, 0xe2, 0x79, 0x17, 0xd1],
    &[0xc4, 0xe2, 0x6d, 0x36, 0xd1],
    &[0xc4, 0xe2, 0x69, 0x8c, 0x17],
];

/// One of each kind of instruction on general registers: ANDN, BLSR, BZHI, MULX, RORX.
const GENERAL: &[&[u8]] = &[
    &[0xc4, 0xe2, 0x68, 0xf2, 0xd1],
    &[0xc4, 0xe2, 0x68, 0xf3, 0xc9],
    &[0xc4, 0xe2, 0x68, 0xf5, 0xd1],
    &[0xc4, 0xe2, 0x6b, 0xf6, 0xd1],
    &[0xc4, 0xe3, 0x7b, 0xf0, 0xd1, 0x05],
];

fn outcome(mode: Mode, bytes: &[u8], change: impl Fn(&mut Bench)) -> Result<(), Fault> {
    let mut bench = Bench::in_mode(mode);
    change(&mut bench);
    let before = bench.core.to_state();
    let result = bench.run(bytes);
    if result.is_err() {
        assert_eq!(bench.core.to_state(), before, "{bytes:02x?}");
    }
    result
}

fn unchanged(_: &mut Bench) {}

#[test]
fn vector_registers_need_what_the_system_enables() {
    let undefined = Err(Fault::UNDEFINED);
    for bytes in VECTOR {
        let long = |change: fn(&mut Bench)| outcome(Mode::Long, bytes, change);
        assert_eq!(long(unchanged), Ok(()), "{bytes:02x?}");
        assert_eq!(
            long(|b| b.core.cr4 &= !cr4::OSXSAVE),
            undefined,
            "{bytes:02x?}"
        );
        assert_eq!(long(|b| b.core.xcr0 = 3), undefined, "{bytes:02x?}");
        assert_eq!(long(|b| b.core.xcr0 = 1), undefined, "{bytes:02x?}");
        assert_eq!(
            long(|b| b.core.cr0 |= cr0::TS),
            Err(Fault::NO_DEVICE),
            "{bytes:02x?}"
        );
        let both = long(|b| {
            b.core.cr0 |= cr0::TS;
            b.core.xcr0 = 3;
        });
        assert_eq!(both, undefined, "{bytes:02x?}");
        // Those that forbid legacy SSE do not count.
        let legacy = long(|b| {
            b.core.cr0 |= cr0::EM;
            b.core.cr4 &= !cr4::OSFXSR;
        });
        assert_eq!(legacy, Ok(()), "{bytes:02x?}");
    }
}

#[test]
fn general_registers_need_no_enabling() {
    for bytes in GENERAL {
        let bare = |b: &mut Bench| {
            b.core.cr0 |= cr0::TS | cr0::EM;
            b.core.cr4 = 0;
            b.core.xcr0 = 1;
        };
        assert_eq!(outcome(Mode::Long, bytes, bare), Ok(()), "{bytes:02x?}");
    }
}

#[test]
fn there_are_no_vex_prefixes_in_real_and_virtual_8086_mode() {
    for bytes in VECTOR.iter().chain(GENERAL) {
        assert_eq!(
            outcome(Mode::Protected32, bytes, unchanged),
            Ok(()),
            "{bytes:02x?}"
        );
        for mode in [Mode::Real, Mode::Virtual8086] {
            assert_eq!(
                outcome(mode, bytes, unchanged),
                Err(Fault::UNDEFINED),
                "{mode:?} {bytes:02x?}"
            );
        }
    }
}

#[test]
fn what_a_vex_prefix_must_not_be() {
    let cases: &[&[u8]] = &[
        // 66, F2, F3, LOCK and REX before it.
        &[0x66, 0xc5, 0xe8, 0x58, 0xd1],
        &[0xf2, 0xc5, 0xe8, 0x58, 0xd1],
        &[0xf3, 0xc5, 0xe8, 0x58, 0xd1],
        &[0xf0, 0xc5, 0xe8, 0x58, 0x17],
        &[0x40, 0xc5, 0xe8, 0x58, 0xd1],
        &[0x48, 0xc4, 0xe2, 0x68, 0xf2, 0xd1],
        // A first source where there is none: VMOVAPS, VSQRTPS, VPTEST, VPABSB, RORX, VPSHUFD.
        &[0xc5, 0xe8, 0x28, 0xd1],
        &[0xc5, 0xe8, 0x51, 0xd1],
        &[0xc4, 0xe2, 0x69, 0x17, 0xd1],
        &[0xc4, 0xe2, 0x69, 0x1c, 0xd1],
        &[0xc4, 0xe3, 0x6b, 0xf0, 0xd1, 0x05],
        &[0xc5, 0xe9, 0x70, 0xd1, 0x00],
        // 256 bits of what has 128: VMOVD, VPINSRW, VAESIMC, ANDN, VMOVHLPS.
        &[0xc5, 0xfd, 0x6e, 0xd1],
        &[0xc5, 0xed, 0xc4, 0xd1, 0x00],
        &[0xc4, 0xe2, 0x7d, 0xdb, 0xd1],
        &[0xc4, 0xe2, 0x6c, 0xf2, 0xd1],
        &[0xc5, 0xec, 0x12, 0xd1],
        // 128 bits of what has 256: VPERMD, VINSERTF128, VBROADCASTSD.
        &[0xc4, 0xe2, 0x69, 0x36, 0xd1],
        &[0xc4, 0xe3, 0x69, 0x18, 0xd1, 0x00],
        &[0xc4, 0xe2, 0x79, 0x19, 0xd1],
        // W of what has none: VPERMD, VBROADCASTSS.
        &[0xc4, 0xe2, 0xed, 0x36, 0xd1],
        &[0xc4, 0xe2, 0xf9, 0x18, 0xd1],
        // Gathers of which two registers are one: destination and index, mask and destination.
        &[0xc4, 0xe2, 0x69, 0x90, 0x0c, 0x0f],
        &[0xc4, 0xe2, 0x71, 0x90, 0x0c, 0x17],
        // A map that there is not; EVEX.
        &[0xc4, 0xe4, 0x69, 0x58, 0xd1],
        &[0x62, 0xf1, 0x6c, 0x08, 0x58, 0xd1],
    ];
    for bytes in cases {
        assert_eq!(
            outcome(Mode::Long, bytes, unchanged),
            Err(Fault::UNDEFINED),
            "{bytes:02x?}"
        );
    }
}

#[test]
fn alignment() {
    let at = |bytes: &[u8], address: u64| {
        outcome(Mode::Long, bytes, |bench| bench.core.gpr[7] = address)
    };
    let refused = Err(Fault::protection(0));
    // VADDPS and VMOVUPS take any address; VMOVAPS, VMOVNTDQA and VMOVNTPS whole vectors.
    for bytes in [
        &[0xc5, 0xe8, 0x58, 0x17][..],
        &[0xc5, 0xec, 0x58, 0x17],
        &[0xc5, 0xfc, 0x10, 0x17],
        &[0xc5, 0xfc, 0x11, 0x17],
        &[0xc4, 0xe2, 0x7d, 0x1a, 0x17],
    ] {
        assert_eq!(at(bytes, DATA + 1), Ok(()), "{bytes:02x?}");
    }
    for bytes in [&[0xc5, 0xf8, 0x28, 0x17][..], &[0xc5, 0xf8, 0x29, 0x17]] {
        assert_eq!(at(bytes, DATA + 8), refused, "{bytes:02x?}");
        assert_eq!(at(bytes, DATA + 16), Ok(()), "{bytes:02x?}");
    }
    for bytes in [
        &[0xc5, 0xfc, 0x28, 0x17][..],
        &[0xc5, 0xfc, 0x29, 0x17],
        &[0xc4, 0xe2, 0x7d, 0x2a, 0x17],
        &[0xc5, 0xfc, 0x2b, 0x17],
    ] {
        assert_eq!(at(bytes, DATA + 16), refused, "{bytes:02x?}");
        assert_eq!(at(bytes, DATA + 32), Ok(()), "{bytes:02x?}");
    }
    // PCMPISTRI takes any address, PSHUFB does not.
    assert_eq!(at(&[0x66, 0x0f, 0x3a, 0x63, 0x17, 0x00], DATA + 1), Ok(()));
    assert_eq!(at(&[0x66, 0x0f, 0x38, 0x00, 0x17], DATA + 1), refused);
}

#[test]
fn the_upper_half_stays_or_becomes_zero() {
    let after = |bytes: &[u8]| {
        let mut bench = Bench::new();
        bench.core.ymm_high = [7; 16];
        bench.run(bytes).expect("an instruction");
        bench.core.ymm_high
    };
    let mut zeroed = [7; 16];
    zeroed[2] = 0;
    // ADDPS, MOVAPS, MOVD, PINSRW, CVTSI2SD, PSHUFB, SHA1NEXTE.
    for bytes in [
        &[0x0f, 0x58, 0xd1][..],
        &[0x0f, 0x28, 0xd1],
        &[0x66, 0x0f, 0x6e, 0xd1],
        &[0x66, 0x0f, 0xc4, 0xd1, 0x00],
        &[0xf2, 0x0f, 0x2a, 0xd1],
        &[0x66, 0x0f, 0x38, 0x00, 0xd1],
        &[0x0f, 0x38, 0xc8, 0xd1],
    ] {
        assert_eq!(after(bytes), [7; 16], "{bytes:02x?}");
    }
    for bytes in [
        &[0xc5, 0xe8, 0x58, 0xd1][..],
        &[0xc5, 0xf8, 0x28, 0xd1],
        &[0xc5, 0xf9, 0x6e, 0xd1],
        &[0xc5, 0xe9, 0xc4, 0xd1, 0x00],
        &[0xc5, 0xeb, 0x2a, 0xd1],
        &[0xc5, 0xfd, 0x5a, 0xd1],
        &[0xc4, 0xe3, 0x7d, 0x19, 0xca, 0x01],
    ] {
        assert_eq!(after(bytes), zeroed, "{bytes:02x?}");
    }
    // Stores and comparisons write no register.
    for bytes in [
        &[0xc5, 0xf8, 0x29, 0x17][..],
        &[0xc5, 0xf8, 0x2e, 0xd1],
        &[0xc5, 0xf9, 0xd7, 0xd1],
    ] {
        assert_eq!(after(bytes), [7; 16], "{bytes:02x?}");
    }
    assert_eq!(after(&[0xc5, 0xf8, 0x77]), [0; 16]);
}

#[test]
fn without_rex_there_are_eight_registers_to_zero() {
    let mut bench = Bench::in_mode(Mode::Protected32);
    bench.core.ymm_high = [7; 16];
    bench.core.xmm = [5; 16];
    bench.run(&[0xc5, 0xf8, 0x77]).expect("vzeroupper");
    assert_eq!(
        bench.core.ymm_high,
        [0, 0, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7]
    );
    bench.run(&[0xc5, 0xfc, 0x77]).expect("vzeroall");
    assert_eq!(
        bench.core.xmm,
        [0, 0, 0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 5, 5, 5]
    );
}

#[test]
fn a_gather_that_faults_keeps_what_it_has() {
    let mut bench = Bench::new();
    bench.poke(DATA, &[0x11; 8]);
    let negative = 1u128 << 127 | 1 << 63;
    // The third element is where no address is.
    bench.core.xmm[1] = 0;
    bench.core.ymm_high[1] = 1 << 62;
    bench.core.xmm[2] = negative;
    bench.core.ymm_high[2] = negative;
    bench.core.xmm[0] = 0;
    bench.core.ymm_high[0] = 3 << 64 | 4;
    // VPGATHERQQ ymm0, [rdi + ymm1], ymm2.
    let bytes = [0xc4, 0xe2, 0xed, 0x91, 0x04, 0x0f];
    assert_eq!(bench.run(&bytes), Err(Fault::protection(0)));
    let element = 0x1111_1111_1111_1111u128;
    assert_eq!(bench.core.xmm[0], element << 64 | element);
    assert_eq!(bench.core.ymm_high[0], 3 << 64 | 4);
    assert_eq!((bench.core.xmm[2], bench.core.ymm_high[2]), (0, negative));
    // Executed again with a better address, it finishes.
    bench.core.ymm_high[1] = 0;
    bench.run(&bytes).expect("vpgatherqq");
    assert_eq!(bench.core.ymm_high[0], element << 64 | element);
    assert_eq!((bench.core.xmm[2], bench.core.ymm_high[2]), (0, 0));
}

#[test]
fn masked_moves_reach_chosen_elements_only() {
    let mut bench = Bench::new();
    // The second element of VPMASKMOVQ lies where no address is.
    let edge = 0x7fff_ffff_fff8;
    bench.core.gpr[7] = edge;
    bench.core.xmm[2] = 1 << 127;
    let load = [0xc4, 0xe2, 0xe9, 0x8c, 0x07];
    assert_eq!(bench.run(&load), Err(Fault::protection(0)));
    bench.core.gpr[7] = DATA;
    bench.poke(DATA, &[0x22; 16]);
    bench.core.xmm[2] = 1 << 63;
    bench.run(&load).expect("vpmaskmovq");
    assert_eq!(bench.core.xmm[0], 0x2222_2222_2222_2222);
    // A store that cannot reach one of its elements writes none.
    let store = [0xc4, 0xe2, 0xe9, 0x8e, 0x07];
    bench.core.xmm[0] = 0;
    bench.core.xmm[2] = 1 << 63 | 1 << 127;
    bench.core.gpr[7] = edge;
    assert_eq!(bench.run(&store), Err(Fault::protection(0)));
    bench.core.gpr[7] = DATA;
    bench.core.xmm[2] = 1 << 127;
    bench.run(&store).expect("vpmaskmovq");
    assert_eq!(
        bench.peek::<9>(DATA),
        [0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0]
    );
}
