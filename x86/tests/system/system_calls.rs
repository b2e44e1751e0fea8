//! SYSCALL, SYSRET, SYSENTER, SYSEXIT and SWAPGS.

use iced_x86::code_asm::*;

use crate::bench::*;

/// STAR: system calls to KERNEL_CS, returns to USER_CS32, USER_DS, USER_CS.
const STAR: u64 = (USER_CS32 as u64) << 48 | (KERNEL_CS as u64) << 32;

#[test]
fn syscall_saves_and_masks() {
    let mut bench = Bench::long_user(|a| a.syscall());
    bench.state.msr.star = STAR | 3 << 32;
    bench.state.msr.lstar = CODE;
    bench.state.msr.fmask = IF | CF;
    bench.state.rflags = 2 | IF | CF | ZF | AC;
    bench.code(64, CODE, |a| a.hlt());
    let outcome = bench.run();
    assert_eq!(outcome.register(RCX), USER_CODE + 2);
    assert_eq!(outcome.register(11), 2 | IF | CF | ZF | AC);
    assert_eq!(outcome.state.rflags, 2 | ZF | AC);
    assert_eq!(outcome.state.rip, CODE + 1);
    assert_eq!(outcome.state.gpr[RSP], USER_STACK, "the stack stays");
    let (code, stack) = (outcome.state.segments[1], outcome.state.segments[2]);
    assert_eq!(
        (code.selector, code.rights & !0x4000),
        (KERNEL_CS, CODE64 & !0x4000)
    );
    assert_eq!((stack.selector, stack.dpl()), (KERNEL_DS, 0));
}

#[test]
fn syscall_needs_sce_and_64_bit_mode() {
    let mut off = Bench::long_user(|a| a.syscall());
    off.state.msr.efer &= !1;
    off.run().expect(6, None, USER_CODE);
    let mut compatible = Bench::compatible(|a| a.db(&[0x0f, 0x05]));
    compatible.state.msr.star = STAR;
    compatible.run().expect(6, None, CODE);
}

#[test]
fn sysret_goes_to_64_bit_or_compatibility_mode() {
    let mut long = Bench::long(|a| a.sysretq());
    long.state.msr.star = STAR;
    long.state.gpr[RCX] = USER_CODE;
    long.state.gpr[11] = IF | RF | VM | AC | 3 << 12;
    long.code(64, USER_CODE, |a| a.ud2());
    let trap = long.run().expect(6, None, USER_CODE);
    assert_eq!((trap.cs, trap.ss), (USER_CS, USER_DS));
    assert_eq!(
        trap.flags,
        2 | IF | AC | RF | 3 << 12,
        "RF is the fault's own"
    );
    let mut short = Bench::long(|a| a.sysret());
    short.state.msr.star = STAR;
    short.state.gpr[RCX] = USER_CODE | 7 << 32;
    short.state.gpr[11] = 2;
    short.code(32, USER_CODE, |a| {
        a.inc(eax)?;
        a.ud2()
    });
    let outcome = short.run();
    assert_eq!(outcome.expect(6, None, USER_CODE + 1).cs, USER_CS32);
    assert_eq!(outcome.state.gpr[RAX], 1);
}

#[test]
fn sysret_refuses_before_it_leaves() {
    let mut bench = Bench::long(|a| a.sysretq());
    bench.state.msr.star = STAR;
    bench.state.gpr[RCX] = 1 << 47;
    let trap = bench.run().expect(13, Some(0), CODE);
    assert_eq!(trap.cs, KERNEL_CS);
    Bench::long_user(|a| a.sysretq())
        .run()
        .expect(13, Some(0), USER_CODE);
    let mut off = Bench::long(|a| a.sysretq());
    off.state.msr.efer &= !1;
    off.run().expect(6, None, CODE);
}

#[test]
fn sysenter_and_sysexit_in_64_bit_mode() {
    let mut bench = Bench::long_user(|a| a.sysenter());
    bench.state.msr.sysenter_cs = u64::from(KERNEL_CS);
    bench.state.msr.sysenter_esp = STACK;
    bench.state.msr.sysenter_eip = CODE;
    bench.state.rflags |= CF;
    bench.code(64, CODE, |a| {
        a.mov(rdx, USER_CODE + 0x100)?;
        a.mov(rcx, USER_STACK - 64)?;
        a.sysexitq()
    });
    bench.code(64, USER_CODE + 0x100, |a| a.ud2());
    // SYSEXIT's selectors are SYSENTER_CS + 32 and + 40.
    let outcome = bench.run();
    let trap = outcome.expect(6, None, USER_CODE + 0x100);
    assert_eq!(
        (trap.cs, trap.ss, trap.rsp),
        (USER_CS, 0x33, USER_STACK - 64)
    );
    assert_eq!(
        trap.flags & (IF | CF),
        CF,
        "SYSENTER clears IF, SYSEXIT leaves it"
    );
}

#[test]
fn sysenter_needs_its_selector() {
    for selector in [0u64, 3] {
        let mut bench = Bench::long_user(|a| a.sysenter());
        bench.state.msr.sysenter_cs = selector;
        bench.run().expect(13, Some(0), USER_CODE);
    }
    let mut legacy = Bench::protected_user(|a| a.sysenter());
    legacy.state.msr.sysenter_cs = u64::from(KERNEL_CS);
    legacy.state.msr.sysenter_esp = STACK;
    legacy.state.msr.sysenter_eip = CODE;
    legacy.code(32, CODE, |a| a.hlt());
    let outcome = legacy.run();
    assert_eq!(outcome.register(RSP), STACK);
    assert_eq!(outcome.state.segments[1].selector, KERNEL_CS);
    let mut real = Bench::real(|a| a.db(&[0x0f, 0x34]));
    real.state.msr.sysenter_cs = 8;
    real.run().expect(13, None, 0);
    Bench::long_user(|a| a.sysexit())
        .run()
        .expect(13, Some(0), USER_CODE);
}

#[test]
fn sysexit_checks_canonical_addresses() {
    for (target, top) in [(1u64 << 47, 0u64), (0, 1 << 47)] {
        let mut bench = Bench::long(|a| a.sysexitq());
        bench.state.msr.sysenter_cs = u64::from(KERNEL_CS);
        bench.state.gpr[RDX] = target;
        bench.state.gpr[RCX] = top;
        bench.run().expect(13, Some(0), CODE);
    }
}

#[test]
fn swapgs_exchanges_bases() {
    let mut bench = Bench::long(|a| {
        a.swapgs()?;
        a.mov(rax, qword_ptr(8).gs())?;
        a.hlt()
    });
    bench.state.segments[5].base = 0x111;
    bench.state.msr.kernel_gs_base = DATA;
    bench.write64(DATA + 8, 42);
    let outcome = bench.run();
    assert_eq!(outcome.register(RAX), 42);
    assert_eq!(outcome.state.msr.kernel_gs_base, 0x111);
    Bench::long_user(|a| a.swapgs())
        .run()
        .expect(13, Some(0), USER_CODE);
    Bench::compatible(|a| a.db(&[0x0f, 0x01, 0xf8]))
        .run()
        .expect(6, None, CODE);
}
