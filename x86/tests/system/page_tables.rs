//! The TLB cannot be observed: a changed entry counts from the next access on, however it was
//! changed, without INVLPG.

use iced_x86::code_asm::*;

use crate::bench::*;

/// A page that tests map as they like.
const PAGE: u64 = 0x4000_0000;
/// Two physical pages with different contents.
const ONE: u64 = DATA;
/// The other.
const TWO: u64 = DATA + 0x1000;

/// Level 0 code with `[rcx]` in [`PAGE`], which maps [`ONE`], and `[rdx]` its entry.
fn bench(program: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Bench {
    let mut bench = Bench::long(program);
    bench.map(PAGE, ONE | P | W);
    bench.state.gpr[RCX] = PAGE;
    bench.state.gpr[RDX] = bench.entry_address(PAGE, 12);
    bench.write64(ONE, 1);
    bench.write64(TWO, 2);
    bench
}

#[test]
fn a_changed_entry_counts_at_once() {
    let outcome = bench(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.add(qword_ptr(rdx), 0x1000)?;
        a.mov(rsi, qword_ptr(rcx))?;
        a.mov(qword_ptr(rcx), 7)?;
        a.hlt()
    })
    .run();
    assert_eq!((outcome.register(RBX), outcome.register(RSI)), (1, 2));
    assert_eq!((outcome.read64(ONE), outcome.read64(TWO)), (1, 7));
}

#[test]
fn every_byte_of_an_entry_is_watched() {
    // The frame's second byte alone.
    let outcome = bench(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.xor(byte_ptr(rdx + 1), 0x10)?;
        a.mov(rsi, qword_ptr(rcx))?;
        a.hlt()
    })
    .run();
    assert_eq!(outcome.register(RSI), 2);
    // A store that only ends in the entry.
    let outcome = bench(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.mov(qword_ptr(rdx - 7), rdi)?;
        a.mov(rsi, qword_ptr(rcx))
    })
    .run();
    assert_eq!(outcome.trap().vector, 14);
}

#[test]
fn rights_taken_away_count_at_once() {
    let outcome = bench(|a| {
        a.mov(qword_ptr(rcx), rbx)?;
        a.and(byte_ptr(rdx), !2)?;
        a.mov(rax, qword_ptr(rcx))?;
        a.mov(qword_ptr(rcx), rbx)
    })
    .run();
    assert_eq!(outcome.trap().error, Some(3));
}

#[test]
fn cleared_accessed_and_dirty_bits_are_set_again() {
    let outcome = bench(|a| {
        a.mov(qword_ptr(rcx), rbx)?;
        a.and(byte_ptr(rdx), 0x9f)?;
        a.mov(rsi, qword_ptr(rdx))?;
        a.mov(rax, qword_ptr(rcx))?;
        a.mov(rdi, qword_ptr(rdx))?;
        a.mov(qword_ptr(rcx), rbx)?;
        a.mov(rbx, qword_ptr(rdx))?;
        a.hlt()
    })
    .run();
    assert_eq!(outcome.register(RSI) & (A | D), 0);
    assert_eq!(outcome.register(RDI) & (A | D), A);
    assert_eq!(outcome.register(RBX) & (A | D), A | D);
}

#[test]
fn accessed_bits_of_upper_entries_are_set_again() {
    let mut bench = bench(|a| {
        a.mov(rax, qword_ptr(rcx))?;
        a.and(byte_ptr(rdi), 0xdf)?;
        a.mov(rax, qword_ptr(rcx))?;
        a.mov(rbx, qword_ptr(rdi))?;
        a.hlt()
    });
    bench.state.gpr[RDI] = bench.entry_address(PAGE, 21);
    assert_ne!(bench.run().register(RBX) & A, 0);
}

#[test]
fn the_accessed_bit_of_running_code_is_set_again() {
    let mut bench = Bench::long(|a| {
        a.and(byte_ptr(rdx), 0xdf)?;
        a.mov(rbx, qword_ptr(rdx))?;
        a.hlt()
    });
    bench.state.gpr[RDX] = bench.entry_address(CODE, 12);
    assert_ne!(bench.run().register(RBX) & A, 0);
}

#[test]
fn a_table_can_be_written_through_any_mapping() {
    let mut bench = bench(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(rsi, qword_ptr(rcx))?;
        a.hlt()
    });
    let entry = bench.state.gpr[RDX];
    let alias = PAGE + 0x20_0000;
    bench.map(alias, entry & !0xfff | P | W);
    bench.state.gpr[RDI] = alias | entry & 0xfff;
    bench.state.gpr[RAX] = TWO | P | W;
    assert_eq!(bench.run().register(RSI), 2);
}

#[test]
fn a_device_can_write_a_table() {
    let mut between = bench(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.nop()?;
        a.mov(rsi, qword_ptr(rcx))?;
        a.hlt()
    });
    let entry = between.state.gpr[RDX];
    between.at(2, Event::Dma(entry, (TWO | P).to_le_bytes().to_vec()));
    assert_eq!(between.run().register(RSI), 2);
    let mut during = bench(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.out(i32::from(DMA_PORT), al)?;
        a.mov(rsi, qword_ptr(rcx))?;
        a.hlt()
    });
    during.bus.dma = vec![(entry, (TWO | P).to_le_bytes().to_vec())];
    assert_eq!(during.run().register(RSI), 2);
}

#[test]
fn a_device_that_writes_a_table_within_an_instruction() {
    // MOVS from MMIO: the read makes the device remap where the write goes.
    let mut bench = bench(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.mov(qword_ptr(rcx), rbx)?;
        a.movsb()?;
        a.hlt()
    });
    let mmio = PAGE + 0x40_0000;
    bench.map(mmio, DMA_MMIO | P | W);
    bench.state.gpr[RSI] = mmio;
    bench.state.gpr[RDI] = PAGE;
    let entry = bench.state.gpr[RDX];
    bench.bus.dma = vec![(entry, (TWO | P | W).to_le_bytes().to_vec())];
    let outcome = bench.run();
    outcome.register(RAX);
    assert_eq!(outcome.read64(ONE), 1);
    assert_eq!(outcome.read64(TWO), 0x88);
}

#[test]
fn an_instruction_that_stores_to_the_table_of_its_next_store() {
    // PUSHAD's values run down from a table's page into the page that its first entry maps.
    let mut bench = Bench::protected(|a| {
        a.mov(eax, dword_ptr(edx))?;
        a.mov(dword_ptr(edx), eax)?;
        a.mov(eax, 0)?;
        a.pushad()?;
        a.hlt()
    });
    bench.page_pae();
    let table = 0x18_0000u64;
    let base = 8u64 << 21;
    bench.write64(ROOT + 0x1000 + 8 * 8, table | 7);
    bench.write64(table, (DATA + 0x5000) | P | W);
    bench.write64(table + 8, table | P | W);
    bench.state.gpr[RDX] = base + 0xff0;
    bench.state.gpr[RSP] = base + 0x1008;
    // EAX and ECX become the entry; EDX is the first value that goes through it.
    bench.state.gpr[RCX] = (DATA + 0x6000) | P | W;
    let outcome = bench.run();
    outcome.register(RAX);
    assert_eq!(u64::from(outcome.read32(DATA + 0x6ffc)), base + 0xff0);
    assert_eq!(outcome.read32(DATA + 0x5ffc), 0);
}

#[test]
fn one_table_page_under_two_addresses() {
    let mut bench = bench(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.mov(rbx, qword_ptr(rdi))?;
        a.mov(qword_ptr(rdx), rax)?;
        a.mov(rbx, qword_ptr(rcx))?;
        a.mov(rsi, qword_ptr(rdi))?;
        a.hlt()
    });
    let other = PAGE + 0x20_0000;
    let upper = bench.entry_address(other, 21);
    let table = bench.state.gpr[RDX] & !0xfff;
    bench.write64(upper, table | P | W);
    bench.state.gpr[RDI] = other;
    bench.state.gpr[RAX] = TWO | P | W;
    let outcome = bench.run();
    assert_eq!((outcome.register(RBX), outcome.register(RSI)), (2, 2));
}

#[test]
fn a_recursive_root_shows_and_changes_every_level() {
    let mut bench = bench(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.mov(rax, qword_ptr(rdi))?;
        a.add(rax, 0x1000)?;
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(rsi, qword_ptr(rcx))?;
        a.hlt()
    });
    bench.write64(ROOT + 8 * 256, ROOT | P | W);
    // The leaf entry of PAGE through the root's own entry.
    bench.state.gpr[RDI] = 0xffff_8000_0000_0000 | PAGE >> 9;
    let outcome = bench.run();
    assert_eq!((outcome.register(RBX), outcome.register(RSI)), (1, 2));
}

#[test]
fn an_upper_entry_can_be_moved() {
    let mut bench = bench(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(rsi, qword_ptr(rcx))?;
        a.hlt()
    });
    let table = 0x18_0000;
    let entry = bench.state.gpr[RDX];
    bench.write64(table | entry & 0xfff, TWO | P);
    bench.state.gpr[RDI] = bench.entry_address(PAGE, 21);
    bench.state.gpr[RAX] = table | P | W;
    assert_eq!(bench.run().register(RSI), 2);
}

#[test]
fn a_large_page_can_be_split() {
    let mut bench = Bench::long(|a| {
        a.mov(rbx, qword_ptr(rcx))?;
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(rsi, qword_ptr(rcx))?;
        a.hlt()
    });
    let linear = 0x8000_0000;
    bench.state.gpr[RCX] = linear + ONE;
    let upper = bench.entry_address(linear, 21);
    bench.write64(upper, PS | P | W);
    let table = 0x18_0000;
    bench.write64(table + 8 * (ONE >> 12), TWO | P);
    bench.state.gpr[RDI] = upper;
    bench.state.gpr[RAX] = table | P | W;
    bench.write64(ONE, 1);
    bench.write64(TWO, 2);
    let outcome = bench.run();
    assert_eq!((outcome.register(RBX), outcome.register(RSI)), (1, 2));
}

#[test]
fn cr3_goes_back_and_forth() {
    let other = 0x18_0000u64;
    let mut bench = bench(|a| {
        a.mov(r8, qword_ptr(rcx))?;
        a.mov(cr3, rdi)?;
        a.mov(r9, qword_ptr(rcx))?;
        // The first root's leaf changes while the second is in use.
        a.add(qword_ptr(rdx), 0x2000)?;
        a.mov(cr3, rsi)?;
        a.mov(r10, qword_ptr(rcx))?;
        a.mov(cr3, rdi)?;
        a.mov(r11, qword_ptr(rcx))?;
        a.hlt()
    });
    // A second root: shares the first half GiB, has its own tables for PAGE.
    let root = bench.read64(ROOT);
    let pointers = root & !0xfff;
    let first = bench.read64(pointers);
    bench.write64(other, (other + 0x1000) | P | W);
    bench.write64(other + 0x1000, first);
    bench.write64(other + 0x1000 + 8 * (PAGE >> 30), (other + 0x2000) | P | W);
    bench.write64(other + 0x2000, (other + 0x3000) | P | W);
    bench.write64(other + 0x3000, TWO | P);
    bench.write64(ONE + 0x2000, 3);
    bench.state.gpr[RDI] = other;
    bench.state.gpr[RSI] = ROOT;
    let outcome = bench.run();
    let seen = [8, 9, 10, 11].map(|n| outcome.register(n));
    assert_eq!(seen, [1, 2, 3, 2]);
}

#[test]
fn global_pages_are_no_exception() {
    let other = 0x18_0000u64;
    let mut bench = bench(|a| {
        a.mov(r8, qword_ptr(rcx))?;
        a.mov(cr3, rdi)?;
        a.mov(r9, qword_ptr(rcx))
    });
    bench.map(PAGE, ONE | P | W | 1 << 8);
    let root = bench.read64(ROOT);
    let pointers = root & !0xfff;
    let first = bench.read64(pointers);
    bench.write64(other, (other + 0x1000) | P | W);
    bench.write64(other + 0x1000, first);
    bench.state.gpr[RDI] = other;
    assert_eq!(bench.run().trap().vector, 14);
}

#[test]
fn a_table_may_contain_code_and_its_own_marks_fall_on_it() {
    // Entry 0x1b8 / 8 of the table that maps the code holds, as bytes, an instruction that the
    // accessed bit of a later entry changes: AND AL, imm8 with bit 5 of the immediate.
    let mut bench = bench(|a| a.jmp(PAGE + 0x800));
    let table = 0x18_0000u64;
    let upper = bench.entry_address(PAGE, 21);
    bench.write64(upper, table | P | W);
    bench.write64(table, table | P | W);
    // Entry 0x100 of the table: its low byte is an immediate. The entry maps ONE.
    // At PAGE + 0x7fe: 'mov al, imm8' would straddle; use 'mov rax, imm64' at 0x7fe.
    bench.write(table + 0x7f0, &[0x48, 0x8b, 0x19]);
    bench.write(table + 0x7f3, &[0x90; 11]);
    bench.write(table + 0x7fe, &[0x48, 0xb8]);
    bench.write64(table + 0x800, ONE | P | W);
    bench.write(table + 0x808, &[0xf4]);
    bench.code(64, CODE, |a| {
        a.mov(rsi, qword_ptr(PAGE + 0x7fe))?;
        a.jmp(PAGE + 0x7f0)
    });
    bench.state.gpr[RCX] = PAGE + 0x10_0000;
    let outcome = bench.run();
    // RBX was read through entry 0x100, whose accessed bit is in RAX's immediate.
    assert_eq!(outcome.register(RBX), 1);
    assert_eq!(outcome.register(RAX), ONE | P | W | A);
}

#[test]
fn a_page_becomes_code_and_table_and_data_again() {
    let mut bench = bench(|a| {
        a.mov(qword_ptr(rcx), rax)?;
        a.mov(rax, qword_ptr(rcx))?;
        a.call(rcx)?;
        a.mov(byte_ptr(rcx), 0x90)?;
        a.call(rcx)?;
        a.hlt()
    });
    // inc ebx; ret
    bench.state.gpr[RAX] = 0x00c3_c3ff_9090;
    // The first byte becomes another NOP: the second call does the same again.
    assert_eq!(bench.run().register(RBX), 2);
}
