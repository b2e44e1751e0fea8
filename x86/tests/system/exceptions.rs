//! Every vector's error code and saved state; faults in the delivery of faults.

use iced_x86::code_asm::*;

use crate::bench::*;

/// A fault of the first instruction: its own RIP, and RF in the saved flags.
fn first_faults(bench: Bench, vector: u8, error: Option<u32>) -> Outcome {
    let rip = bench.state.rip;
    let outcome = bench.run();
    let trap = outcome.expect(vector, error, rip);
    assert_ne!(trap.flags & RF, 0, "a fault saves RF");
    assert_eq!(outcome.state.rflags & (RF | TF | NT | IF), 0);
    outcome
}

#[test]
fn divide_error_is_a_fault() {
    let mut bench = Bench::long(|a| a.div(ecx));
    bench.state.gpr[RAX] = 7;
    let outcome = first_faults(bench, 0, None);
    assert_eq!(outcome.state.gpr[RAX], 7);
    let mut overflow = Bench::long(|a| a.idiv(rcx));
    overflow.state.gpr[RAX] = 0;
    overflow.state.gpr[RDX] = 1 << 63;
    overflow.state.gpr[RCX] = u64::MAX;
    first_faults(overflow, 0, None);
}

#[test]
fn breakpoint_is_a_trap_without_rf() {
    let trap = Bench::long(|a| a.int3()).run().expect(3, None, CODE + 1);
    assert_eq!(trap.flags, 2);
    assert_eq!((trap.cs, trap.rsp, trap.ss), (KERNEL_CS, STACK, KERNEL_DS));
}

#[test]
fn overflow_and_bound_exist_outside_64_bit_mode() {
    let mut bench = Bench::protected(|a| a.into());
    bench.state.rflags |= 1 << 11;
    let trap = bench.run().expect(4, None, CODE + 1);
    assert_eq!(trap.flags & RF, 0);
    let quiet = Bench::protected(|a| {
        a.into()?;
        a.hlt()
    });
    assert_eq!(quiet.run().state.rip, CODE + 2);
    let mut bound = Bench::protected(|a| a.bound(eax, dword_ptr(DATA as u32)));
    bound.write32(DATA, 5);
    bound.write32(DATA + 4, 9);
    bound.state.gpr[RAX] = 10;
    first_faults(bound, 5, None);
    first_faults(Bench::long(|a| a.db(&[0xce])), 6, None);
    first_faults(Bench::long(|a| a.db(&[0x62, 0x00])), 6, None);
}

#[test]
fn invalid_opcodes_and_lock_prefixes() {
    first_faults(Bench::long(|a| a.ud2()), 6, None);
    // LOCK on a register, and on an instruction that takes none.
    first_faults(Bench::long(|a| a.db(&[0xf0, 0x01, 0xc0])), 6, None);
    first_faults(Bench::long(|a| a.db(&[0xf0, 0x8b, 0x00])), 6, None);
    first_faults(Bench::long(|a| a.db(&[0xf0, 0x90])), 6, None);
    // MOV to CS, and a group's empty place.
    first_faults(Bench::long(|a| a.db(&[0x8e, 0xc8])), 6, None);
    first_faults(Bench::long(|a| a.db(&[0xff, 0xf8])), 6, None);
}

#[test]
fn no_device_comes_before_anything_else_of_the_fpu() {
    let mut bench = Bench::long(|a| a.fld1());
    bench.state.cr0 |= 1 << 3;
    first_faults(bench, 7, None);
    let mut wait = Bench::long(|a| {
        a.wait()?;
        a.hlt()
    });
    wait.state.cr0 |= 1 << 3;
    first_faults(wait, 7, None);
    let mut emulated = Bench::long(|a| a.addps(xmm0, xmm1));
    emulated.state.cr0 |= 1 << 2;
    first_faults(emulated, 6, None);
}

#[test]
fn x87_error_comes_with_the_next_waiting_instruction() {
    let mut bench = Bench::long(|a| {
        a.fnop()?;
        a.hlt()
    });
    bench.state.x87.control = 0x37e;
    bench.state.x87.status = 0x8081;
    first_faults(bench, 16, None);
}

#[test]
fn simd_error_is_undefined_without_osxmmexcpt() {
    let bench = |without: u64| {
        let mut bench = Bench::long(|a| a.divss(xmm0, xmm1));
        bench.state.mxcsr = 0x1d80;
        bench.state.xmm[0] = 0x3f80_0000;
        bench.state.cr4 &= !without;
        bench
    };
    first_faults(bench(0), 19, None);
    first_faults(bench(1 << 10), 6, None);
}

#[test]
fn non_canonical_addresses_fault_by_segment() {
    let mut data = Bench::long(|a| a.mov(rax, qword_ptr(rcx)));
    data.state.gpr[RCX] = 0x8000_0000_0000;
    first_faults(data, 13, Some(0));
    let mut stack = Bench::long(|a| a.push(rax));
    stack.state.gpr[RSP] = 0x8000_0000_0010;
    stack.gate64(12, 0x8e, 1);
    first_faults(stack, 12, Some(0));
    // The last byte alone is outside.
    let mut edge = Bench::long(|a| a.mov(rax, qword_ptr(rcx)));
    edge.state.gpr[RCX] = 0x7fff_ffff_fffc;
    first_faults(edge, 13, Some(0));
}

#[test]
fn alignment_is_checked_at_level_3_with_am_and_ac() {
    let bench = |am: bool, ac: bool| {
        let mut bench = Bench::long_user(|a| {
            a.mov(eax, dword_ptr(rcx))?;
            a.ud2()
        });
        bench.state.gpr[RCX] = USER_DATA + 2;
        bench.state.cr0 |= u64::from(am) << 18;
        bench.state.rflags |= u64::from(ac) << 18;
        bench
    };
    first_faults(bench(true, true), 17, Some(0));
    bench(false, true).run().expect(6, None, USER_CODE + 2);
    bench(true, false).run().expect(6, None, USER_CODE + 2);
    let mut push = Bench::long_user(|a| a.push(rax));
    push.state.cr0 |= 1 << 18;
    push.state.rflags |= AC;
    push.state.gpr[RSP] = USER_STACK - 4;
    first_faults(push, 17, Some(0));
    let mut kernel = Bench::long(|a| {
        a.mov(eax, dword_ptr(rcx))?;
        a.hlt()
    });
    kernel.state.gpr[RCX] = DATA + 1;
    kernel.state.cr0 |= 1 << 18;
    kernel.state.rflags |= AC;
    kernel.run().register(RAX);
}

#[test]
fn an_absent_gate_is_not_present_with_the_vector() {
    let mut bench = Bench::long(|a| a.int(0x40));
    bench.gate64(0x40, 0x0e, 0);
    first_faults(bench, 11, Some(0x40 * 8 + 2));
    // A benign exception first: the second is delivered in its place, and EXT is set.
    let mut second = Bench::long(|a| a.ud2());
    second.gate64(6, 0x0e, 0);
    first_faults(second, 11, Some(6 * 8 + 3));
    let mut external = Bench::long(|a| {
        a.sti()?;
        a.nop()?;
        a.hlt()
    });
    external.gate64(0x41, 0x0e, 0);
    external.at(2, Event::Interrupt(0x41));
    let trap = external.run().expect(11, Some(0x41 * 8 + 3), CODE + 2);
    assert_ne!(trap.flags & IF, 0);
}

#[test]
fn gates_are_checked_in_order() {
    let mut privilege = Bench::long_user(|a| a.int(0x40));
    privilege.gate64(0x40, 0x8e, 0);
    first_faults(privilege, 13, Some(0x40 * 8 + 2));
    let mut breakpoint = Bench::long_user(|a| a.int3());
    breakpoint.gate64(3, 0x8e, 0);
    first_faults(breakpoint, 13, Some(3 * 8 + 2));
    let mut icebp = Bench::long_user(|a| a.int1());
    icebp.gate64(1, 0x8e, 0);
    icebp.run().expect(1, None, USER_CODE + 1);
    let mut limit = Bench::long(|a| a.int(0x40));
    limit.state.idtr.limit = 0x40 * 16 + 14;
    first_faults(limit, 13, Some(0x40 * 8 + 2));
    let mut kind = Bench::long(|a| a.int(0x40));
    kind.gate64(0x40, 0x85, 0);
    first_faults(kind, 13, Some(0x40 * 8 + 2));
    let selector = |selector: u16| {
        let mut bench = Bench::long(|a| a.int(0x40));
        bench.write16(IDT + 0x40 * 16 + 2, selector);
        bench.describe(SPARE, CODE64 & !0x80, 0, u32::MAX);
        bench
    };
    first_faults(selector(0), 13, Some(0));
    first_faults(selector(KERNEL_DS), 13, Some(u32::from(KERNEL_DS)));
    first_faults(selector(KERNEL_CS32), 13, Some(u32::from(KERNEL_CS32)));
    first_faults(selector(USER_CS), 13, Some(u32::from(USER_CS & !3)));
    first_faults(selector(SPARE), 11, Some(u32::from(SPARE)));
    first_faults(selector(0xff8 + 0x1000), 13, Some(0x1ff8));
}

#[test]
fn two_contributory_exceptions_are_a_double_fault() {
    let mut bench = Bench::long(|a| a.mov(rax, qword_ptr(rcx)));
    bench.state.gpr[RCX] = 1 << 50;
    bench.gate64(13, 0x0e, 0);
    first_faults(bench, 8, Some(0));
}

#[test]
fn a_page_fault_in_the_delivery_of_a_page_fault_is_a_double_fault() {
    let mut bench = Bench::long_user(|a| a.mov(rax, qword_ptr(0)));
    bench.gate64(8, 0x8e, 1);
    bench.map(STACK0 - 0x1000, 0);
    let outcome = first_faults(bench, 8, Some(0));
    assert_eq!(
        outcome.state.cr2,
        STACK0 - 8,
        "CR2 is that of the second fault"
    );
}

#[test]
fn a_general_protection_in_the_delivery_of_a_page_fault_is_a_double_fault() {
    let mut bench = Bench::long(|a| a.mov(rax, qword_ptr(0x40_0000)));
    bench.write16(IDT + 14 * 16 + 2, KERNEL_DS);
    let outcome = first_faults(bench, 8, Some(0));
    assert_eq!(outcome.state.cr2, 0x40_0000);
}

#[test]
fn a_page_fault_in_the_delivery_of_a_contributory_one_is_delivered() {
    let mut bench = Bench::long_user(|a| a.hlt());
    bench.map(STACK0 - 0x1000, 0);
    bench.gate64(14, 0x8e, 1);
    first_faults(bench, 14, Some(2));
}

#[test]
fn a_fault_in_the_delivery_of_a_double_fault_shuts_down() {
    let mut bench = Bench::long(|a| a.hlt());
    bench.state.rip = 1 << 40;
    bench.state.idtr.limit = 0;
    let outcome = bench.run();
    assert_eq!(outcome.end, End::Shutdown);
    assert!(outcome.state.shutdown);
    assert_eq!(outcome.state.steps, 1, "the whole delivery is one step");
}

#[test]
fn stack_switch_faults_name_the_tss() {
    let mut limit = Bench::long_user(|a| a.ud2());
    limit.state.tr.limit = 10;
    limit.gate64(10, 0x8e, 0);
    // #TS cannot be delivered either, and #DF as little.
    assert_eq!(limit.run().end, End::Shutdown);
    let mut ist = Bench::long_user(|a| a.ud2());
    ist.state.tr.limit = 0x23;
    ist.gate64(6, 0x8e, 1);
    first_faults(ist, 10, Some(u32::from(TASK) | 1));
    let mut stack = Bench::long_user(|a| a.ud2());
    stack.write64(TSS + 36, 1 << 50);
    stack.gate64(6, 0x8e, 1);
    first_faults(stack, 12, Some(1));
}

#[test]
fn legacy_stack_switch_checks_the_stack_segment() {
    let bench = |selector: u16| {
        let mut bench = Bench::protected_user(|a| a.int(0x40));
        bench.gate32(0x40, 0xee);
        bench.write16(TSS + 8, selector);
        bench.describe(SPARE, DATA32 & !0x80, 0, u32::MAX);
        // The handlers of the faults that follow run on a stack of their own, at level 3.
        for vector in [10u8, 12] {
            bench.describe(SPARE + 8, CODE32 | DPL3, 0, u32::MAX);
            bench.gate32(vector, 0x8e);
            bench.write16(IDT + 8 * u64::from(vector) + 2, SPARE + 8 + 3);
        }
        bench
    };
    // HLT at level 3 is #GP, which cannot be delivered either: look at the stack of level 3.
    for (selector, vector, error) in [
        (0u16, 10u8, 0u32),
        (USER_DS, 10, u32::from(USER_DS & !3)),
        (KERNEL_CS, 10, u32::from(KERNEL_CS)),
        (SPARE, 12, u32::from(SPARE)),
    ] {
        let outcome = bench(selector).run();
        assert_eq!(outcome.end, End::Shutdown);
        assert_eq!(
            outcome.state.rip,
            handler_of(vector),
            "selector {selector:#x}"
        );
        let top = outcome.state.gpr[RSP];
        assert_eq!(outcome.read32(top), error, "selector {selector:#x}");
        assert_eq!(u64::from(outcome.read32(top + 4)), USER_CODE);
    }
}

/// What the delivery of the first exception meets.
#[derive(Clone, Copy, Debug)]
enum Second {
    AbsentGate,
    BadGate,
    BadStack,
    AbsentStack,
    AbsentDescriptor,
}

impl Second {
    fn vector(self) -> u8 {
        match self {
            Second::AbsentGate => 11,
            Second::BadGate => 13,
            Second::BadStack => 10,
            Second::AbsentStack => 12,
            Second::AbsentDescriptor => 14,
        }
    }
}

/// The table of SDM vol. 3, "Interrupt 8": what is delivered in the end, at level 3.
#[test]
fn every_pair_of_exceptions() {
    type Program = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    const ABSENT: u16 = SPARE;
    let firsts: [(u8, Program); 12] = [
        (0, |a| a.div(ecx)),
        (3, |a| a.int3()),
        (4, |a| a.into()),
        (5, |a| a.bound(eax, qword_ptr(USER_DATA))),
        (6, |a| a.ud2()),
        (10, |a| a.iretd()),
        (11, |a| a.mov(ds, dx)),
        (12, |a| a.mov(ss, dx)),
        (13, |a| a.hlt()),
        (14, |a| a.mov(eax, dword_ptr(0x40_0000))),
        // Software interrupts are benign, whatever their number.
        (0x40, |a| a.int(0x40)),
        (0, |a| a.int(0)),
    ];
    let seconds = [
        Second::AbsentGate,
        Second::BadGate,
        Second::BadStack,
        Second::AbsentStack,
        Second::AbsentDescriptor,
    ];
    // External interrupts and NMIs come before a NOP.
    let events = [(0x41u8, Event::Interrupt(0x41)), (2, Event::Nmi)];
    let programs = firsts
        .into_iter()
        .enumerate()
        .map(|(n, (vector, program))| (vector, program, None, n >= 10));
    let nop: Program = |a| a.nop();
    let external = events.map(|(vector, event)| (vector, nop, Some(event), true));
    for (first, program, event, benign) in programs.chain(external) {
        for second in seconds {
            let mut bench = Bench::protected_user(program);
            bench.page_32();
            bench.describe(ABSENT, (DATA32 | DPL3) & !0x80, 0, u32::MAX);
            bench.describe(ABSENT + 8, DATA32 & !0x80, 0, u32::MAX);
            // #TS comes of an IRET to a task that is not there, into of OF, #DE of ECX = 0.
            bench.state.rflags |= 1 << 11 | if first == 10 { NT } else { 0 };
            bench.state.gpr[RDX] = u64::from(ABSENT | 3);
            bench.write32(USER_DATA, 1);
            bench.write32(USER_DATA + 4, 2);
            // Handlers stay where they are, at level 3.
            for vector in 0..=255 {
                bench.write(handler_of(vector), &[0xeb, 0xfe]);
                bench.gate32(vector, 0xee);
                bench.write16(IDT + 8 * u64::from(vector) + 2, USER_CS32);
            }
            bench.write32(ROOT + 0x1000 + 4 * (HANDLERS >> 12), HANDLERS as u32 | 7);
            for page in 0..4 {
                let at = HANDLERS + 0x1000 * page;
                bench.write32(ROOT + 0x1000 + 4 * (at >> 12), at as u32 | 7);
            }
            let gate = IDT + 8 * u64::from(first);
            match second {
                Second::AbsentGate => bench.gate32(first, 0x6e),
                Second::BadGate => bench.gate32(first, 0xe0),
                Second::BadStack => {
                    bench.gate32(first, 0xee);
                    bench.write16(TSS + 8, 0);
                }
                Second::AbsentStack => {
                    bench.gate32(first, 0xee);
                    bench.write16(TSS + 8, ABSENT + 8);
                }
                Second::AbsentDescriptor => {
                    bench.state.gdtr.limit = 0xffff;
                    bench.write16(gate + 2, 0xa000);
                    bench.write32(ROOT + 0x1000 + 4 * ((GDT + 0xa000) >> 12), 0);
                }
            }
            if let Some(event) = event.clone() {
                bench.at(0, event);
            }
            bench.last = 8;
            let contributory = |vector: u8| matches!(vector, 0 | 10..=13);
            let vector = second.vector();
            let doubles = !benign
                && (contributory(first) && contributory(vector)
                    || first == 14 && (contributory(vector) || vector == 14));
            let expected = if doubles { 8 } else { vector };
            let outcome = bench.run();
            assert_eq!(
                (outcome.end, outcome.state.rip),
                (End::Steps, handler_of(expected)),
                "{first} and {second:?}"
            );
        }
    }
}
