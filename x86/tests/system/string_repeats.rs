//! REP: each iteration is a step; faults and limits in the middle leave whole iterations.

use iced_x86::code_asm::*;

use crate::bench::*;

#[test]
fn a_fault_in_the_middle_leaves_whole_iterations() {
    let mut bench = Bench::long(|a| {
        a.rep().movsd()?;
        a.hlt()
    });
    bench.state.gpr[RSI] = DATA;
    bench.state.gpr[RDI] = DATA + 0x1ff0;
    bench.state.gpr[RCX] = 10;
    bench.map(DATA + 0x2000, 0);
    let outcome = bench.run();
    let trap = outcome.expect(14, Some(2), CODE);
    assert_ne!(trap.flags & RF, 0);
    let left = [RCX, RSI, RDI].map(|register| outcome.state.gpr[register]);
    assert_eq!(left, [6, DATA + 16, DATA + 0x2000]);
    // Four iterations and the delivery.
    assert_eq!(
        (outcome.state.steps, outcome.state.rep_steps),
        (6, 4),
        "HLT in the handler too"
    );
}

#[test]
fn the_instruction_goes_on_after_the_handler() {
    let mut bench = Bench::long(|a| {
        a.rep().stosq()?;
        a.hlt()
    });
    let hole = DATA + 0x1000;
    bench.map(hole, 0);
    let entry = bench.entry_address(hole, 12);
    bench.handler(64, 14, |a| {
        a.mov(byte_ptr(entry), 3)?;
        a.mov(word_ptr(entry + 1), (hole >> 8) as i32)?;
        a.add(rsp, 8)?;
        a.iretq()
    });
    bench.state.gpr[RDI] = DATA + 0xff0;
    bench.state.gpr[RCX] = 5;
    bench.state.gpr[RAX] = 0x77;
    let outcome = bench.run();
    assert_eq!(outcome.register(RCX), 0);
    assert_eq!(
        [0, 8, 16, 24, 32].map(|at| outcome.read64(DATA + 0xff0 + at)),
        [0x77; 5]
    );
    assert_eq!(outcome.state.rflags & RF, 0);
}

#[test]
fn no_iterations_are_one_step() {
    let mut bench = Bench::long(|a| {
        a.rep().movsb()?;
        a.repe().cmpsb()?;
        a.repne().scasb()?;
        a.rep().stosb()?;
        a.rep().lodsb()?;
        a.hlt()
    });
    bench.state.gpr[RSI] = 1 << 50;
    bench.state.gpr[RDI] = 1 << 50;
    let outcome = bench.run();
    outcome.halted_before(6);
    assert_eq!(
        (outcome.state.steps, outcome.state.rep_steps, outcome.units),
        (6, 0, 48)
    );
}

#[test]
fn comparisons_stop_where_they_differ() {
    let mut bench = Bench::long(|a| {
        a.repe().cmpsb()?;
        a.hlt()
    });
    bench.state.gpr[RSI] = DATA;
    bench.state.gpr[RDI] = DATA + 0x100;
    bench.state.gpr[RCX] = 100;
    bench.write(DATA + 0x105, &[1]);
    let outcome = bench.run();
    assert_eq!(outcome.register(RCX), 94);
    assert_eq!(outcome.state.rflags & (ZF | CF), CF);
    assert_eq!(outcome.state.rep_steps, 6);
}

#[test]
fn backwards_and_over_page_ends() {
    let mut bench = Bench::long(|a| {
        a.std()?;
        a.rep().movsw()?;
        a.hlt()
    });
    bench.state.gpr[RSI] = DATA + 0x1004;
    bench.state.gpr[RDI] = DATA + 0x3005;
    bench.state.gpr[RCX] = 6;
    bench.write(DATA + 0xffa, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    let outcome = bench.run();
    assert_eq!(outcome.register(RDI), DATA + 0x2ff9);
    assert_eq!(outcome.read64(DATA + 0x2ffb), 0x0807_0605_0403_0201);
}

#[test]
fn overlapping_copies_go_element_by_element() {
    let mut bench = Bench::long(|a| {
        a.rep().movsb()?;
        a.hlt()
    });
    bench.state.gpr[RSI] = DATA;
    bench.state.gpr[RDI] = DATA + 3;
    bench.state.gpr[RCX] = 13;
    bench.write(DATA, b"abc");
    let outcome = bench.run();
    outcome.register(RCX);
    assert_eq!(
        &outcome.ram.page((DATA >> 12) as usize)[..16],
        b"abcabcabcabcabca"
    );
}

#[test]
fn an_interrupt_in_the_middle_saves_rf_and_the_instruction_goes_on() {
    let mut bench = Bench::long(|a| {
        a.rep().stosb()?;
        a.hlt()
    });
    bench.handler(64, 0x50, |a| {
        a.mov(rbx, qword_ptr(rsp + 16))?;
        a.mov(rdx, rcx)?;
        a.iretq()
    });
    bench.state.rflags |= IF;
    bench.state.gpr[RDI] = DATA;
    bench.state.gpr[RCX] = 100;
    bench.at(37, Event::Interrupt(0x50));
    let outcome = bench.run();
    assert_eq!((outcome.register(RCX), outcome.register(RDX)), (0, 63));
    assert_eq!(outcome.register(RBX), 2 | IF | RF);
    assert_eq!(outcome.state.rflags, 2 | IF);
}

#[test]
fn a_copy_over_its_own_page_table() {
    // STOSQ clears the entries of the pages it is about to reach.
    let mut bench = Bench::long(|a| {
        a.rep().stosq()?;
        a.hlt()
    });
    let linear = 0x4000_0000;
    bench.map(linear, 0);
    let table = bench.entry_address(linear, 12) & !0xfff;
    // Page 0 of the region is the table itself.
    bench.write64(table, table | P | W);
    bench.state.gpr[RDI] = linear + 0x10;
    bench.state.gpr[RAX] = table | P | W;
    bench.state.gpr[RCX] = 0x200;
    let outcome = bench.run();
    // Entry 1 stays absent, the others now show the table.
    let trap = outcome.expect(14, Some(2), CODE);
    assert_ne!(trap.flags & RF, 0);
    assert_eq!(outcome.state.cr2, linear + 0x1000);
    assert_eq!(outcome.state.gpr[RCX], 2);
}

#[test]
fn a_store_that_unmaps_itself_is_the_last() {
    let mut bench = Bench::long(|a| {
        a.rep().stosb()?;
        a.hlt()
    });
    let linear = 0x4000_0000;
    bench.map(linear, 0);
    let table = bench.entry_address(linear, 12) & !0xfff;
    bench.write64(table, table | P | W);
    bench.state.gpr[RDI] = linear;
    bench.state.gpr[RCX] = 8;
    let outcome = bench.run();
    outcome.expect(14, Some(2), CODE);
    assert_eq!(outcome.state.gpr[RCX], 7);
}
