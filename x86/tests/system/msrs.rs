//! Model-specific registers, the time-stamp counter, CPUID and RDRAND.

use iced_x86::code_asm::*;

use crate::bench::*;

fn read(index: u64) -> Bench {
    let mut bench = Bench::long(|a| {
        a.rdmsr()?;
        a.hlt()
    });
    bench.state.gpr[RCX] = index | 0xffff_ffff << 32;
    bench
}

fn write(index: u64, value: u64) -> Bench {
    let mut bench = Bench::long(|a| {
        a.wrmsr()?;
        a.rdmsr()?;
        a.hlt()
    });
    bench.state.gpr[RCX] = index;
    bench.state.gpr[RAX] = value & 0xffff_ffff | 7 << 32;
    bench.state.gpr[RDX] = value >> 32;
    bench
}

fn accepted(index: u64, value: u64) {
    let outcome = write(index, value).run();
    let read = outcome.register(RAX) | outcome.register(RDX) << 32;
    assert_eq!(read, value, "MSR {index:#x}");
}

fn refused(index: u64, value: u64) {
    write(index, value).run().expect(13, Some(0), CODE);
}

#[test]
fn unknown_registers_fault() {
    for index in [
        0x2u64,
        0xc1,
        0x17b,
        0x345,
        0x3ff,
        0x428,
        0x47f,
        0x210,
        0x26a + 6,
    ] {
        read(index).run().expect(13, Some(0), CODE);
        refused(index, 0);
    }
    for index in [0xc000_0104u64, 0xc001_0015, 0x4000_0000, 0x4b56_4d00] {
        read(index).run().expect(13, Some(0), CODE);
        refused(index, 0);
    }
}

#[test]
fn machine_check_banks_hold_what_is_written_and_report_nothing() {
    let outcome = Bench::long(|a| {
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.hlt()
    })
    .run();
    let offered = 1 << 7 | 1 << 14;
    assert_eq!(outcome.register(RDX) & offered, offered);
    assert_eq!(read(0x179).run().register(RAX), 10, "banks");
    refused(0x179, 10);
    accepted(0x17a, 5);
    refused(0x17a, 8);
    for bank in 0..10 {
        let control = 0x400 + 4 * bank;
        accepted(control, u64::MAX);
        accepted(control, 0);
        refused(control, 1);
        accepted(control + 1, 0);
        refused(control + 1, 1);
        accepted(control + 2, 0x1234_5678_9abc_def0);
        accepted(control + 3, 0xaaaa_aaaa_aaaa_aaaa);
    }
    // The Pentium's registers are there to be read.
    for index in [0, 1] {
        assert_eq!(read(index).run().register(RAX), 0);
        refused(index, 0);
    }
}

#[test]
fn misc_enable_keeps_what_can_be_written() {
    accepted(0x1a0, 0x4_00c5_1809);
    let outcome = write(0x1a0, u64::MAX).run();
    let kept = outcome.register(RAX) | outcome.register(RDX) << 32;
    assert_eq!(kept, 0x4_00c5_1809, "the rest is ignored");
    assert_eq!(
        write(0x1a0, 0).run().register(RAX),
        0x1800,
        "no BTS, no PEBS"
    );
}

/// CPUID of `leaf` with `bits` set in IA32_MISC_ENABLE.
fn cpuid_with(bits: u64, leaf: u64) -> Outcome {
    let mut bench = Bench::long(|a| {
        a.cpuid()?;
        a.hlt()
    });
    bench.state.msr.misc_enable |= bits;
    bench.state.gpr[RAX] = leaf;
    bench.run()
}

#[test]
fn misc_enable_limits_the_basic_leaves_of_cpuid() {
    const LIMIT: u64 = 1 << 22;
    assert_eq!(cpuid_with(LIMIT, 0).register(RAX), 2);
    assert_eq!(cpuid_with(0, 7).register(RAX), 2);
    assert_eq!(cpuid_with(LIMIT, 7).register(RAX), 0xff01, "as leaf 2");
    assert_eq!(cpuid_with(LIMIT, 0x8000_0000).register(RAX), 0x8000_0008);
}

#[test]
fn misc_enable_takes_no_execute_pages_away() {
    const DISABLE: u64 = 1 << 34;
    let (nx, nxe) = (1 << 20, 1 << 11);
    assert_ne!(cpuid_with(0, 0x8000_0001).register(RDX) & nx, 0);
    assert_eq!(cpuid_with(DISABLE, 0x8000_0001).register(RDX) & nx, 0);
    for (disabled, old) in [(false, 0), (true, 0), (true, nxe)] {
        let mut bench = Bench::long(|_| Ok(()));
        bench.state.msr.efer = bench.state.msr.efer & !nxe | old;
        let value = bench.state.msr.efer | nxe;
        let mut set = write(0xc000_0080, value);
        set.state.msr.efer = bench.state.msr.efer;
        if disabled {
            set.state.msr.misc_enable |= DISABLE;
        }
        let outcome = set.run();
        if disabled && old == 0 {
            outcome.expect(13, Some(0), CODE);
        } else {
            assert_eq!(outcome.state.msr.efer, value);
        }
    }
}

#[test]
fn the_signature_is_in_edx_after_power_up() {
    let state = x86::CpuState::power_up(arch::cpuid::Profile::V1, [0; 32]);
    assert_eq!(state.gpr[RDX], cpuid_with(0, 1).register(RAX));
    assert_eq!(state.gpr[RAX], 0);
}

#[test]
fn level_3_and_the_bus_may_refuse() {
    let mut user = Bench::long_user(|a| a.rdmsr());
    user.state.gpr[RCX] = 0x10;
    user.run().expect(13, Some(0), USER_CODE);
    Bench::long_user(|a| a.wrmsr())
        .run()
        .expect(13, Some(0), USER_CODE);
    assert_eq!(read(0x802).run().register(RAX), 7);
    read(0x803).run().expect(13, Some(0), CODE);
    refused(0x802, 1);
}

#[test]
fn addresses_must_be_canonical() {
    for index in [
        0x175,
        0x176,
        0xc000_0082,
        0xc000_0083,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
    ] {
        accepted(index, 0xffff_8000_1234_5678);
        refused(index, 0x8000_0000_0000);
    }
    refused(0xc000_0084, 1 << 32);
    accepted(0xc000_0084, 0x4_7700);
    accepted(0xc000_0081, 0x1234_5678_9abc_def0);
    refused(0xc000_0103, 1 << 32);
}

#[test]
fn memory_types_are_checked() {
    accepted(0x277, 0x0007_0406_0105_0600);
    for kind in [2u64, 3, 8, 0x40] {
        refused(0x277, kind << 24);
        refused(0x250, kind << 24);
        refused(0x2ff, kind);
        refused(0x200, kind);
    }
    refused(0x250, 7);
    accepted(0x2ff, 0xc06);
    refused(0x2ff, 1 << 8);
    accepted(0x200, 0x3fff_ffff_f006);
    refused(0x200, 1 << 46);
    accepted(0x201, 0x3fff_ffff_f800);
    refused(0x201, 0x400);
    for index in [0xfe, 0x10a] {
        refused(index, 0);
    }
}

#[test]
fn writing_the_tsc_moves_tsc_adjust() {
    let outcome = Bench::long(|a| {
        a.mov(ecx, 0x10)?;
        a.mov(eax, 1000)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.rdtsc()?;
        a.mov(esi, eax)?;
        a.mov(ecx, 0x3b)?;
        a.rdmsr()?;
        a.hlt()
    })
    .run();
    // The bus counts 3 a unit: 24 a step. The write was step 3, RDTSC step 4.
    assert_eq!(outcome.register(RSI), 1000 + 24);
    let adjust = outcome.register(RAX) | outcome.register(RDX) << 32;
    assert_eq!(adjust, 1000 - 3 * 24);
}

#[test]
fn tsc_adjust_moves_the_tsc_and_the_deadline_is_told_without_it() {
    let mut bench = Bench::long(|a| {
        a.wrmsr()?;
        a.rdtsc()?;
        a.mov(esi, eax)?;
        a.mov(ecx, 0x6e0)?;
        a.mov(eax, 9000)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.rdmsr()?;
        a.hlt()
    });
    bench.state.gpr[RCX] = 0x3b;
    bench.state.gpr[RAX] = 5000;
    let outcome = bench.run();
    assert_eq!(outcome.register(RSI), 5000 + 24);
    assert_eq!(outcome.bus.deadline, 4000);
    assert_eq!(outcome.register(RAX), 9000);
    let mut off = write(0x6e0, 0);
    off.state.msr.tsc_adjust = 5000;
    let outcome = off.run();
    assert_eq!((outcome.register(RAX), outcome.bus.deadline), (0, 0));
    // A deadline that is long past is not "none".
    let mut past = write(0x6e0, 5000);
    past.state.msr.tsc_adjust = 5000;
    // It is now: WRMSR is the first step.
    past.state.gpr[RAX] = 5000;
    assert_eq!(past.run().bus.deadline, 1);
}

#[test]
fn a_pending_deadline_follows_the_tsc() {
    let arm_and_write = |index: u64, value: u64| {
        let mut bench = Bench::long(|a| {
            a.mov(ecx, 0x6e0)?;
            a.mov(eax, 9000)?;
            a.xor(edx, edx)?;
            a.wrmsr()?;
            a.mov(ecx, esi)?;
            a.mov(rax, rdi)?;
            a.mov(rdx, rdi)?;
            a.shr(rdx, 32)?;
            a.wrmsr()?;
            a.mov(ecx, 0x6e0)?;
            a.rdmsr()?;
            a.hlt()
        });
        bench.state.gpr[RSI] = index;
        bench.state.gpr[RDI] = value;
        bench.run()
    };
    let outcome = arm_and_write(0x3b, 4000);
    assert_eq!((outcome.bus.deadline, outcome.register(RAX)), (5000, 9000));
    let outcome = arm_and_write(0x3b, 100u64.wrapping_neg());
    assert_eq!((outcome.bus.deadline, outcome.register(RAX)), (9100, 9000));
    // The second WRMSR is step 8, at 24 a step.
    let outcome = arm_and_write(0x10, 8000);
    assert_eq!(outcome.bus.deadline, 8 * 24 + 1000);
    let outcome = arm_and_write(0x3b, 1 << 40);
    assert_eq!(outcome.bus.deadline, 8 * 24, "past");
    // None is pending: none is armed.
    let mut bench = write(0x3b, 4000);
    bench.state.msr.tsc_adjust = 1;
    assert_eq!(bench.run().bus.deadline, 0);
}

#[test]
fn speculation_control_has_ibrs_stibp_and_bhi_dis_s() {
    for value in [0, 1, 2, 3, 1 << 10] {
        accepted(0x48, value);
    }
    refused(0x48, 4);
    refused(0x48, 1 << 32);
    let mut barrier = Bench::long(|a| {
        a.wrmsr()?;
        a.hlt()
    });
    barrier.state.gpr[RCX] = 0x49;
    barrier.state.gpr[RAX] = 1;
    barrier.run().halted_before(2);
    refused(0x49, 2);
    read(0x49).run().expect(13, Some(0), CODE);
}

#[test]
fn rdtsc_follows_tsd_and_rdtscp_gives_tsc_aux() {
    let user = |tsd: u64| {
        let mut bench = Bench::long_user(|a| {
            a.rdtsc()?;
            a.ud2()
        });
        bench.state.cr4 |= tsd << 2;
        bench.run()
    };
    assert_eq!(user(0).trap().vector, 6);
    user(1).expect(13, Some(0), USER_CODE);
    let mut kernel = Bench::long(|a| {
        a.nop()?;
        a.rdtscp()?;
        a.hlt()
    });
    kernel.state.cr4 |= 4;
    kernel.state.msr.tsc_aux = 0x77;
    kernel.state.gpr[RDX] = u64::MAX;
    let outcome = kernel.run();
    let seen = [RAX, RDX, RCX].map(|register| outcome.register(register));
    assert_eq!(seen, [24, 0, 0x77]);
    Bench::long(|a| a.rdpmc()).run().expect(13, Some(0), CODE);
}

#[test]
fn cpuid_says_what_is_there() {
    let leaf = |leaf: u64, sub: u64| {
        let mut bench = Bench::long_user(|a| {
            a.cpuid()?;
            a.ud2()
        });
        bench.state.gpr[RAX] = leaf | 1 << 40;
        bench.state.gpr[RCX] = sub;
        let outcome = bench.run();
        outcome.expect_at(6, None, 1);
        [RAX, RBX, RCX, RDX].map(|register| outcome.state.gpr[register])
    };
    assert_eq!(
        leaf(0x8000_0001, 0)[2] & 1,
        1,
        "LAHF and SAHF exist in 64-bit mode"
    );
    let lahf = Bench::long(|a| {
        a.lahf()?;
        a.sahf()?;
        a.hlt()
    });
    assert_eq!(lahf.run().register(RAX), 0x200);
    let [most, _, _, features] = leaf(7, 0);
    assert_eq!((most, features >> 29 & 1), (2, 1));
    assert!(
        [most, features].iter().all(|value| value >> 32 == 0),
        "upper halves are cleared"
    );
}

#[test]
fn rdrand_goes_on_from_the_saved_state() {
    let outcome = Bench::long(|a| {
        a.rdrand(rax)?;
        a.rdrand(rbx)?;
        a.rdrand(ecx)?;
        a.setb(dl)?;
        a.hlt()
    })
    .run();
    assert_ne!(outcome.register(RAX), outcome.register(RBX));
    assert_eq!(outcome.register(RCX) >> 32, 0);
    assert_eq!(outcome.register(RDX), 1);
    assert_eq!(outcome.state.random_words, 6);
    assert_eq!(outcome.state.rflags, 2 | CF);
}
