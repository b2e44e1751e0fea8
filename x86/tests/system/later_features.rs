//! What models above v1 have beside instructions for data: PCID and INVPCID, FSGSBASE, RDPID,
//! RDSEED; and that v1 has not.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::Profile;

use crate::bench::*;

/// CR4.FSGSBASE.
const FSGSBASE: u64 = 1 << 16;
/// CR4.PCIDE.
const PCIDE: u64 = 1 << 17;
/// CR4.OSXSAVE.
const OSXSAVE: u64 = 1 << 18;

fn v2(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
    let mut bench = Bench::long(program);
    bench.state.profile = Profile::V2;
    bench
}

/// INVPCID EAX/RAX, [DATA].
fn invpcid(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.db(&[0x66, 0x0f, 0x38, 0x82, 0x04, 0x25])?;
    a.db(&(DATA as u32).to_le_bytes())
}

#[test]
fn each_is_undefined_where_the_model_lacks_it() {
    let cases: [(&[u8], Profile); 6] = [
        (&[0x66, 0x0f, 0x38, 0x82, 0x06], Profile::V2),
        (&[0xf3, 0x48, 0x0f, 0xae, 0xc0], Profile::V2),
        (&[0xf3, 0x0f, 0xc7, 0xf8], Profile::V2),
        (&[0x48, 0x0f, 0xc7, 0xf8], Profile::V2),
        (&[0xf3, 0x0f, 0xb8, 0xc0], Profile::V2),
        (&[0x0f, 0x01, 0xd0], Profile::V3),
    ];
    for (bytes, first) in cases {
        for profile in Profile::ALL {
            if profile >= first {
                continue;
            }
            let mut bench = Bench::long(|a| a.db(bytes));
            bench.state.profile = profile;
            bench.state.gpr[RSI] = DATA;
            bench.run().expect(6, None, CODE);
        }
    }
}

#[test]
fn control_bits_need_their_feature() {
    for (bit, first) in [
        (FSGSBASE, Profile::V2),
        (PCIDE, Profile::V2),
        (OSXSAVE, Profile::V3),
    ] {
        for profile in Profile::ALL {
            let mut bench = Bench::long(|a| {
                a.mov(cr4, rax)?;
                a.hlt()
            });
            bench.state.profile = profile;
            let wanted = bench.state.cr4 | bit;
            bench.state.gpr[RAX] = wanted;
            let outcome = bench.run();
            if profile >= first {
                outcome.halted_before(2);
                assert_eq!(outcome.state.cr4, wanted);
            } else {
                outcome.expect(13, Some(0), CODE);
            }
        }
    }
}

#[test]
fn cpuid_shows_the_model_and_osxsave() {
    let leaf = |profile: Profile, bits: u64, leaf: u64| {
        let mut bench = Bench::long(|a| {
            a.cpuid()?;
            a.hlt()
        });
        bench.state.profile = profile;
        bench.state.cr4 |= bits;
        bench.state.gpr[RAX] = leaf;
        let outcome = bench.run();
        [RAX, RBX, RCX, RDX].map(|register| outcome.register(register))
    };
    assert_eq!(leaf(Profile::V1, 0, 1)[2] & (1 << 17 | 3 << 26), 0);
    assert_eq!(leaf(Profile::V2, 0, 1)[2] & (1 << 17 | 3 << 26), 1 << 17);
    assert_eq!(leaf(Profile::V3, 0, 1)[2] >> 26 & 3, 1);
    assert_eq!(leaf(Profile::V3, OSXSAVE, 1)[2] >> 26 & 3, 3);
    assert_eq!(leaf(Profile::V1, 0, 7)[1] & 1, 0);
    assert_eq!(leaf(Profile::V2, 0, 7)[1] & 1, 1);
    // The local APIC is enabled.
    assert_eq!(leaf(Profile::V1, 0, 1)[3] >> 9 & 1, 1);
}

#[test]
fn pcids_need_long_mode_and_an_empty_one_to_begin_with() {
    let enable = |bench: &mut Bench| {
        bench.state.profile = Profile::V2;
        bench.state.gpr[RAX] = bench.state.cr4 | PCIDE;
    };
    let mut bench = Bench::long(|a| {
        a.mov(cr4, rax)?;
        a.hlt()
    });
    enable(&mut bench);
    bench.state.cr3 |= 0x18;
    bench.run().expect(13, Some(0), CODE);
    let mut bench = Bench::protected(|a| a.db(&[0x0f, 0x22, 0xe0]));
    enable(&mut bench);
    bench.run().expect(13, Some(0), CODE);
    // Paging stays on while PCIDE is set.
    let mut bench = Bench::compatible(|a| a.db(&[0x0f, 0x22, 0xc0]));
    bench.state.profile = Profile::V2;
    bench.state.cr4 |= PCIDE;
    bench.state.gpr[RAX] = bench.state.cr0 & !PG;
    bench.run().expect(13, Some(0), CODE);
}

#[test]
fn cr3_takes_a_pcid_and_the_bit_that_keeps_translations() {
    let mut bench = v2(|a| {
        a.mov(cr3, rax)?;
        a.mov(rbx, cr3)?;
        a.mov(rcx, qword_ptr(DATA))?;
        a.hlt()
    });
    bench.state.cr4 |= PCIDE;
    bench.state.gpr[RAX] = ROOT | 0xfff | 1 << 63;
    bench.write64(DATA, 77);
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), ROOT | 0xfff);
    assert_eq!(outcome.register(RCX), 77);
    let mut bench = v2(|a| a.mov(cr3, rax));
    bench.state.gpr[RAX] = ROOT | 1 << 63;
    bench.run().expect(13, Some(0), CODE);
    let mut bench = v2(|a| a.mov(cr3, rax));
    bench.state.cr4 |= PCIDE;
    bench.state.gpr[RAX] = ROOT | 1 << 62;
    bench.run().expect(13, Some(0), CODE);
}

#[test]
fn invpcid_checks_type_and_descriptor() {
    let with = |pcide: bool, kind: u64, pcid: u64, linear: u64| {
        let mut bench = v2(|a| {
            invpcid(a)?;
            a.hlt()
        });
        if pcide {
            bench.state.cr4 |= PCIDE;
        }
        bench.state.gpr[RAX] = kind;
        bench.write64(DATA, pcid);
        bench.write64(DATA + 8, linear);
        bench
    };
    let high = 1 << 47;
    for kind in 0..4 {
        with(true, kind, 0xfff, 0).run().halted_before(2);
        with(false, kind, 0, 0).run().halted_before(2);
        with(true, kind, 1 << 12, 0).run().expect(13, Some(0), CODE);
        let other = with(false, kind, 5, 0).run();
        if kind <= 1 {
            other.expect(13, Some(0), CODE);
        } else {
            other.halted_before(2);
        }
        let outcome = with(true, kind, 5, high).run();
        if kind == 0 {
            outcome.expect(13, Some(0), CODE);
        } else {
            outcome.halted_before(2);
        }
    }
    with(true, 4, 0, 0).run().expect(13, Some(0), CODE);
    with(true, 1 << 32, 0, 0).run().expect(13, Some(0), CODE);
    let mut absent = with(true, 0, 0, 0);
    absent.map(DATA, 0);
    absent.run().expect(14, Some(0), CODE);
    let mut user = Bench::long_user(|a| a.db(&[0x66, 0x0f, 0x38, 0x82, 0x06]));
    user.state.profile = Profile::V2;
    user.state.gpr[RSI] = USER_DATA;
    user.run().expect(13, Some(0), USER_CODE);
    let mut real = Bench::real(|a| {
        a.db(&[0x66, 0x0f, 0x38, 0x82, 0x06, 0x00, 0x70])?;
        a.hlt()
    });
    real.state.profile = Profile::V2;
    real.run().halted_before(2);
}

#[test]
fn bases_of_fs_and_gs_can_be_read_and_written() {
    let high = 0xffff_8000_0000_0000u64;
    let mut bench = Bench::long_user(|a| {
        // WRFSBASE RAX, WRGSBASE EBX, RDFSBASE RCX, RDGSBASE RDX, RDFSBASE ESI.
        a.db(&[0xf3, 0x48, 0x0f, 0xae, 0xd0])?;
        a.db(&[0xf3, 0x0f, 0xae, 0xdb])?;
        a.db(&[0xf3, 0x48, 0x0f, 0xae, 0xc1])?;
        a.db(&[0xf3, 0x48, 0x0f, 0xae, 0xca])?;
        a.db(&[0xf3, 0x0f, 0xae, 0xc6])?;
        a.mov(rdi, qword_ptr(8).gs())?;
        a.ud2()
    });
    bench.state.profile = Profile::V2;
    bench.state.cr4 |= FSGSBASE;
    bench.state.gpr[RAX] = high;
    bench.state.gpr[RBX] = 0xffff_ffff_0000_0000 | USER_DATA;
    bench.write64(USER_DATA + 8, 99);
    let outcome = bench.run();
    outcome.expect_at(6, None, 6);
    let state = &outcome.state;
    assert_eq!(state.gpr[RCX], high);
    assert_eq!(state.gpr[RDX], USER_DATA);
    assert_eq!((state.gpr[RSI], state.gpr[RDI]), (0, 99));
    assert_eq!(state.segments[4].base, high);
}

#[test]
fn bases_are_canonical_and_cr4_says_whether() {
    let with = |bits: u64, bytes: &[u8]| {
        let mut bench = v2(|a| a.db(bytes));
        bench.state.cr4 |= bits;
        bench.state.gpr[RAX] = 1 << 47;
        bench.run()
    };
    let wrfsbase = [0xf3, 0x48, 0x0f, 0xae, 0xd0];
    with(FSGSBASE, &wrfsbase).expect(13, Some(0), CODE);
    for register in [0xc0, 0xc8, 0xd0, 0xd8] {
        with(0, &[0xf3, 0x48, 0x0f, 0xae, register]).expect(6, None, CODE);
    }
}

#[test]
fn rdpid_gives_tsc_aux_at_any_level() {
    let mut bench = Bench::long_user(|a| {
        a.db(&[0xf3, 0x0f, 0xc7, 0xf8])?;
        a.ud2()
    });
    bench.state.profile = Profile::V2;
    bench.state.cr4 |= 1 << 2;
    bench.state.msr.tsc_aux = 0xcafe;
    bench.state.gpr[RAX] = u64::MAX;
    let outcome = bench.run();
    outcome.expect_at(6, None, 1);
    assert_eq!(outcome.state.gpr[RAX], 0xcafe);
}

#[test]
fn rdseed_and_rdrand_share_the_seeded_generator() {
    let outcome = v2(|a| {
        a.rdseed(rax)?;
        a.rdrand(rbx)?;
        a.rdseed(cx)?;
        a.setb(dl)?;
        a.hlt()
    })
    .run();
    assert_ne!(outcome.register(RAX), outcome.register(RBX));
    assert_eq!(outcome.register(RDX), 1);
    assert_eq!(outcome.state.random_words, 6);
}
