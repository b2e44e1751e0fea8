//! MMX, SSE and SSE2: every form that iced-x86 knows of these sets, and FXSAVE.
//!
//! Vectors are mostly made of singles, doubles or integers at the edges of their formats, under
//! every rounding, FTZ, DAZ and set of masks. Not compared: the approximations of reciprocals, which
//! differ between processors, and what FXSAVE tells of MXCSR's bits.

use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, Mnemonic as M, OpKind};

use crate::context::{Case, Fault, Outcome, Patch};
use crate::family::{Family, documented_undefined_flags};
use crate::integer::linear_address;
use crate::layout::{DATA, Mode};
use crate::rng::Rng;
use crate::runner::check;

const ALL: [Mode; 3] = [Mode::Long, Mode::Flat32, Mode::Segmented16];

fn check_all(name: &'static str, accepts: fn(Code) -> bool) {
    let family = Family {
        name,
        accepts,
        prepare,
        skip,
        undefined_flags: documented_undefined_flags,
        normalise,
    };
    for mode in ALL {
        check(&family, mode);
    }
}

/// True if `code` is in one of the sets and no other family's.
fn belongs(code: Code) -> bool {
    let sets = [
        CpuidFeature::MMX,
        CpuidFeature::SSE,
        CpuidFeature::SSE2,
        CpuidFeature::FXSR,
    ];
    code.encoding() == EncodingKind::Legacy
        && code
            .cpuid_features()
            .iter()
            .any(|feature| sets.contains(feature))
        && !code.cpuid_features().contains(&CpuidFeature::PADLOCK_ACE)
}

/// Approximations, and CVTPI2PS from memory while an x87 exception is pending: Intel's manual has it
/// raised first, processors of AMD's leave x87 alone.
fn skip(insn: &Instruction, case: &Case) -> bool {
    match insn.mnemonic() {
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss => true,
        M::Cvtpi2ps => {
            let fx = &case.before.fx.0;
            insn.op1_kind() == OpKind::Memory && fx[2] & !fx[0] & 0x3f != 0
        }
        _ => false,
    }
}

fn is_state(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 | M::Ldmxcsr | M::Stmxcsr
    )
}

/// True if it obeys MXCSR.
fn is_float(mnemonic: M) -> bool {
    let name = format!("{mnemonic:?}");
    let stems = [
        "Add", "Sub", "Mul", "Div", "Sqrt", "Min", "Max", "Cmp", "Comis", "Ucomis", "Cvt",
    ];
    stems.iter().any(|stem| name.starts_with(stem))
}

// ---- operands ----------------------------------------------------------------------------------

/// A number of a format with `fraction` bits after the point and `exponent` bits.
fn float(rng: &mut Rng, fraction: u32, exponent: u32) -> u64 {
    let greatest = (1 << exponent) - 1;
    let bias = greatest >> 1;
    let field = match rng.below(10) {
        0 | 1 => 0,
        2 => greatest,
        3 => 1 + rng.below(3),
        4 => greatest - 1 - rng.below(2),
        5 => bias / 2 + rng.below(4),
        6 => bias + bias / 2 + rng.below(4),
        7 => bias + rng.below(u64::from(fraction) + 4),
        8 => bias + 30 + rng.below(4),
        _ => rng.below(greatest),
    };
    let ones = (1 << fraction) - 1;
    let digits = match rng.below(6) {
        0 => 0,
        1 => 1 << rng.below(u64::from(fraction)),
        2 => ones,
        3 => ones << rng.below(u64::from(fraction)) & ones,
        _ => rng.next() & ones,
    };
    rng.below(2) << (fraction + exponent) | field << fraction | digits
}

fn vector(rng: &mut Rng) -> u128 {
    let kind = rng.below(5);
    let mut lanes = |bits: u32, lane: fn(&mut Rng) -> u64| {
        (0..128 / bits).fold(0, |vector, n| vector | u128::from(lane(rng)) << (bits * n))
    };
    match kind {
        0 | 1 => lanes(32, |rng| float(rng, 23, 8)),
        2 | 3 => lanes(64, |rng| float(rng, 52, 11)),
        _ => lanes(8, |rng| {
            rng.pick(&[0x00, 0x01, 0x7f, 0x80, 0x81, 0xfe, 0xff])
        }),
    }
}

/// A count that a shift may find interesting.
fn count(rng: &mut Rng) -> u128 {
    match rng.below(8) {
        0 => u128::from(rng.value()),
        1 => 1 << rng.below(128),
        _ => u128::from(rng.below(70)) | u128::from(rng.next()) << 64,
    }
}

fn control_and_status(rng: &mut Rng) -> u32 {
    let masks = match rng.below(4) {
        0 => rng.below(64),
        1 => 0x3f & !(1 << rng.below(6)),
        _ => 0x3f,
    };
    let modes = rng.pick(&[0, 0, 0, 0x40, 0x8000, 0x8040]) | rng.below(4) << 13;
    let flags = rng.next() & rng.pick(&[0, 0, 0x20, 0x3f]);
    (masks << 7 | modes | flags) as u32
}

fn prepare(rng: &mut Rng, insn: &Instruction, case: &mut Case) {
    let shifts = format!("{:?}", insn.mnemonic()).starts_with("Ps");
    for n in 0..16 {
        let value = if shifts && rng.chance(60) {
            count(rng)
        } else {
            vector(rng)
        };
        case.before.fx.set_xmm(n, value);
    }
    prepare_x87(rng, insn, case);
    case.before.fx.set_mxcsr(control_and_status(rng));
    if insn.op_kinds().any(|kind| kind == OpKind::Memory) {
        let address = linear_address(insn, case);
        let bytes = match insn.mnemonic() {
            M::Ldmxcsr => u128::from(loadable(rng)),
            _ if shifts && rng.chance(60) => count(rng),
            _ => vector(rng),
        };
        case.patches[0] = Patch {
            address,
            length: 16,
            bytes: bytes.to_le_bytes(),
        };
        if matches!(insn.mnemonic(), M::Fxrstor | M::Fxrstor64) {
            let mut bytes = rng.next().to_le_bytes().repeat(2);
            bytes[8..12].copy_from_slice(&loadable(rng).to_le_bytes());
            let bytes = bytes.try_into().expect("sixteen bytes");
            case.patches[1] = Patch {
                address: address.wrapping_add(16),
                length: 16,
                bytes,
            };
        }
    }
}

/// A value for MXCSR, now and then with reserved bits. Bit 17 exists on some processors.
fn loadable(rng: &mut Rng) -> u32 {
    let reserved = if rng.chance(20) {
        1 << rng.pick(&[16, 18, 24, 31])
    } else {
        0
    };
    rng.next() as u32 & 0xffff | reserved
}

fn prepare_x87(rng: &mut Rng, insn: &Instruction, case: &mut Case) {
    let fx = &mut case.before.fx;
    let shifts = format!("{:?}", insn.mnemonic()).starts_with("Ps");
    for n in 0..8 {
        let value = if shifts && rng.chance(60) {
            count(rng)
        } else {
            vector(rng)
        };
        fx.set_st(n, value as u64, rng.next() as u16);
    }
    if !rng.chance(50) {
        return;
    }
    let masks = if rng.chance(10) {
        rng.below(64) as u16
    } else {
        0x3f
    };
    fx.set_u16(0, 0x340 | masks);
    // The summary follows from the rest when this is loaded.
    fx.set_u16(2, rng.next() as u16 & 0x7f7f);
    fx.0[4] = rng.next() as u8;
}

/// Takes out what differs between processors.
fn normalise(insn: &Instruction, case: &Case, outcome: &mut Outcome) {
    let mnemonic = insn.mnemonic();
    if matches!(mnemonic, M::Fxsave | M::Fxsave64) {
        // Which bits of MXCSR exist.
        let at = linear_address(insn, case)
            .wrapping_sub(DATA)
            .wrapping_add(28) as usize;
        if let Some(mask) = outcome.memory.get_mut(at..at.saturating_add(4)) {
            mask.fill(0);
        }
    }
    if is_state(mnemonic) {
        // Which end of the area is looked at first.
        outcome.fault.address = 0;
    }
    // Whether the x87 stack is made ready for MMX registers, although the instruction faults, or
    // although none is used.
    let faults = outcome.fault != Fault::NONE && is_mmx_special(insn);
    let from_memory = mnemonic == M::Cvtpi2ps && insn.op1_kind() == OpKind::Memory;
    if faults || from_memory {
        outcome.after.fx.0[2..5].fill(0);
        outcome.after.fx.0[32..160].fill(0);
    }
}

/// Conversions with MMX registers, and MASKMOVQ.
fn is_mmx_special(insn: &Instruction) -> bool {
    let registers = (0..insn.op_count()).any(|n| insn.op_register(n).is_mm());
    registers && (is_float(insn.mnemonic()) || insn.mnemonic() == M::Maskmovq)
}

// ---- tests -------------------------------------------------------------------------------------

#[test]
fn floating_point() {
    check_all("floating point", |code| {
        belongs(code) && is_float(code.mnemonic())
    });
}

#[test]
fn integers_and_moves() {
    check_all("vectors of integers and moves", |code| {
        belongs(code) && !is_float(code.mnemonic()) && !is_state(code.mnemonic())
    });
}

#[test]
fn state() {
    check_all("FXSAVE and MXCSR", |code| {
        belongs(code) && is_state(code.mnemonic())
    });
}
