//! Delivery of interrupts and the returns from them, in every mode.

use iced_x86::code_asm::*;

use crate::bench::*;

#[test]
fn user_interrupt_uses_rsp0_and_an_aligned_frame() {
    let mut bench = Bench::long_user(|a| {
        a.nop()?;
        a.jmp(USER_CODE)
    });
    bench.state.gpr[RSP] = USER_STACK - 3;
    bench.write64(TSS + 4, STACK0 - 5);
    bench.at(4, Event::Interrupt(0x50));
    let outcome = bench.run();
    let trap = outcome.expect(0x50, None, USER_CODE);
    assert_eq!(
        (trap.cs, trap.ss, trap.rsp),
        (USER_CS, USER_DS, USER_STACK - 3)
    );
    assert_eq!(trap.flags, IF | 2);
    assert_eq!(outcome.state.gpr[RSP], STACK0 - 16 - 40);
    assert_eq!(
        outcome.state.segments[2].selector, 0,
        "SS is null at level 0"
    );
    assert_eq!(outcome.bus.uses(), [Use::Acknowledge(0x50)]);
}

#[test]
fn same_level_interrupt_aligns_the_stack() {
    let mut bench = Bench::long(|a| a.int(0x40));
    bench.state.gpr[RSP] = STACK - 1;
    let outcome = bench.run();
    assert_eq!(outcome.trap().rsp, STACK - 1);
    assert_eq!(outcome.state.gpr[RSP], STACK - 16 - 40);
    assert_eq!(outcome.state.segments[2].selector, KERNEL_DS);
}

#[test]
fn ist_counts_at_every_level() {
    let mut bench = Bench::long(|a| a.ud2());
    bench.gate64(6, 0x8e, 1);
    let outcome = bench.run();
    assert_eq!(outcome.state.gpr[RSP], IST1 - 40);
    assert_eq!(outcome.trap().rsp, STACK);
}

#[test]
fn gates_differ_in_if_alone() {
    for (rights, kept) in [(0x8e, 0), (0x8f, IF)] {
        let mut bench = Bench::long(|a| a.int(0x40));
        bench.gate64(0x40, rights, 0);
        bench.state.rflags = 2 | IF | NT | AC | CF;
        let outcome = bench.run();
        assert_eq!(outcome.trap().flags, 2 | IF | NT | AC | CF);
        assert_eq!(outcome.state.rflags, 2 | AC | CF | kept);
    }
}

#[test]
fn masked_interrupts_wait_for_if() {
    let mut bench = Bench::long(|a| {
        for _ in 0..5 {
            a.nop()?;
        }
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    });
    bench.at(1, Event::Interrupt(0x51));
    // STI, then one instruction in its shadow.
    bench.run().expect(0x51, None, CODE + 7);
}

#[test]
fn interrupt_wakes_hlt_and_iretq_returns() {
    let mut bench = Bench::long(|a| {
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.mov(ebx, 7u32)?;
        a.hlt()
    });
    bench.handler(64, 0x52, |a| {
        a.mov(ecx, 9u32)?;
        a.iretq()
    });
    bench.at(2, Event::Interrupt(0x52));
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), 7);
    assert_eq!(outcome.register(RCX), 9);
    assert_eq!(outcome.state.gpr[RSP], STACK);
    assert_eq!(outcome.state.rflags & IF, 0);
}

/// Level 0 code that returns by IRETQ with the given frame.
fn iretq(to: u64, code: u16, flags: u64, top: u64, stack: u16) -> Bench {
    let mut bench = Bench::long(|a| a.iretq());
    let frame = [to, u64::from(code), flags, top, u64::from(stack)];
    bench.state.gpr[RSP] = STACK - 40;
    for (slot, value) in frame.into_iter().enumerate() {
        bench.write64(STACK - 40 + 8 * slot as u64, value);
    }
    bench
}

#[test]
fn iretq_goes_to_level_3() {
    let mut bench = iretq(
        USER_CODE,
        USER_CS,
        2 | IF | AC | 3 << 12,
        USER_STACK,
        USER_DS,
    );
    bench.code(64, USER_CODE, |a| a.ud2());
    let outcome = bench.run();
    let trap = outcome.expect(6, None, USER_CODE);
    assert_eq!(trap.flags, 2 | IF | AC | RF | 3 << 12);
    assert_eq!((trap.cs, trap.ss, trap.rsp), (USER_CS, USER_DS, USER_STACK));
    // Data segments of level 0 are gone.
    for slot in [0, 3, 4, 5] {
        assert_eq!(outcome.state.segments[slot].selector, 0);
    }
}

#[test]
fn iretq_goes_to_compatibility_mode() {
    let mut bench = iretq(USER_CODE, USER_CS32, 2, USER_STACK, USER_DS);
    bench.code(32, USER_CODE, |a| {
        // In 64-bit code these bytes would be a REX prefix.
        a.inc(eax)?;
        a.push(eax)?;
        a.ud2()
    });
    let outcome = bench.run();
    let trap = outcome.expect(6, None, USER_CODE + 2);
    assert_eq!((trap.cs, trap.rsp), (USER_CS32, USER_STACK - 4));
    assert_eq!(outcome.read32(USER_STACK - 4), 1);
}

#[test]
fn iretq_refuses_what_it_must() {
    let refuse = |bench: Bench, vector: u8, error: u16| {
        let outcome = bench.run();
        outcome.expect(vector, Some(u32::from(error)), CODE);
        assert_eq!(outcome.trap().rsp, STACK - 40, "RSP is as before");
    };
    refuse(iretq(1 << 50, USER_CS, 2, USER_STACK, USER_DS), 13, 0);
    refuse(iretq(USER_CODE, 0, 2, USER_STACK, USER_DS), 13, 0);
    refuse(
        iretq(USER_CODE, USER_CS & !3, 2, USER_STACK, USER_DS),
        13,
        USER_CS & !3,
    );
    refuse(
        iretq(USER_CODE, USER_DS, 2, USER_STACK, USER_DS),
        13,
        USER_DS & !3,
    );
    refuse(iretq(USER_CODE, USER_CS, 2, USER_STACK, 0), 13, 0);
    refuse(iretq(USER_CODE, USER_CS, 2, USER_STACK, 3), 13, 0);
    refuse(
        iretq(USER_CODE, USER_CS, 2, USER_STACK, KERNEL_DS | 3),
        13,
        KERNEL_DS,
    );
    refuse(iretq(CODE, KERNEL_CS, 2, STACK, USER_DS), 13, USER_DS & !3);
    let mut absent = iretq(CODE, SPARE, 2, STACK, KERNEL_DS);
    absent.describe(SPARE, CODE64 & !0x80, 0, 0);
    refuse(absent, 11, SPARE);
    let mut stack = iretq(CODE, KERNEL_CS, 2, STACK, SPARE);
    stack.describe(SPARE, DATA32 & !0x80, 0, 0);
    refuse(stack, 12, SPARE);
    let mut nested = iretq(CODE, KERNEL_CS, 2, STACK, KERNEL_DS);
    nested.state.rflags |= NT;
    refuse(nested, 13, 0);
    let mut both = iretq(CODE, SPARE, 2, STACK, KERNEL_DS);
    both.describe(SPARE, CODE64 | 0x4000, 0, 0);
    refuse(both, 13, SPARE);
}

#[test]
fn iretq_loads_a_null_stack_segment_below_level_3() {
    let mut bench = iretq(CODE + 16, KERNEL_CS, 2, STACK - 100, 0);
    bench.code(64, CODE + 16, |a| a.hlt());
    let outcome = bench.run();
    assert_eq!(outcome.register(RSP), STACK - 100);
    assert_eq!(outcome.state.segments[2].selector, 0);
}

#[test]
fn a_segment_that_iretq_makes_null_keeps_its_base() {
    let mut bench = iretq(USER_CODE, USER_CS, 2, USER_STACK, USER_DS);
    bench.state.segments[5].base = 0x1234_5000;
    assert_eq!(bench.state.segments[5].selector, KERNEL_DS);
    bench.code(64, USER_CODE, |a| a.ud2());
    let outcome = bench.run();
    outcome.expect(6, None, USER_CODE);
    let nulled = outcome.state.segments[5];
    assert_eq!((nulled.selector, nulled.base), (0, 0x1234_5000));
}

#[test]
fn level_3_cannot_iret_to_more_than_it_has() {
    let mut bench = Bench::long_user(|a| a.iretq());
    let top = USER_STACK - 40;
    bench.state.gpr[RSP] = top;
    bench.code(64, USER_CODE + 16, |a| a.ud2());
    let flags = 2 | 3 << 12 | 1 << 19 | 1 << 20 | 1 << 21;
    let frame = [
        USER_CODE + 16,
        u64::from(USER_CS),
        flags,
        USER_STACK,
        u64::from(USER_DS),
    ];
    for (slot, value) in frame.into_iter().enumerate() {
        bench.write64(top + 8 * slot as u64, value);
    }
    let trap = bench.run().expect(6, None, USER_CODE + 16);
    assert_eq!(
        trap.flags,
        2 | IF | RF | 1 << 21,
        "neither IF nor IOPL, VIF, VIP"
    );
}

#[test]
fn nmi_waits_for_the_iret_of_the_first() {
    let mut bench = Bench::long(|a| {
        a.nop()?;
        a.nop()?;
        a.hlt()?;
        a.hlt()
    });
    bench.handler(64, 2, |a| {
        a.inc(ebx)?;
        a.nop()?;
        a.nop()?;
        a.iretq()
    });
    bench.at(1, Event::Nmi);
    bench.at(3, Event::Nmi);
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), 2);
    // NOP, NMI, 4, NMI, 4, NOP, HLT.
    assert_eq!(outcome.state.steps, 13);
    assert!(!outcome.state.nmi_blocked);
    assert_eq!(outcome.state.rip, CODE + 3);
}

#[test]
fn nmi_ignores_if_and_comes_before_interrupts() {
    let mut bench = Bench::long(|a| {
        a.nop()?;
        a.hlt()
    });
    bench.state.rflags |= IF;
    bench.at(1, Event::Nmi);
    bench.at(1, Event::Interrupt(0x50));
    bench.run().expect(2, None, CODE + 1);
}

#[test]
fn an_interrupt_asserted_by_an_out_is_taken_right_after_it() {
    let bench = || {
        Bench::long(|a| {
            a.mov(al, 0x60u32)?;
            a.out(i32::from(INTERRUPT_PORT), al)?;
            a.nop()?;
            a.hlt()
        })
    };
    let mut on = bench();
    on.state.rflags |= IF;
    on.run().expect(0x60, None, CODE + 4);
    assert_eq!(bench().run().state.rip, CODE + 6);
}

#[test]
fn legacy_interrupt_switches_stacks() {
    let mut bench = Bench::protected_user(|a| a.int(0x40));
    bench.gate32(0x40, 0xee);
    let outcome = bench.run();
    let trap = outcome.expect(0x40, None, USER_CODE + 2);
    assert_eq!((trap.cs, trap.ss, trap.rsp), (USER_CS, USER_DS, USER_STACK));
    assert_eq!(outcome.state.gpr[RSP], STACK0 - 20);
    assert_eq!(outcome.state.segments[2].selector, KERNEL_DS);
    assert_eq!(
        outcome.state.segments[3].selector, USER_DS,
        "data segments stay"
    );
}

#[test]
fn legacy_exception_pushes_its_error_code() {
    let outcome = Bench::protected_user(|a| a.cli()).run();
    let trap = outcome.expect(13, Some(0), USER_CODE);
    assert_eq!((trap.cs, trap.ss, trap.rsp), (USER_CS, USER_DS, USER_STACK));
    assert_eq!(outcome.state.gpr[RSP], STACK0 - 24);
}

#[test]
fn a_16_bit_gate_pushes_words() {
    let mut bench = Bench::protected(|_| Ok(()));
    bench.state.rip = 0xf000;
    bench.code(32, 0xf000, |a| {
        a.int(0x40)?;
        a.inc(ebx)?;
        a.hlt()
    });
    bench.gate32(0x40, 0x86);
    bench.state.rflags |= IF;
    bench.handler(32, 0x40, |a| {
        a.mov(ecx, esp)?;
        a.iret()
    });
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), 1);
    assert_eq!(outcome.register(RCX), STACK - 6);
    assert_eq!(outcome.register(RSP), STACK);
    assert_ne!(outcome.state.rflags & IF, 0);
}

#[test]
fn iretd_returns_to_level_3_and_drops_data_segments() {
    let mut bench = Bench::protected(|a| a.iretd());
    bench.state.gpr[RSP] = STACK - 20;
    let frame = [
        USER_CODE as u32,
        u32::from(USER_CS),
        2,
        USER_STACK as u32,
        u32::from(USER_DS),
    ];
    for (slot, value) in frame.into_iter().enumerate() {
        bench.write32(STACK - 20 + 4 * slot as u64, value);
    }
    bench.segment(0, USER_DS, DATA32 | DPL3, 0, u32::MAX);
    bench.code(32, USER_CODE, |a| a.mov(eax, dword_ptr(USER_DATA as u32)));
    let outcome = bench.run();
    outcome.expect(13, Some(0), USER_CODE);
    assert_eq!(outcome.state.segments[0].selector, USER_DS);
    assert_eq!(outcome.state.segments[3].selector, 0);
}

#[test]
fn real_mode_uses_the_vector_table() {
    let mut bench = Bench::real(|a| {
        a.int(0x21)?;
        a.inc(bx)?;
        a.hlt()
    });
    bench.state.rflags |= IF | AC;
    bench.handler(16, 0x21, |a| {
        a.pushf()?;
        a.pop(cx)?;
        a.mov(dx, sp)?;
        a.iret()
    });
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), 1);
    assert_eq!(outcome.register(RCX) & (IF | TF), 0);
    assert_eq!(outcome.register(RDX), 0xf000 - 6);
    assert_eq!(outcome.state.rflags & IF, IF);
    assert_eq!(outcome.state.segments[1].selector, (CODE >> 4) as u16);
}

#[test]
fn real_mode_exceptions_push_no_error_code() {
    let mut bench = Bench::real(|a| a.mov(al, byte_ptr(bx)));
    bench.segment(3, 0, DATA16, 0, 0xff);
    bench.state.gpr[RBX] = 0x100;
    let trap = bench.run().expect(13, None, 0);
    assert_eq!(trap.cs, (CODE >> 4) as u16);
    let mut limit = Bench::real(|a| a.int(0x21));
    limit.state.idtr.limit = 0x21 * 4 + 2;
    // Vector 13 is within the limit.
    limit.run().expect(13, None, 0);
}

#[test]
fn real_mode_shuts_down_without_a_vector_table() {
    let mut bench = Bench::real(|a| a.ud2());
    bench.state.idtr.limit = 0;
    assert_eq!(bench.run().end, End::Shutdown);
}
