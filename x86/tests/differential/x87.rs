//! The x87 instructions.
//!
//! Every case starts with a random control word, stack and flags. What is not compared: the
//! pointers to the last instruction, which the processor and its kernel may forget, and the digits
//! of transcendental results, which are the processor's own.

use iced_x86::{Code, Instruction, MemorySize, Mnemonic as M, OpCodeOperandKind, OpKind};

use crate::context::{Case, FX_BYTES, Fault, Fx, Outcome, Patch};
use crate::family::{Family, never};
use crate::integer::linear_address;
use crate::layout::{DATA, Mode};
use crate::rng::Rng;
use crate::runner::check;

/// FSW: ES.
const SUMMARY: u16 = 1 << 7;
/// FSW: C1.
const C1: u16 = 1 << 9;

/// A form that this CPU model has and that is one instruction (FSTCW is FWAIT and FNSTCW).
fn is_x87(code: Code) -> bool {
    let in_range =
        (Code::Fadd_m32fp as usize..=Code::Fcomip_st0_sti as usize).contains(&(code as usize));
    let absent = matches!(
        code.mnemonic(),
        M::Fstdw | M::Fstsg | M::Frstpm | M::Feni | M::Fdisi | M::Fsetpm
    );
    code == Code::Wait || in_range && !absent && !code.op_code().fwait()
}

fn is_transcendental(code: Code) -> bool {
    matches!(
        code.mnemonic(),
        M::Fsin | M::Fcos | M::Fsincos | M::Fptan | M::Fpatan | M::F2xm1 | M::Fyl2x | M::Fyl2xp1
    )
}

fn family(name: &'static str, accepts: fn(Code) -> bool) -> Family {
    Family {
        name,
        accepts,
        prepare,
        skip: never,
        undefined_flags: |_, _| 0,
        normalise,
    }
}

fn check_all(family: &Family) {
    for mode in [Mode::Long, Mode::Flat32, Mode::Segmented16] {
        check(family, mode);
    }
}

#[test]
fn with_memory() {
    check_all(&family("x87 with memory", |code| {
        is_x87(code) && reaches_memory(code)
    }));
}

#[test]
fn among_registers() {
    check_all(&family("x87 among registers", |code| {
        is_x87(code) && !reaches_memory(code) && !is_transcendental(code)
    }));
}

#[test]
fn transcendental() {
    check_all(&family("x87 transcendental", |code| {
        is_x87(code) && is_transcendental(code)
    }));
}

fn reaches_memory(code: Code) -> bool {
    let info = code.op_code();
    (0..info.op_count()).any(|n| info.op_kind(n) == OpCodeOperandKind::mem)
}

// ---- operands ------------------------------------------------------------------------------

fn prepare(rng: &mut Rng, insn: &Instruction, case: &mut Case) {
    let fx = &mut case.before.fx;
    let control = control_word(rng);
    fx.set_u16(0, control);
    fx.set_u16(2, status_word(rng, control));
    fx.0[4] = match rng.below(4) {
        0 => rng.next() as u8,
        1 => 0xff,
        // Not full, and something on it.
        _ => 0x7f_u8.rotate_left(u32::from(fx.0[3] >> 3 & 7)) & !(1 << rng.below(16)) as u8,
    };
    let near = rng.value();
    for n in 0..8 {
        let (mantissa, exponent) = extended(rng, near);
        fx.set_st(n, mantissa, exponent);
    }
    if insn.op_kinds().any(|kind| kind == OpKind::Memory) {
        case.patches[0] = memory_operand(rng, insn, case, near);
    }
}

fn control_word(rng: &mut Rng) -> u16 {
    let masks = match rng.below(4) {
        0 => rng.next() as u16 & 0x3f,
        1 => 0x3f & !(1 << rng.below(6)),
        _ => 0x3f,
    };
    let precision = rng.pick(&[0x300, 0x300, 0x200, 0x000, 0x100]);
    let rounding = (rng.next() as u16 & 3) << 10;
    0x40 | masks | precision | rounding | if rng.chance(5) { 0x1000 } else { 0 }
}

/// Flags and condition codes at random; now and then an exception waits.
fn status_word(rng: &mut Rng, control: u16) -> u16 {
    let mut status = rng.next() as u16 & 0x7f7f;
    if !rng.chance(10) {
        status &= !0x3f | control;
    }
    if rng.chance(50) {
        status &= !0x7f;
    }
    if status & !control & 0x3f != 0 {
        status |= SUMMARY | 0x8000;
    }
    status
}

/// A register's value: often special, often near another one.
fn extended(rng: &mut Rng, near: u64) -> (u64, u16) {
    let sign = (rng.next() as u16 & 1) << 15;
    let integer_bit = 1 << 63;
    let mantissa = match rng.below(4) {
        0 => integer_bit,
        1 => integer_bit | rng.value(),
        2 => integer_bit | near,
        _ => integer_bit | rng.next() & !0 << rng.below(63),
    };
    let bias = 0x3fff;
    match rng.below(24) {
        0 | 1 => (0, sign),
        2 | 3 => (integer_bit, sign | 0x7fff),
        4 => (integer_bit | 1 << 62 | rng.value(), sign | 0x7fff),
        5 => ((integer_bit | 1 | rng.value()) & !(1 << 62), sign | 0x7fff),
        6 => (rng.value() & !integer_bit | 1, sign),
        7 => (mantissa, sign),
        8 => (
            rng.value() & !integer_bit,
            sign | rng.next() as u16 & 0x7fff,
        ),
        9 => (mantissa, sign | rng.pick(&[1, 2, 0x7ffd, 0x7ffe])),
        10 => (mantissa, sign | rng.next() as u16 & 0x7fff),
        // The limits of single and double precision.
        11 => (mantissa, sign | (bias + rng.pick(&[127, 128, 1023, 1024]))),
        12 => (
            mantissa,
            sign | (bias - rng.pick(&[126, 127, 140, 150, 1022, 1023, 1040, 1075])),
        ),
        13 => (mantissa, sign | (bias + 60 + rng.below(6) as u16)),
        14 | 15 => (mantissa, sign | bias),
        // A small integer.
        16 | 17 => {
            let bits = rng.below(16) as u16;
            (
                integer_bit | (rng.next() >> (63 - bits) << (63 - bits)),
                sign | (bias + bits),
            )
        }
        18 => (mantissa, sign | (bias - 70 + rng.below(140) as u16)),
        _ => (mantissa, sign | (bias - 8 + rng.below(40) as u16)),
    }
}

/// A value for the memory operand, in its format.
fn memory_operand(rng: &mut Rng, insn: &Instruction, case: &Case, near: u64) -> Patch {
    let mut patch = Patch {
        address: linear_address(insn, case),
        ..Patch::default()
    };
    let mut put = |bytes: &[u8]| {
        patch.bytes[..bytes.len()].copy_from_slice(bytes);
        patch.length = bytes.len() as u8;
    };
    match insn.memory_size() {
        MemorySize::Float32 => put(&(binary(rng, 8, 23, near) as u32).to_le_bytes()),
        MemorySize::Float64 => put(&binary(rng, 11, 52, near).to_le_bytes()),
        MemorySize::Float80 => {
            let (mantissa, exponent) = extended(rng, near);
            put(&mantissa.to_le_bytes());
            let mut bytes = [0; 10];
            bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
            bytes[8..].copy_from_slice(&exponent.to_le_bytes());
            put(&bytes);
        }
        MemorySize::Bcd => {
            let mut bytes = [0; 10];
            for byte in &mut bytes[..rng.below(11) as usize] {
                *byte = (rng.below(10) << 4 | rng.below(10)) as u8;
            }
            bytes[9] = rng.pick(&[0, 0x80]);
            put(&bytes);
        }
        MemorySize::UInt16 => put(&control_word(rng).to_le_bytes()),
        MemorySize::FpuEnv14 | MemorySize::FpuState94 => put(&environment::<2>(rng)),
        MemorySize::FpuEnv28 | MemorySize::FpuState108 => put(&environment::<4>(rng)),
        _ => put(&rng.value().to_le_bytes()),
    }
    patch
}

/// Control, status and tag word, each in `WIDTH` bytes.
fn environment<const WIDTH: usize>(rng: &mut Rng) -> [u8; 12] {
    let control = control_word(rng);
    let mut bytes = [0xff; 12];
    for (n, word) in [control, status_word(rng, control), rng.next() as u16]
        .iter()
        .enumerate()
    {
        bytes[WIDTH * n..][..2].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// An IEEE 754 image.
fn binary(rng: &mut Rng, exponent_bits: u32, fraction_bits: u32, near: u64) -> u64 {
    let sign = (rng.next() & 1) << (exponent_bits + fraction_bits);
    let most = (1 << exponent_bits) - 1;
    let exponent = match rng.below(8) {
        0 => 0,
        1 => most,
        2 => rng.next() & most,
        _ => (most / 2 - 8 + rng.below(40)) & most,
    };
    let fraction = match rng.below(4) {
        0 => 0,
        1 => rng.value(),
        2 => near << 1 >> (63 - fraction_bits),
        _ => rng.next(),
    };
    sign | exponent << fraction_bits | fraction & ((1 << fraction_bits) - 1)
}

// ---- what may differ -----------------------------------------------------------------------

fn normalise(insn: &Instruction, case: &Case, outcome: &mut Outcome) {
    let fx = &mut outcome.after.fx;
    // The last instruction and its operand.
    fx.0[6..24].fill(0);
    if matches!(
        insn.mnemonic(),
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip
    ) {
        // Intel's clear C1, AMD's leave it alone.
        let status = u16::from_le_bytes([fx.0[2], fx.0[3]]);
        fx.set_u16(2, status & !C1);
    }
    let raised = outcome.fault != Fault::NONE;
    if is_large(insn) {
        // Which byte of the page that is absent is up to the processor.
        outcome.fault.address &= !0xfff;
    }
    if is_transcendental(insn.code()) && !raised {
        forget_digits(fx);
    }
    if matches!(insn.mnemonic(), M::Fnstenv | M::Fnsave) && !raised {
        let (from, to) = match insn.memory_size() {
            MemorySize::FpuEnv14 | MemorySize::FpuState94 => (6, 14),
            _ => (12, 26),
        };
        let at = linear_address(insn, case).wrapping_sub(DATA);
        for i in from..to {
            if let Some(byte) = outcome.memory.get_mut((at + i) as usize) {
                *byte = 0;
            }
        }
    }
}

/// An operand that no processor moves in one piece.
fn is_large(insn: &Instruction) -> bool {
    matches!(
        insn.memory_size(),
        MemorySize::FpuEnv14
            | MemorySize::FpuEnv28
            | MemorySize::FpuState94
            | MemorySize::FpuState108
    )
}

/// Makes an inexact result of a transcendental function nothing but a sign and its neighbourhood.
fn forget_digits(fx: &mut Fx) {
    const PRECISION: u8 = 1 << 5;
    if fx.0[2] & PRECISION == 0 {
        return;
    }
    fx.0[3] &= !(C1 >> 8) as u8;
    for n in 0..2 {
        let at = 32 + 16 * n;
        debug_assert!(at + 16 <= FX_BYTES);
        fx.0[at..at + 8].fill(0);
        fx.0[at + 8] = 0;
    }
}

/// Every test of this file, for the list of what they cover.
pub const TESTS: &[fn()] = &[with_memory, among_registers, transcendental];
