//! Hardware task switches: by JMP, CALL, interrupts and IRET, and what goes wrong on the way.

use iced_x86::code_asm::*;

use crate::bench::*;

/// The TSS of the task that tests switch to; its selector is SPARE.
const OTHER: u64 = 0x9400;
/// A task gate to it.
const GATE: u16 = SPARE + 8;
/// Its code.
const OTHER_CODE: u64 = CODE + 0x800;
/// Its stack pointer.
const OTHER_STACK: u64 = 0x2_8000;
/// An available 32-bit TSS.
const AVAILABLE: u16 = 0x89;
const BUSY: u16 = 0x8b;
/// Selectors in the TSS.
const ES: u64 = 72;
const CS: u64 = 76;
const SS: u64 = 80;
const DS: u64 = 84;
const LDT: u64 = 96;
/// CR0.TS.
const TS: u64 = 8;

/// Far JMP or CALL, direct.
fn far(a: &mut CodeAssembler, call: bool, selector: u16) -> Result<(), iced_x86::IcedError> {
    a.db(&[if call { 0x9a } else { 0xea }, 0, 0, 0, 0])?;
    a.db(&selector.to_le_bytes())
}

/// Level 0 with another task that halts at once.
fn bench(program: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Bench {
    let mut bench = Bench::protected(program);
    bench.describe(SPARE, AVAILABLE, OTHER as u32, 0x67);
    gate(&mut bench, 0x85, SPARE);
    bench.code(32, OTHER_CODE, |a| a.hlt());
    bench.write32(OTHER + 4, STACK0 as u32);
    bench.write16(OTHER + 8, KERNEL_DS);
    bench.write32(OTHER + 32, OTHER_CODE as u32);
    bench.write32(OTHER + 36, 2);
    for register in 0..8 {
        bench.write32(OTHER + 40 + 4 * register, 0x1111_1111 * register as u32);
    }
    bench.write32(OTHER + 56, OTHER_STACK as u32);
    for (slot, selector) in [KERNEL_DS, KERNEL_CS, KERNEL_DS, KERNEL_DS, 0, 0]
        .into_iter()
        .enumerate()
    {
        bench.write16(OTHER + 72 + 4 * slot as u64, selector);
    }
    bench
}

/// The other task at level 3, whose faults find a stack whatever its own is like.
fn user(bench: &mut Bench) {
    for slot in [0u64, 2, 3] {
        bench.write16(OTHER + 72 + 4 * slot, USER_DS);
    }
    bench.write16(OTHER + 76, USER_CS32);
}

/// A task gate in GATE.
fn gate(bench: &mut Bench, rights: u64, selector: u16) {
    bench.write64(
        GDT + u64::from(GATE),
        u64::from(selector) << 16 | rights << 40,
    );
}

fn rights(outcome: &Outcome, selector: u16) -> u16 {
    (outcome.read64(GDT + u64::from(selector)) >> 40) as u16 & 0xff
}

#[test]
fn a_jump_saves_the_old_task_and_loads_the_new() {
    for selector in [SPARE, GATE] {
        let mut bench = bench(|a| {
            a.mov(eax, 0x1234_5678)?;
            a.stc()?;
            far(a, false, selector)?;
            a.nop()
        });
        bench.state.dr7 = 0x7ff;
        bench.state.dr = [0xdead_0000; 4];
        bench.state.dr7 &= !0xff;
        bench.state.dr7 |= 0x55;
        // Breakpoints on execution elsewhere; the local ones go with the switch.
        let outcome = bench.run();
        assert_eq!(outcome.end, End::Halted);
        assert_eq!(outcome.state.rip, OTHER_CODE + 1);
        assert_eq!(outcome.read32(TSS + 32) as u64, CODE + 13);
        assert_eq!(u64::from(outcome.read32(TSS + 36)), 2 | CF);
        assert_eq!(outcome.read32(TSS + 40), 0x1234_5678);
        assert_eq!(u64::from(outcome.read32(TSS + 56)), STACK);
        let saved = [0, 1, 2, 3].map(|slot| outcome.read32(TSS + 72 + 4 * slot) as u16);
        assert_eq!(saved, [KERNEL_DS, KERNEL_CS, KERNEL_DS, KERNEL_DS]);
        let state = &outcome.state;
        assert_eq!(state.gpr[RCX], 0x1111_1111);
        assert_eq!(state.gpr[RDI], 0x7777_7777);
        assert_eq!(state.gpr[RSP], OTHER_STACK);
        assert_eq!(state.rflags, 2);
        assert_eq!(state.cr0 & TS, TS);
        assert_eq!(state.dr7 & 0x155, 0);
        assert_eq!((state.tr.selector, state.tr.rights), (SPARE, BUSY));
        assert_eq!((state.tr.base, state.tr.limit), (OTHER, 0x67));
        assert_eq!(state.segments[4].selector, 0);
        assert_eq!(rights(&outcome, TASK), AVAILABLE);
        assert_eq!(rights(&outcome, SPARE), BUSY);
        assert_eq!(outcome.read32(OTHER) as u16, 0, "no link");
    }
}

#[test]
fn a_call_nests_and_iret_returns() {
    let mut bench = bench(|a| {
        far(a, true, SPARE)?;
        a.mov(ebx, 7)?;
        a.hlt()
    });
    bench.code(32, OTHER_CODE, |a| {
        a.pushfd()?;
        a.pop(dword_ptr(DATA))?;
        a.iretd()?;
        a.hlt()
    });
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), 7);
    outcome.halted_before(3);
    assert_eq!(outcome.read32(OTHER) as u16, TASK, "the link");
    assert_eq!(u64::from(outcome.read32(DATA)), 2 | NT);
    assert_eq!(outcome.state.rflags, 2);
    assert_eq!(outcome.state.tr.selector, TASK);
    assert_eq!(rights(&outcome, TASK), BUSY);
    assert_eq!(rights(&outcome, SPARE), AVAILABLE);
    // NT is not saved, and the task would go on after its IRET.
    assert_eq!(outcome.read32(OTHER + 36), 2);
    assert_eq!(
        u64::from(outcome.read32(OTHER + 32)),
        OTHER_CODE + 8,
        "pushfd, pop, iretd"
    );
}

#[test]
fn an_interrupt_through_a_task_gate() {
    let task = |program: fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>, vector: u64| {
        let mut bench = bench(program);
        bench.write64(IDT + 8 * vector, u64::from(SPARE) << 16 | 0x85 << 40);
        bench
    };
    let outcome = task(
        |a| {
            a.int(0x40)?;
            a.hlt()
        },
        0x40,
    )
    .run();
    assert_eq!(outcome.register(RSP), OTHER_STACK);
    assert_eq!(outcome.state.rflags, 2 | NT);
    assert_eq!(u64::from(outcome.read32(TSS + 32)), CODE + 2);
    assert_eq!(outcome.read32(OTHER) as u16, TASK);
    assert_eq!(rights(&outcome, TASK), BUSY);
    // A fault saves its own instruction, with RF, and pushes its error code on the new stack.
    let outcome = task(
        |a| {
            a.mov(eax, 0xff8)?;
            a.mov(ds, eax)?;
            a.hlt()
        },
        13,
    )
    .run();
    assert_eq!(outcome.register(RSP), OTHER_STACK - 4);
    assert_eq!(outcome.read32(OTHER_STACK - 4), 0xff8);
    assert_eq!(u64::from(outcome.read32(TSS + 32)), outcome.ips[1]);
    assert_eq!(u64::from(outcome.read32(TSS + 36)), 2 | RF);
}

#[test]
fn tasks_are_checked_before_the_old_one_is_left() {
    let refused = |bench: Bench, vector: u8, error: u16| {
        let outcome = bench.run();
        let trap = outcome.expect(vector, Some(u32::from(error)), CODE);
        assert_eq!(trap.flags, 2 | RF);
        assert_eq!(outcome.state.tr.selector, TASK);
        assert_eq!(rights(&outcome, TASK), BUSY);
    };
    for call in [false, true] {
        let direct = || bench(|a| far(a, call, SPARE));
        let gated = || bench(|a| far(a, call, GATE));
        let mut busy = direct();
        busy.describe(SPARE, BUSY, OTHER as u32, 0x67);
        refused(busy, 13, SPARE);
        let mut absent = direct();
        absent.describe(SPARE, 0x09, OTHER as u32, 0x67);
        refused(absent, 11, SPARE);
        let mut short = direct();
        short.describe(SPARE, AVAILABLE, OTHER as u32, 0x66);
        refused(short, 10, SPARE);
        let mut short = direct();
        short.describe(SPARE, 0x81, OTHER as u32, 0x2a);
        refused(short, 10, SPARE);
        let mut absent = gated();
        gate(&mut absent, 0x05, SPARE);
        refused(absent, 11, GATE);
        let mut local = gated();
        gate(&mut local, 0x85, SPARE | 4);
        refused(local, 13, SPARE | 4);
        let mut beyond = gated();
        gate(&mut beyond, 0x85, 0x1000);
        refused(beyond, 13, 0x1000);
        let mut data = gated();
        gate(&mut data, 0x85, KERNEL_DS);
        refused(data, 13, KERNEL_DS);
        let mut busy = gated();
        busy.describe(SPARE, BUSY, OTHER as u32, 0x67);
        refused(busy, 13, SPARE);
        refused(bench(|a| far(a, call, SPARE | 3)), 13, SPARE);
        refused(bench(|a| far(a, call, GATE | 1)), 13, GATE);
    }
}

#[test]
fn iret_checks_the_link() {
    let nested = |link: u16| {
        let mut bench = bench(|a| a.iretd());
        bench.state.rflags |= NT;
        bench.write16(TSS, link);
        bench
    };
    let refused = |bench: Bench, vector: u8, error: u16| {
        let outcome = bench.run();
        outcome.expect(vector, Some(u32::from(error)), CODE);
    };
    refused(nested(SPARE), 10, SPARE);
    refused(nested(SPARE | 4), 10, SPARE | 4);
    refused(nested(KERNEL_DS), 10, KERNEL_DS);
    refused(nested(0x1000), 10, 0x1000);
    let mut absent = nested(SPARE);
    absent.describe(SPARE, 0x0b, OTHER as u32, 0x67);
    refused(absent, 11, SPARE);
    let mut back = nested(SPARE);
    back.describe(SPARE, BUSY, OTHER as u32, 0x67);
    let outcome = back.run();
    assert_eq!(outcome.register(RSP), OTHER_STACK);
    assert_eq!(rights(&outcome, TASK), AVAILABLE);
    assert_eq!(rights(&outcome, SPARE), BUSY);
    assert_eq!(outcome.state.rflags & NT, 0);
}

#[test]
fn faults_of_the_new_task_are_its_own() {
    let loaded = |offset: u64, selector: u16| {
        let mut bench = bench(|a| far(a, true, SPARE));
        user(&mut bench);
        bench.describe(GATE + 8, CODE32 | DPL3 & !0x80, 0, u32::MAX);
        bench.describe(GATE + 16, (DATA32 | DPL3) & !0x80, 0, u32::MAX);
        bench.describe(GATE + 24, (CODE32 | DPL3) & !0x80, 0, u32::MAX);
        bench.describe(GATE + 32, 0x02, 0, 7);
        bench.write16(OTHER + offset, selector);
        bench
    };
    let absent_data = (GATE + 16) | 3;
    let absent_code = (GATE + 24) | 3;
    for (offset, selector, vector, error) in [
        (CS, 3, 10, 0),
        (CS, USER_DS, 10, USER_DS & !3),
        (CS, KERNEL_CS | 3, 10, KERNEL_CS),
        (CS, absent_code, 11, absent_code & !3),
        (SS, 3, 10, 0),
        (SS, KERNEL_DS | 3, 10, KERNEL_DS),
        (SS, USER_CS32, 10, USER_CS32 & !3),
        (SS, absent_data, 12, absent_data & !3),
        (DS, KERNEL_DS, 10, KERNEL_DS),
        (ES, absent_data, 11, absent_data & !3),
        (ES, 0xff8, 10, 0xff8),
        (LDT, GATE, 10, GATE),
        (LDT, GATE + 32, 10, GATE + 32),
        (LDT, 12, 10, 12),
    ] {
        let outcome = loaded(offset, selector).run();
        let trap = outcome.expect(vector, Some(u32::from(error)), OTHER_CODE);
        assert_eq!(trap.rsp, OTHER_STACK, "{offset} {selector:#x}");
        assert_eq!(outcome.state.tr.selector, SPARE);
        assert_eq!(u64::from(outcome.read32(TSS + 32)), CODE + 7);
    }
    let mut beyond = loaded(DS, USER_DS);
    beyond.describe(USER_CS32, (CODE32 | DPL3) & !0x8000, 0, 0xffff);
    let outcome = beyond.run();
    outcome.expect(13, Some(0), OTHER_CODE);
}

#[test]
fn an_event_through_a_gate_tells_so_in_the_error_code() {
    let mut bench = bench(|a| a.ud2());
    user(&mut bench);
    bench.write16(OTHER + 84, KERNEL_DS);
    bench.write64(IDT + 8 * 6, u64::from(SPARE) << 16 | 0x85 << 40);
    let outcome = bench.run();
    outcome.expect(10, Some(u32::from(KERNEL_DS | 1)), OTHER_CODE);
    assert_eq!(u64::from(outcome.read32(TSS + 32)), CODE);
}

#[test]
fn the_debug_trap_of_a_task() {
    let mut bench = bench(|a| far(a, false, SPARE));
    bench.write16(OTHER + 100, 1);
    let outcome = bench.run();
    outcome.expect(1, None, OTHER_CODE);
    assert_eq!(outcome.state.dr6, 0xffff_0ff0 | 1 << 15);
}

#[test]
fn sixteen_bit_tasks() {
    let mut bench = bench(|a| {
        a.mov(eax, 0x1234_5678)?;
        far(a, true, SPARE)?;
        a.hlt()
    });
    bench.describe(SPARE, 0x81, OTHER as u32, 0x2b);
    for offset in 0..=0x2b {
        bench.write(OTHER + offset, &[0]);
    }
    bench.describe(GATE, CODE16, OTHER_CODE as u32, 0xffff);
    bench.write16(OTHER + 14, 0);
    bench.write16(OTHER + 16, 3);
    bench.write16(OTHER + 18, 0xabcd);
    bench.write16(OTHER + 26, 0x8000);
    for (offset, selector) in [(34, 0), (36, GATE), (38, KERNEL_DS16), (40, KERNEL_DS16)] {
        bench.write16(OTHER + offset, selector);
    }
    bench.code(16, OTHER_CODE, |a| {
        a.mov(word_ptr(0x7000).ds(), ax)?;
        a.inc(ax)?;
        a.iret()
    });
    let outcome = bench.run();
    assert_eq!(outcome.register(RAX), 0x1234_5678);
    assert_eq!(outcome.read32(0x7000) as u16, 0xabcd);
    assert_eq!(outcome.read32(OTHER) as u16, TASK);
    assert_eq!(outcome.read32(OTHER + 18) as u16, 0xabce);
    assert_eq!(outcome.read32(OTHER + 16) as u16 & 1, 1);
    assert_eq!(rights(&outcome, SPARE), 0x81);
}

#[test]
fn a_task_in_virtual_8086_mode() {
    let mut bench = bench(|a| far(a, false, SPARE));
    bench.write32(OTHER + 32, 0x10);
    bench.write32(OTHER + 36, (2 | VM) as u32);
    for (slot, selector) in [0x3001u16, 0x2000, 0x3002, 0x3003, 0x3004, 0x3005]
        .into_iter()
        .enumerate()
    {
        bench.write16(OTHER + 72 + 4 * slot as u64, selector);
    }
    bench.code(16, 0x2_0010, |a| a.ud2());
    let outcome = bench.run();
    let trap = outcome.expect(6, None, 0x10);
    assert_eq!((trap.cs, trap.ss), (0x2000, 0x3002));
    assert_eq!(trap.flags, 2 | VM | RF);
}

#[test]
fn a_task_has_its_own_address_space() {
    let mut bench = bench(|a| far(a, false, SPARE));
    bench.page_32();
    // The other root shows DATA where USER_DATA is.
    let root = 0x10_0000;
    for table in 0..2 {
        let entry = (ROOT + 0x1000 * (table + 1)) as u32 | 7;
        bench.write32(root + 4 * table, entry);
    }
    bench.write32(root + 4 * 8, (ROOT + 0x1000) as u32 | 7);
    bench.write32(OTHER + 28, root as u32);
    bench.write32(DATA, 0x5a5a);
    bench.code(32, OTHER_CODE, |a| {
        a.mov(eax, dword_ptr((8u32 << 22) + DATA as u32))?;
        a.hlt()
    });
    let outcome = bench.run();
    assert_eq!(outcome.register(RAX), 0x5a5a);
    assert_eq!(outcome.state.cr3, root);
}

#[test]
fn a_page_fault_on_the_way_leaves_the_old_task() {
    let mut bench = bench(|a| far(a, false, SPARE));
    bench.page_32();
    bench.describe(SPARE, AVAILABLE, 0x30_0fc0, 0x67);
    // The second page of the new TSS is absent.
    bench.write32(ROOT + 0x1000 + 4 * 0x301, 0);
    let outcome = bench.run();
    outcome.expect(14, Some(0), CODE);
    assert_eq!(outcome.state.cr2, 0x30_1000);
    assert_eq!(outcome.state.tr.selector, TASK);
    assert_eq!(rights(&outcome, SPARE), AVAILABLE);
}

#[test]
fn there_are_no_tasks_in_long_mode() {
    let mut bench = Bench::long(|a| {
        a.db(&[0xff, 0x2c, 0x25])?;
        a.db(&(DATA as u32).to_le_bytes())
    });
    bench.describe(SPARE, AVAILABLE, OTHER as u32, 0x67);
    bench.write16(DATA + 4, SPARE);
    bench.run().expect(13, Some(u32::from(SPARE)), CODE);
    let mut nested = Bench::long(|a| a.iretq());
    nested.state.rflags |= NT;
    nested.run().expect(13, Some(0), CODE);
}
