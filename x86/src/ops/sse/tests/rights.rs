//! When instructions may not be used at all, and which do not exist.

use arch::cpuid::Profile;

use super::Bench;
use crate::core::{cr0, cr4};
use crate::fault::Fault;

/// One of each kind of SSE instruction.
const SSE: &[&[u8]] = &[
    &[0x0f, 0x28, 0xd1],
    &[0x0f, 0x58, 0xd1],
    &[0x66, 0x0f, 0xef, 0xd1],
    &[0x66, 0x0f, 0x73, 0xfa, 0x01],
    &[0x66, 0x0f, 0x6e, 0xd1],
    &[0xf2, 0x0f, 0x2d, 0xd1],
    &[0x0f, 0x2e, 0xd1],
    &[0x0f, 0x53, 0xd1],
    &[0x0f, 0xae, 0x17],
    &[0x0f, 0xae, 0x1f],
    &[0x66, 0x0f, 0xf7, 0xd1],
];

/// One of each kind of MMX instruction.
const MMX: &[&[u8]] = &[
    &[0x0f, 0xfc, 0xd1],
    &[0x0f, 0x6e, 0xd1],
    &[0x0f, 0x7e, 0xd1],
    &[0x0f, 0x71, 0xf2, 0x01],
    &[0x0f, 0x70, 0xd1, 0x00],
    &[0x0f, 0xd7, 0xd1],
    &[0x0f, 0xf7, 0xd1],
    &[0x0f, 0xe7, 0x17],
    &[0x0f, 0x77],
];

/// Instructions that use both kinds of registers.
const MIXED: &[&[u8]] = &[
    &[0xf3, 0x0f, 0xd6, 0xd1],
    &[0xf2, 0x0f, 0xd6, 0xd1],
    &[0x0f, 0x2a, 0xd1],
    &[0x66, 0x0f, 0x2a, 0xd1],
    &[0x0f, 0x2c, 0xd1],
    &[0x66, 0x0f, 0x2d, 0xd1],
];

fn outcome(bytes: &[u8], change: impl Fn(&mut Bench)) -> Result<(), Fault> {
    let mut bench = Bench::new();
    change(&mut bench);
    let before = bench.core.to_state();
    let result = bench.run(bytes);
    if result.is_err() {
        assert_eq!(bench.core.to_state(), before, "{bytes:02x?}");
    }
    result
}

fn emulated(bench: &mut Bench) {
    bench.core.cr0 |= cr0::EM | cr0::TS;
}

fn switched(bench: &mut Bench) {
    bench.core.cr0 |= cr0::TS;
}

fn unsupported(bench: &mut Bench) {
    bench.core.cr0 |= cr0::TS;
    bench.core.cr4 &= !cr4::OSFXSR;
}

fn pending(bench: &mut Bench) {
    bench.core.x87.status |= 0x8081;
    bench.core.x87.control &= !1;
}

#[test]
fn sse_needs_the_operating_system() {
    for bytes in SSE {
        assert_eq!(outcome(bytes, |_| {}), Ok(()), "{bytes:02x?}");
        assert_eq!(
            outcome(bytes, emulated),
            Err(Fault::UNDEFINED),
            "{bytes:02x?}"
        );
        assert_eq!(
            outcome(bytes, unsupported),
            Err(Fault::UNDEFINED),
            "{bytes:02x?}"
        );
        assert_eq!(
            outcome(bytes, switched),
            Err(Fault::NO_DEVICE),
            "{bytes:02x?}"
        );
        assert_eq!(outcome(bytes, pending), Ok(()), "{bytes:02x?}");
    }
}

#[test]
fn mmx_needs_an_idle_x87() {
    for bytes in MMX {
        assert_eq!(outcome(bytes, |_| {}), Ok(()), "{bytes:02x?}");
        assert_eq!(
            outcome(bytes, emulated),
            Err(Fault::UNDEFINED),
            "{bytes:02x?}"
        );
        assert_eq!(
            outcome(bytes, switched),
            Err(Fault::NO_DEVICE),
            "{bytes:02x?}"
        );
        assert_eq!(outcome(bytes, pending), Err(Fault::X87), "{bytes:02x?}");
        let without_sse = |bench: &mut Bench| bench.core.cr4 &= !cr4::OSFXSR;
        assert_eq!(outcome(bytes, without_sse), Ok(()), "{bytes:02x?}");
    }
}

#[test]
fn mixed_instructions_need_both() {
    for bytes in MIXED {
        assert_eq!(outcome(bytes, |_| {}), Ok(()), "{bytes:02x?}");
        assert_eq!(
            outcome(bytes, emulated),
            Err(Fault::UNDEFINED),
            "{bytes:02x?}"
        );
        assert_eq!(
            outcome(bytes, unsupported),
            Err(Fault::UNDEFINED),
            "{bytes:02x?}"
        );
        assert_eq!(
            outcome(bytes, switched),
            Err(Fault::NO_DEVICE),
            "{bytes:02x?}"
        );
        assert_eq!(outcome(bytes, pending), Err(Fault::X87), "{bytes:02x?}");
    }
    // CVTPI2PD from memory is none of them, CVTPI2PS is.
    assert_eq!(outcome(&[0x66, 0x0f, 0x2a, 0x17], pending), Ok(()));
    assert_eq!(outcome(&[0x0f, 0x2a, 0x17], pending), Err(Fault::X87));
}

#[test]
fn fxsave_and_movnti_have_rules_of_their_own() {
    for bytes in [&[0x0f, 0xae, 0x07], &[0x0f, 0xae, 0x0f]] {
        assert_eq!(outcome(bytes, emulated), Err(Fault::UNDEFINED));
        assert_eq!(outcome(bytes, switched), Err(Fault::NO_DEVICE));
        assert_eq!(outcome(bytes, pending), Ok(()));
    }
    for change in [emulated, switched, unsupported, pending] {
        assert_eq!(outcome(&[0x0f, 0xc3, 0x0f], change), Ok(()));
    }
}

#[test]
fn emms_empties_the_stack() {
    let mut bench = Bench::new();
    bench.core.x87.status = 0x3800;
    bench.run(&[0x0f, 0xfc, 0xd1]).expect("paddb");
    assert_eq!((bench.core.x87.status, bench.core.x87.valid), (0, 0xff));
    bench.run(&[0x0f, 0x77]).expect("emms");
    assert_eq!((bench.core.x87.status, bench.core.x87.valid), (0, 0));
}

#[test]
fn later_extensions_do_not_exist() {
    let of_v1 = |bytes: &[u8]| {
        let mut bench = Bench::new();
        bench.core.features = Profile::V1.features();
        bench.run(bytes)
    };
    let cases: &[&[u8]] = &[
        // SSE3: ADDSUBPS, HADDPS, LDDQU, MOVDDUP, MOVSHDUP.
        &[0xf2, 0x0f, 0xd0, 0xd1],
        &[0xf2, 0x0f, 0x7c, 0xd1],
        &[0xf2, 0x0f, 0xf0, 0x17],
        &[0xf2, 0x0f, 0x12, 0xd1],
        &[0xf3, 0x0f, 0x16, 0xd1],
        // SSSE3: PSHUFB, PABSB, PALIGNR, in both files.
        &[0x66, 0x0f, 0x38, 0x00, 0xd1],
        &[0x0f, 0x38, 0x1c, 0xd1],
        &[0x0f, 0x3a, 0x0f, 0xd1, 0x01],
        // SSE4.1: PMINSB, PINSRB, PEXTRW to memory, ROUNDPS, MOVNTDQA, PACKUSDW, PTEST.
        &[0x66, 0x0f, 0x38, 0x38, 0xd1],
        &[0x66, 0x0f, 0x3a, 0x20, 0xd1, 0x01],
        &[0x66, 0x0f, 0x3a, 0x15, 0xd1, 0x01],
        &[0x66, 0x0f, 0x3a, 0x08, 0xd1, 0x01],
        &[0x66, 0x0f, 0x38, 0x2a, 0x17],
        &[0x66, 0x0f, 0x38, 0x2b, 0xd1],
        &[0x66, 0x0f, 0x38, 0x17, 0xd1],
        // SSE4.2: PCMPGTQ; SSE4A: MOVNTSS, EXTRQ.
        &[0x66, 0x0f, 0x38, 0x37, 0xd1],
        &[0xf3, 0x0f, 0x2b, 0x17],
        &[0x66, 0x0f, 0x79, 0xd1],
        // 3DNow!: PFADD, FEMMS.
        &[0x0f, 0x0f, 0xd1, 0x9e],
        &[0x0f, 0x0e],
        // AVX: VADDPS, VZEROUPPER.
        &[0xc5, 0xe8, 0x58, 0xd1],
        &[0xc5, 0xf8, 0x77],
        // XSAVE, AESENC, PCLMULQDQ.
        &[0x0f, 0xae, 0x27],
        &[0x66, 0x0f, 0x38, 0xdc, 0xd1],
        &[0x66, 0x0f, 0x3a, 0x44, 0xd1, 0x00],
        // A lock where none may be.
        &[0xf0, 0x0f, 0x58, 0x17],
    ];
    for bytes in cases {
        assert_eq!(of_v1(bytes), Err(Fault::UNDEFINED), "{bytes:02x?}");
    }
}
