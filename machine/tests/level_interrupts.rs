//! Level-triggered interrupts between the IOAPIC and the local APIC.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod tiny;

use std::sync::atomic::AtomicBool;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::{Exit, Input, Position};

/// Programs the ACPI event's pin as a level with vector 0x32, waits a while, and notes what the
/// guest can see of it before and after it switches the local APIC on.
fn program() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(32)?;
    let (select, window) = (0xfec0_0000u32, 0xfec0_0010u32);
    a.mov(dword_ptr(select), 0x1a)?;
    a.mov(dword_ptr(window), 0x8032)?;
    a.mov(ecx, 100)?;
    let mut wait = a.create_label();
    a.set_label(&mut wait)?;
    a.dec(ecx)?;
    a.jne(wait)?;
    a.mov(eax, dword_ptr(window))?;
    // Spurious-interrupt vector register: on. Then IRR of vectors 0x20 to 0x3f.
    a.mov(dword_ptr(0xfee0_00f0u32), 0x1ff)?;
    a.mov(ebx, dword_ptr(0xfee0_0210u32))?;
    a.mov(ecx, dword_ptr(window))?;
    a.hlt()?;
    a.assemble(tiny::LOAD)
}

#[test]
fn a_level_that_a_disabled_local_apic_refused_arrives_once_it_is_enabled() {
    let mut machine = tiny::machine(&program().expect("the program assembles"));
    let kick = AtomicBool::new(false);
    assert_eq!(machine.run(Position(50), &kick), Exit::Until);
    machine.apply(&Input::PowerButton);
    assert_eq!(
        machine.run(Position(1000), &kick),
        Exit::Idle { deadline: None }
    );
    let gpr = machine.save().cpu.gpr;
    let (before, requests, after) = (gpr[0], gpr[3], gpr[1]);
    assert_eq!(before, 0x8032, "no remote IRR: nothing was accepted");
    assert_eq!(requests, 1 << (0x32 - 0x20));
    assert_eq!(after, 0xc032);
}
