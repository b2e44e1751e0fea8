//! Segment registers: loads with their checks, limits, and the instructions that ask about them.

use iced_x86::code_asm::*;

use crate::bench::*;

/// Protected mode: loads a segment register from AX, with a descriptor in SPARE.
fn load(register: AsmRegisterSegment, selector: u16, rights: u16) -> Bench {
    let mut bench = Bench::protected(|a| {
        a.mov(register, ax)?;
        a.hlt()
    });
    bench.describe(SPARE, rights, DATA as u32, 0xfff);
    bench.state.gpr[RAX] = u64::from(selector);
    bench
}

fn refused(bench: Bench, vector: u8, error: u16) {
    let before = bench.state.segments;
    let outcome = bench.run();
    outcome.expect(vector, Some(u32::from(error)), CODE);
    assert_eq!(outcome.state.segments, before);
}

#[test]
fn a_load_fills_the_hidden_part_and_marks_the_descriptor() {
    let outcome = load(es, SPARE, 0x92).run();
    outcome.register(RAX);
    let loaded = outcome.state.segments[0];
    assert_eq!(
        (loaded.selector, loaded.base, loaded.limit),
        (SPARE, DATA, 0xfff)
    );
    assert_eq!(loaded.rights, 0x93);
    assert_eq!(outcome.read64(GDT + u64::from(SPARE)) >> 40 & 0xff, 0x93);
}

#[test]
fn loads_are_checked() {
    refused(load(ds, 0xffc, 0x93), 13, 0xffc);
    refused(load(ds, 0x1000, 0x93), 13, 0x1000);
    // Of no table: the LDT is null.
    refused(load(ds, SPARE | 4, 0x93), 13, SPARE | 4);
    refused(load(ds, SPARE, 0x82), 13, SPARE);
    refused(load(ds, SPARE, 0x99), 13, SPARE);
    refused(load(ds, SPARE, 0x13), 11, SPARE);
    refused(load(ds, SPARE | 3, 0x93), 13, SPARE);
    refused(load(ss, SPARE, 0x91), 13, SPARE);
    refused(load(ss, SPARE | 1, 0x93), 13, SPARE);
    refused(load(ss, SPARE, 0x93 | DPL3), 13, SPARE);
    refused(load(ss, SPARE, 0x13), 12, SPARE);
    refused(load(ss, 0, 0x93), 13, 0);
    // Conforming code can be read from any level.
    assert_eq!(
        load(ds, SPARE | 3, 0x9f).run().state.segments[3].selector,
        SPARE | 3
    );
}

#[test]
fn null_selectors_wait_for_a_use() {
    let bench = Bench::protected(|a| {
        a.mov(es, ax)?;
        a.mov(ebx, dword_ptr(DATA as u32).es())
    });
    let length = assemble(32, CODE, |a| a.mov(es, ax)).len() as u64;
    bench.run().expect(13, Some(0), CODE + length);
}

#[test]
fn a_null_stack_segment_is_for_64_bit_mode_below_level_3() {
    let mut kernel = Bench::long(|a| {
        a.mov(ss, ax)?;
        a.push(rax)?;
        a.hlt()
    });
    kernel.state.gpr[RAX] = 0;
    assert_eq!(kernel.run().register(RSP), STACK - 8);
    let mut wrong = Bench::long(|a| a.mov(ss, ax));
    wrong.state.gpr[RAX] = 1;
    wrong.run().expect(13, Some(0), CODE);
    let mut user = Bench::long_user(|a| a.mov(ss, ax));
    user.state.gpr[RAX] = 3;
    user.run().expect(13, Some(0), USER_CODE);
}

#[test]
fn limits_end_segments() {
    let bench = |rights: u16, limit: u32, offset: u64, write: bool| {
        let mut bench = Bench::protected(|a| {
            if write {
                a.mov(dword_ptr(ecx), eax)?;
            } else {
                a.mov(eax, dword_ptr(ecx))?;
            }
            a.hlt()
        });
        bench.segment(3, SPARE, rights, DATA, limit);
        bench.state.gpr[RCX] = offset;
        bench.run()
    };
    let fine = |outcome: Outcome| assert_eq!(outcome.state.rip, CODE + 3);
    let faults = |outcome: Outcome| {
        outcome.expect(13, Some(0), CODE);
    };
    fine(bench(0x93, 0xfff, 0xffc, true));
    faults(bench(0x93, 0xfff, 0xffd, false));
    faults(bench(0x93, 0xfff, 0xffff_fffe, false));
    faults(bench(0x91, 0xfff, 0, true));
    fine(bench(0x91, 0xfff, 0, false));
    // Code: readable, not readable.
    fine(bench(0x9b, 0xfff, 0, false));
    faults(bench(0x99, 0xfff, 0, false));
    faults(bench(0x9b, 0xfff, 0, true));
    // Expand-down: above the limit, up to 64 KiB.
    faults(bench(0x97, 0xfff, 0xffc, false));
    faults(bench(0x97, 0xfff, 0xfff, false));
    fine(bench(0x97, 0xfff, 0x1000, true));
    fine(bench(0x97, 0xfff, 0xfffc, false));
    faults(bench(0x97, 0xfff, 0xfffd, false));
    fine(bench(0x4097, 0xfff, 0xfffd, false));
}

#[test]
fn the_stack_segment_faults_by_its_own_vector() {
    let mut bench = Bench::protected(|a| a.push(eax));
    bench.segment(2, SPARE, 0x4093, 0, 0xfff);
    bench.state.gpr[RSP] = 0x1004;
    // Delivery on the same stack fails as well: a double fault, then a shutdown.
    assert_eq!(bench.run().end, End::Shutdown);
    let mut user = Bench::protected_user(|a| a.push(eax));
    user.segment(2, SPARE | 3, 0x4093 | DPL3, 0, 0xfff);
    user.state.gpr[RSP] = 0x1004;
    user.run().expect(12, Some(0), USER_CODE);
    let mut data = Bench::protected_user(|a| a.mov(eax, dword_ptr(ebp)));
    data.segment(2, SPARE | 3, 0x4093 | DPL3, 0, 0xfff);
    data.state.gpr[5] = 0x1000;
    data.run().expect(12, Some(0), USER_CODE);
}

#[test]
fn a_16_bit_stack_wraps_at_64_kib() {
    let mut bench = Bench::protected(|a| {
        a.push(eax)?;
        a.hlt()
    });
    bench.segment(2, KERNEL_DS16, DATA16, DATA, 0xffff);
    bench.state.gpr[RSP] = 0x1234_0000;
    bench.state.gpr[RAX] = 0x5566;
    let outcome = bench.run();
    assert_eq!(outcome.register(RSP), 0x1234_fffc);
    assert_eq!(outcome.read32(DATA + 0xfffc), 0x5566);
}

#[test]
fn fs_and_gs_have_64_bit_bases() {
    let mut bench = Bench::long(|a| {
        a.mov(rax, qword_ptr(8).fs())?;
        a.mov(rbx, qword_ptr(8).ds())?;
        a.hlt()
    });
    bench.state.segments[4].base = 0xffff_ffff_ffff_0000;
    bench.map(0xffff_ffff_ffff_0000, DATA | P);
    bench.state.segments[3].base = 0x7777;
    bench.write64(DATA + 8, 11);
    bench.write64(8, 22);
    let outcome = bench.run();
    assert_eq!((outcome.register(RAX), outcome.register(RBX)), (11, 22));
}

#[test]
fn loads_from_memory_load_the_segment_and_the_register_together() {
    let mut bench = Bench::protected(|a| {
        a.les(ebx, fword_ptr(DATA as u32))?;
        a.hlt()
    });
    bench.write32(DATA, 0x1234_5678);
    bench.write16(DATA + 4, KERNEL_DS);
    assert_eq!(bench.run().register(RBX), 0x1234_5678);
    let mut bad = Bench::protected(|a| a.les(ebx, fword_ptr(DATA as u32)));
    bad.write32(DATA, 0x1234_5678);
    bad.write16(DATA + 4, 0xff0);
    let outcome = bad.run();
    outcome.expect(13, Some(0xff0), CODE);
    assert_eq!(outcome.state.gpr[RBX], 0);
}

#[test]
fn pop_of_a_segment_keeps_esp_if_it_faults() {
    let mut bench = Bench::protected(|a| a.pop(ds));
    bench.state.gpr[RSP] = STACK - 4;
    bench.write32(STACK - 4, 0xff0);
    let outcome = bench.run();
    outcome.expect(13, Some(0xff0), CODE);
    assert_eq!(outcome.state.gpr[RSP], STACK - 4 - 16);
}

#[test]
fn lar_lsl_verr_and_verw_answer_by_zf() {
    let ask = |selector: u16, rights: u16, user: bool| {
        let program = |a: &mut CodeAssembler| {
            a.lar(ebx, ecx)?;
            a.setz(al)?;
            a.lsl(edx, ecx)?;
            a.setz(ah)?;
            a.verr(cx)?;
            a.setz(byte_ptr(USER_DATA as u32))?;
            a.verw(cx)?;
            a.setz(byte_ptr(USER_DATA as u32 + 1))?;
            a.ud2()
        };
        let mut bench = if user {
            Bench::protected_user(program)
        } else {
            Bench::protected(program)
        };
        bench.describe(SPARE, rights, 0x12_3456, 0x7_8fff);
        bench.state.gpr[RCX] = u64::from(selector);
        bench.state.gpr[RBX] = 1;
        let outcome = bench.run();
        assert_eq!(outcome.trap().vector, 6);
        let memory = outcome.read32(USER_DATA);
        let bits = (outcome.state.gpr[RAX] & 1) as u32
            | (outcome.state.gpr[RAX] >> 7 & 2) as u32
            | (memory & 1) << 2
            | (memory >> 8 & 1) << 3;
        (bits, outcome.state.gpr[RBX], outcome.state.gpr[RDX])
    };
    // Bits: LAR, LSL, VERR, VERW.
    assert_eq!(ask(SPARE, 0x8093, false), (15, 0x80_9300, 0x7_8fff));
    assert_eq!(ask(SPARE, 0x0091, false).0, 7);
    assert_eq!(ask(SPARE, 0x0099, false).0, 3);
    assert_eq!(ask(SPARE | 3, 0x0093, false).0, 0);
    assert_eq!(ask(SPARE, 0x0093, true), (0, 1, 0));
    assert_eq!(ask(SPARE, 0x0093 | DPL3, true).0, 15);
    assert_eq!(ask(SPARE, 0x009f, true).0, 7);
    // An LDT has limit and rights, a call gate rights alone, an interrupt gate neither.
    assert_eq!(ask(SPARE, 0x0082, false).0, 3);
    assert_eq!(ask(SPARE, 0x008c, false).0, 1);
    assert_eq!(ask(SPARE, 0x008e, false).0, 0);
    assert_eq!(ask(0, 0x93, false).0, 0);
    assert_eq!(ask(0xff8, 0x93, false).0, 0);
}

#[test]
fn arpl_raises_rpl() {
    let bench = |selector: u64, other: u64| {
        let mut bench = Bench::protected(|a| {
            a.arpl(ax, cx)?;
            a.setz(bl)?;
            a.hlt()
        });
        bench.state.gpr[RAX] = selector;
        bench.state.gpr[RCX] = other;
        let outcome = bench.run();
        (outcome.register(RAX), outcome.register(RBX))
    };
    assert_eq!(bench(0x11, 0x23), (0x13, 1));
    assert_eq!(bench(0x13, 0x21), (0x13, 0));
    Bench::real(|a| a.db(&[0x63, 0xc8]))
        .run()
        .expect(6, None, 0);
}

#[test]
fn task_register_and_ldt() {
    let mut bench = Bench::protected(|a| {
        a.ltr(ax)?;
        a.lldt(cx)?;
        a.str(ebx)?;
        a.sldt(edx)?;
        a.mov(es, di)?;
        a.hlt()
    });
    bench.describe(SPARE, 0x89, 0x5000, 0x67);
    bench.describe(SPARE + 8, 0x82, DATA as u32, 0xf);
    let data = descriptor(0x93, 0x777, 0xff);
    bench.write64(DATA + 8, data);
    bench.state.gpr[RAX] = u64::from(SPARE);
    bench.state.gpr[RCX] = u64::from(SPARE + 8);
    bench.state.gpr[RDI] = 8 | 4;
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), u64::from(SPARE));
    assert_eq!(outcome.register(RDX), u64::from(SPARE + 8));
    assert_eq!(outcome.state.tr.base, 0x5000);
    assert_eq!(
        outcome.read64(GDT + u64::from(SPARE)) >> 40 & 15,
        11,
        "busy"
    );
    assert_eq!(outcome.state.segments[0].base, 0x777);
    let mut busy = Bench::protected(|a| a.ltr(ax));
    busy.state.gpr[RAX] = u64::from(TASK);
    busy.run().expect(13, Some(u32::from(TASK)), CODE);
    let mut absent = Bench::protected(|a| a.lldt(ax));
    absent.describe(SPARE, 0x02, 0, 0xff);
    absent.state.gpr[RAX] = u64::from(SPARE);
    absent.run().expect(11, Some(u32::from(SPARE)), CODE);
}

#[test]
fn long_mode_system_descriptors_have_16_bytes() {
    let mut bench = Bench::long(|a| {
        a.ltr(ax)?;
        a.hlt()
    });
    bench.describe(SPARE, 0x89, 0x5000, 0x67);
    bench.write64(GDT + u64::from(SPARE) + 8, 0xffff_8000);
    bench.state.gpr[RAX] = u64::from(SPARE);
    assert_eq!(bench.run().state.tr.base, 0xffff_8000_0000_5000);
    let mut bad = Bench::long(|a| a.ltr(ax));
    bad.describe(SPARE, 0x89, 0x5000, 0x67);
    bad.write64(GDT + u64::from(SPARE) + 8, 0x8000);
    bad.state.gpr[RAX] = u64::from(SPARE);
    bad.run().expect(13, Some(u32::from(SPARE)), CODE);
}

#[test]
fn umip_hides_the_tables_from_level_3() {
    for (umip, user, fine) in [(0, true, true), (1, true, false), (1, false, true)] {
        for store in 0..5 {
            let program = |a: &mut CodeAssembler| {
                match store {
                    0 => a.sgdt(ptr(USER_DATA)),
                    1 => a.sidt(ptr(USER_DATA)),
                    2 => a.sldt(eax),
                    3 => a.str(eax),
                    _ => a.smsw(eax),
                }?;
                a.ud2()
            };
            let mut bench = if user {
                Bench::long_user(program)
            } else {
                Bench::long(program)
            };
            bench.state.cr4 |= umip << 11;
            let trap = bench.run().trap();
            assert_eq!(
                trap.vector,
                if fine { 6 } else { 13 },
                "{store} {umip} {user}"
            );
        }
    }
}

#[test]
fn tables_are_stored_and_loaded_by_mode() {
    let mut long = Bench::long(|a| {
        a.sidt(ptr(DATA))?;
        a.lgdt(ptr(DATA + 16))?;
        a.sgdt(ptr(DATA + 32))?;
        a.hlt()
    });
    long.write16(DATA + 16, 0x1ff);
    long.write64(DATA + 18, 0xffff_8000_0000_8000);
    let outcome = long.run();
    assert_eq!(outcome.register(RAX), 0);
    assert_eq!(
        (outcome.read64(DATA), outcome.read64(DATA + 2)),
        (IDT << 16 | 0xfff, IDT)
    );
    assert_eq!(outcome.read64(DATA + 34), 0xffff_8000_0000_8000);
    let mut bad = Bench::long(|a| a.lidt(ptr(DATA)));
    bad.write64(DATA + 2, 1 << 47);
    bad.run().expect(13, Some(0), CODE);
    let mut real = Bench::real(|a| {
        // LGDT with a 16-bit operand takes 24 bits of base, with a 32-bit one all.
        a.db(&[0x0f, 0x01, 0x16, 0x00, 0x70])?;
        a.db(&[0x66, 0x0f, 0x01, 0x1e, 0x00, 0x70])?;
        a.hlt()
    });
    real.write16(0x7000, 0x77);
    real.write32(0x7002, 0x1234_5678);
    let outcome = real.run();
    assert_eq!(outcome.state.gdtr.base, 0x34_5678);
    assert_eq!(outcome.state.idtr.base, 0x1234_5678);
    Bench::long_user(|a| a.lgdt(ptr(USER_DATA)))
        .run()
        .expect(13, Some(0), USER_CODE);
}

#[test]
fn arpl_writes_only_what_it_raises() {
    let bench = |selector: u16, rights: u16| {
        let mut bench = Bench::protected(|a| {
            a.arpl(word_ptr(DATA), cx)?;
            a.hlt()
        });
        bench.write16(DATA, selector);
        bench.state.gpr[RCX] = 2;
        bench.segment(3, KERNEL_DS, rights, 0, u32::MAX);
        bench.run()
    };
    const READ_ONLY: u16 = DATA32 & !2;
    let outcome = bench(0xfff0, DATA32);
    assert_eq!(outcome.read32(DATA) & 0xffff, 0xfff2);
    assert_eq!(outcome.state.rflags & ZF, ZF);
    let outcome = bench(0xfff3, READ_ONLY);
    outcome.halted_before(2);
    assert_eq!(outcome.state.rflags & ZF, 0);
    bench(0xfff0, READ_ONLY).expect(13, Some(0), CODE);
}

#[test]
fn real_mode_data_ends_at_64_kib() {
    let bench = |program: &[u8], register: usize, offset: u64| {
        let mut bench = Bench::real(|a| a.db(program));
        bench.state.gpr[register] = offset;
        bench.run()
    };
    // A word at [BX], at [BP] and a byte.
    bench(&[0x8b, 0x07], RBX, 0xffff).expect(13, None, 0);
    bench(&[0x8b, 0x46, 0x00], 5, 0xffff).expect(12, None, 0);
    assert_eq!(bench(&[0x8a, 0x07, 0xf4], RBX, 0xffff).end, End::Halted);
    assert_eq!(bench(&[0x8b, 0x07, 0xf4], RBX, 0xfffe).state.rip, 3);
    // 32-bit addresses do not wrap.
    bench(&[0x67, 0x8a, 0x03], RBX, 0x1_0000).expect(13, None, 0);
}

#[test]
fn addresses_above_1_mib_do_not_wrap_in_real_mode() {
    let mut bench = Bench::real(|a| {
        a.mov(ax, word_ptr(0x20))?;
        a.hlt()
    });
    bench.segment(3, 0xffff, 0x93, 0xf_fff0, 0xffff);
    bench.write16(0x10, 1);
    bench.write16(0x10_0010, 2);
    assert_eq!(bench.run().register(RAX), 2);
}

#[test]
fn segments_of_4_gib_end_there() {
    let bench = |rights: u16, limit: u32, base: u64, offset: u64| {
        let mut bench = Bench::protected(|a| {
            a.mov(eax, dword_ptr(ecx))?;
            a.hlt()
        });
        bench.segment(3, SPARE, rights, base, limit);
        bench.state.gpr[RCX] = offset;
        bench.run()
    };
    // The linear address wraps, the offset does not.
    let wrapped = bench(0xc093, u32::MAX, DATA + 4, 0xffff_fffc);
    assert_eq!(wrapped.state.rip, CODE + 3);
    bench(0xc093, u32::MAX, DATA, 0xffff_fffd).expect(13, Some(0), CODE);
    // Expand-down, likewise.
    let wrapped = bench(0xc097, 0xfff, DATA + 4, 0xffff_fffc);
    assert_eq!(wrapped.state.rip, CODE + 3);
    bench(0xc097, 0xfff, DATA, 0xffff_fffd).expect(13, Some(0), CODE);
    bench(0xc097, u32::MAX, DATA, 0xffff_ffff).expect(13, Some(0), CODE);
}
