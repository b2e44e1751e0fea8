//! Small kernels of our own: an ELF file with a PVH note around a few instructions.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, IcedError};
use machine::{BootPayload, Exit, Machine, MachineConfig, Position, Profile, Translation, Tuning};

/// Where the code lies and starts.
pub const LOAD: u64 = 0x10_0000;

/// An ELF executable that is entered by PVH at its first byte.
pub fn kernel(code: &[u8]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM: u64 = 56;
    let note_at = HEADER + 2 * PROGRAM;
    let mut note = Vec::new();
    note.extend(4u32.to_le_bytes());
    note.extend(4u32.to_le_bytes());
    note.extend(18u32.to_le_bytes());
    note.extend(b"Xen\0");
    note.extend((LOAD as u32).to_le_bytes());
    let code_at = 0x1000u64;
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(LOAD.to_le_bytes());
    file.extend(HEADER.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut program = |kind: u32, offset: u64, address: u64, length: u64, align: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for quad in [offset, address, address, length, length, align] {
            file.extend(quad.to_le_bytes());
        }
    };
    program(1, code_at, LOAD, code.len() as u64, 0x1000);
    program(4, note_at, 0, note.len() as u64, 4);
    file.extend(note);
    file.resize(code_at as usize, 0);
    file.extend(code);
    file
}

/// The interpreter, with small caches.
pub const INTERPRETER: Tuning = Tuning {
    cache_bytes: 1 << 20,
    translation: Translation::Interpreter,
    longest_block: 48,
};

/// A machine with 32 MiB of RAM that runs `code`.
pub fn machine(code: &[u8]) -> Machine {
    Machine::new(MachineConfig {
        memory_size: 32 << 20,
        devices: Vec::new(),
        profile: Profile::default(),
        seed: [3; 32],
        start_time: 1_700_000_000,
        payload: BootPayload {
            kernel: Arc::new(kernel(code)),
            initramfs: Arc::new(Vec::new()),
            cmdline: String::new(),
        },
        tuning: INTERPRETER,
    })
    .expect("the machine can be made")
}

/// 32-bit code that turns the LAPIC timer into periodic interrupts, prints a letter at each, reads
/// what comes on the serial line, and computes between the interrupts; after `ticks` of them it
/// powers off.
pub fn ticking(ticks: u32) -> Vec<u8> {
    // Assembled twice: the first time to learn where the handler lies.
    let assembler = |handler_at: u32| -> Result<(Vec<u8>, u32), IcedError> {
        let mut a = CodeAssembler::new(32)?;
        let mut handler = a.create_label();
        let mut main_loop = a.create_label();
        let mut no_input = a.create_label();
        let mut go_on = a.create_label();
        let (idt, count, state) = (0x20_0000, 0x21_0000, 0x30_0000);
        // A gate for vector 0x40, and the IDT register's image.
        a.mov(eax, handler_at)?;
        a.mov(word_ptr(idt + 0x40 * 8), ax)?;
        a.mov(word_ptr(idt + 0x40 * 8 + 2), 0x10)?;
        a.mov(word_ptr(idt + 0x40 * 8 + 4), 0x8e00u32 as i32)?;
        a.shr(eax, 16)?;
        a.mov(word_ptr(idt + 0x40 * 8 + 6), ax)?;
        a.mov(word_ptr(0x20_f000), 0x7ff)?;
        a.mov(dword_ptr(0x20_f002), idt)?;
        a.lidt(ptr(0x20_f000))?;
        // LAPIC: on, timer periodic on vector 0x40, divide by 1.
        a.mov(dword_ptr(0xfee0_00f0u32), 0x1ff)?;
        a.mov(dword_ptr(0xfee0_03e0u32), 0xb)?;
        a.mov(dword_ptr(0xfee0_0320u32), 0x2_0040)?;
        a.mov(dword_ptr(0xfee0_0380u32), 125)?;
        // The serial port takes input while RTS is set.
        a.mov(dx, 0x3fc)?;
        a.mov(al, 2)?;
        a.out(dx, al)?;
        a.mov(esp, 0x40_0000)?;
        a.sti()?;
        a.set_label(&mut main_loop)?;
        // State: a multiplicative hash over a page that keeps changing.
        a.mov(ecx, 64)?;
        a.mov(edi, state)?;
        let mut round = a.create_label();
        a.set_label(&mut round)?;
        a.imul_3(eax, dword_ptr(edi), 0x0101_6b5d)?;
        a.lea(eax, ptr(eax + ecx + 0x9e37))?;
        a.rol(eax, 7)?;
        a.mov(dword_ptr(edi), eax)?;
        a.add(edi, 68)?;
        a.dec(ecx)?;
        a.jne(round)?;
        a.rdtsc()?;
        a.add(dword_ptr(state), eax)?;
        a.test(dword_ptr(count), 1)?;
        a.je(go_on)?;
        a.hlt()?;
        a.set_label(&mut go_on)?;
        a.cmp(dword_ptr(count), ticks)?;
        a.jb(main_loop)?;
        a.mov(dx, 0x600)?;
        a.mov(al, 0x34)?;
        a.out(dx, al)?;
        a.hlt()?;
        a.set_label(&mut handler)?;
        a.push(eax)?;
        a.push(edx)?;
        a.inc(dword_ptr(count))?;
        a.mov(dx, 0x3fd)?;
        a.in_(al, dx)?;
        a.test(al, 1)?;
        a.mov(dx, 0x3f8)?;
        a.je(no_input)?;
        a.in_(al, dx)?;
        a.out(dx, al)?;
        a.add(dword_ptr(state + 4), eax)?;
        a.set_label(&mut no_input)?;
        a.mov(al, byte_ptr(state))?;
        a.and(al, 15)?;
        a.add(al, 97)?;
        a.out(dx, al)?;
        a.mov(dword_ptr(0xfee0_00b0u32), 0)?;
        a.pop(edx)?;
        a.pop(eax)?;
        a.iretd()?;
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = a.assemble_options(LOAD, options)?;
        let handler = result.label_ip(&handler)? as u32;
        Ok((result.inner.code_buffer, handler))
    };
    let (_, handler) = assembler(LOAD as u32).expect("the program assembles");
    assembler(handler).expect("the program assembles").0
}

/// Runs to a position, through idle times, as a replaying side does; false if the machine is off.
pub fn run_to(machine: &mut Machine, target: Position) -> bool {
    let kick = AtomicBool::new(false);
    loop {
        match machine.run(target, &kick) {
            Exit::Until => return true,
            Exit::PoweredOff => return false,
            Exit::Idle {
                deadline: Some(deadline),
            } => machine.idle_jump(deadline),
            Exit::Idle { deadline: None } => panic!("the guest waits for ever"),
            Exit::Kicked | Exit::Output | Exit::Reset => {}
        }
    }
}

/// A small generator for positions: splitmix64.
pub struct Random(pub u64);

impl Random {
    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
