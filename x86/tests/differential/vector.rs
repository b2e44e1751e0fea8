//! MMX, SSE, AVX, FMA, F16C, AES, PCLMULQDQ, SHA, FXSAVE and XSAVE: every form that iced-x86 knows
//! of these sets.
//!
//! Vectors are mostly made of singles, doubles or integers at the edges of their formats, under
//! every rounding, FTZ, DAZ and set of masks. Not compared: what FXSAVE tells of MXCSR's bits.

use iced_x86::{Code, CpuidFeature as C, EncodingKind, Instruction, Mnemonic as M, OpKind};

use crate::context::{Case, Fault, Outcome, Patch};
use crate::family::{Family, documented_undefined_flags};
use crate::integer::linear_address;
use crate::layout::{DATA, DATA_BYTES, Mode};
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

/// Which processors have an instruction, roughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    /// MMX, SSE, SSE2, FXSAVE.
    Sse2,
    /// SSE3 to SSE4.2.
    Sse4,
    /// AES, PCLMULQDQ, SHA.
    Cryptography,
    /// Everything with a VEX prefix.
    Vex,
    /// XSAVE.
    Xsave,
}

/// Approximations, which differ between processors; and XSETBV, which is privileged.
fn is_tested_elsewhere(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Xsetbv
    ) || matches!(mnemonic, M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss)
}

/// The set that `code` is in, if it is one of these and no other family's.
fn set_of(code: Code) -> Option<Set> {
    let features = code.cpuid_features();
    if is_tested_elsewhere(code.mnemonic()) {
        return None;
    }
    let among = |set: &[C]| features.iter().all(|feature| set.contains(feature));
    match code.encoding() {
        EncodingKind::Legacy if code.mnemonic() == M::Crc32 => None,
        EncodingKind::Legacy if among(&[C::MMX, C::SSE, C::SSE2, C::FXSR]) => Some(Set::Sse2),
        EncodingKind::Legacy if among(&[C::SSE3, C::SSSE3, C::SSE4_1, C::SSE4_2]) => {
            Some(Set::Sse4)
        }
        EncodingKind::Legacy if among(&[C::AES, C::PCLMULQDQ, C::SHA]) => Some(Set::Cryptography),
        EncodingKind::Legacy if among(&[C::XSAVE, C::XSAVEOPT, C::XSAVEC]) => Some(Set::Xsave),
        EncodingKind::VEX if among(&[C::AVX, C::AVX2, C::FMA, C::F16C, C::AES, C::PCLMULQDQ]) => {
            Some(Set::Vex)
        }
        _ => None,
    }
}

/// CVTPI2PS from memory while an x87 exception is pending: Intel's manual has it
/// raised first, processors of AMD's leave x87 alone.
fn skip(insn: &Instruction, case: &Case) -> bool {
    match insn.mnemonic() {
        // Intel's manual has operands in memory aligned, processors of AMD's take any.
        _ if is_sha(insn) && insn.op1_kind() == OpKind::Memory => {
            linear_address(insn, case) & 15 != 0
        }
        // Processors look at parts of an area that they do not access.
        mnemonic if is_xsave(mnemonic) => {
            let area = linear_address(insn, case);
            let pages = DATA..DATA + DATA_BYTES as u64;
            let whole = pages.contains(&area) && pages.contains(&area.wrapping_add(831));
            let loads_all = !is_xrstor(mnemonic) || case.patches[1].bytes[0] & 7 == 7;
            let accesses_all = case.mode == Mode::Long && case.before.gpr[0] & 7 == 7 && loads_all;
            !whole && !accesses_all
        }
        M::Cvtpi2ps => {
            let fx = &case.before.fx.0;
            insn.op1_kind() == OpKind::Memory && fx[2] & !fx[0] & 0x3f != 0
        }
        _ => false,
    }
}

fn is_sha(insn: &Instruction) -> bool {
    insn.cpuid_features() == [C::SHA]
}

fn is_state(mnemonic: M) -> bool {
    is_xsave(mnemonic)
        || matches!(
            mnemonic,
            M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 | M::Ldmxcsr | M::Stmxcsr
        )
        || matches!(mnemonic, M::Vldmxcsr | M::Vstmxcsr | M::Xgetbv | M::Xsetbv)
}

/// Saves or restores an XSAVE area.
fn is_xsave(mnemonic: M) -> bool {
    is_xrstor(mnemonic)
        || matches!(
            mnemonic,
            M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64
        )
        || matches!(mnemonic, M::Xsavec | M::Xsavec64)
}

fn is_xrstor(mnemonic: M) -> bool {
    matches!(mnemonic, M::Xrstor | M::Xrstor64)
}

/// The mnemonic without the V of VEX.
fn stem(mnemonic: M) -> String {
    let name = format!("{mnemonic:?}").to_lowercase();
    name.strip_prefix('v').unwrap_or(&name).into()
}

/// True if it obeys MXCSR.
fn is_float(mnemonic: M) -> bool {
    let name = stem(mnemonic);
    let stems = [
        "add", "sub", "mul", "div", "sqrt", "min", "max", "cmp", "comis", "ucomis", "cvt", "hadd",
        "hsub", "dpp", "round", "fm", "fnm",
    ];
    stems.iter().any(|stem| name.starts_with(stem))
}

fn is_gather(mnemonic: M) -> bool {
    format!("{mnemonic:?}").contains("gather")
}

fn is_text(mnemonic: M) -> bool {
    stem(mnemonic).starts_with("pcmpe") && stem(mnemonic).contains("str")
        || stem(mnemonic).starts_with("pcmpistr")
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
    let mnemonic = insn.mnemonic();
    let shifts = stem(mnemonic).starts_with("ps");
    let operand = |rng: &mut Rng| match () {
        _ if is_text(mnemonic) => text(rng),
        _ if shifts && rng.chance(60) => count(rng),
        _ => vector(rng),
    };
    let indices = insn.memory_index();
    for n in 0..16 {
        if indices.is_vector_register() && indices.number() == n {
            continue;
        }
        let (low, high) = (operand(rng), operand(rng));
        case.before.fx.set_xmm(n, low);
        case.before.ymm_high[n] = if rng.chance(90) { high } else { 0 };
    }
    prepare_x87(rng, insn, case);
    case.before.fx.set_mxcsr(control_and_status(rng));
    if stem(mnemonic).starts_with("fm") || stem(mnemonic).starts_with("fnm") {
        prepare_cancellation(rng, insn, case);
    }
    // A single-step trap would come between the elements before a fault and the fault.
    case.whole = is_gather(mnemonic);
    if is_text(mnemonic) {
        prepare_lengths(rng, insn, case);
    }
    if is_xsave(mnemonic) || mnemonic == M::Xgetbv {
        prepare_components(rng, insn, case);
    }
    if insn.op_kinds().any(|kind| kind == OpKind::Memory) && !is_gather(mnemonic) {
        let address = linear_address(insn, case);
        let bytes = match mnemonic {
            M::Ldmxcsr | M::Vldmxcsr => u128::from(loadable(rng)),
            _ => operand(rng),
        };
        case.patches = match mnemonic {
            M::Fxrstor | M::Fxrstor64 => {
                let mut header = rng.next().to_le_bytes().repeat(2);
                header[8..12].copy_from_slice(&loadable(rng).to_le_bytes());
                [
                    Patch::new(address, &bytes.to_le_bytes()),
                    Patch::new(address.wrapping_add(16), &header),
                ]
            }
            _ if is_xrstor(mnemonic) => [
                Patch::new(address.wrapping_add(24), &loadable(rng).to_le_bytes()),
                Patch::new(address.wrapping_add(512), &xsave_header(rng)),
            ],
            _ if is_xsave(mnemonic) => case.patches,
            _ => [
                Patch::new(address, &bytes.to_le_bytes()),
                Patch::new(address.wrapping_add(16), &operand(rng).to_le_bytes()),
            ],
        };
    }
}

/// Characters of a small alphabet, now and then with zeros.
fn text(rng: &mut Rng) -> u128 {
    let alphabet = rng.pick(&[b"ab".as_slice(), b"abcd\x80\xff", b"az09AZ__"]);
    let zeros = rng.pick(&[0, 3, 15]);
    let wide = rng.chance(30);
    let mut bytes = [0; 16];
    for (n, byte) in bytes.iter_mut().enumerate() {
        if !(rng.chance(zeros) || wide && n % 2 == 1 && rng.chance(90)) {
            *byte = rng.pick(alphabet);
        }
    }
    u128::from_le_bytes(bytes)
}

/// Lengths for PCMPESTRI and PCMPESTRM in rAX and rDX, unless they are part of an address.
fn prepare_lengths(rng: &mut Rng, insn: &Instruction, case: &mut Case) {
    for n in [0, 2] {
        let used = [insn.memory_base(), insn.memory_index()]
            .iter()
            .any(|register| register.is_gpr() && register.number() == n);
        if !used && rng.chance(85) {
            let length = rng.below(20);
            let length = if rng.chance(20) {
                length.wrapping_neg()
            } else {
                length
            };
            let mask = if case.mode == Mode::Long {
                u64::MAX
            } else {
                0xffff_ffff
            };
            case.before.gpr[n] = length & mask;
        }
    }
}

/// Makes the product of two registers nearly cancel a third one.
fn prepare_cancellation(rng: &mut Rng, insn: &Instruction, case: &mut Case) {
    if !rng.chance(40) || insn.op2_kind() != OpKind::Register {
        return;
    }
    let mut numbers = [
        insn.op0_register().number(),
        insn.op1_register().number(),
        insn.op2_register().number(),
    ];
    numbers.rotate_left(rng.below(3) as usize);
    let [x, y, z] = numbers;
    let doubles = stem(insn.mnemonic()).ends_with('d');
    let sign = rng.next();
    let product = |a: u128, b: u128| {
        if doubles {
            (0..2).fold(0, |all, n| {
                let lane = |v: u128| f64::from_bits((v >> (64 * n)) as u64);
                let bits = (lane(a) * lane(b)).to_bits() ^ sign >> 63 << 63;
                all | u128::from(bits) << (64 * n)
            })
        } else {
            (0..4).fold(0, |all, n| {
                let lane = |v: u128| f32::from_bits((v >> (32 * n)) as u32);
                let bits = (lane(a) * lane(b)).to_bits() ^ (sign >> 63 << 31) as u32;
                all | u128::from(bits) << (32 * n)
            })
        }
    };
    let fx = &mut case.before.fx;
    fx.set_xmm(z, product(fx.xmm(x), fx.xmm(y)));
    let high = &mut case.before.ymm_high;
    high[z] = product(high[x], high[y]);
}

/// Which components an instruction is asked for, unless the registers are part of an address.
fn prepare_components(rng: &mut Rng, insn: &Instruction, case: &mut Case) {
    let used = |n: usize| {
        [insn.memory_base(), insn.memory_index()]
            .iter()
            .any(|register| register.is_gpr() && register.number() == n)
    };
    if !used(0) && rng.chance(90) {
        case.before.gpr[0] = if rng.chance(20) { 7 } else { rng.below(16) };
    }
    if insn.mnemonic() == M::Xgetbv && rng.chance(90) {
        case.before.gpr[1] = rng.below(3);
    }
}

/// An XSAVE header, mostly one that can be restored from.
fn xsave_header(rng: &mut Rng) -> [u8; 64] {
    let mut header = [0; 64];
    header[0] = rng.below(8) as u8;
    if rng.chance(40) {
        header[8] = header[0] | rng.below(8) as u8;
        header[15] = 0x80;
    }
    if rng.chance(15) {
        header[rng.below(64) as usize] ^= 1 << rng.below(8);
    }
    header
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
    let saves = is_xsave(mnemonic) && !is_xrstor(mnemonic);
    if saves || matches!(mnemonic, M::Fxsave | M::Fxsave64) {
        // Which bits of MXCSR exist.
        let area = linear_address(insn, case).wrapping_sub(DATA);
        forget(outcome, area.wrapping_add(28), 4);
        if saves {
            // The last instruction, unless an exception waits; SSE3 and later differ in FXSAVE too.
            forget(outcome, area.wrapping_add(5), 19);
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

/// Clears bytes of the data pages.
fn forget(outcome: &mut Outcome, at: u64, size: usize) {
    let at = at as usize;
    let end = at.saturating_add(size).min(DATA_BYTES);
    if let Some(bytes) = outcome.memory.get_mut(at..end) {
        bytes.fill(0);
    }
}

/// Conversions with MMX registers, and MASKMOVQ.
fn is_mmx_special(insn: &Instruction) -> bool {
    let registers = (0..insn.op_count()).any(|n| insn.op_register(n).is_mm());
    registers && (is_float(insn.mnemonic()) || insn.mnemonic() == M::Maskmovq)
}

// ---- tests -------------------------------------------------------------------------------------

/// True if `code` is in `set`, obeys MXCSR or does not, and concerns no state as a whole.
fn computes(code: Code, set: Set, float: bool) -> bool {
    let mnemonic = code.mnemonic();
    set_of(code) == Some(set) && !is_state(mnemonic) && is_float(mnemonic) == float
}

#[test]
fn floating_point_of_sse2() {
    check_all("floating point of SSE2", |code| {
        computes(code, Set::Sse2, true)
    });
}

#[test]
fn floating_point_of_sse4() {
    check_all("floating point of SSE4", |code| {
        computes(code, Set::Sse4, true)
    });
}

#[test]
fn floating_point_of_avx() {
    check_all("floating point of AVX", |code| {
        computes(code, Set::Vex, true) && !code.cpuid_features().contains(&C::FMA)
    });
}

#[test]
fn fused_multiplication() {
    check_all("FMA", |code| {
        computes(code, Set::Vex, true) && code.cpuid_features().contains(&C::FMA)
    });
}

#[test]
fn integers_and_moves_of_sse2() {
    check_all("integers and moves of SSE2", |code| {
        computes(code, Set::Sse2, false)
    });
}

#[test]
fn integers_and_moves_of_sse4() {
    check_all("integers and moves of SSE4", |code| {
        computes(code, Set::Sse4, false)
    });
}

#[test]
fn integers_and_moves_of_avx() {
    check_all("integers and moves of AVX", |code| {
        computes(code, Set::Vex, false) && !is_gather(code.mnemonic())
    });
}

#[test]
fn gathers() {
    check_all("gathers", |code| {
        computes(code, Set::Vex, false) && is_gather(code.mnemonic())
    });
}

#[test]
fn cryptography() {
    check_all("cryptography", |code| {
        set_of(code) == Some(Set::Cryptography)
    });
}

#[test]
fn state() {
    check_all("FXSAVE and MXCSR", |code| {
        set_of(code).is_some_and(|set| set != Set::Xsave) && is_state(code.mnemonic())
    });
}

#[test]
fn extended_state() {
    check_all("XSAVE", |code| set_of(code) == Some(Set::Xsave));
}

/// Every test of this file, for the list of what they cover.
pub const TESTS: &[fn()] = &[
    floating_point_of_sse2,
    floating_point_of_sse4,
    floating_point_of_avx,
    fused_multiplication,
    integers_and_moves_of_sse2,
    integers_and_moves_of_sse4,
    integers_and_moves_of_avx,
    gathers,
    cryptography,
    state,
    extended_state,
];
