//! Accesses that the CPU makes for itself: tables and frames obey rules of their own, and the
//! same ones whatever the TLB holds.

use iced_x86::code_asm::*;

use crate::bench::*;

#[test]
fn tables_need_no_alignment_and_no_rights_of_level_3() {
    let mut bench = Bench::long_user(|a| {
        a.mov(es, ax)?;
        a.mov(ds, ax)?;
        a.ud2()
    });
    // The GDT moves to an odd address in supervisor memory.
    for selector in (0..0x60).step_by(8) {
        let value = bench.read64(GDT + selector);
        bench.write64(GDT + 0x401 + selector, value);
    }
    bench.state.gdtr.base = GDT + 0x401;
    bench.state.gpr[RAX] = u64::from(USER_DS);
    bench.state.cr0 |= 1 << 18;
    bench.state.rflags |= AC;
    bench.run().expect_at(6, None, 2);
}

#[test]
fn breakpoints_on_tables_hit_every_time() {
    let mut bench = Bench::long(|a| {
        a.mov(es, ax)?;
        a.mov(ds, ax)?;
        a.mov(fs, ax)?;
        a.hlt()
    });
    bench.handler(64, 1, |a| {
        a.inc(ebx)?;
        a.iretq()
    });
    bench.state.gpr[RAX] = u64::from(USER_DS);
    bench.state.dr[0] = GDT + u64::from(USER_DS & !7);
    bench.state.dr7 = 0x400 | 1 | 0b1011 << 16;
    assert_eq!(bench.run().register(RBX), 3);
}

#[test]
fn the_accessed_bit_of_a_descriptor_is_a_write() {
    let bench = |rights: u16| {
        let mut bench = Bench::long(|a| {
            a.mov(es, ax)?;
            a.hlt()
        });
        bench.describe(SPARE, rights, 0, 0xfff);
        bench.state.gpr[RAX] = u64::from(SPARE);
        bench.map(GDT, GDT | P);
        bench.run()
    };
    bench(0x93).halted_before(2);
    let outcome = bench(0x92);
    outcome.expect(14, Some(3), CODE);
    assert_eq!(outcome.state.segments[0].selector, KERNEL_DS);
}

#[test]
fn a_table_over_a_page_end_faults_with_the_second_page() {
    let mut bench = Bench::long_user(|a| a.mov(es, ax));
    let table = DATA + 0x1000 - 0x24;
    for selector in (0..0x60).step_by(8) {
        let value = bench.read64(GDT + selector);
        if selector < 0x20 {
            bench.write64(table + selector, value);
        }
    }
    bench.write(table + 0x20, &bench.read64(GDT + 0x20).to_le_bytes());
    bench.state.gdtr.base = table;
    bench.state.gpr[RAX] = u64::from(USER_DS);
    bench.map(DATA + 0x1000, 0);
    let outcome = bench.run();
    outcome.expect(14, Some(0), USER_CODE);
    assert_eq!(outcome.state.cr2, DATA + 0x1000);
}

#[test]
fn frames_go_through_page_tables_that_they_change() {
    // The frame's upper part falls on the entry that maps its lower part, and unmaps it.
    let bench = |top: u64| {
        let mut bench = Bench::protected(|a| {
            a.mov(eax, dword_ptr(edx))?;
            a.mov(dword_ptr(edx), eax)?;
            a.int(0x40)
        });
        bench.page_pae();
        let (table, base) = (0x18_0000u64, 8u64 << 21);
        bench.write64(ROOT + 0x1000 + 8 * 8, table | 7);
        bench.write64(table, (DATA + 0x5000) | P | W);
        bench.write64(table + 8, table | P | W);
        bench.state.gpr[RDX] = base + 0xff0;
        bench.state.gpr[RSP] = base + top;
        bench.run()
    };
    // EFLAGS and CS become entry 0: EIP has nowhere to go, nor has the fault.
    assert_eq!(bench(0x1008).end, End::Shutdown);
    let outcome = bench(0x1000);
    assert_eq!(outcome.end, End::Halted);
    assert_eq!(outcome.read32(DATA + 0x5ffc), 2);
}
