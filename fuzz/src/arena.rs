//! A guest of one megabyte: tables that work, registers at interesting values, code from the fuzzer.
//!
//! Does: build RAM and CPU state for each mode. Does not: run them (`compare`).
//!
//! Invariant: the first instruction can be fetched, in whatever mode, unless the caller rewrites the
//! page tables afterwards.

use memory::GuestRam;
use x86::{CpuState, Profile, Segment};

use crate::bytes::Bytes;

/// Bytes of RAM.
pub const RAM: u64 = 1 << 20;
/// The page tables: four pages, root first.
pub const TABLES: u64 = 0x1000;
/// Interrupt descriptors.
const IDT: u64 = 0x7000;
/// Segment descriptors.
const GDT: u64 = 0x8000;
/// Task state.
const TSS: u64 = 0x9000;
/// Where execution begins.
pub const CODE: u64 = 0x1_0000;
/// Where exceptions and interrupts lead, 16 bytes a handler, 16 handlers.
const HANDLERS: u64 = CODE + 0x800;
/// Data that registers point to.
pub const DATA: u64 = 0x3_0000;
/// Top of the stack.
const STACK: u64 = 0x2_8000;

/// The mode that a guest starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit, level 0.
    Kernel64,
    /// 64-bit, level 3.
    User64,
    /// Compatibility mode, level 3.
    User32,
    /// Protected mode without paging, level 0.
    Protected,
    /// Real mode.
    Real,
    /// Virtual-8086 mode without paging.
    Virtual8086,
}

impl Mode {
    fn of(byte: u8) -> Mode {
        match byte % 6 {
            0 => Mode::Kernel64,
            1 => Mode::User64,
            2 => Mode::User32,
            3 => Mode::Protected,
            4 => Mode::Real,
            _ => Mode::Virtual8086,
        }
    }

    fn is_long(self) -> bool {
        matches!(self, Mode::Kernel64 | Mode::User64 | Mode::User32)
    }

    fn is_user(self) -> bool {
        matches!(self, Mode::User64 | Mode::User32)
    }
}

/// A guest before its first step.
pub struct Guest {
    /// RAM.
    pub ram: GuestRam,
    /// The CPU.
    pub state: CpuState,
}

/// A guest from the front of `bytes`: CPU model, mode, flags, registers, then all the rest as code.
pub fn guest(bytes: &mut Bytes<'_>) -> Guest {
    let model = bytes.byte();
    let mode = Mode::of(bytes.byte());
    let mut ram = GuestRam::new(RAM).expect("RAM can be mapped");
    write_tables(&mut ram);
    write_descriptors(&mut ram, mode);
    let profile = Profile::ALL[usize::from(model) % Profile::ALL.len()];
    let mut state = CpuState::power_up(profile, [7; 32]);
    enter(&mut state, mode);
    state.rflags = 2 | u64::from(bytes.u32()) & 0x0004_0dd5;
    if mode == Mode::Virtual8086 {
        state.rflags |= 1 << 17;
    }
    for number in 0..16 {
        state.gpr[number] = value(bytes.byte(), number as u64, mode);
    }
    for number in 0..16u128 {
        state.xmm[number as usize] =
            0x3ff8_0000_4049_0fdb_c000_0000_7f80_0001u128.rotate_left(7 * number as u32);
    }
    write(&mut ram, DATA, &pattern());
    // Handlers come from the same bytes, so that the fuzzer can reach what they do.
    let code = bytes.take(0x400);
    write(&mut ram, CODE, code);
    for (number, chunk) in code.rchunks(16).take(16).enumerate() {
        write(&mut ram, HANDLERS + number as u64 * 16, chunk);
    }
    Guest { ram, state }
}

/// A value for a register: what a byte can choose among.
fn value(choice: u8, number: u64, mode: Mode) -> u64 {
    if number == 4 && choice < 0xf0 {
        return if mode.is_long() || mode == Mode::Protected {
            STACK - u64::from(choice)
        } else {
            0x8000 - u64::from(choice)
        };
    }
    let small = u64::from(choice >> 4);
    match choice & 15 {
        0 => small,
        1 => small.wrapping_neg(),
        2..=5 => DATA + 8 * small + 0x100 * number,
        6 => DATA + 0x1000 - small,
        7 => CODE + 4 * small,
        8 => TABLES + 8 * small + 0x1000 * (number & 3),
        9 => RAM - small,
        10 => 1 << (4 * small),
        11 => 0x7fff_ffff_ffff - small,
        12 => 0x8000_0000 - small,
        13 => 0xfee0_0000 + 16 * small,
        14 => 0x0102_0304_0506_0708 * small,
        _ => 0xffff_8000_0000_0000 + small,
    }
}

fn pattern() -> [u8; 0x2000] {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
}

/// Writes RAM as a loader does; what does not fit is cut off.
pub fn write(ram: &mut GuestRam, address: u64, bytes: &[u8]) {
    let room = RAM.saturating_sub(address).min(bytes.len() as u64);
    ram.write(address, &bytes[..room as usize])
        .expect("the stretch is RAM");
}

/// Maps all of RAM to itself, writable, for level 3 too.
fn write_tables(ram: &mut GuestRam) {
    for level in 0..3 {
        let entry = (TABLES + 0x1000 * (level + 1)) | 7;
        write(ram, TABLES + 0x1000 * level, &entry.to_le_bytes());
    }
    for page in 0..RAM / 0x1000 {
        let entry = page << 12 | 7;
        write(ram, TABLES + 0x3000 + 8 * page, &entry.to_le_bytes());
    }
}

fn write_descriptors(ram: &mut GuestRam, mode: Mode) {
    let flat = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x00cf_9b00_0000_ffff,
        0,
        0x0000_8b00_0000_0067 | TSS << 16,
        0,
    ];
    for (index, descriptor) in (0u64..).zip(flat) {
        write(ram, GDT + 8 * index, &u64::to_le_bytes(descriptor));
    }
    for vector in 0..256u64 {
        let handler = HANDLERS + 16 * (vector & 15);
        match mode {
            Mode::Real => {
                let pointer = (handler >> 4) << 16;
                write(ram, 4 * vector, &(pointer as u32).to_le_bytes());
            }
            Mode::Protected | Mode::Virtual8086 => {
                let gate = handler & 0xffff | 0x30 << 16 | 0xee00 << 32 | (handler >> 16) << 48;
                write(ram, IDT + 8 * vector, &gate.to_le_bytes());
            }
            _ => {
                let gate = handler & 0xffff | 0x08 << 16 | 0xee00 << 32 | (handler >> 16) << 48;
                write(ram, IDT + 16 * vector, &gate.to_le_bytes());
                write(ram, IDT + 16 * vector + 8, &[0; 8]);
            }
        }
    }
    let stacks = STACK - 0x4000;
    write(ram, TSS, &[0; 0x68]);
    if mode.is_long() {
        write(ram, TSS + 4, &stacks.to_le_bytes());
    } else {
        write(ram, TSS + 4, &(stacks as u32).to_le_bytes());
        write(ram, TSS + 8, &[0x10, 0]);
    }
    write(ram, TSS + 0x66, &[0x68, 0]);
}

fn enter(state: &mut CpuState, mode: Mode) {
    let segment = |selector: u16, rights: u16| Segment {
        selector,
        rights,
        limit: u32::MAX,
        base: 0,
    };
    let small = |selector: u16, rights: u16| Segment {
        selector,
        rights,
        limit: 0xffff,
        base: u64::from(selector) << 4,
    };
    let (code, data) = match mode {
        Mode::Kernel64 => (segment(0x08, 0xa09b), segment(0x10, 0xc093)),
        Mode::User64 => (segment(0x2b, 0xa0fb), segment(0x23, 0xc0f3)),
        Mode::User32 => (segment(0x1b, 0xc0fb), segment(0x23, 0xc0f3)),
        Mode::Protected => (segment(0x30, 0xc09b), segment(0x10, 0xc093)),
        Mode::Real => (small((CODE >> 4) as u16, 0x9b), small(0x2000, 0x93)),
        Mode::Virtual8086 => (small((CODE >> 4) as u16, 0xf3), small(0x2000, 0xf3)),
    };
    state.segments = [data, code, data, data, data, data];
    state.rip = if code.base == 0 { CODE } else { 0 };
    state.cr0 = if mode == Mode::Real { 0x10 } else { 0x33 };
    if mode.is_long() {
        state.cr0 |= 1 << 31 | 1 << 16;
        state.cr3 = TABLES;
        // PAE, PGE, OSFXSR, OSXMMEXCPT.
        state.cr4 = 0x6a0;
        // SCE, LME, LMA, NXE.
        state.msr.efer = 0xd01;
    } else {
        state.cr4 = 0x600;
    }
    if mode != Mode::Real {
        state.gdtr.base = GDT;
        state.gdtr.limit = 0x4f;
        state.idtr.base = IDT;
        state.idtr.limit = if mode.is_long() { 0xfff } else { 0x7ff };
        state.tr = Segment {
            selector: 0x40,
            rights: 0x8b,
            limit: 0x67,
            base: TSS,
        };
        state.ldtr.rights = 0;
    }
    let entry = HANDLERS + 0x20;
    state.msr.star = 0x0018_0008 << 32;
    state.msr.lstar = entry;
    state.msr.cstar = entry;
    state.msr.sysenter_cs = 0x08;
    state.msr.sysenter_eip = entry;
    state.msr.sysenter_esp = STACK - 0x6000;
    debug_assert!(mode.is_user() == (code.rights >> 5 & 3 == 3) || mode == Mode::Virtual8086);
}
