//! Breakpoints on data, code and ports; DR6, DR7 and their guards.

use iced_x86::code_asm::*;

use crate::bench::*;

/// DR6 without a cause.
const NONE: u64 = 0xffff_0ff0;
/// DR7 with breakpoint 0 on writes of four bytes.
const WRITES: u64 = 0x400 | 1 | 0b1101 << 16;
/// DR7 with breakpoint 0 on reads and writes of eight bytes.
const ACCESSES: u64 = 0x400 | 2 | 0b1011 << 16;

#[test]
fn a_write_traps_after_the_instruction() {
    let bench = |enabled: u64, address: u64| {
        let mut bench = Bench::long(|a| {
            a.mov(word_ptr(DATA), ax)?;
            a.nop()?;
            a.hlt()
        });
        bench.state.dr[0] = address;
        bench.state.dr7 = enabled;
        bench
    };
    let outcome = bench(WRITES, DATA).run();
    let trap = outcome.expect_at(1, None, 1);
    assert_eq!(trap.flags & RF, 0);
    assert_eq!(outcome.state.dr6, NONE | 1);
    // One byte of overlap is enough, and the address is rounded down to its length.
    bench(WRITES, DATA - 4).run().halted_before(3);
    bench(WRITES, DATA + 3).run().expect_at(1, None, 1);
    bench(0x400 | 1 | 0b0001 << 16, DATA + 1)
        .run()
        .expect_at(1, None, 1);
    let quiet = bench(0x400 | 1 | 0b0001 << 16, DATA + 2).run();
    quiet.halted_before(3);
    assert_eq!(quiet.state.dr6, NONE);
}

#[test]
fn reads_trap_by_kind() {
    let bench = |enabled: u64| {
        let mut bench = Bench::long(|a| {
            a.mov(rax, qword_ptr(DATA))?;
            a.nop()?;
            a.hlt()
        });
        bench.state.dr[0] = DATA;
        bench.state.dr7 = enabled;
        bench.run()
    };
    bench(ACCESSES).expect_at(1, None, 1);
    bench(WRITES).halted_before(3);
}

#[test]
fn a_breakpoint_set_after_the_page_was_used_still_hits() {
    let mut bench = Bench::long(|a| {
        a.mov(qword_ptr(DATA), rax)?;
        a.mov(dr0, rcx)?;
        a.mov(dr7, rdx)?;
        a.mov(qword_ptr(DATA), rax)?;
        a.nop()
    });
    bench.state.gpr[RCX] = DATA;
    bench.state.gpr[RDX] = ACCESSES;
    bench.run().expect_at(1, None, 4);
}

#[test]
fn the_frame_of_an_exception_can_hit() {
    let mut bench = Bench::long(|a| a.int(0x40));
    bench.state.dr[0] = STACK - 8;
    bench.state.dr7 = ACCESSES;
    let outcome = bench.run();
    outcome.expect(1, None, handler_of(0x40));
}

#[test]
fn what_a_faulting_instruction_hit_is_forgotten() {
    let mut bench = Bench::long(|a| a.movsq());
    bench.state.gpr[RSI] = DATA;
    bench.state.gpr[RDI] = 0x40_0000;
    bench.state.dr[0] = DATA;
    bench.state.dr7 = ACCESSES;
    let outcome = bench.run();
    outcome.expect(14, Some(2), CODE);
    assert_eq!(outcome.state.dr6, NONE);
}

#[test]
fn a_repetition_traps_where_it_hits() {
    let mut bench = Bench::long(|a| {
        a.rep().movsb()?;
        a.hlt()
    });
    bench.state.gpr[RSI] = DATA;
    bench.state.gpr[RDI] = DATA + 0x800;
    bench.state.gpr[RCX] = 16;
    bench.state.dr[0] = DATA + 0x804;
    bench.state.dr7 = 0x400 | 1 | 0b0001 << 16;
    let outcome = bench.run();
    let trap = outcome.expect(1, None, CODE);
    assert_ne!(trap.flags & RF, 0);
    assert_eq!(outcome.state.gpr[RCX], 11);
}

#[test]
fn an_instruction_breakpoint_is_a_fault_without_rf() {
    let mut bench = Bench::long(|a| {
        a.nop()?;
        a.inc(eax)?;
        a.hlt()
    });
    bench.state.dr[1] = CODE + 1;
    bench.state.dr7 = 0x400 | 1 << 2;
    let outcome = bench.run();
    let trap = outcome.expect(1, None, CODE + 1);
    assert_eq!(trap.flags & RF, 0, "the handler sets RF itself");
    assert_eq!(outcome.state.dr6, NONE | 2);
    assert_eq!(outcome.state.gpr[RAX], 0);
}

#[test]
fn rf_lets_one_instruction_pass() {
    let mut bench = Bench::long(|a| {
        a.nop()?;
        a.inc(eax)?;
        a.jmp(CODE)
    });
    bench.handler(64, 1, |a| {
        a.inc(ebx)?;
        a.cmp(ebx, 3)?;
        a.db(&[0x74, 0x0a])?; // je over the return
        a.or(qword_ptr(rsp + 16), 0x1_0000)?;
        a.iretq()?;
        a.hlt()
    });
    bench.state.dr[0] = CODE + 1;
    bench.state.dr7 = 0x401;
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), 3);
    assert_eq!(outcome.register(RAX), 2);
}

#[test]
fn rf_lasts_through_a_repetition() {
    let mut bench = Bench::long(|a| {
        a.rep().stosb()?;
        a.hlt()
    });
    bench.state.rflags |= RF;
    bench.state.gpr[RDI] = DATA;
    bench.state.gpr[RCX] = 5;
    bench.state.dr[0] = CODE;
    bench.state.dr7 = 0x401;
    let outcome = bench.run();
    assert_eq!(outcome.register(RCX), 0);
    assert_eq!(outcome.state.rflags & RF, 0);
}

#[test]
fn a_load_of_ss_hides_an_instruction_breakpoint() {
    let mut bench = Bench::long(|a| {
        a.mov(ss, ax)?;
        a.nop()?;
        a.hlt()
    });
    bench.state.gpr[RAX] = u64::from(KERNEL_DS);
    bench.state.dr[0] = CODE + 3;
    bench.state.dr7 = 0x401;
    let outcome = bench.run();
    assert_eq!(outcome.ips[1], CODE + 3);
    outcome.halted_before(3);
}

#[test]
fn a_load_of_ss_holds_its_data_breakpoint_back() {
    let mut bench = Bench::long(|a| {
        a.mov(ss, word_ptr(DATA))?;
        a.nop()?;
        a.hlt()
    });
    bench.write16(DATA, KERNEL_DS);
    bench.state.dr[0] = DATA;
    bench.state.dr7 = ACCESSES;
    bench.run().expect_at(1, None, 2);
    // The famous case: the trap comes in the handler of the INT.
    let mut int = Bench::long(|a| {
        a.mov(ss, word_ptr(DATA))?;
        a.int(0x40)
    });
    int.write16(DATA, KERNEL_DS);
    int.state.dr[0] = DATA;
    int.state.dr7 = ACCESSES;
    int.run().expect(1, None, handler_of(0x40));
}

#[test]
fn int1_takes_what_a_load_of_ss_held_back() {
    let mut bench = Bench::long(|a| {
        a.mov(ss, word_ptr(DATA))?;
        a.int1()?;
        a.hlt()
    });
    // The handler counts, and goes back.
    bench.handler(64, 1, |a| {
        a.inc(ebx)?;
        a.iretq()
    });
    bench.write16(DATA, KERNEL_DS);
    bench.state.dr[0] = DATA;
    bench.state.dr7 = ACCESSES;
    let outcome = bench.run();
    outcome.halted_before(3);
    assert_eq!(outcome.register(RBX), 1);
    assert_eq!(outcome.state.dr6, NONE | 1);
}

#[test]
fn dr6_keeps_all_but_the_hits_of_earlier_exceptions() {
    const STEP: u64 = 1 << 14;
    let mut bench = Bench::long(|a| a.nop());
    bench.state.dr[2] = CODE;
    bench.state.dr7 = 0x400 | 2 << 4;
    bench.state.dr6 = NONE | STEP | 0b1011;
    let outcome = bench.run();
    outcome.expect(1, None, CODE);
    assert_eq!(outcome.state.dr6, NONE | STEP | 0b100);
    // A single step hits no breakpoint.
    let mut step = Bench::long(|a| a.nop());
    step.state.rflags |= TF;
    step.state.dr6 = NONE | 0b1111;
    assert_eq!(step.run().state.dr6, NONE | STEP);
}

#[test]
fn ports_need_cr4_de() {
    let bench = |de: u64| {
        let mut bench = Bench::long(|a| {
            a.out(0x71, al)?;
            a.nop()?;
            a.hlt()
        });
        bench.state.dr[3] = 0x70;
        bench.state.dr7 = 0x400 | 1 << 6 | 0b0110 << 28;
        bench.state.cr4 |= de << 3;
        bench.run()
    };
    let outcome = bench(1);
    outcome.expect(1, None, CODE + 2);
    assert_eq!(outcome.state.dr6, NONE | 8);
    bench(0).halted_before(3);
}

#[test]
fn general_detect_guards_the_registers_once() {
    let mut bench = Bench::long(|a| a.mov(rax, dr0));
    bench.state.dr7 = 0x400 | 1 << 13;
    let outcome = bench.run();
    let trap = outcome.expect(1, None, CODE);
    assert_ne!(trap.flags & RF, 0);
    assert_eq!(outcome.state.dr6, NONE | 1 << 13);
    assert_eq!(outcome.state.dr7, 0x400);
}

#[test]
fn every_debug_exception_lifts_the_guard() {
    let mut step = Bench::long(|a| a.nop());
    step.state.dr7 = 0x400 | 1 << 13;
    step.state.rflags |= TF;
    let outcome = step.run();
    outcome.expect(1, None, CODE + 1);
    assert_eq!(outcome.state.dr7, 0x400);
    let mut code = Bench::long(|a| a.nop());
    code.state.dr[0] = CODE;
    code.state.dr7 = 0x401 | 1 << 13;
    let outcome = code.run();
    outcome.expect(1, None, CODE);
    assert_eq!(outcome.state.dr7, 0x401);
}

#[test]
fn dr4_and_dr5_are_aliases_without_de() {
    let alias = || {
        Bench::long(|a| {
            // MOV RAX, DR4; MOV RBX, DR5.
            a.db(&[0x0f, 0x21, 0xe0, 0x0f, 0x21, 0xeb])?;
            a.hlt()
        })
    };
    let mut plain = alias();
    plain.state.dr7 = 0x455;
    let outcome = plain.run();
    assert_eq!(outcome.register(RAX), NONE);
    assert_eq!(outcome.register(RBX), 0x455);
    let mut strict = alias();
    strict.state.cr4 |= 8;
    strict.run().expect(6, None, CODE);
}

#[test]
fn fixed_bits_of_dr6_and_dr7_stay() {
    let outcome = Bench::long(|a| {
        a.mov(eax, -1)?;
        a.mov(dr6, rax)?;
        a.mov(rbx, dr6)?;
        a.mov(ecx, 0xffff_dfffu32)?;
        a.mov(dr7, rcx)?;
        a.mov(rdx, dr7)?;
        a.mov(dr7, r9)?;
        a.hlt()
    })
    .run();
    assert_eq!(outcome.register(RBX), 0xffff_efff);
    assert_eq!(outcome.register(RDX), 0xffff_07ff & !0x800 | 0x400);
    for register in [6u8, 7] {
        let mut bench = Bench::long(|a| a.db(&[0x0f, 0x23, 0xc0 | register << 3]));
        bench.state.gpr[RAX] = 1 << 32;
        bench.run().expect(13, Some(0), CODE);
    }
    Bench::long_user(|a| a.mov(rax, dr0))
        .run()
        .expect(13, Some(0), USER_CODE);
}

#[test]
fn an_access_over_a_page_end_hits_on_either_page() {
    for (address, hit) in [
        (DATA + 0xffd, true),
        (DATA + 0xffe, true),
        (DATA + 0xfff, true),
        (DATA + 0x1000, true),
        (DATA + 0x1001, true),
        (DATA + 0x1002, false),
    ] {
        let mut bench = Bench::long(|a| {
            a.mov(dword_ptr(rdi), eax)?;
            a.nop()?;
            a.hlt()
        });
        bench.state.gpr[RDI] = DATA + 0xffe;
        bench.state.dr[0] = address;
        bench.state.dr7 = 0x400 | 1 | 0b0001 << 16;
        let outcome = bench.run();
        // One byte before the access.
        if hit && address != DATA + 0xffd {
            outcome.expect_at(1, None, 1);
        } else {
            outcome.halted_before(3);
        }
    }
}

#[test]
fn several_hits_and_a_step_are_one_exception() {
    let mut bench = Bench::long(|a| {
        a.movsd()?;
        a.hlt()
    });
    bench.state.gpr[RSI] = DATA;
    bench.state.gpr[RDI] = DATA + 0x100;
    bench.state.dr = [DATA, DATA + 0x103, DATA + 0x200, DATA + 0x100];
    // Reads and writes of one byte each, but the last: writes of four.
    bench.state.dr7 = 0x400 | 0x55 | 0b0011 << 16 | 0b0011 << 20 | 0b0011 << 24 | 0b1101 << 28;
    bench.state.rflags |= TF;
    let outcome = bench.run();
    outcome.expect_at(1, None, 1);
    assert_eq!(outcome.state.dr6, NONE | 1 << 14 | 0b1011);
}

#[test]
fn repeated_output_traps_after_each_element() {
    let mut bench = Bench::long(|a| {
        a.rep().outsb()?;
        a.hlt()
    });
    bench.state.gpr[RCX] = 3;
    bench.state.gpr[RSI] = DATA;
    bench.state.gpr[RDX] = 0x70;
    bench.state.dr[0] = 0x70;
    bench.state.dr7 = 0x400 | 1 | 0b0010 << 16;
    bench.state.cr4 |= 1 << 3;
    bench.handler(64, 1, |a| {
        a.inc(r15)?;
        a.iretq()
    });
    let outcome = bench.run();
    outcome.halted_before(2);
    assert_eq!(outcome.register(15), 3);
    assert_eq!(outcome.bus.log.len(), 3);
}

#[test]
fn an_instruction_breakpoint_is_a_linear_address_of_a_first_byte() {
    let bench = |address: u64| {
        let mut bench = Bench::protected(|_| Ok(()));
        bench.code(32, CODE, |a| {
            a.mov(eax, 1)?;
            a.hlt()
        });
        bench.segment(1, SPARE, CODE32, CODE - 0x100, u32::MAX);
        bench.state.rip = 0x100;
        bench.state.dr[0] = address;
        bench.state.dr7 = 0x400 | 1;
        bench.run()
    };
    bench(CODE).expect(1, None, 0x100);
    for elsewhere in [CODE + 1, 0x100, CODE | 1 << 32] {
        assert_eq!(bench(elsewhere).state.rip, 0x106);
    }
}
