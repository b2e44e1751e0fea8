//! What INIT and NMI do to the machine.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod tiny;

use std::sync::atomic::AtomicBool;

use iced_x86::BlockEncoderOptions;
use iced_x86::code_asm::*;
use machine::{Exit, Input, Position};

#[test]
fn an_init_of_the_only_cpu_resets_the_machine() {
    // mov dword [0xfee00300], 0x00084500: INIT to all including self; hlt.
    let code = [
        0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x08, 0x00, 0xf4,
    ];
    let mut machine = tiny::machine(&code);
    let kick = AtomicBool::new(false);
    for round in 1..4u64 {
        assert_eq!(machine.run(Position(1000), &kick), Exit::Reset);
        // The store, and the reset.
        assert_eq!(machine.position(), Position(2 * round));
    }
}

/// 32-bit code that waits, and counts non-maskable interrupts at 0x210000.
fn counting() -> Vec<u8> {
    let assemble = |handler_at: u32| -> Result<(Vec<u8>, u32), iced_x86::IcedError> {
        let mut a = CodeAssembler::new(32)?;
        let mut wait = a.create_label();
        let mut handler = a.create_label();
        let gate = 0x20_0000 + 2 * 8;
        a.mov(eax, handler_at)?;
        a.mov(word_ptr(gate), ax)?;
        a.mov(word_ptr(gate + 2), 0x10)?;
        a.mov(word_ptr(gate + 4), 0x8e00u32 as i32)?;
        a.shr(eax, 16)?;
        a.mov(word_ptr(gate + 6), ax)?;
        a.mov(word_ptr(0x20_f000), 0x7ff)?;
        a.mov(dword_ptr(0x20_f002), 0x20_0000)?;
        a.lidt(ptr(0x20_f000))?;
        a.mov(esp, 0x40_0000)?;
        a.set_label(&mut wait)?;
        a.hlt()?;
        a.jmp(wait)?;
        a.set_label(&mut handler)?;
        a.inc(dword_ptr(0x21_0000))?;
        a.iretd()?;
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = a.assemble_options(tiny::LOAD, options)?;
        let handler = result.label_ip(&handler)? as u32;
        Ok((result.inner.code_buffer, handler))
    };
    let (_, handler) = assemble(tiny::LOAD as u32).expect("the program assembles");
    assemble(handler).expect("the program assembles").0
}

#[test]
fn an_nmi_wakes_a_cpu_that_takes_no_other_interrupt() {
    let mut machine = tiny::machine(&counting());
    let kick = AtomicBool::new(false);
    let waits = Exit::Idle { deadline: None };
    for count in 0..3u64 {
        assert_eq!(machine.run(Position(1000), &kick), waits);
        assert_eq!(machine.ram().read_u64(0x21_0000).unwrap(), count);
        machine.apply(&Input::Nmi);
    }
}
