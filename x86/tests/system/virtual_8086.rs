//! Virtual-8086 mode: entry by IRET, the way out by an interrupt, and what is trapped.

use iced_x86::code_asm::*;

use crate::bench::*;

/// A bench that is in virtual-8086 mode at CS:IP = 2000:0.
fn bench(
    iopl: u64,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Bench {
    let mut bench = Bench::protected(|_| Ok(()));
    let code = assemble(16, 0, program);
    bench.write(0x2_0000, &code);
    bench.state.rip = 0;
    bench.state.gpr[RSP] = 0x1000;
    bench.state.rflags = 2 | VM | IF | iopl << 12;
    for (slot, selector) in [
        (0, 0x3001),
        (1, 0x2000),
        (2, 0x3002),
        (3, 0x3003),
        (4, 0x3004),
        (5, 0x3005),
    ] {
        bench.segment(slot, selector, 0xf3, u64::from(selector) << 4, 0xffff);
    }
    bench
}

#[test]
fn an_exception_leaves_with_all_segments_in_the_frame() {
    let outcome = bench(3, |a| a.ud2()).run();
    let trap = outcome.expect(6, None, 0);
    assert_eq!((trap.cs, trap.ss, trap.rsp), (0x2000, 0x3002, 0x1000));
    assert_eq!(trap.flags, 2 | VM | IF | RF | 3 << 12);
    let rest = [5, 6, 7, 8].map(|slot| outcome.read32(outcome.state.gpr[RSP] + 4 * slot));
    assert_eq!(rest, [0x3001, 0x3003, 0x3004, 0x3005]);
    assert_eq!(outcome.state.gpr[RSP], STACK0 - 36);
    for slot in [0, 3, 4, 5] {
        assert_eq!(outcome.state.segments[slot].selector, 0);
    }
    assert_eq!(outcome.state.rflags & VM, 0);
}

#[test]
fn iret_enters_with_segments_like_real_mode() {
    let mut bench = Bench::protected(|a| a.iretd());
    let frame = [
        0x10u32,
        0x2000,
        (2 | VM | IF) as u32,
        0x1000,
        0x3002,
        0x3001,
        0x3003,
        0x3004,
        0x3005,
    ];
    bench.state.gpr[RSP] = STACK - 36;
    for (slot, value) in frame.into_iter().enumerate() {
        bench.write32(STACK - 36 + 4 * slot as u64, value);
    }
    let code = assemble(16, 0x10, |a| {
        a.mov(ax, word_ptr(2))?;
        a.push(ax)?;
        a.mov(ecx, 0xffffu32 as i32)?;
        a.mov(bx, word_ptr(4).es())?;
        a.ud2()
    });
    bench.write(0x2_0010, &code);
    bench.write16(0x3_0032, 0x1234);
    bench.write16(0x3_0014, 0x5678);
    let outcome = bench.run();
    let trap = outcome.trap();
    assert_eq!((trap.vector, trap.cs, trap.rsp), (6, 0x2000, 0xffe));
    assert_eq!(outcome.state.gpr[RAX], 0x1234);
    assert_eq!(outcome.state.gpr[RBX], 0x5678);
    let mut pushed = [0; 2];
    outcome
        .ram
        .read(0x3_0020 + 0xffe, &mut pushed)
        .expect("RAM");
    assert_eq!(u16::from_le_bytes(pushed), 0x1234);
}

#[test]
fn sensitive_instructions_need_iopl_3() {
    let programs: [&[u8]; 7] = [
        &[0xfa],
        &[0xfb],
        &[0x9c],
        &[0x9d],
        &[0xcd, 0x21],
        &[0xcf],
        &[0x66, 0x9c],
    ];
    for program in programs {
        let outcome = bench(0, |a| a.db(program)).run();
        outcome.expect(13, Some(0), 0);
    }
    let fine = bench(3, |a| {
        a.cli()?;
        a.pushf()?;
        a.pop(ax)?;
        a.ud2()
    });
    let outcome = fine.run();
    assert_eq!(outcome.trap().vector, 6);
    assert_eq!(outcome.state.gpr[RAX], 2 | 3 << 12);
}

#[test]
fn privileged_and_protected_instructions_fault() {
    bench(3, |a| a.hlt()).run().expect(13, Some(0), 0);
    bench(3, |a| a.db(&[0x0f, 0x20, 0xc0]))
        .run()
        .expect(13, Some(0), 0);
    // LAR, LLDT, ARPL do not exist here.
    bench(3, |a| a.db(&[0x0f, 0x02, 0xc0]))
        .run()
        .expect(6, None, 0);
    bench(3, |a| a.db(&[0x0f, 0x00, 0xd0]))
        .run()
        .expect(6, None, 0);
    bench(3, |a| a.db(&[0x63, 0xc0])).run().expect(6, None, 0);
}

#[test]
fn ports_ask_the_bitmap_whatever_iopl() {
    let trap = |open: bool| {
        let mut bench = bench(3, |a| {
            a.in_(al, 0x60)?;
            a.ud2()
        });
        bench.write16(TSS + 102, 104);
        if !open {
            bench.write(TSS + 104 + 12, &[1]);
        }
        bench.run().trap().vector
    };
    assert_eq!((trap(true), trap(false)), (6, 13));
}

#[test]
fn int_n_goes_through_the_idt_to_level_0_alone() {
    let mut fine = bench(3, |a| a.int(0x40));
    fine.gate32(0x40, 0xee);
    fine.run().expect(0x40, None, 2);
    let mut gate = bench(3, |a| a.int(0x40));
    gate.gate32(0x40, 0x8e);
    gate.run().expect(13, Some(0x40 * 8 + 2), 0);
    let mut target = bench(3, |a| a.int(0x40));
    target.gate32(0x40, 0xee);
    target.write16(IDT + 8 * 0x40 + 2, USER_CS);
    target.run().expect(13, Some(u32::from(USER_CS & !3)), 0);
}

#[test]
fn offsets_end_at_64_kib() {
    let mut data = bench(3, |a| a.mov(ax, word_ptr(0xffff)));
    data.state.gpr[RAX] = 1;
    data.run().expect(13, Some(0), 0);
}

/// VIF and VIP.
const VIF: u64 = 1 << 19;
/// A virtual interrupt waits.
const VIP: u64 = 1 << 20;

/// With CR4.VME and a redirection bitmap that sends INT 40 to protected mode, the rest within.
fn extended(
    iopl: u64,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Bench {
    let mut bench = bench(iopl, program);
    bench.state.cr4 |= 1;
    bench.write16(TSS + 102, 136);
    bench.write(TSS + 104 + 8, &[1]);
    bench.gate32(0x40, 0xee);
    bench.write32(4 * 0x21, 0x2000_0100);
    bench
}

#[test]
fn int_n_stays_within_the_mode_if_the_bitmap_says_so() {
    for (iopl, flags, virtual_flag) in [
        (3, 2 | IF | 3 << 12, 0),
        (0, 2 | 3 << 12, 0),
        (0, 2 | IF | 3 << 12, VIF),
    ] {
        let mut bench = extended(iopl, |a| {
            a.int(0x21)?;
            a.ud2()
        });
        bench.state.rflags |= virtual_flag;
        let handler = assemble(16, 0x100, |a| {
            a.pop(ax)?;
            a.pop(bx)?;
            a.pop(cx)?;
            a.ud2()
        });
        bench.write(0x2_0100, &handler);
        let outcome = bench.run();
        let trap = outcome.expect(6, None, 0x103);
        let frame = [RAX, RBX, RCX].map(|register| outcome.state.gpr[register]);
        assert_eq!(frame, [2, 0x2000, flags]);
        assert_eq!(trap.flags & VIF, 0);
        assert_eq!(
            trap.flags & IF != 0,
            iopl == 0,
            "IF is the program's at IOPL 3 alone"
        );
    }
    extended(3, |a| a.int(0x40)).run().expect(0x40, None, 2);
    extended(0, |a| a.int(0x40)).run().expect(13, Some(0), 0);
    let mut beyond = extended(3, |a| a.int(0x21));
    beyond.write16(TSS + 102, 0x200);
    beyond.run().expect(13, Some(0), 0);
}

#[test]
fn vif_stands_in_for_if() {
    let outcome = extended(0, |a| {
        a.sti()?;
        a.pushf()?;
        a.pop(ax)?;
        a.cli()?;
        a.pushf()?;
        a.pop(bx)?;
        a.sti()?;
        a.ud2()
    })
    .run();
    let trap = outcome.trap();
    assert_eq!((trap.vector, trap.flags & (IF | VIF)), (6, IF | VIF));
    assert_eq!(outcome.state.gpr[RAX], 2 | IF | 3 << 12);
    assert_eq!(outcome.state.gpr[RBX], 2 | 3 << 12);
    let mut waiting = extended(0, |a| a.sti());
    waiting.state.rflags |= VIP;
    waiting.run().expect(13, Some(0), 0);
}

#[test]
fn iret_sets_vif_below_iopl_3() {
    let frame = |bench: &mut Bench, image: u64| {
        bench.state.gpr[RSP] = 0xffa;
        for (slot, value) in [0x10u64, 0x2000, image].into_iter().enumerate() {
            bench.write16(0x3_0020 + 0xffa + 2 * slot as u64, value as u16);
        }
        bench.write(0x2_0010, &[0x0f, 0x0b]);
    };
    let mut set = extended(0, |a| a.iret());
    frame(&mut set, 2 | IF | CF | 3 << 12);
    let trap = set.run().expect(6, None, 0x10);
    assert_eq!(trap.flags, 2 | IF | CF | VIF | VM | RF);
    let mut step = extended(0, |a| a.iret());
    frame(&mut step, 2 | TF);
    step.run().expect(13, Some(0), 0);
    let mut waiting = extended(0, |a| a.iret());
    frame(&mut waiting, 2 | IF);
    waiting.state.rflags |= VIP;
    waiting.run().expect(13, Some(0), 0);
}

#[test]
fn protected_mode_has_virtual_interrupts_with_pvi() {
    let bench = |pvi: u64| {
        let mut bench = Bench::protected_user(|a| {
            a.sti()?;
            a.cli()?;
            a.sti()?;
            a.ud2()
        });
        bench.state.cr4 |= pvi << 1;
        bench.run()
    };
    let trap = bench(1).expect(6, None, USER_CODE + 3);
    assert_eq!(trap.flags & (IF | VIF), IF | VIF);
    bench(0).expect(13, Some(0), USER_CODE);
}
