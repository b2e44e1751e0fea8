//! Real, unreal, protected, PAE, compatibility and 64-bit mode, and the ways between them.

use iced_x86::code_asm::*;

use crate::bench::*;

/// `mov cr, eax` and back as bytes, for any code size.
const FROM_CR0: [u8; 3] = [0x0f, 0x20, 0xc0];
/// `mov cr0, eax`.
const TO_CR0: [u8; 3] = [0x0f, 0x22, 0xc0];

#[test]
fn real_to_protected_and_back() {
    let mut bench = Bench::real(|a| {
        a.db(&FROM_CR0)?;
        a.or(al, 1)?;
        a.db(&TO_CR0)?;
        // JMP KERNEL_CS:CODE + 0x100 with a 32-bit offset.
        a.db(&[0x66, 0xea])?;
        a.db(&(CODE as u32 + 0x100).to_le_bytes())?;
        a.db(&KERNEL_CS.to_le_bytes())
    });
    bench.describe(KERNEL_CS, CODE32, 0, u32::MAX);
    bench.describe(KERNEL_DS, DATA32, 0, u32::MAX);
    bench.describe(KERNEL_CS16, CODE16, CODE as u32, 0xffff);
    bench.describe(KERNEL_DS16, DATA16, 0, 0xffff);
    bench.code(32, CODE + 0x100, |a| {
        a.mov(cx, i32::from(KERNEL_DS))?;
        a.mov(ds, ecx)?;
        a.mov(dword_ptr(DATA as u32), 0x1234_5678)?;
        a.mov(cx, i32::from(KERNEL_DS16))?;
        a.mov(ds, ecx)?;
        // JMP KERNEL_CS16:0x200.
        a.db(&[0xea, 0x00, 0x02, 0x00, 0x00])?;
        a.db(&KERNEL_CS16.to_le_bytes())
    });
    let back = assemble(16, 0x200, |a| {
        a.db(&FROM_CR0)?;
        a.and(al, 0xfe)?;
        a.db(&TO_CR0)?;
        // JMP 0x1000:0x300.
        a.db(&[0xea, 0x00, 0x03, 0x00, 0x10])
    });
    bench.write(CODE + 0x200, &back);
    let end = assemble(16, 0x300, |a| {
        a.xor(cx, cx)?;
        a.mov(ds, cx)?;
        a.mov(ax, word_ptr(0x7000))?;
        a.hlt()
    });
    bench.write(CODE + 0x300, &end);
    bench.write16(0x7000, 0x77);
    let outcome = bench.run();
    assert_eq!(outcome.register(RAX) & 0xffff, 0x77);
    assert_eq!(outcome.read32(DATA), 0x1234_5678);
    assert_eq!(outcome.state.cr0 & 1, 0);
    assert_eq!(outcome.state.segments[1].base, CODE);
}

#[test]
fn unreal_mode_keeps_limits() {
    let mut bench = Bench::real(|a| {
        a.db(&FROM_CR0)?;
        a.or(al, 1)?;
        a.db(&TO_CR0)?;
        a.mov(cx, i32::from(KERNEL_DS))?;
        a.mov(ds, cx)?;
        a.and(al, 0xfe)?;
        a.db(&TO_CR0)?;
        a.xor(cx, cx)?;
        a.mov(ds, cx)?;
        a.mov(dword_ptr(ebx), 0x55)?;
        a.hlt()
    });
    bench.describe(KERNEL_DS, DATA32, 0, u32::MAX);
    bench.state.gpr[RBX] = DATA;
    let outcome = bench.run();
    assert_eq!(outcome.end, End::Halted);
    assert_eq!(outcome.read32(DATA), 0x55);
    // Without the detour the limit is 64 KiB.
    let mut plain = Bench::real(|a| a.mov(dword_ptr(ebx), 0x55));
    plain.state.gpr[RBX] = DATA;
    plain.run().expect(13, None, 0);
}

#[test]
fn protected_to_long_to_compatibility_and_back() {
    let tables = Bench::long(|_| Ok(()));
    let mut bench = Bench::protected(|a| {
        a.mov(eax, cr4)?;
        a.or(eax, PAE as i32)?;
        a.mov(cr4, eax)?;
        a.mov(eax, ROOT as i32)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xc000_0080u32)?;
        a.rdmsr()?;
        a.or(eax, 0x100)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, -0x8000_0000)?;
        a.mov(cr0, eax)?;
        // Compatibility mode: EFER.LMA is set, CS has L clear.
        a.rdmsr()?;
        a.mov(esi, eax)?;
        a.db(&[0xea])?;
        a.db(&(CODE as u32 + 0x100).to_le_bytes())?;
        a.db(&SPARE.to_le_bytes())
    });
    bench.describe(SPARE, CODE64, 0, u32::MAX);
    for page in 0..RAM / 4096 {
        let bytes = *tables.ram.page(page as usize);
        if bench.ram.page(page as usize).iter().all(|&byte| byte == 0) {
            bench.write(page * 4096, &bytes);
        }
    }
    bench.code(64, CODE + 0x100, |a| {
        a.mov(rdi, 0x1234_5678_9abcu64)?;
        a.push(i32::from(KERNEL_CS))?;
        a.push(CODE as i32 + 0x200)?;
        a.retf()
    });
    bench.code(32, CODE + 0x200, |a| {
        a.mov(eax, cr0)?;
        a.and(eax, 0x7fff_ffff)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, 0xc000_0080u32)?;
        a.rdmsr()?;
        a.mov(ebx, 7)?;
        a.hlt()
    });
    let outcome = bench.run();
    assert_eq!(outcome.register(RBX), 7);
    assert_eq!(outcome.register(RSI), 0x500);
    assert_eq!(outcome.register(RDI), 0x1234_5678_9abc);
    assert_eq!(outcome.register(RAX), 0x100, "LMA goes with paging");
}

#[test]
fn long_mode_needs_pae_a_code_segment_without_l_and_a_wide_task() {
    let bench = |more: u64, rights: u16, task: u16| {
        let mut bench = Bench::protected(|a| a.mov(cr0, eax));
        bench.state.cr4 |= more;
        bench.state.cr3 = ROOT;
        bench.state.msr.efer = 0x100;
        bench.state.gpr[RAX] = bench.state.cr0 | PG;
        bench.segment(1, KERNEL_CS, rights, 0, u32::MAX);
        bench.state.tr.rights = task;
        let outcome = bench.run();
        outcome.expect(13, Some(0), CODE);
        assert_eq!(outcome.state.msr.efer, 0x100);
    };
    bench(0, CODE32, 0x8b);
    bench(PAE, CODE32 | 0x2000, 0x8b);
    bench(PAE, CODE32, 0x83);
}

#[test]
fn paging_can_be_switched_on_and_off_in_32_bits() {
    let mut bench = Bench::protected(|a| {
        a.mov(cr0, eax)?;
        a.mov(edx, dword_ptr(0x80_0000))?;
        a.mov(cr0, ebx)?;
        a.mov(esi, dword_ptr(DATA as u32))?;
        a.hlt()
    });
    bench.page_32();
    bench.state.gpr[RBX] = bench.state.cr0 & !PG;
    bench.state.gpr[RAX] = bench.state.cr0;
    bench.state.cr0 &= !PG;
    bench.write32(ROOT + 8, 0x18_0000 | 7);
    bench.write32(0x18_0000, DATA as u32 | 7);
    bench.write32(DATA, 31);
    let outcome = bench.run();
    assert_eq!((outcome.register(RDX), outcome.register(RSI)), (31, 31));
}

#[test]
fn compatibility_mode_wraps_at_4_gib() {
    let mut bench = Bench::compatible(|a| {
        a.mov(eax, dword_ptr(ecx))?;
        a.hlt()
    });
    bench.segment(3, SPARE, DATA32, 0xffff_f000, u32::MAX);
    bench.state.gpr[RCX] = 0x1000 + DATA;
    bench.write32(DATA, 5);
    assert_eq!(bench.run().register(RAX), 5);
    let mut code = Bench::compatible(|_| Ok(()));
    code.segment(1, SPARE, CODE32, 0xffff_f000, u32::MAX);
    code.state.rip = 0x1000 + CODE;
    code.code(64, CODE, |a| a.hlt());
    let outcome = code.run();
    assert_eq!(
        (outcome.end, outcome.state.rip),
        (End::Halted, CODE + 0x1001)
    );
}
