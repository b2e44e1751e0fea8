//! XSAVE areas and XCR0, where user-mode cases cannot reach.

use super::Random;
use crate::core::{cr0, cr4};
use crate::fault::Fault;
use crate::ops::bench::{Bench, DATA, Mode};
use crate::softfloat::F80;

const XSAVE: &[u8] = &[0x48, 0x0f, 0xae, 0x27];
const XSAVEOPT: &[u8] = &[0x48, 0x0f, 0xae, 0x37];
const XSAVEC: &[u8] = &[0x48, 0x0f, 0xc7, 0x27];
const XRSTOR: &[u8] = &[0x48, 0x0f, 0xae, 0x2f];
const XGETBV: &[u8] = &[0x0f, 0x01, 0xd0];
const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];
/// What fills memory before.
const FILLER: u8 = 0xa5;
/// Bytes of an area.
const SIZE: usize = 832;

/// A bench with every component in use, asked for `components`.
fn full(components: u64) -> Bench {
    let mut bench = Bench::new();
    let mut random = Random(9);
    bench.core.xmm = std::array::from_fn(|_| random.vector() | 1);
    bench.core.ymm_high = std::array::from_fn(|_| random.vector() | 1);
    bench.core.mxcsr = 0x9fc0;
    for _ in 0..3 {
        bench.core.x87.push(F80::ONE);
    }
    bench.core.x87.instruction = 0x1234_5678_9abc;
    bench.poke(DATA, &[FILLER; 1024]);
    bench.core.gpr[0] = components;
    bench.core.gpr[2] = 0;
    bench
}

fn word(bench: &Bench, at: u64) -> u64 {
    u64::from_le_bytes(bench.peek(DATA + at))
}

#[test]
fn what_is_saved_comes_back() {
    for save in [XSAVE, XSAVEOPT, XSAVEC] {
        let mut bench = full(7);
        bench.poke(DATA + 512, &[0; 64]);
        let before = bench.core.to_state();
        bench.run(save).expect("saved");
        bench.core.xmm = [1; 16];
        bench.core.ymm_high = [2; 16];
        bench.core.mxcsr = 0x1f80;
        bench.core.x87.initialize();
        bench.run(XRSTOR).expect("restored");
        let after = bench.core.to_state();
        assert_eq!(after, before);
    }
}

#[test]
fn the_initial_state_is_not_written_but_by_xsave() {
    for (save, written) in [(XSAVE, true), (XSAVEOPT, false), (XSAVEC, false)] {
        let mut bench = full(7);
        bench.poke(DATA + 512, &[0; 64]);
        bench.core.ymm_high = [0; 16];
        bench.core.x87.initialize();
        bench.core.x87.instruction = 0;
        for register in &mut bench.core.x87.registers {
            *register = F80::ZERO;
        }
        bench.run(save).expect("saved");
        assert_eq!(word(&bench, 512), 2, "SSE alone is in use");
        let filler = u64::from_le_bytes([FILLER; 8]);
        assert_eq!(word(&bench, 576) != filler, written);
        assert_eq!(word(&bench, 0) != filler, written);
        bench.core.ymm_high = [5; 16];
        bench.run(XRSTOR).expect("restored");
        assert_eq!(bench.core.ymm_high, [0; 16], "initialised");
    }
}

#[test]
fn each_component_stays_in_its_place() {
    for components in 0..8u64 {
        let mut bench = full(components);
        bench.run(XSAVE).expect("saved");
        let area: [u8; SIZE] = bench.peek(DATA);
        let touched = |from: usize, to: usize| area[from..to].iter().any(|&b| b != FILLER);
        assert_eq!(touched(0, 24), components & 1 != 0);
        assert_eq!(touched(24, 32), components & 6 != 0, "MXCSR");
        assert_eq!(touched(32, 160), components & 1 != 0);
        assert_eq!(touched(160, 416), components & 2 != 0);
        assert!(!touched(416, 512));
        assert_eq!(touched(576, SIZE), components & 4 != 0);
        let before = u64::from_le_bytes([FILLER; 8]);
        assert_eq!(word(&bench, 512), before & !components | components);
        assert!(!touched(520, 576), "the rest of the header");
    }
}

#[test]
fn the_compacted_header() {
    let mut bench = full(6);
    bench.core.ymm_high = [0; 16];
    bench.run(XSAVEC).expect("saved");
    assert_eq!(word(&bench, 512), 2);
    assert_eq!(word(&bench, 520), 1 << 63 | 6);
    assert_eq!(word(&bench, 528), u64::from_le_bytes([FILLER; 8]));
    // MXCSR alone brings the SSE component in, but only if it is asked for.
    for (components, state) in [(7, 2), (5, 0)] {
        let mut bench = full(components);
        bench.core.xmm = [0; 16];
        bench.core.ymm_high = [0; 16];
        bench.core.x87.initialize();
        bench.core.x87.instruction = 0;
        bench.core.x87.registers = [F80::ZERO; 8];
        bench.run(XSAVEC).expect("saved");
        assert_eq!(word(&bench, 512), state);
    }
}

#[test]
fn headers_that_cannot_be_restored_from() {
    let cases: &[(u64, u64)] = &[
        // XSTATE_BV beyond XCR0; in the standard form, XCOMP_BV and what follows it.
        (512, 8),
        (512, 1 << 63),
        (520, 1),
        (528, 1),
        // Compacted: components beyond XCR0, states beyond the components, reserved words.
        (520, 1 << 63 | 8),
        (520, 1 << 63 | 1),
    ];
    for &(at, value) in cases {
        let mut bench = full(7);
        bench.poke(DATA + 512, &[0; 64]);
        bench.poke(DATA + 512, &7u64.to_le_bytes());
        bench.poke(DATA + at, &value.to_le_bytes());
        let before = bench.core.to_state();
        assert_eq!(
            bench.run(XRSTOR),
            Err(Fault::protection(0)),
            "{at} {value:#x}"
        );
        assert_eq!(bench.core.to_state(), before);
    }
    let mut bench = full(7);
    bench.poke(DATA + 512, &[0; 64]);
    bench.poke(DATA + 520, &(1u64 << 63 | 7).to_le_bytes());
    bench.poke(DATA + 568, &[1]);
    assert_eq!(bench.run(XRSTOR), Err(Fault::protection(0)));
    // MXCSR's reserved bits, even if the SSE component is in its initial state.
    let mut bench = full(2);
    bench.poke(DATA + 512, &[0; 64]);
    bench.poke(DATA + 24, &0x1_0000u32.to_le_bytes());
    assert_eq!(bench.run(XRSTOR), Err(Fault::protection(0)));
}

#[test]
fn when_they_may_be_used() {
    for bytes in [XSAVE, XSAVEOPT, XSAVEC, XRSTOR] {
        let outcome = |change: fn(&mut Bench)| {
            let mut bench = full(7);
            bench.poke(DATA + 512, &[0; 64]);
            bench.poke(DATA + 24, &0x1f80u32.to_le_bytes());
            change(&mut bench);
            bench.run(bytes)
        };
        assert_eq!(outcome(|_| {}), Ok(()), "{bytes:02x?}");
        assert_eq!(outcome(|b| b.core.cr0 |= cr0::EM), Ok(()), "{bytes:02x?}");
        assert_eq!(
            outcome(|b| b.core.cr4 &= !cr4::OSXSAVE),
            Err(Fault::UNDEFINED)
        );
        assert_eq!(outcome(|b| b.core.cr0 |= cr0::TS), Err(Fault::NO_DEVICE));
        assert_eq!(
            outcome(|b| b.core.gpr[7] = DATA + 32),
            Err(Fault::protection(0))
        );
    }
}

#[test]
fn xcr0() {
    let write = |mode: Mode, index: u64, value: u64| {
        let mut bench = Bench::in_mode(mode);
        bench.core.xcr0 = 1;
        bench.core.gpr[1] = index;
        bench.core.gpr[0] = value & 0xffff_ffff;
        bench.core.gpr[2] = value >> 32;
        bench.run(XSETBV).map(|()| bench.core.xcr0)
    };
    for value in [1, 3, 7] {
        assert_eq!(write(Mode::Long, 0, value), Ok(value));
        assert_eq!(write(Mode::Real, 0, value), Ok(value));
    }
    for value in [0, 2, 4, 5, 6, 9, 1 << 32 | 7, 1 << 63 | 1] {
        assert_eq!(
            write(Mode::Long, 0, value),
            Err(Fault::protection(0)),
            "{value:#x}"
        );
    }
    assert_eq!(write(Mode::Long, 1, 1), Err(Fault::protection(0)));
    assert_eq!(write(Mode::Virtual8086, 0, 1), Err(Fault::protection(0)));
    let mut bench = full(0);
    bench.core.gpr[2] = u64::MAX;
    bench.run(XGETBV).expect("xgetbv");
    assert_eq!((bench.core.gpr[0], bench.core.gpr[2]), (7, 0));
    bench.core.gpr[1] = 1;
    bench.core.ymm_high = [0; 16];
    bench.run(XGETBV).expect("xgetbv");
    assert_eq!(bench.core.gpr[0], 3, "the components in use");
    bench.core.gpr[1] = 2;
    assert_eq!(bench.run(XGETBV), Err(Fault::protection(0)));
    for bytes in [XGETBV, XSETBV] {
        let mut bench = Bench::new();
        bench.core.cr4 &= !cr4::OSXSAVE;
        assert_eq!(bench.run(bytes), Err(Fault::UNDEFINED));
    }
}
