//! What may be written to CR0, CR2, CR3, CR4, CR8 and EFER.

use iced_x86::code_asm::*;

use crate::bench::*;

/// Moves RAX to a control register in 64-bit mode.
fn write(register: u8, value: u64) -> Bench {
    let mut bench = Bench::long(|a| {
        let bytes: &[u8] = if register == 8 {
            &[0x44, 0x0f, 0x22, 0xc0]
        } else {
            &[0x0f, 0x22, 0xc0 | register << 3]
        };
        a.db(bytes)?;
        a.hlt()
    });
    bench.state.gpr[RAX] = value;
    bench
}

fn refused(bench: Bench) {
    let before = (bench.state.cr0, bench.state.cr3, bench.state.cr4);
    let outcome = bench.run();
    outcome.expect(13, Some(0), CODE);
    let state = &outcome.state;
    assert_eq!((state.cr0, state.cr3, state.cr4), before);
}

#[test]
fn cr0_refuses_impossible_values() {
    let old = Bench::long(|_| Ok(())).state.cr0;
    refused(write(0, old & !1));
    refused(write(0, old & !PG));
    refused(write(0, old | 1 << 29));
    refused(write(0, old | 1 << 32));
    // Reserved bits below 32 are ignored, ET stays.
    let outcome = write(0, (old | 1 << 6 | 1 << 3) & !0x10).run();
    outcome.halted_before(2);
    assert_eq!(outcome.state.cr0, old | 8);
}

#[test]
fn cr4_refuses_what_the_model_has_not() {
    let old = Bench::long(|_| Ok(())).state.cr4;
    for bit in (0..64).filter(|bit| !matches!(bit, 0..=11 | 20 | 21)) {
        refused(write(4, old | 1 << bit));
    }
    refused(write(4, old & !PAE));
    let outcome = write(4, old | 1 << 2).run();
    outcome.halted_before(2);
    assert_eq!(outcome.state.cr4, old | 1 << 2);
}

#[test]
fn cr3_refuses_addresses_beyond_the_model() {
    refused(write(3, ROOT | 1 << 46));
    refused(write(3, ROOT | 1 << 63));
    let outcome = write(3, ROOT | 0x18).run();
    outcome.halted_before(2);
    assert_eq!(outcome.state.cr3, ROOT | 0x18);
}

#[test]
fn cr8_is_the_task_priority() {
    let outcome = write(8, 15).run();
    outcome.halted_before(2);
    assert_eq!(outcome.bus.cr8, 15);
    refused(write(8, 16));
    let mut read = Bench::long(|a| {
        a.db(&[0x44, 0x0f, 0x20, 0xc0])?;
        a.hlt()
    });
    read.bus.cr8 = 9;
    assert_eq!(read.run().register(RAX), 9);
}

#[test]
fn there_are_no_other_control_registers() {
    for register in [1u8, 5, 6, 7] {
        write(register, 0).run().expect(6, None, CODE);
    }
}

#[test]
fn level_3_touches_none_of_them() {
    for bytes in [
        [0x0f, 0x20, 0xc0],
        [0x0f, 0x22, 0xc0],
        [0x0f, 0x20, 0xd8],
        [0x0f, 0x22, 0xe0],
        [0x0f, 0x01, 0xf0],
        [0x0f, 0x01, 0x38],
        [0x0f, 0x06, 0x90],
        [0x0f, 0x09, 0x90],
    ] {
        Bench::long_user(|a| a.db(&bytes))
            .run()
            .expect(13, Some(0), USER_CODE);
    }
}

#[test]
fn lmsw_sets_pe_and_never_clears_it() {
    let mut bench = Bench::protected(|a| {
        a.lmsw(ax)?;
        a.smsw(ebx)?;
        a.clts()?;
        a.smsw(ecx)?;
        a.hlt()
    });
    bench.state.gpr[RAX] = 0x8;
    let old = bench.state.cr0;
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), old & !2 | 8);
    assert_eq!(outcome.register(RCX), old & !2);
}

#[test]
fn efer_keeps_lma_and_refuses_lme_while_paging() {
    let write = |value: u64| {
        let mut bench = Bench::long(|a| {
            a.wrmsr()?;
            a.rdmsr()?;
            a.hlt()
        });
        bench.state.gpr[RCX] = 0xc000_0080;
        bench.state.gpr[RAX] = value & 0xffff_ffff;
        bench.state.gpr[RDX] = value >> 32;
        bench.run()
    };
    assert_eq!(write(0x901).register(RAX), 0xd01);
    for value in [0x401, 0xd03, 0x1_0000_0d01] {
        write(value).expect(13, Some(0), CODE);
    }
}

#[test]
fn cr2_is_written_freely() {
    let outcome = write(2, u64::MAX >> 1).run();
    outcome.halted_before(2);
    assert_eq!(outcome.state.cr2, u64::MAX >> 1);
}

#[test]
fn moves_ignore_mod_and_take_registers() {
    let mut bench = Bench::long(|a| {
        // MOV RBX, CR3; MOV RSI, DR1; MOV DR0, RCX: encoded with mod 0, 1 and 2.
        a.db(&[0x0f, 0x20, 0x1b])?;
        a.db(&[0x0f, 0x21, 0x4e])?;
        a.db(&[0x0f, 0x23, 0x81])?;
        a.hlt()
    });
    bench.state.gpr[RCX] = 0x1234;
    bench.state.dr[1] = 0x5678;
    let outcome = bench.run();
    assert_eq!(outcome.state.rip, CODE + 10);
    assert_eq!(outcome.register(3), ROOT);
    assert_eq!(outcome.register(RSI), 0x5678);
    assert_eq!(outcome.state.dr[0], 0x1234);
}
