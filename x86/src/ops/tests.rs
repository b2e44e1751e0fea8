//! Instructions that neither the differential tests nor those of the system reach.

use super::bench::{Bench, DATA, Mode};
use crate::fault::Fault;

#[test]
fn there_are_no_shadow_stacks() {
    let absent: &[&[u8]] = &[
        // RSTORSSP, SETSSBSY, SAVEPREVSSP, INCSSPD, INCSSPQ, CLRSSBSY.
        &[0xf3, 0x0f, 0x01, 0x2f],
        &[0xf3, 0x0f, 0x01, 0xe8],
        &[0xf3, 0x0f, 0x01, 0xea],
        &[0xf3, 0x0f, 0xae, 0xe8],
        &[0xf3, 0x48, 0x0f, 0xae, 0xe8],
        &[0xf3, 0x0f, 0xae, 0x37],
        // WRSSD, WRSSQ, WRUSSD, WRUSSQ.
        &[0x0f, 0x38, 0xf6, 0x07],
        &[0x48, 0x0f, 0x38, 0xf6, 0x07],
        &[0x66, 0x0f, 0x38, 0xf5, 0x07],
        &[0x66, 0x48, 0x0f, 0x38, 0xf5, 0x07],
    ];
    for bytes in absent {
        let outcome = Bench::new().run(bytes);
        assert_eq!(outcome, Err(Fault::UNDEFINED), "{bytes:02x?}");
    }
    // RDSSPD and RDSSPQ are NOPs.
    for bytes in [
        &[0xf3, 0x0f, 0x1e, 0xc8][..],
        &[0xf3, 0x48, 0x0f, 0x1e, 0xc8],
    ] {
        let mut bench = Bench::new();
        bench.core.gpr[0] = u64::MAX;
        bench.run(bytes).expect("a NOP");
        assert_eq!(bench.core.gpr[0], u64::MAX);
    }
}

#[test]
fn opcodes_that_are_undefined_for_ever() {
    for bytes in [&[0x0f, 0x0b][..], &[0x0f, 0xb9, 0xc1], &[0x0f, 0xff, 0xc1]] {
        assert_eq!(Bench::new().run(bytes), Err(Fault::UNDEFINED));
    }
}

#[test]
fn caches_are_flushed_by_the_kernel_alone() {
    // INVD, WBINVD, and WBNOINVD, which is WBINVD where there is no such feature.
    for bytes in [&[0x0f, 0x08][..], &[0x0f, 0x09], &[0xf3, 0x0f, 0x09]] {
        assert_eq!(Bench::new().run(bytes), Ok(()), "{bytes:02x?}");
        let mut bench = Bench::new();
        bench.core.cpl = 3;
        assert_eq!(bench.run(bytes), Err(Fault::protection(0)), "{bytes:02x?}");
    }
}

#[test]
fn far_pointers_load_a_segment_and_an_offset() {
    // LES, LDS, LFS, LGS of 32 and of 16 bits; the slot of the segment.
    let cases: &[(&[u8], usize, bool)] = &[
        (&[0xc4, 0x17], 0, true),
        (&[0xc5, 0x17], 3, true),
        (&[0x0f, 0xb4, 0x17], 4, true),
        (&[0x0f, 0xb5, 0x17], 5, true),
        (&[0x66, 0xc4, 0x17], 0, false),
        (&[0x66, 0xc5, 0x17], 3, false),
        (&[0x66, 0x0f, 0xb4, 0x17], 4, false),
        (&[0x66, 0x0f, 0xb5, 0x17], 5, false),
    ];
    for &(bytes, slot, wide) in cases {
        let mut bench = Bench::in_mode(Mode::Protected32);
        bench.core.gpr[2] = 0xffff_ffff;
        bench.poke(DATA, &[0x11, 0x22, 0x33, 0x44, 0x03, 0x00]);
        if !wide {
            bench.poke(DATA, &[0x11, 0x22, 0x03, 0x00]);
        }
        bench.run(bytes).expect("a null selector");
        let offset = if wide { 0x4433_2211 } else { 0xffff_2211 };
        assert_eq!(bench.core.gpr[2], offset, "{bytes:02x?}");
        assert_eq!(bench.core.segments[slot].selector, 3, "{bytes:02x?}");
    }
    // LSS has no use for a null selector.
    let mut bench = Bench::in_mode(Mode::Protected32);
    bench.poke(DATA, &[0; 6]);
    assert_eq!(bench.run(&[0x0f, 0xb2, 0x17]), Err(Fault::protection(0)));
}

#[test]
fn a_sign_extension_that_extends_nothing() {
    let mut bench = Bench::new();
    bench.poke(DATA, &[0x11, 0x82, 0x33, 0x44]);
    bench.core.gpr[2] = u64::MAX;
    // MOVSXD dx, word [rdi].
    bench.run(&[0x66, 0x63, 0x17]).expect("movsxd");
    assert_eq!(bench.core.gpr[2], 0xffff_ffff_ffff_8211);
}
