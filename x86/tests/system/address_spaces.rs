//! Translations that are kept over changes of the address space must not show.

use iced_x86::code_asm::*;

use crate::bench::*;

/// A page that each space has elsewhere.
const PAGE: u64 = 0x4000_0000;
/// Roots of the spaces, four tables each.
const ROOTS: u64 = 0x18_0000;
/// Spaces, more than are kept.
const SPACES: u64 = 12;
/// What PAGE is in space `n`: two pages by turns.
const FRAMES: u64 = 0x3_0000;

fn root(space: u64) -> u64 {
    ROOTS + 0x4000 * space
}

/// Where the entry of PAGE lies in a space.
fn leaf(space: u64) -> u64 {
    root(space) + 0x3000
}

fn frame(space: u64) -> u64 {
    FRAMES + 0x1000 * space
}

/// A bench with SPACES roots that share the first gigabyte.
fn bench(program: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Bench {
    let mut bench = Bench::long(program);
    let pointers = bench.read64(ROOT) & !0xfff;
    let first = bench.read64(pointers);
    for space in 0..SPACES {
        let at = root(space);
        bench.write64(at, (at + 0x1000) | P | W);
        bench.write64(at + 0x1000, first);
        bench.write64(at + 0x1000 + 8 * (PAGE >> 30), (at + 0x2000) | P | W);
        bench.write64(at + 0x2000, (at + 0x3000) | P | W);
        bench.write64(leaf(space), frame(space) | P | W);
        bench.write64(frame(space), 100 + space);
    }
    bench.state.cr3 = root(0);
    bench.last = 100_000;
    bench
}

#[test]
fn more_spaces_than_are_kept() {
    let mut bench = bench(|a| {
        let mut round = a.create_label();
        let mut space = a.create_label();
        a.mov(rcx, PAGE)?;
        a.mov(edi, 3)?;
        a.set_label(&mut round)?;
        a.mov(rsi, ROOTS)?;
        a.set_label(&mut space)?;
        a.mov(cr3, rsi)?;
        a.imul_3(rax, rax, 31)?;
        a.add(rax, qword_ptr(rcx))?;
        a.inc(qword_ptr(rcx))?;
        a.add(rsi, 0x4000)?;
        a.cmp(rsi, root(SPACES) as i32)?;
        a.jb(space)?;
        a.dec(edi)?;
        a.jne(round)?;
        a.hlt()
    });
    bench.state.gpr[RAX] = 0;
    let outcome = bench.run();
    let mut expected = 0u64;
    for round in 0..3 {
        for space in 0..SPACES {
            expected = expected.wrapping_mul(31).wrapping_add(100 + space + round);
        }
    }
    assert_eq!(outcome.register(RAX), expected);
}

#[test]
fn a_space_that_is_away_is_changed() {
    let mut bench = bench(|a| {
        a.mov(rcx, PAGE)?;
        for space in [1u64, 2, 1] {
            a.mov(rax, root(space))?;
            a.mov(cr3, rax)?;
            a.mov(r8, qword_ptr(rcx))?;
        }
        // From space 1: space 2's page is space 3's, read-only and not accessed.
        a.mov(rax, frame(3) | P)?;
        a.mov(qword_ptr(leaf(2)), rax)?;
        a.mov(rax, root(2))?;
        a.mov(cr3, rax)?;
        a.mov(r9, qword_ptr(rcx))?;
        a.mov(r10, qword_ptr(leaf(2)))?;
        a.mov(qword_ptr(rcx), rcx)
    });
    bench.state.gpr[8] = 0;
    let outcome = bench.run();
    assert_eq!(outcome.trap().vector, 14);
    assert_eq!(outcome.trap().error, Some(3));
    assert_eq!((outcome.state.gpr[8], outcome.state.gpr[9]), (101, 103));
    assert_eq!(outcome.state.gpr[10], frame(3) | P | A);
}

#[test]
fn a_table_that_spaces_share_is_changed() {
    let shared = bench(|_| Ok(())).entry_address(DATA, 12);
    let mut bench = bench(|a| {
        for space in [1u64, 2] {
            a.mov(rax, root(space))?;
            a.mov(cr3, rax)?;
            a.mov(r8, qword_ptr(DATA))?;
        }
        a.mov(rax, frame(5) | P | W)?;
        a.mov(qword_ptr(shared), rax)?;
        for (space, register) in [(1u64, r9), (2, r10), (3, r11)] {
            a.mov(rax, root(space))?;
            a.mov(cr3, rax)?;
            a.mov(register, qword_ptr(DATA))?;
        }
        a.hlt()
    });
    bench.write64(DATA, 7);
    let outcome = bench.run();
    assert_eq!(outcome.register(8), 7);
    assert_eq!(
        [9, 10, 11].map(|n| outcome.register(n)),
        [105, 105, 105],
        "in every space"
    );
}

#[test]
fn code_of_one_space_is_not_that_of_another() {
    let mut bench = bench(|a| {
        a.mov(rcx, PAGE + 0x100)?;
        for _ in 0..3 {
            for space in [1u64, 2] {
                a.mov(rax, root(space))?;
                a.mov(cr3, rax)?;
                a.call(rcx)?;
            }
        }
        a.hlt()
    });
    for (space, add) in [(1u64, 1u8), (2, 16)] {
        // ADD EBX, imm8; RET.
        bench.write(frame(space) + 0x100, &[0x83, 0xc3, add, 0xc3]);
    }
    assert_eq!(bench.run().register(RBX), 51);
}

#[test]
fn code_that_is_unmapped_while_its_space_is_away() {
    let mut bench = bench(|a| {
        a.mov(rcx, PAGE + 0x100)?;
        a.mov(rax, root(1))?;
        a.mov(cr3, rax)?;
        a.call(rcx)?;
        a.mov(rdx, root(2))?;
        a.mov(cr3, rdx)?;
        a.mov(qword_ptr(leaf(1)), 0)?;
        a.mov(cr3, rax)?;
        a.call(rcx)
    });
    bench.write(frame(1) + 0x100, &[0x83, 0xc3, 1, 0xc3]);
    let outcome = bench.run();
    outcome.expect(14, Some(0x10), PAGE + 0x100);
    assert_eq!(outcome.state.gpr[RBX], 1);
}

#[test]
fn write_rights_of_a_space_that_is_away_end_when_the_page_becomes_a_table() {
    let mut bench = bench(|a| {
        a.mov(rcx, PAGE)?;
        // Space 1 may write to what is a table of space 2.
        a.mov(rax, root(1))?;
        a.mov(cr3, rax)?;
        a.mov(rsi, qword_ptr(rcx + 8))?;
        a.mov(qword_ptr(rcx + 8), rsi)?;
        a.mov(rdx, root(2))?;
        a.mov(cr3, rdx)?;
        a.mov(r8, qword_ptr(rcx))?;
        a.mov(cr3, rax)?;
        a.mov(rsi, frame(6) | P | W)?;
        a.mov(qword_ptr(rcx), rsi)?;
        a.mov(cr3, rdx)?;
        a.mov(r9, qword_ptr(rcx))?;
        a.hlt()
    });
    bench.write64(leaf(1), leaf(2) | P | W);
    let outcome = bench.run();
    assert_eq!((outcome.register(8), outcome.register(9)), (102, 106));
}

#[test]
fn cr0_and_cr4_name_the_space_too() {
    // A read-only page is written with CR0.WP clear, then set.
    let mut bench = bench(|a| {
        a.mov(rcx, PAGE)?;
        a.mov(rbx, cr0)?;
        for _ in 0..2 {
            a.btr(rbx, 16)?;
            a.mov(cr0, rbx)?;
            a.inc(qword_ptr(rcx))?;
            a.bts(rbx, 16)?;
            a.mov(cr0, rbx)?;
            a.mov(r8, qword_ptr(rcx))?;
        }
        a.inc(qword_ptr(rcx))
    });
    bench.write64(leaf(0), frame(0) | P);
    let outcome = bench.run();
    let trap = outcome.trap();
    assert_eq!((trap.vector, trap.error), (14, Some(3)));
    assert_eq!(outcome.state.gpr[8], 102);
}
