//! TF: one trap after each instruction, and the instructions that bend the rule.

use iced_x86::code_asm::*;

use crate::bench::*;

/// DR6 of a single step.
const STEP: u64 = 0xffff_4ff0;

/// Counts its traps in R15 and keeps the last saved RIP in R14; goes on.
fn count(bench: &mut Bench) {
    bench.handler(64, 1, |a| {
        a.inc(r15)?;
        a.mov(r14, qword_ptr(rsp))?;
        a.iretq()
    });
}

#[test]
fn a_trap_follows_each_instruction() {
    let mut bench = Bench::long(|a| a.nop());
    bench.state.rflags |= TF;
    let outcome = bench.run();
    let trap = outcome.expect(1, None, CODE + 1);
    assert_eq!(trap.flags, 2 | TF);
    assert_eq!(outcome.state.dr6, STEP);
    assert_eq!(outcome.state.rflags & TF, 0);
}

#[test]
fn popf_and_iret_that_set_tf_are_not_trapped_themselves() {
    let popf = Bench::long(|a| {
        a.push(0x102)?;
        a.popfq()?;
        a.nop()?;
        a.hlt()
    });
    popf.run().expect_at(1, None, 3);
    let mut iret = Bench::long(|a| a.iretq());
    iret.state.gpr[RSP] = STACK - 40;
    let frame = [
        CODE + 16,
        u64::from(KERNEL_CS),
        2 | TF | RF,
        STACK,
        u64::from(KERNEL_DS),
    ];
    for (slot, value) in frame.into_iter().enumerate() {
        iret.write64(STACK - 40 + 8 * slot as u64, value);
    }
    iret.code(64, CODE + 16, |a| {
        a.nop()?;
        a.hlt()
    });
    iret.run().expect(1, None, CODE + 17);
}

#[test]
fn popf_that_clears_tf_is_trapped() {
    let mut bench = Bench::long(|a| {
        a.popfq()?;
        a.nop()?;
        a.hlt()
    });
    bench.state.gpr[RSP] = STACK - 8;
    bench.write64(STACK - 8, 2);
    bench.state.rflags |= TF;
    let trap = bench.run().expect(1, None, CODE + 1);
    assert_eq!(trap.flags & TF, 0);
}

#[test]
fn each_repetition_is_trapped_and_saves_rf() {
    let mut bench = Bench::long(|a| {
        a.rep().stosb()?;
        a.hlt()
    });
    bench.state.rflags |= TF;
    bench.state.gpr[RCX] = 3;
    bench.state.gpr[RDI] = DATA;
    let trap = bench.run().expect(1, None, CODE);
    assert_eq!(trap.flags, 2 | TF | RF, "the instruction has begun");
    let mut all = Bench::long(|a| {
        a.rep().stosb()?;
        a.and(qword_ptr(rsp), 0)?;
        a.hlt()
    });
    count(&mut all);
    all.state.rflags |= TF;
    all.state.gpr[RCX] = 3;
    all.state.gpr[RDI] = DATA;
    all.last = 40;
    let outcome = all.run();
    assert_eq!(outcome.state.gpr[RDI], DATA + 3);
    // Three iterations, AND, HLT (which the trap wakes).
    assert!(outcome.state.gpr[15] >= 5, "{}", outcome.state.gpr[15]);
}

#[test]
fn hlt_is_left_by_its_own_trap() {
    let mut bench = Bench::long(|a| {
        a.hlt()?;
        a.nop()
    });
    bench.state.rflags |= TF;
    bench.run().expect(1, None, CODE + 1);
}

#[test]
fn int_n_is_not_trapped_and_clears_tf() {
    let mut bench = Bench::long(|a| a.int(0x40));
    bench.state.rflags |= TF;
    let outcome = bench.run();
    let trap = outcome.expect(0x40, None, CODE + 2);
    assert_ne!(trap.flags & TF, 0);
    assert_eq!(outcome.state.dr6, 0xffff_0ff0);
}

#[test]
fn a_fault_is_not_trapped() {
    let mut bench = Bench::long(|a| a.ud2());
    bench.state.rflags |= TF;
    let outcome = bench.run();
    assert_ne!(outcome.expect(6, None, CODE).flags & TF, 0);
    assert_eq!(outcome.state.dr6, 0xffff_0ff0);
}

#[test]
fn a_load_of_ss_swallows_its_trap() {
    let mut bench = Bench::long(|a| {
        a.mov(ss, ax)?;
        a.nop()?;
        a.hlt()
    });
    bench.state.gpr[RAX] = u64::from(KERNEL_DS);
    bench.state.rflags |= TF;
    bench.run().expect_at(1, None, 2);
    // INT after it enters its handler without a trap on the way.
    let mut int = Bench::long(|a| {
        a.mov(ss, ax)?;
        a.int(0x40)
    });
    int.state.gpr[RAX] = u64::from(KERNEL_DS);
    int.state.rflags |= TF;
    int.run().expect_at(0x40, None, 2);
}

#[test]
fn syscall_is_trapped_as_the_new_tf_says() {
    for (mask, vector) in [(TF, None), (0, Some(CODE))] {
        let mut bench = Bench::long_user(|a| a.syscall());
        bench.state.rflags |= TF;
        bench.state.msr.lstar = CODE;
        bench.state.msr.star = u64::from(KERNEL_CS) << 32;
        bench.state.msr.fmask = mask;
        bench.code(64, CODE, |a| a.hlt());
        bench.state.gpr[RSP] = STACK;
        let outcome = bench.run();
        match vector {
            Some(rip) => {
                outcome.expect(1, None, rip);
            }
            None => {
                assert_eq!(outcome.register(RCX), USER_CODE + 2);
                assert_ne!(outcome.register(11) & TF, 0);
                assert_eq!(outcome.state.rip, CODE + 1);
            }
        }
    }
}

#[test]
fn sysret_that_sets_tf_is_trapped() {
    let mut bench = Bench::long(|a| a.sysretq());
    bench.state.msr.star = 0x1b << 48;
    bench.state.gpr[RCX] = USER_CODE;
    bench.state.gpr[11] = TF | 2;
    bench.code(64, USER_CODE, |a| a.nop());
    bench.run().expect(1, None, USER_CODE);
}

#[test]
fn traps_and_interrupts_come_in_order() {
    let mut bench = Bench::long(|a| {
        a.nop()?;
        a.nop()
    });
    bench.state.rflags |= TF | IF;
    bench.at(1, Event::Interrupt(0x50));
    // The trap first; the interrupt waits for the handler's IF.
    bench.handler(64, 1, |a| {
        a.sti()?;
        a.nop()?;
        a.nop()
    });
    let trap = bench.run().expect(0x50, None, handler_of(1) + 2);
    assert_eq!(trap.flags & TF, 0);
}

#[test]
fn sysenter_keeps_tf_and_is_trapped() {
    let mut bench = Bench::long_user(|a| a.sysenter());
    bench.state.msr.sysenter_cs = u64::from(KERNEL_CS);
    bench.state.msr.sysenter_esp = STACK;
    bench.state.msr.sysenter_eip = CODE;
    bench.state.rflags |= TF;
    bench.code(64, CODE, |a| a.hlt());
    let trap = bench.run().expect(1, None, CODE);
    assert_eq!((trap.cs, trap.flags & (TF | IF)), (KERNEL_CS, TF));
    let mut exit = Bench::long(|a| a.sysexitq());
    exit.state.msr.sysenter_cs = u64::from(KERNEL_CS);
    exit.state.gpr[RDX] = USER_CODE;
    exit.state.gpr[RCX] = USER_STACK;
    exit.state.rflags |= TF;
    exit.code(64, USER_CODE, |a| a.ud2());
    exit.run().expect(1, None, USER_CODE);
}

#[test]
fn software_exceptions_are_not_trapped() {
    for (program, vector) in [([0xcc, 0x90], 3), ([0xce, 0x90], 4), ([0xf1, 0x90], 1)] {
        let mut bench = Bench::protected(|a| a.db(&program));
        bench.state.rflags |= TF | 1 << 11;
        let outcome = bench.run();
        let trap = outcome.expect(vector, None, CODE + 1);
        assert_ne!(trap.flags & TF, 0);
        assert_eq!(outcome.state.dr6, 0xffff_0ff0, "vector {vector}");
    }
    // INTO without an overflow is an instruction like others.
    let mut none = Bench::protected(|a| a.into());
    none.state.rflags |= TF;
    none.run().expect(1, None, CODE + 1);
}

#[test]
fn real_mode_steps_and_its_iret_sets_tf_after_itself() {
    let mut bench = Bench::real(|a| {
        a.pushf()?;
        a.pop(ax)?;
        a.or(ax, 0x100)?;
        a.push(ax)?;
        a.push(cs)?;
        a.push(0x40)?;
        a.iret()
    });
    bench.write(CODE + 0x40, &[0x90, 0x90, 0xf4]);
    let outcome = bench.run();
    let trap = outcome.expect(1, None, 0x41);
    assert_ne!(trap.flags & TF, 0);
    assert_eq!(outcome.state.dr6, STEP);
}

#[test]
fn transfers_to_other_levels_are_trapped_where_they_lead() {
    // RETF to level 3.
    let mut out = Bench::protected(|a| a.retf());
    out.state.gpr[RSP] = STACK - 16;
    let frame = [
        USER_CODE,
        u64::from(USER_CS32),
        USER_STACK,
        u64::from(USER_DS),
    ];
    for (slot, value) in frame.into_iter().enumerate() {
        out.write32(STACK - 16 + 4 * slot as u64, value as u32);
    }
    out.state.rflags |= TF;
    let trap = out.run().expect(1, None, USER_CODE);
    assert_eq!((trap.cs, trap.rsp), (USER_CS32, USER_STACK));
    // CALL through a gate to level 0.
    let mut inward = Bench::protected_user(|a| {
        a.db(&[0x9a, 0, 0, 0, 0])?;
        a.db(&(SPARE | 3).to_le_bytes())
    });
    let gate = (CODE & 0xffff) | u64::from(KERNEL_CS) << 16 | 0xecu64 << 40 | CODE >> 16 << 48;
    inward.write64(GDT + u64::from(SPARE), gate);
    inward.state.rflags |= TF;
    let trap = inward.run().expect(1, None, CODE);
    assert_eq!(trap.cs, KERNEL_CS);
}
