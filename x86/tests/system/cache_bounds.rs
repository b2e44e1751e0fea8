//! Caches stay within bounds, whatever the guest does.

use iced_x86::code_asm::*;

use crate::bench::*;

#[test]
fn alternating_tails_and_endless_rewriting_go_on_after_the_cache_was_full() {
    // A crossing instruction whose second page alternates, and code that is rewritten each round.
    let mut bench = Bench::long(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.xor(qword_ptr(rdx), 0x3000)?;
        a.call(rdi)?;
        a.add(ebx, eax)?;
        a.inc(byte_ptr(rsi + 1))?;
        a.call(rsi)?;
        a.dec(ebp)?;
        a.jne(top)?;
        a.hlt()
    });
    let page = 0x4000_0000;
    bench.map(page, (CODE + 0x4000) | P);
    bench.map(page + 0x1000, (CODE + 0x8000) | P);
    bench.write(CODE + 0x4ffe, &[0xb8, 1]);
    bench.write(CODE + 0x8000, &[0, 0, 0, 0xc3]);
    bench.write(CODE + 0xb000, &[1, 0, 0, 0xc3]);
    bench.write(DATA, &[0xb0, 0, 0xc3]);
    bench.state.gpr[RDI] = page + 0xffe;
    bench.state.gpr[RDX] = bench.entry_address(page + 0x1000, 12);
    bench.state.gpr[RSI] = DATA;
    bench.state.gpr[5] = 300;
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), 150 * (0x101 + 1));
    assert_eq!(outcome.register(RAX) & 0xff, 300 & 0xff);
}

#[test]
fn tracked_page_tables_are_bounded_and_the_bound_does_not_show() {
    // More tables than are tracked at a time need more RAM than the bench has; what can be checked
    // here is that a walk over many tables, each changed afterwards, agrees with a cold one.
    let mut bench = Bench::long(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.mov(rax, qword_ptr(rcx))?;
        a.add(rbx, rax)?;
        a.add(rcx, rsi)?;
        a.dec(edi)?;
        a.jne(top)?;
        a.hlt()
    });
    for table in 0..100u64 {
        bench.map(0x4000_0000 + table * 0x20_0000, DATA | P);
    }
    bench.write64(DATA, 3);
    bench.state.gpr[RCX] = 0x4000_0000;
    bench.state.gpr[RSI] = 0x20_0000;
    bench.state.gpr[RDI] = 100;
    assert_eq!(bench.run().register(RBX), 300);
}
