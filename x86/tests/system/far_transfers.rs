//! Far JMP, CALL and RET, direct and through call gates.

use iced_x86::code_asm::*;

use crate::bench::*;

/// Where far calls of the tests go.
const TARGET: u64 = CODE + 0x800;

/// JMP or CALL far through a pointer in memory: group 5, an absolute address.
fn far(a: &mut CodeAssembler, call: bool, wide: bool) -> Result<(), iced_x86::IcedError> {
    let mut bytes = Vec::new();
    if wide {
        bytes.push(0x48);
    }
    bytes.extend([0xff, if call { 0x1c } else { 0x2c }, 0x25]);
    bytes.extend((DATA as u32).to_le_bytes());
    a.db(&bytes)
}

/// 64-bit code that goes to `selector`:`offset`.
fn long(call: bool, selector: u16, offset: u64) -> Bench {
    let mut bench = Bench::long(|a| {
        far(a, call, true)?;
        a.hlt()
    });
    bench.write64(DATA, offset);
    bench.write16(DATA + 8, selector);
    bench.code(64, TARGET, |a| a.hlt());
    bench
}

/// A call gate of 16 bytes in SPARE.
fn gate64(bench: &mut Bench, rights: u8, selector: u16, offset: u64) {
    let low = offset & 0xffff
        | u64::from(selector) << 16
        | u64::from(rights) << 40
        | (offset >> 16 & 0xffff) << 48;
    bench.write64(GDT + u64::from(SPARE), low);
    bench.write64(GDT + u64::from(SPARE) + 8, offset >> 32);
}

#[test]
fn a_far_jump_and_call_in_64_bit_mode() {
    let outcome = long(false, KERNEL_CS, TARGET).run();
    assert_eq!(
        (outcome.register(RSP), outcome.state.rip),
        (STACK, TARGET + 1)
    );
    let outcome = long(true, KERNEL_CS, TARGET).run();
    assert_eq!(outcome.register(RSP), STACK - 16);
    assert_eq!(outcome.read64(STACK - 8), u64::from(KERNEL_CS));
    assert_eq!(outcome.read64(STACK - 16), CODE + 8);
}

#[test]
fn far_transfers_are_checked() {
    let refused = |bench: Bench, vector: u8, error: u16| {
        let outcome = bench.run();
        outcome.expect(vector, Some(u32::from(error)), CODE);
        assert_eq!(outcome.trap().rsp, STACK);
    };
    refused(long(true, 0, TARGET), 13, 0);
    refused(long(true, KERNEL_DS, TARGET), 13, KERNEL_DS);
    refused(long(true, USER_CS, TARGET), 13, USER_CS & !3);
    refused(long(true, 0xff8, TARGET), 13, 0xff8);
    refused(long(true, KERNEL_CS, 1 << 47), 13, 0);
    refused(long(false, KERNEL_CS32, 1 << 33), 13, 0);
    refused(long(true, TASK, TARGET), 13, TASK);
    let mut absent = long(true, SPARE, TARGET);
    absent.describe(SPARE, CODE64 & !0x80, 0, 0);
    refused(absent, 11, SPARE);
}

#[test]
fn between_64_bit_and_compatibility_mode() {
    let mut bench = long(false, KERNEL_CS32, TARGET);
    bench.code(32, TARGET, |a| {
        a.inc(eax)?;
        // JMP 8:TARGET + 0x100.
        a.db(&[0xea])?;
        a.db(&(TARGET as u32 + 0x100).to_le_bytes())?;
        a.db(&KERNEL_CS.to_le_bytes())
    });
    bench.code(64, TARGET + 0x100, |a| {
        a.mov(rbx, 1u64 << 40)?;
        a.hlt()
    });
    let outcome = bench.run();
    assert_eq!((outcome.register(RAX), outcome.register(RBX)), (1, 1 << 40));
}

#[test]
fn far_return_to_level_3_and_back_by_a_gate() {
    let mut bench = Bench::long(|a| {
        a.push(i32::from(USER_DS))?;
        a.push(USER_STACK as i32)?;
        a.push(i32::from(USER_CS))?;
        a.push(USER_CODE as i32)?;
        a.retf()
    });
    bench.code(64, USER_CODE, |a| {
        a.db(&[0x48, 0xff, 0x1c, 0x25])?;
        a.db(&(USER_DATA as u32).to_le_bytes())
    });
    bench.write16(USER_DATA + 8, SPARE | 3);
    gate64(&mut bench, 0xec, KERNEL_CS, TARGET);
    bench.code(64, TARGET, |a| {
        a.mov(rbx, ss)?;
        a.hlt()
    });
    bench.state.gpr[RBX] = 9;
    let outcome = bench.run();
    assert_eq!(outcome.register(RSP), STACK0 - 32);
    let frame = [0, 1, 2, 3].map(|slot| outcome.read64(STACK0 - 32 + 8 * slot));
    let expected = [
        USER_CODE + 8,
        u64::from(USER_CS),
        USER_STACK,
        u64::from(USER_DS),
    ];
    assert_eq!(frame, expected);
    assert_eq!(outcome.register(RBX), 0, "SS is null");
}

#[test]
fn a_gate_is_checked_before_its_target() {
    let refused = |rights: u8, selector: u16, offset: u64, vector: u8, error: u16| {
        let mut bench = long(true, SPARE, 0);
        gate64(&mut bench, rights, selector, offset);
        bench.run().expect(vector, Some(u32::from(error)), CODE);
    };
    refused(0x0c, KERNEL_CS, TARGET, 11, SPARE);
    refused(0x84, KERNEL_CS, TARGET, 13, SPARE);
    refused(0x8c, 0, TARGET, 13, 0);
    refused(0x8c, KERNEL_CS32, TARGET, 13, KERNEL_CS32);
    refused(0x8c, USER_CS, TARGET, 13, USER_CS & !3);
    refused(0x8c, KERNEL_CS, 1 << 47, 13, 0);
    let mut upper = long(true, SPARE, 0);
    gate64(&mut upper, 0x8c, KERNEL_CS, TARGET);
    upper.write64(GDT + u64::from(SPARE) + 8, 1 << 40);
    upper.run().expect(13, Some(u32::from(SPARE)), CODE);
    let mut level = Bench::long_user(|a| {
        a.db(&[0x48, 0xff, 0x1c, 0x25])?;
        a.db(&(USER_DATA as u32).to_le_bytes())
    });
    level.write16(USER_DATA + 8, SPARE | 3);
    gate64(&mut level, 0x8c, KERNEL_CS, TARGET);
    level.run().expect(13, Some(u32::from(SPARE)), USER_CODE);
}

#[test]
fn a_gate_from_compatibility_mode_pushes_64_bits() {
    let mut bench = Bench::compatible(|a| {
        a.db(&[0x9a, 0, 0, 0, 0])?;
        a.db(&SPARE.to_le_bytes())
    });
    gate64(&mut bench, 0x8c, KERNEL_CS, TARGET);
    bench.code(64, TARGET, |a| a.hlt());
    let outcome = bench.run();
    assert_eq!(outcome.register(RSP), STACK - 16);
    assert_eq!(outcome.read64(STACK - 16), CODE + 7);
    assert_eq!(outcome.read64(STACK - 8), u64::from(KERNEL_CS32));
}

#[test]
fn a_legacy_gate_copies_its_parameters() {
    let mut bench = Bench::protected_user(|a| {
        a.push(0x1111)?;
        a.push(0x2222)?;
        a.db(&[0x9a, 0, 0, 0, 0])?;
        a.db(&(SPARE | 3).to_le_bytes())?;
        a.ud2()
    });
    let gate =
        TARGET & 0xffff | u64::from(KERNEL_CS) << 16 | 2 << 32 | 0xec << 40 | (TARGET >> 16) << 48;
    bench.write64(GDT + u64::from(SPARE), gate);
    bench.code(32, TARGET, |a| {
        a.mov(eax, dword_ptr(esp + 8))?;
        a.mov(ebx, dword_ptr(esp + 12))?;
        a.mov(ecx, esp)?;
        a.retf_1(8)
    });
    let outcome = bench.run();
    let trap = outcome.trap();
    assert_eq!(trap.vector, 6);
    assert_eq!(
        trap.rsp, USER_STACK,
        "RETF 8 drops the parameters of both stacks"
    );
    assert_eq!(
        (outcome.state.gpr[RAX], outcome.state.gpr[RBX]),
        (0x2222, 0x1111)
    );
    assert_eq!(outcome.state.gpr[RCX], STACK0 - 24);
}

#[test]
fn retf_refuses_inner_levels() {
    let mut bench = Bench::long_user(|a| a.retf());
    bench.state.gpr[RSP] = USER_STACK - 16;
    bench.write64(USER_STACK - 16, CODE);
    bench.write64(USER_STACK - 8, u64::from(KERNEL_CS));
    let outcome = bench.run();
    let trap = outcome.expect(13, Some(u32::from(KERNEL_CS)), USER_CODE);
    assert_eq!(trap.rsp, USER_STACK - 16);
}

#[test]
fn real_mode_far_transfers_check_the_limit() {
    let mut bench = Bench::real(|a| {
        // JMP far with a 32-bit offset beyond 64 KiB.
        a.db(&[0x66, 0xea, 0x00, 0x00, 0x01, 0x00, 0x00, 0x10])
    });
    bench.state.gpr[RBX] = 1;
    bench.run().expect(13, None, 0);
    let retf = Bench::real(|a| {
        a.db(&[0x66, 0x6a, 0x00])?;
        a.db(&[0x66, 0x68, 0x00, 0x00, 0x01, 0x00])?;
        a.db(&[0x66, 0xcb])
    });
    retf.run().expect(13, None, 9);
    let mut call = Bench::real(|a| {
        a.db(&[0x9a, 0x10, 0x00, 0x00, 0x20])?;
        a.hlt()
    });
    call.code(16, 0x2_0010, |a| {
        a.inc(bx)?;
        a.retf()
    });
    let outcome = call.run();
    assert_eq!((outcome.register(RBX), outcome.register(RSP)), (1, 0xf000));
}
