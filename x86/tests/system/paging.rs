//! Walks in every paging mode: rights, error codes, accessed and dirty bits.

use iced_x86::code_asm::*;

use crate::bench::*;

/// Page-fault error code bits.
const WRITE: u32 = 2;
/// By level 3.
const BY_USER: u32 = 4;
/// A reserved bit.
const RESERVED: u32 = 8;
/// A fetch.
const FETCH: u32 = 16;

/// An address that nothing maps.
const HOLE: u64 = 0x4000_0000;

/// Level 0 code that reads or writes `[rcx]`, with `rcx` in the test page.
fn touch(write: bool, address: u64) -> Bench {
    let mut bench = Bench::long(|a| {
        if write {
            a.mov(qword_ptr(rcx), rax)?;
        } else {
            a.mov(rax, qword_ptr(rcx))?;
        }
        a.hlt()
    });
    bench.state.gpr[RCX] = address;
    bench
}

/// Level 3 code that reads or writes `[rcx]`.
fn user_touch(write: bool, address: u64) -> Bench {
    let mut bench = Bench::long_user(|a| {
        if write {
            a.mov(qword_ptr(rcx), rax)?;
        } else {
            a.mov(rax, qword_ptr(rcx))?;
        }
        a.ud2()
    });
    bench.state.gpr[RCX] = address;
    bench
}

fn faults(bench: Bench, error: u32, address: u64) -> Outcome {
    let rip = bench.state.rip;
    let outcome = bench.run();
    outcome.expect(14, Some(error), rip);
    assert_eq!(outcome.state.cr2, address);
    outcome
}

fn reaches_end(bench: Bench) -> Outcome {
    let outcome = bench.run();
    let trap = outcome.state.segments[1].selector & 3;
    assert_eq!(trap, 0);
    if outcome.state.rip <= CODE || outcome.state.rip > CODE + 0x1000 {
        outcome.expect(6, None, USER_CODE + 3);
    }
    outcome
}

#[test]
fn absent_pages_fault_at_every_level() {
    for shift in [12, 21, 30, 39] {
        for (bench, error) in [
            (touch(false, HOLE), 0),
            (touch(true, HOLE), WRITE),
            (user_touch(false, HOLE), BY_USER),
            (user_touch(true, HOLE), BY_USER | WRITE),
        ] {
            let mut bench = bench;
            bench.map(HOLE, DATA | P | W | U);
            let entry = bench.entry_address(HOLE, shift);
            if shift == 39 {
                // The root's entry maps the code as well: use another.
                let far = HOLE | 1 << 39;
                bench.map(far, DATA | P | W | U);
                let entry = bench.entry_address(far, 39);
                bench.write64(entry, 0);
                bench.state.gpr[RCX] = far;
                faults(bench, error, far);
                continue;
            }
            let old = bench.read64(entry);
            bench.write64(entry, old & !P);
            faults(bench, error, HOLE);
        }
    }
}

#[test]
fn accessed_and_dirty_bits_are_set_on_every_level() {
    for (write, leaf) in [(false, A), (true, A | D)] {
        let mut bench = touch(write, HOLE + 8);
        bench.map(HOLE, DATA | P | W);
        let entries = [30, 21, 12].map(|shift| bench.entry_address(HOLE, shift));
        let outcome = reaches_end(bench);
        assert_eq!(outcome.read64(entries[0]) & (A | D), A);
        assert_eq!(outcome.read64(entries[1]) & (A | D), A);
        assert_eq!(outcome.read64(entries[2]) & (A | D), leaf);
    }
}

#[test]
fn a_faulting_walk_marks_what_it_went_through_but_not_the_leaf() {
    let mut absent = touch(false, HOLE);
    absent.map(HOLE, 0);
    let entries = [30, 21, 12].map(|shift| absent.entry_address(HOLE, shift));
    let outcome = faults(absent, 0, HOLE);
    assert_ne!(outcome.read64(entries[0]) & A, 0);
    assert_ne!(outcome.read64(entries[1]) & A, 0);
    assert_eq!(outcome.read64(entries[2]), 0);
    let mut read_only = touch(true, HOLE);
    read_only.map(HOLE, DATA | P);
    let leaf = read_only.entry_address(HOLE, 12);
    let outcome = faults(read_only, WRITE | 1, HOLE);
    assert_eq!(outcome.read64(leaf) & (A | D), 0);
}

#[test]
fn a_read_then_a_write_set_dirty_late() {
    let mut bench = Bench::long(|a| {
        a.mov(rax, qword_ptr(rcx))?;
        a.mov(rbx, qword_ptr(rdx))?;
        a.mov(qword_ptr(rcx), rax)?;
        a.mov(rsi, qword_ptr(rdx))?;
        a.hlt()
    });
    bench.map(HOLE, DATA | P | W);
    let leaf = bench.entry_address(HOLE, 12);
    bench.state.gpr[RCX] = HOLE;
    bench.state.gpr[RDX] = leaf;
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX) & (A | D), A);
    assert_eq!(outcome.register(RSI) & (A | D), A | D);
}

#[test]
fn write_protection_follows_cr0_wp() {
    let mut off = touch(true, HOLE);
    off.map(HOLE, DATA | P);
    off.state.cr0 &= !(1 << 16);
    let leaf = off.entry_address(HOLE, 12);
    let outcome = reaches_end(off);
    assert_eq!(outcome.read64(leaf) & (A | D), A | D);
    let mut user = user_touch(true, HOLE);
    user.map(HOLE, DATA | P | U);
    user.state.cr0 &= !(1 << 16);
    faults(user, WRITE | BY_USER | 1, HOLE);
}

#[test]
fn rights_are_those_of_every_level_together() {
    for shift in [21, 30] {
        let mut write = touch(true, HOLE);
        write.map(HOLE, DATA | P | W | U);
        let entry = write.entry_address(HOLE, shift);
        let old = write.read64(entry);
        write.write64(entry, old & !W);
        faults(write, WRITE | 1, HOLE);
        let mut user = user_touch(false, HOLE);
        user.map(HOLE, DATA | P | W | U);
        let entry = user.entry_address(HOLE, shift);
        let old = user.read64(entry);
        user.write64(entry, old & !U);
        faults(user, BY_USER | 1, HOLE);
    }
}

#[test]
fn supervisor_pages_are_closed_to_level_3() {
    faults(user_touch(false, DATA), BY_USER | 1, DATA);
    faults(user_touch(true, DATA), BY_USER | WRITE | 1, DATA);
    reaches_end(user_touch(true, USER_DATA));
}

#[test]
fn no_execute_needs_nxe() {
    let bench = |level: u32| {
        let mut bench = Bench::long(|a| a.jmp(qword_ptr(rcx)));
        bench.state.gpr[RCX] = DATA;
        bench.write64(DATA, HOLE);
        bench.map(HOLE, DATA | P | W);
        bench.write(DATA + 0x100, &[0xf4]);
        let entry = bench.entry_address(HOLE, level);
        let old = bench.read64(entry);
        bench.write64(entry, old | NX);
        bench
    };
    for level in [12, 21, 30] {
        let outcome = bench(level).run();
        outcome.expect(14, Some(FETCH | 1), HOLE);
        assert_eq!(outcome.state.cr2, HOLE);
        let mut reserved = bench(level);
        reserved.state.msr.efer &= !0x800;
        let outcome = reserved.run();
        outcome.expect(14, Some(RESERVED | 1), HOLE);
    }
    let mut data = touch(false, HOLE);
    data.map(HOLE, DATA | P | NX);
    reaches_end(data);
}

#[test]
fn smep_closes_user_pages_to_fetches_of_level_0() {
    let bench = |smep: bool| {
        let mut bench = Bench::long(|a| a.jmp(USER_CODE));
        bench.code(64, USER_CODE, |a| a.hlt());
        bench.state.cr4 |= u64::from(smep) << 20;
        bench.run()
    };
    assert_eq!(bench(false).state.rip, USER_CODE + 1);
    bench(true).expect(14, Some(FETCH | 1), USER_CODE);
}

#[test]
fn the_fetch_bit_is_told_only_with_smep_or_nxe() {
    for (smep, nxe, told) in [(0, 0, 0), (1, 0, FETCH), (0, 1, FETCH)] {
        let mut bench = Bench::long(|_| Ok(()));
        bench.state.rip = HOLE;
        bench.state.cr4 |= smep << 20;
        bench.state.msr.efer = bench.state.msr.efer & !0x800 | nxe << 11;
        bench.run().expect(14, Some(told), HOLE);
    }
}

#[test]
fn smap_closes_user_pages_unless_ac() {
    let bench = |write: bool, ac: bool| {
        let mut bench = touch(write, USER_DATA);
        bench.state.cr4 |= 1 << 21;
        bench.state.rflags |= u64::from(ac) << 18;
        bench
    };
    faults(bench(false, false), 1, USER_DATA);
    faults(bench(true, false), WRITE | 1, USER_DATA);
    reaches_end(bench(false, true));
    reaches_end(bench(true, true));
    let mut toggled = Bench::long(|a| {
        a.stac()?;
        a.mov(rax, qword_ptr(rcx))?;
        a.mov(qword_ptr(rcx), rax)?;
        a.clac()?;
        a.mov(rax, qword_ptr(rcx))
    });
    toggled.state.cr4 |= 1 << 21;
    toggled.state.gpr[RCX] = USER_DATA;
    toggled.run().expect(14, Some(1), CODE + 12);
    let mut popf = Bench::long(|a| {
        a.mov(rax, qword_ptr(rcx))?;
        a.popfq()?;
        a.mov(rax, qword_ptr(rcx))
    });
    popf.state.cr4 |= 1 << 21;
    popf.state.rflags |= AC;
    popf.state.gpr[RCX] = USER_DATA;
    popf.state.gpr[RSP] = STACK - 8;
    popf.write64(STACK - 8, 2);
    popf.run().expect(14, Some(1), CODE + 4);
}

#[test]
fn smap_holds_for_implicit_accesses_whatever_ac() {
    let mut bench = Bench::long(|a| a.mov(es, ax));
    bench.state.gpr[RAX] = u64::from(KERNEL_DS);
    bench.state.cr4 |= 1 << 21;
    bench.state.rflags |= AC;
    bench.state.gdtr.base = USER_DATA;
    // The IDT's gates need the GDT too: nothing can be delivered.
    assert_eq!(bench.run().end, End::Shutdown);
}

#[test]
fn reserved_bits_fault_with_their_own_bit() {
    for (shift, bit) in [(12, 46), (12, 51), (21, 46), (30, 50)] {
        let mut bench = touch(false, HOLE);
        bench.map(HOLE, DATA | P | W | U);
        let entry = bench.entry_address(HOLE, shift);
        let old = bench.read64(entry);
        bench.write64(entry, old | 1 << bit);
        faults(bench, RESERVED | 1, HOLE);
    }
    for (shift, bit) in [(21, 13), (21, 20), (30, 13), (30, 29)] {
        let mut bench = touch(false, HOLE);
        bench.map(HOLE, 0);
        let entry = bench.entry_address(HOLE, shift);
        bench.write64(entry, 1 << bit | PS | P | W);
        faults(bench, RESERVED | 1, HOLE);
    }
    let far = 1 << 39;
    let mut root = touch(false, far);
    root.map(far, DATA | P);
    let entry = root.entry_address(far, 39);
    let old = root.read64(entry);
    root.write64(entry, old | PS);
    faults(root, RESERVED | 1, far);
    // Bits 62–52 are the system's.
    let mut ignored = touch(false, HOLE);
    ignored.map(HOLE, DATA | P | 0x7ff << 52);
    reaches_end(ignored);
}

#[test]
fn large_pages_reach_all_of_their_bytes() {
    for (shift, linear) in [(21, 0x20_0000_0000u64), (30, 0x40_0000_0000)] {
        let mut bench = touch(true, linear + DATA + 0x18);
        let entry = bench.entry_address(linear, shift);
        // PAT, bit 12, is part of no address.
        bench.write64(entry, 1 << 12 | PS | P | W);
        bench.state.gpr[RAX] = 0x1234;
        let outcome = reaches_end(bench);
        assert_eq!(outcome.read64(DATA + 0x18), 0x1234);
        assert_eq!(outcome.read64(entry) & (A | D), A | D);
    }
}

#[test]
fn an_access_that_faults_on_its_second_page_changes_nothing() {
    let at = HOLE + 0xffc;
    let bench = |second: u64| {
        let mut bench = touch(true, at);
        bench.map(HOLE, DATA | P | W);
        bench.map(HOLE + 0x1000, second);
        bench.state.gpr[RAX] = u64::MAX;
        bench
    };
    let outcome = faults(bench(0), WRITE, HOLE + 0x1000);
    assert_eq!(outcome.read32(DATA + 0xffc), 0);
    faults(bench((DATA + 0x2000) | P), WRITE | 1, HOLE + 0x1000);
    let outcome = reaches_end(bench((DATA + 0x2000) | P | W));
    assert_eq!(outcome.read32(DATA + 0xffc), u32::MAX);
    assert_eq!(outcome.read32(DATA + 0x2000), u32::MAX);
    assert_eq!(outcome.read32(DATA + 0x1000), 0);
    // The first page's fault comes first.
    let mut first = bench(0);
    first.map(HOLE, 0);
    faults(first, WRITE, at);
    let mut modify = Bench::long(|a| a.add(qword_ptr(rcx), rax));
    modify.state.gpr[RCX] = at;
    modify.state.gpr[RAX] = 5;
    modify.map(HOLE, DATA | P | W);
    modify.map(HOLE + 0x1000, (DATA + 0x2000) | P);
    let flags = modify.state.rflags;
    let outcome = modify.run();
    assert_eq!(outcome.expect(14, Some(WRITE | 1), CODE).flags & !RF, flags);
    assert_eq!(outcome.read32(DATA + 0xffc), 0);
}

#[test]
fn push_and_pop_keep_rsp_when_they_fault() {
    let mut push = Bench::long(|a| a.push(rax));
    push.state.gpr[RSP] = HOLE + 8;
    push.gate64(14, 0x8e, 1);
    let trap = push.run().expect(14, Some(WRITE), CODE);
    assert_eq!(trap.rsp, HOLE + 8);
    let mut pop = Bench::long(|a| a.pop(qword_ptr(rcx)));
    pop.state.gpr[RCX] = HOLE;
    pop.state.gpr[RSP] = STACK - 8;
    let trap = pop.run().expect(14, Some(WRITE), CODE);
    assert_eq!(trap.rsp, STACK - 8);
}

/// 32-bit protected mode with paging, touching `[ecx]`.
fn touch_32(write: bool, user: bool, address: u64) -> Bench {
    let program = |a: &mut CodeAssembler| {
        if write {
            a.mov(dword_ptr(ecx), eax)?;
        } else {
            a.mov(eax, dword_ptr(ecx))?;
        }
        a.ud2()
    };
    let mut bench = if user {
        Bench::protected_user(program)
    } else {
        Bench::protected(program)
    };
    bench.state.gpr[RCX] = address;
    bench
}

#[test]
fn paging_of_32_bits() {
    let mut bench = touch_32(true, false, DATA);
    bench.page_32();
    let leaf = ROOT + 0x1000 + 4 * (DATA >> 12);
    let outcome = bench.run();
    outcome.expect(6, None, CODE + 2);
    assert_eq!(u64::from(outcome.read32(leaf)) & (A | D), A | D);
    assert_eq!(u64::from(outcome.read32(ROOT)) & (A | D), A);
    let mut absent = touch_32(true, true, 0x80_0000);
    absent.page_32();
    faults(absent, WRITE | BY_USER, 0x80_0000);
    let mut supervisor = touch_32(false, true, DATA);
    supervisor.page_32();
    faults(supervisor, BY_USER | 1, DATA);
    // NX does not exist here, and the fetch bit is not told even with NXE.
    let mut fetch = Bench::protected(|_| Ok(()));
    fetch.page_32();
    fetch.state.rip = 0x80_0000;
    fetch.state.msr.efer = 0x800;
    fetch.run().expect(14, Some(0), 0x80_0000);
}

#[test]
fn pages_of_4_mib_need_pse() {
    for (pse, reserved) in [(1, false), (0, false), (1, true)] {
        let mut bench = touch_32(false, false, 0x80_0000 + DATA);
        bench.page_32();
        bench.state.cr4 |= pse << 4;
        let odd = if reserved { 1 << 21 } else { 0 };
        // As a table this is page 0, whose entries are all absent.
        bench.write32(ROOT + 8, (PS | P | W | odd) as u32);
        bench.write32(DATA, 77);
        match (pse, reserved) {
            (1, false) => {
                let outcome = bench.run();
                outcome.expect(6, None, CODE + 2);
                assert_eq!(outcome.state.gpr[RAX], 77);
            }
            (1, true) => {
                faults(bench, RESERVED | 1, 0x80_0000 + DATA);
            }
            _ => {
                faults(bench, 0, 0x80_0000 + DATA);
            }
        }
    }
}

#[test]
fn paging_with_pae() {
    let mut bench = touch_32(true, false, DATA);
    bench.page_pae();
    let leaf = ROOT + 0x2000 + 8 * (DATA >> 12);
    let outcome = bench.run();
    outcome.expect(6, None, CODE + 2);
    assert_eq!(outcome.read64(leaf) & (A | D), A | D);
    assert_eq!(outcome.read64(ROOT) & A, 0, "PDPTEs have no accessed bit");
    let mut absent = touch_32(false, false, HOLE);
    absent.page_pae();
    faults(absent, 0, HOLE);
    let mut fetch = Bench::protected(|_| Ok(()));
    fetch.page_pae();
    fetch.state.rip = DATA;
    fetch.state.msr.efer = 0x800;
    fetch.write64(leaf, DATA | P | NX);
    fetch.run().expect(14, Some(FETCH | 1), DATA);
    let mut reserved = touch_32(false, false, DATA);
    reserved.page_pae();
    reserved.write64(leaf, DATA | P | 1 << 55);
    faults(reserved, RESERVED | 1, DATA);
}

#[test]
fn pdptes_are_loaded_with_cr3_alone() {
    let program = |reload: bool| {
        move |a: &mut CodeAssembler| {
            // PDPTE 1 appears in memory.
            a.mov(dword_ptr(ROOT as u32 + 8), (ROOT + 0x1000 + 1) as i32)?;
            if reload {
                a.mov(eax, cr3)?;
                a.mov(cr3, eax)?;
            }
            a.mov(ebx, dword_ptr(HOLE as u32 + DATA as u32))?;
            a.ud2()
        }
    };
    let mut stale = Bench::protected(program(false));
    stale.page_pae();
    let outcome = stale.run();
    assert_eq!(outcome.trap().vector, 14);
    assert_eq!(outcome.state.cr2, HOLE + DATA);
    let mut fresh = Bench::protected(program(true));
    fresh.page_pae();
    fresh.write32(DATA, 99);
    let outcome = fresh.run();
    assert_eq!(outcome.trap().vector, 6);
    assert_eq!(outcome.state.gpr[RBX], 99);
}

#[test]
fn a_reserved_bit_in_a_pdpte_faults_the_load() {
    for bit in [1, 2, 5, 8, 46, 63] {
        let mut bench = Bench::protected(|a| a.mov(cr3, eax));
        bench.page_pae();
        bench.state.gpr[RAX] = ROOT;
        let pdpte = bench.read64(ROOT);
        bench.write64(ROOT, pdpte | 1 << bit);
        let outcome = bench.run();
        outcome.expect(13, Some(0), CODE);
    }
}
