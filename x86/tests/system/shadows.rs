//! What delays an event by one instruction: STI, loads of SS; and what HLT does in their shadow.

use iced_x86::code_asm::*;

use crate::bench::*;

#[test]
fn sti_delays_by_one_instruction() {
    let mut bench = Bench::long(|a| {
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    });
    bench.at(0, Event::Interrupt(0x50));
    bench.run().expect(0x50, None, CODE + 2);
}

#[test]
fn a_second_sti_opens_no_new_shadow() {
    let mut bench = Bench::long(|a| {
        a.sti()?;
        a.sti()?;
        a.nop()?;
        a.hlt()
    });
    bench.at(0, Event::Interrupt(0x50));
    bench.run().expect(0x50, None, CODE + 2);
}

#[test]
fn cli_in_the_shadow_of_sti_lets_nothing_in() {
    let mut bench = Bench::long(|a| {
        a.sti()?;
        a.cli()?;
        a.nop()?;
        a.hlt()
    });
    bench.at(0, Event::Interrupt(0x50));
    assert_eq!(bench.run().state.rip, CODE + 4);
}

#[test]
fn sti_hlt_is_woken_by_what_waited() {
    let mut bench = Bench::long(|a| {
        a.sti()?;
        a.hlt()?;
        a.hlt()
    });
    bench.at(0, Event::Interrupt(0x50));
    bench.run().expect(0x50, None, CODE + 2);
}

#[test]
fn a_load_of_ss_delays_interrupts_and_nmis() {
    let mut bench = Bench::long(|a| {
        a.mov(ss, ax)?;
        a.nop()?;
        a.hlt()
    });
    bench.state.gpr[RAX] = u64::from(KERNEL_DS);
    bench.state.rflags |= IF;
    bench.at(1, Event::Interrupt(0x50));
    bench.run().expect_at(0x50, None, 2);
    let mut nmi = Bench::protected(|a| {
        a.pop(ss)?;
        a.nop()?;
        a.hlt()
    });
    nmi.state.gpr[RSP] = STACK - 4;
    nmi.write32(STACK - 4, u32::from(KERNEL_DS));
    nmi.at(1, Event::Nmi);
    nmi.run().expect_at(2, None, 2);
}

#[test]
fn lss_opens_no_shadow() {
    let mut bench = Bench::protected(|a| {
        a.lss(esp, fword_ptr(DATA as u32))?;
        a.nop()?;
        a.hlt()
    });
    bench.write32(DATA, STACK as u32 - 16);
    bench.write16(DATA + 4, KERNEL_DS);
    bench.at(1, Event::Nmi);
    let outcome = bench.run();
    outcome.expect_at(2, None, 1);
    assert_eq!(outcome.state.gpr[RSP], STACK - 16 - 12);
}

#[test]
fn loads_of_other_segments_open_no_shadow() {
    let mut bench = Bench::long(|a| {
        a.mov(ds, ax)?;
        a.nop()?;
        a.hlt()
    });
    bench.state.gpr[RAX] = u64::from(KERNEL_DS);
    bench.state.rflags |= IF;
    bench.at(1, Event::Interrupt(0x50));
    bench.run().expect_at(0x50, None, 1);
}

#[test]
fn a_fault_in_the_shadow_ends_it() {
    let mut bench = Bench::long(|a| {
        a.mov(ss, ax)?;
        a.ud2()
    });
    bench.state.gpr[RAX] = u64::from(KERNEL_DS);
    bench.at(1, Event::Nmi);
    let outcome = bench.run();
    // #UD first, then the NMI before its handler's first instruction.
    let trap = outcome.expect(2, None, handler_of(6));
    assert_eq!(trap.flags & RF, 0);
}

#[test]
fn hlt_with_a_pending_nmi_goes_on() {
    let mut bench = Bench::long(|a| {
        a.hlt()?;
        a.mov(ebx, 5u32)?;
        a.hlt()
    });
    bench.handler(64, 2, |a| a.iretq());
    bench.at(1, Event::Nmi);
    assert_eq!(bench.run().register(RBX), 5);
}

#[test]
fn hlt_needs_level_0() {
    Bench::long_user(|a| a.hlt())
        .run()
        .expect(13, Some(0), USER_CODE);
}
