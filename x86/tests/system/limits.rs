//! Positions: steps, units, and where `run` stops. Every test of the bench checks stops as well.

use iced_x86::code_asm::*;

use crate::bench::*;

#[test]
fn steps_and_units_are_counted_exactly() {
    let mut bench = Bench::long(|a| {
        a.nop()?; // 8
        a.rep().stosb()?; // 300 iterations: 300
        a.rep().stosb()?; // RCX = 0: 8
        a.int(0x40)?; // 8, its delivery included
        a.hlt()
    });
    bench.handler(64, 0x40, |a| {
        a.ud2() // the delivery of #UD: 8
    });
    bench.handler(64, 6, |a| {
        a.stosb()?; // without REP: 8
        a.hlt() // 8
    });
    bench.state.gpr[RDI] = DATA;
    bench.state.gpr[RCX] = 300;
    let outcome = bench.run();
    assert_eq!(outcome.end, End::Halted);
    assert_eq!(outcome.read64(outcome.state.gpr[RSP]), handler_of(0x40));
    assert_eq!(outcome.state.steps, 1 + 300 + 1 + 1 + 1 + 1 + 1);
    assert_eq!(outcome.state.rep_steps, 300);
    assert_eq!(outcome.units, 8 * 6 + 300);
}

#[test]
fn an_interrupt_is_a_step_of_its_own() {
    let mut bench = Bench::long(|a| {
        a.nop()?;
        a.hlt()
    });
    bench.state.rflags |= IF;
    bench.at(1, Event::Interrupt(0x50));
    assert_eq!(bench.run().state.steps, 3, "NOP, delivery, HLT");
}

#[test]
fn a_triple_fault_is_one_step_and_the_last() {
    let mut bench = Bench::long(|a| {
        a.nop()?;
        a.ud2()
    });
    bench.state.idtr.limit = 0;
    let outcome = bench.run();
    assert_eq!(outcome.end, End::Shutdown);
    assert_eq!(outcome.state.steps, 2);
}

#[test]
fn long_repetitions_stop_at_any_iteration() {
    let mut bench = Bench::long(|a| {
        a.rep().movsb()?;
        a.hlt()
    });
    bench.state.gpr[RSI] = DATA;
    bench.state.gpr[RDI] = DATA + 0x2000;
    bench.state.gpr[RCX] = 5000;
    bench.last = 1234;
    let outcome = bench.run();
    assert_eq!(outcome.end, End::Steps);
    assert_eq!(
        (outcome.state.steps, outcome.state.gpr[RCX]),
        (1234, 5000 - 1234)
    );
    assert_eq!(outcome.units, 1234);
    assert_ne!(outcome.state.rflags & RF, 0, "it has begun");
}

#[test]
fn a_loop_over_many_blocks_stops_anywhere() {
    let mut bench = Bench::long(|a| {
        let mut top = a.create_label();
        let mut skip = a.create_label();
        a.set_label(&mut top)?;
        a.inc(eax)?;
        a.test(eax, 3)?;
        a.jne(skip)?;
        a.push(rax)?;
        a.pop(rbx)?;
        a.set_label(&mut skip)?;
        a.lea(rdx, qword_ptr(rdx + rax * 4))?;
        a.cmp(eax, 100)?;
        a.jb(top)?;
        a.hlt()
    });
    bench.last = 5000;
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), 100);
    assert_eq!(outcome.register(RDX), 4 * 5050);
}
