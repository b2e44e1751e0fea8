//! Fetches: limits, lengths, pages; when a fault of the code is raised, and when it is not.

use iced_x86::code_asm::*;

use crate::bench::*;

/// A page that tests map.
const PAGE: u64 = 0x4000_0000;

/// Code bytes at the end of [`PAGE`], whose next page has the given entry.
fn at_page_end(bytes: &[u8], next: u64) -> Bench {
    let mut bench = Bench::long(|_| Ok(()));
    bench.map(PAGE, (CODE + 0x4000) | P);
    bench.map(PAGE + 0x1000, next);
    let start = 0x1000 - bytes.len() as u64;
    bench.write(CODE + 0x4000 + start, bytes);
    bench.state.rip = PAGE + start;
    bench
}

#[test]
fn fifteen_bytes_are_an_instruction_and_sixteen_are_not() {
    let prefixed = |count: usize| {
        Bench::long(|a| {
            a.db(&vec![0x66; count][..])?;
            a.db(&[0x90, 0xf4])
        })
        .run()
    };
    assert_eq!(prefixed(14).state.rip, CODE + 16);
    let outcome = prefixed(15);
    outcome.expect(13, Some(0), CODE);
}

#[test]
fn a_fetch_fault_waits_until_the_instruction_is_reached() {
    let outcome = at_page_end(&[0xff, 0xc3, 0xff, 0xc3], 0).run();
    outcome.expect(14, Some(16), PAGE + 0x1000);
    assert_eq!(outcome.state.cr2, PAGE + 0x1000);
    assert_eq!(outcome.state.gpr[RBX], 2);
    // HLT as the last byte never asks for the next page.
    let outcome = at_page_end(&[0xf4], 0).run();
    assert_eq!(
        (outcome.end, outcome.state.rip),
        (End::Halted, PAGE + 0x1000)
    );
}

#[test]
fn the_accessed_bit_of_the_next_page_waits_too() {
    let mut bench = at_page_end(&[0x90, 0xeb, 0x00], (CODE + 0x5000) | P);
    bench.write(CODE + 0x5000, &[0xf4]);
    let entry = bench.entry_address(PAGE + 0x1000, 12);
    bench.last = 2;
    let outcome = bench.run();
    assert_eq!(outcome.state.rip, PAGE + 0x1000);
    assert_eq!(outcome.read64(entry) & A, 0);
}

#[test]
fn a_crossing_instruction_faults_at_its_first_byte_with_the_second_page_in_cr2() {
    let outcome = at_page_end(&[0x90, 0xb8, 0x11], 0).run();
    outcome.expect(14, Some(16), PAGE + 0xffe);
    assert_eq!(outcome.state.cr2, PAGE + 0x1000);
    let outcome = at_page_end(&[0x90, 0xb8, 0x11], (CODE + 0x5000) | P | NX).run();
    outcome.expect(14, Some(17), PAGE + 0xffe);
    // What is invalid by its first bytes needs no more of them.
    let outcome = at_page_end(&[0x0f, 0x0b], 0).run();
    outcome.expect(6, None, PAGE + 0xffe);
}

#[test]
fn too_long_across_a_page() {
    let mut bench = at_page_end(&[0x66; 10], (CODE + 0x5000) | P);
    bench.write(CODE + 0x5000, &[0x66; 10]);
    bench.run().expect(13, Some(0), PAGE + 0xff6);
    let absent = at_page_end(&[0x66; 10], 0);
    absent.run().expect(14, Some(16), PAGE + 0xff6);
}

#[test]
fn code_segments_end_at_their_limit() {
    let bench = |limit: u32| {
        let mut bench = Bench::protected(|a| {
            a.inc(ebx)?;
            a.mov(eax, 0x1234_5678)?;
            a.hlt()
        });
        bench.segment(1, SPARE, CODE32 & !0x8000, 0, limit);
        bench.run()
    };
    let code = CODE as u32;
    let outcome = bench(code + 6);
    assert_eq!(
        (outcome.end, outcome.state.gpr[RAX]),
        (End::Halted, 0x1234_5678)
    );
    let outcome = bench(code + 5);
    outcome.expect(13, Some(0), CODE + 6);
    let outcome = bench(code + 4);
    let trap = outcome.expect(13, Some(0), CODE + 1);
    assert_eq!((trap.cs, outcome.state.gpr[RBX]), (SPARE, 1));
    bench(code - 1).expect(13, Some(0), CODE);
}

#[test]
fn the_limit_comes_before_the_next_page() {
    // A crossing instruction is cached, then met again with a limit that ends at the page.
    let mut bench = Bench::protected(|a| {
        a.db(&[0x9a])?;
        a.db(&(CODE as u32 + 0x1ffe).to_le_bytes())?;
        a.db(&SPARE.to_le_bytes())?;
        // The tail's accessed bit.
        a.and(byte_ptr(ebp), !0x20)?;
        a.db(&[0xea])?;
        a.db(&(CODE as u32 + 0x1ffe).to_le_bytes())?;
        a.db(&(SPARE + 8).to_le_bytes())
    });
    bench.page_pae();
    bench.describe(SPARE, CODE32, 0, u32::MAX);
    bench.describe(SPARE + 8, CODE32 & !0x8000, 0, CODE as u32 + 0x1fff);
    bench.write(CODE + 0x1ffe, &[0xb8, 1, 2, 3, 4, 0xcb]);
    let entry = ROOT + 0x2000 + 8 * ((CODE + 0x2000) >> 12);
    bench.state.gpr[5] = entry;
    let outcome = bench.run();
    outcome.expect(13, Some(0), CODE + 0x1ffe);
    assert_eq!(outcome.read64(entry) & A, 0);
}

#[test]
fn real_mode_code_ends_at_64_kib() {
    let mut bench = Bench::real(|_| Ok(()));
    bench.write(CODE + 0xfffe, &[0x90, 0x90, 0xf4]);
    bench.state.rip = 0xfffe;
    let trap = bench.run().expect(13, None, 0);
    assert_eq!(trap.cs, (CODE >> 4) as u16);
}

#[test]
fn real_mode_code_that_was_met_under_another_base_still_ends() {
    // The bytes at CS1:10000 are first run as CS2:0.
    let mut bench = Bench::real(|a| {
        a.db(&[0x9a, 0x00, 0x00, 0x00, 0x20])?;
        a.db(&[0xe9])?;
        a.db(&(0xffffu16 - 8).to_le_bytes())
    });
    bench.write(0x2_0000, &[0x43, 0xcb]);
    bench.write(CODE + 0xffff, &[0x90]);
    let outcome = bench.run();
    let trap = outcome.trap();
    assert_eq!((trap.vector, outcome.state.gpr[RBX]), (13, 1));
}

#[test]
fn jumps_to_where_no_code_can_be() {
    let mut jump = Bench::long(|a| a.jmp(rcx));
    jump.state.gpr[RCX] = 1 << 47;
    jump.run().expect(13, Some(0), CODE);
    let mut edge = Bench::long(|_| Ok(()));
    edge.map(0x7fff_ffff_f000, (CODE + 0x4000) | P);
    edge.write(CODE + 0x4ffe, &[0xff, 0xc3]);
    edge.state.rip = 0x7fff_ffff_fffe;
    let outcome = edge.run();
    outcome.expect(13, Some(0), 0x8000_0000_0000);
    assert_eq!(outcome.state.gpr[RBX], 1);
    let mut mmio = Bench::long(|a| a.jmp(rcx));
    mmio.map(PAGE, 0xfee0_0000 | P | W);
    mmio.state.gpr[RCX] = PAGE;
    let outcome = mmio.run();
    outcome.expect(6, None, PAGE);
    assert_eq!(outcome.bus.log, [], "no device sees a fetch");
}
