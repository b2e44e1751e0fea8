//! Code that changes while it runs: decoded blocks cannot be observed.

use iced_x86::code_asm::*;

use crate::bench::*;

/// `inc ebx`.
const INC_EBX: [u8; 2] = [0xff, 0xc3];

#[test]
fn a_store_to_the_next_instruction_counts() {
    let mut bench = Bench::long(|a| {
        a.mov(word_ptr(rcx), -0x3c01)?;
        a.inc(eax)?;
        a.hlt()
    });
    let store = assemble(64, CODE, |a| a.mov(word_ptr(rcx), -0x3c01));
    bench.state.gpr[RCX] = CODE + store.len() as u64;
    let outcome = bench.run();
    assert_eq!((outcome.register(RAX), outcome.register(RBX)), (0, 1));
}

#[test]
fn a_store_to_its_own_block_counts_when_it_comes_round() {
    let mut bench = Bench::long(|a| {
        a.inc(eax)?;
        a.mov(word_ptr(CODE), -0x3c01)?;
        a.cmp(ebx, 3)?;
        a.jne(CODE)?;
        a.hlt()
    });
    bench.last = 200;
    let outcome = bench.run();
    assert_eq!((outcome.register(RAX), outcome.register(RBX)), (1, 3));
}

#[test]
fn a_store_of_the_same_bytes_changes_nothing() {
    let outcome = Bench::long(|a| {
        a.mov(rax, qword_ptr(rcx + CODE as i32))?;
        a.mov(qword_ptr(rcx + CODE as i32), rax)?;
        a.inc(ebx)?;
        a.hlt()
    })
    .run();
    assert_eq!(outcome.register(RBX), 1);
}

/// Where tests map pages of code a second time.
const ALIAS: u64 = 0x4000_0000;

#[test]
fn a_store_through_an_alias_counts() {
    let mut bench = Bench::long(|a| {
        a.call(rdi)?;
        a.mov(byte_ptr(rsi), 0x90)?;
        a.mov(byte_ptr(rsi + 1), 0x90)?;
        a.call(rdi)?;
        a.hlt()
    });
    bench.code(64, CODE + 0x1800, |a| {
        a.inc(ebx)?;
        a.ret()
    });
    bench.map(ALIAS, (CODE + 0x1000) | P | W);
    bench.state.gpr[RDI] = CODE + 0x1800;
    bench.state.gpr[RSI] = ALIAS + 0x800;
    assert_eq!(bench.run().register(RBX), 1);
}

#[test]
fn the_same_bytes_run_at_two_addresses() {
    let mut bench = Bench::long(|a| {
        a.call(rdi)?;
        a.mov(r8, rax)?;
        a.call(rsi)?;
        a.hlt()
    });
    // lea rax, [rip]; ret
    bench.write(CODE + 0x1800, &[0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xc3]);
    bench.map(ALIAS, (CODE + 0x1000) | P);
    bench.state.gpr[RDI] = CODE + 0x1800;
    bench.state.gpr[RSI] = ALIAS + 0x800;
    let outcome = bench.run();
    assert_eq!(
        (outcome.register(8), outcome.register(RAX)),
        (CODE + 0x1807, ALIAS + 0x807)
    );
}

/// Calls, twice, an instruction that lies across two pages, with `between` in between.
fn crossing(between: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Bench {
    let mut bench = Bench::long(|a| {
        a.call(rdi)?;
        a.mov(r8, rax)?;
        between(a)?;
        a.call(rdi)?;
        a.hlt()
    });
    // mov eax, imm32 with its immediate across the page boundary, then ret.
    bench.map(ALIAS, (CODE + 0x4000) | P | W);
    bench.map(ALIAS + 0x1000, (CODE + 0x8000) | P | W);
    bench.write(CODE + 0x4ffe, &[0xb8, 0x11]);
    bench.write(CODE + 0x8000, &[0x22, 0x33, 0x44, 0xc3]);
    bench.write(CODE + 0x9000, &[0x66, 0x77, 0x88, 0xc3]);
    bench.state.gpr[RDI] = ALIAS + 0xffe;
    bench.state.gpr[RSI] = ALIAS + 0x1000;
    bench
}

#[test]
fn a_crossing_instruction_changes_with_either_page() {
    let outcome = crossing(|a| a.mov(byte_ptr(rsi), 0x55)).run();
    assert_eq!(outcome.register(8), 0x4433_2211);
    assert_eq!(outcome.register(RAX), 0x4433_5511);
    let outcome = crossing(|a| a.mov(byte_ptr(rsi - 1), 0x55)).run();
    assert_eq!(outcome.register(RAX), 0x4433_2255);
    let outcome = crossing(|a| a.mov(word_ptr(rsi - 1), 0x6655)).run();
    assert_eq!(outcome.register(RAX), 0x4433_6655);
}

#[test]
fn a_crossing_instruction_follows_its_second_page() {
    let mut bench = crossing(|a| a.add(qword_ptr(rdx), 0x1000));
    bench.state.gpr[RDX] = bench.entry_address(ALIAS + 0x1000, 12);
    assert_eq!(bench.run().register(RAX), 0x8877_6611);
    let mut back = crossing(|a| {
        a.add(qword_ptr(rdx), 0x1000)?;
        a.call(rdi)?;
        a.mov(r9, rax)?;
        a.sub(qword_ptr(rdx), 0x1000)
    });
    back.state.gpr[RDX] = back.entry_address(ALIAS + 0x1000, 12);
    let outcome = back.run();
    assert_eq!(
        (outcome.register(9), outcome.register(RAX)),
        (0x8877_6611, 0x4433_2211)
    );
    let mut gone = crossing(|a| a.and(byte_ptr(rdx), 0xfe));
    gone.state.gpr[RDX] = gone.entry_address(ALIAS + 0x1000, 12);
    let outcome = gone.run();
    outcome.expect(14, Some(16), ALIAS + 0xffe);
    assert_eq!(outcome.state.cr2, ALIAS + 0x1000);
}

#[test]
fn string_stores_into_the_running_code_count() {
    // The copy overwrites what follows it, element by element.
    let mut bench = Bench::long(|a| {
        a.rep().movsb()?;
        a.inc(eax)?;
        a.inc(eax)?;
        a.inc(eax)?;
        a.hlt()
    });
    bench.state.gpr[RDI] = CODE + 2;
    bench.state.gpr[RSI] = DATA;
    bench.state.gpr[RCX] = 6;
    for i in 0..3 {
        bench.write(DATA + 2 * i, &INC_EBX);
    }
    let outcome = bench.run();
    assert_eq!((outcome.register(RAX), outcome.register(RBX)), (0, 3));
    // Over itself: after the first byte REP STOSB is INT3 STOSB.
    let mut own = Bench::long(|a| {
        a.rep().stosb()?;
        a.hlt()
    });
    own.state.gpr[RDI] = CODE;
    own.state.gpr[RCX] = 4;
    own.state.gpr[RAX] = 0xcc;
    let outcome = own.run();
    outcome.expect(3, None, CODE + 1);
    assert_eq!(outcome.state.gpr[RCX], 3);
}

#[test]
fn a_device_can_write_code() {
    let mut between = Bench::long(|a| {
        a.nop()?;
        a.nop()?;
        a.inc(eax)?;
        a.hlt()
    });
    between.at(1, Event::Dma(CODE + 2, INC_EBX.to_vec()));
    let outcome = between.run();
    assert_eq!((outcome.register(RAX), outcome.register(RBX)), (0, 1));
    let mut during = Bench::long(|a| {
        a.out(i32::from(DMA_PORT), al)?;
        a.inc(eax)?;
        a.hlt()
    });
    during.bus.dma = vec![(CODE + 2, INC_EBX.to_vec())];
    let outcome = during.run();
    assert_eq!((outcome.register(RAX), outcome.register(RBX)), (0, 1));
}

#[test]
fn the_frame_of_an_exception_can_be_code() {
    // INT pushes over the handler it enters: the saved RSP and SS are what runs.
    let mut bench = Bench::long(|a| a.int(0x40));
    bench.state.gpr[RSP] = handler_of(0x40) + 16;
    // RSP is adc [rax + 0], dh and add [rax], al; SS is adc [rax], al and more of the like.
    bench.state.gpr[RAX] = DATA;
    bench.write(handler_of(0x40) + 16, &[0xf4]);
    let outcome = bench.run();
    assert_eq!(outcome.read64(handler_of(0x40) + 8), u64::from(KERNEL_DS));
    assert_eq!(outcome.state.rip, handler_of(0x40) + 17);
}

#[test]
fn the_same_bytes_in_another_mode_are_other_code() {
    let mut bench = Bench::long(|a| {
        a.call(rdi)?;
        a.push(i32::from(KERNEL_CS32))?;
        a.push(CODE as i32 + 0x100)?;
        a.retf()
    });
    // 48 ff c0: inc rax; or dec eax, inc eax.
    bench.write(CODE + 0x800, &[0x48, 0xff, 0xc0, 0xc3]);
    bench.code(32, CODE + 0x100, |a| {
        a.call(CODE + 0x800)?;
        a.hlt()
    });
    bench.state.gpr[RDI] = CODE + 0x800;
    assert_eq!(bench.run().register(RAX), 1);
}

#[test]
fn a_branch_into_the_middle_of_an_instruction() {
    // eb ff c3…: JMP to its own second byte: ff c3 is inc ebx.
    let outcome = Bench::long(|a| a.db(&[0xeb, 0xff, 0xc3, 0xf4])).run();
    assert_eq!(outcome.register(RBX), 1);
}
