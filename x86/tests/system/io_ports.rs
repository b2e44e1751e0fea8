//! IN, OUT, INS and OUTS: privileges, the permission bitmap, partial progress.

use iced_x86::code_asm::*;

use crate::bench::*;

#[test]
fn ports_reach_the_bus_once_and_at_their_step() {
    let outcome = Bench::long(|a| {
        a.nop()?;
        a.in_(eax, 0x80)?;
        a.out(0x81, ax)?;
        a.mov(edx, 0x3f8)?;
        a.in_(al, dx)?;
        a.hlt()
    })
    .run();
    outcome.halted_before(6);
    let log = [
        (1, 8, Use::In(0x80, 4)),
        (2, 16, Use::Out(0x81, 2, 0x80)),
        (4, 32, Use::In(0x3f8, 1)),
    ];
    assert_eq!(outcome.bus.log, log);
    assert_eq!(outcome.register(RAX), 0xa5c3_00f8);
}

/// Level 3 access of `size` bytes to port 0x7e, with IOPL and a bitmap at offset 104 of the TSS.
fn user(iopl: u64, size: u8, bitmap: &[u8]) -> Outcome {
    let mut bench = Bench::long_user(|a| {
        match size {
            1 => a.in_(al, 0x7e),
            2 => a.in_(ax, 0x7e),
            _ => a.in_(eax, 0x7e),
        }?;
        a.ud2()
    });
    bench.state.rflags |= iopl << 12;
    bench.write16(TSS + 102, 104);
    bench.write(TSS + 104, bitmap);
    bench.state.tr.limit = 103 + bitmap.len() as u32;
    bench.run()
}

#[test]
fn the_bitmap_grants_what_iopl_does_not() {
    let mut closed = vec![0xff; 20];
    let trap = |outcome: Outcome| outcome.trap().vector;
    assert_eq!(trap(user(0, 1, &closed)), 13);
    assert_eq!(trap(user(2, 1, &closed)), 13);
    assert_eq!(trap(user(3, 1, &closed)), 6);
    closed[0x7e / 8] = 0x3f;
    assert_eq!(trap(user(0, 1, &closed)), 6);
    assert_eq!(trap(user(0, 2, &closed)), 6);
    assert_eq!(trap(user(0, 4, &closed)), 13);
    closed[0x80 / 8] = 0xfc;
    assert_eq!(trap(user(0, 4, &closed)), 6);
    // The byte after must be within the limit, even if its bits do not count.
    assert_eq!(trap(user(0, 1, &closed[..16])), 13);
    assert_eq!(trap(user(0, 1, &closed[..17])), 6);
}

#[test]
fn level_0_asks_nobody() {
    let outcome = Bench::long(|a| {
        a.in_(al, 0x7e)?;
        a.hlt()
    })
    .run();
    outcome.halted_before(2);
}

#[test]
fn strings_move_one_element_a_step() {
    let mut bench = Bench::long(|a| {
        a.rep().insw()?;
        a.hlt()
    });
    bench.state.gpr[RCX] = 3;
    bench.state.gpr[RDI] = DATA;
    bench.state.gpr[RDX] = 0x1f0;
    let outcome = bench.run();
    assert_eq!(outcome.read64(DATA), 0x01f0_01f0_01f0);
    let positions: Vec<u64> = outcome.bus.log.iter().map(|(_, units, _)| *units).collect();
    assert_eq!(positions, [0, 1, 2]);
    assert_eq!((outcome.state.steps, outcome.state.rep_steps), (4, 3));
}

#[test]
fn a_string_that_faults_stops_before_the_port() {
    let mut ins = Bench::long(|a| a.rep().insd());
    ins.state.gpr[RCX] = 5;
    ins.state.gpr[RDI] = DATA + 0xff8;
    ins.state.gpr[RDX] = 0x1f0;
    ins.map(DATA + 0x1000, 0);
    let outcome = ins.run();
    let trap = outcome.expect(14, Some(2), CODE);
    assert_ne!(trap.flags & RF, 0);
    assert_eq!(
        (outcome.state.gpr[RCX], outcome.state.gpr[RDI]),
        (3, DATA + 0x1000)
    );
    assert_eq!(outcome.bus.uses(), [Use::In(0x1f0, 4), Use::In(0x1f0, 4)]);
    let mut outs = Bench::long(|a| a.rep().outsb());
    outs.state.gpr[RCX] = 3;
    outs.state.gpr[RSI] = DATA + 0xfff;
    outs.map(DATA + 0x1000, 0);
    outs.write(DATA + 0xfff, &[0x5a]);
    let outcome = outs.run();
    outcome.expect(14, Some(0), CODE);
    assert_eq!(outcome.bus.uses(), [Use::Out(0, 1, 0x5a)]);
    assert_eq!(outcome.state.gpr[RCX], 2);
}

#[test]
fn an_interrupt_between_two_elements_saves_rf() {
    let mut bench = Bench::long(|a| {
        a.rep().outsb()?;
        a.hlt()
    });
    bench.state.rflags |= IF;
    bench.state.gpr[RCX] = 4;
    bench.state.gpr[RSI] = DATA;
    bench.at(2, Event::Interrupt(0x50));
    let outcome = bench.run();
    let trap = outcome.expect(0x50, None, CODE);
    assert_eq!(trap.flags, 2 | IF | RF);
    assert_eq!(outcome.state.gpr[RCX], 2);
    assert_eq!(outcome.state.rflags & RF, 0);
}

#[test]
fn counts_and_addresses_have_the_address_size() {
    let mut bench = Bench::long(|a| {
        // REP OUTSB with 32-bit addresses.
        a.db(&[0x67, 0xf3, 0x6e])?;
        a.hlt()
    });
    bench.state.gpr[RCX] = 2 | 7 << 32;
    bench.state.gpr[RSI] = DATA | 7 << 32;
    let outcome = bench.run();
    assert_eq!(
        (outcome.register(RCX), outcome.register(RSI)),
        (0, DATA + 2)
    );
    let mut none = Bench::long(|a| {
        a.rep().insb()?;
        a.hlt()
    });
    none.state.gpr[RCX] = 0;
    none.state.gpr[RDI] = 1 << 50;
    let outcome = none.run();
    outcome.halted_before(2);
    assert_eq!((outcome.state.steps, outcome.state.rep_steps), (2, 0));
}
