//! The general-purpose instructions.

use iced_x86::{Code, EncodingKind, Instruction, Mnemonic as M, OpKind, Register};

use crate::context::{Case, Fault, Patch};
use crate::family::{Family, as_generated, as_is, documented_undefined_flags, never};
use crate::generate::RCX;
use crate::layout::{DATA, DATA_BYTES, Mode};
use crate::rng::Rng;
use crate::runner::check;

/// A family of the forms with these mnemonics that use general registers alone.
fn family(name: &'static str, accepts: fn(Code) -> bool) -> Family {
    Family {
        name,
        accepts,
        prepare: as_generated,
        skip: never,
        undefined_flags: documented_undefined_flags,
        normalise: as_is,
    }
}

const ALL: [Mode; 3] = [Mode::Long, Mode::Flat32, Mode::Segmented16];

fn check_all(family: &Family) {
    for mode in ALL {
        check(family, mode);
    }
}

#[test]
fn arithmetic_and_logic() {
    check_all(&family("arithmetic and logic", |code| {
        matches!(
            code.mnemonic(),
            M::Add
                | M::Or
                | M::Adc
                | M::Sbb
                | M::And
                | M::Sub
                | M::Xor
                | M::Cmp
                | M::Test
                | M::Inc
                | M::Dec
                | M::Neg
                | M::Not
        )
    }));
}

#[test]
fn moves() {
    check_all(&family("moves", |code| {
        // AMD's processors read four bytes where Intel's, and ours, read two.
        let vendors_differ = code == Code::Movsxd_r16_rm16;
        !touches_system_registers(code)
            && !vendors_differ
            && matches!(
                code.mnemonic(),
                M::Mov
                    | M::Movzx
                    | M::Movsx
                    | M::Movsxd
                    | M::Movnti
                    | M::Movbe
                    | M::Lea
                    | M::Xchg
                    | M::Xlatb
                    | M::Cbw
                    | M::Cwde
                    | M::Cdqe
                    | M::Cwd
                    | M::Cdq
                    | M::Cqo
                    | M::Bswap
            )
    }));
}

/// Moves of segment, control, debug and test registers.
pub fn touches_system_registers(code: Code) -> bool {
    use iced_x86::OpCodeOperandKind as K;
    let info = code.op_code();
    (0..info.op_count()).any(|n| {
        matches!(
            info.op_kind(n),
            K::seg_reg
                | K::cr_reg
                | K::dr_reg
                | K::tr_reg
                | K::es
                | K::cs
                | K::ss
                | K::ds
                | K::fs
                | K::gs
        )
    })
}

#[test]
fn compare_and_exchange() {
    let prepare = |rng: &mut Rng, insn: &Instruction, case: &mut Case| {
        // Half of the comparisons shall succeed.
        if insn.op0_kind() == OpKind::Memory && rng.chance(50) {
            let mut data = [0; DATA_BYTES];
            case.fill_memory(&mut data);
            let linear = linear_address(insn, case);
            let at = linear.wrapping_sub(DATA) as usize;
            let Some(old) = data.get(at..at.saturating_add(16)) else {
                return;
            };
            let word = |i: usize| u64::from_le_bytes(old[i..i + 8].try_into().expect("eight"));
            match insn.mnemonic() {
                M::Cmpxchg8b => {
                    case.before.gpr[0] = word(0) & 0xffff_ffff;
                    case.before.gpr[2] = word(0) >> 32;
                }
                M::Cmpxchg16b => {
                    case.before.gpr[0] = word(0);
                    case.before.gpr[2] = word(8);
                }
                _ if case.mode == Mode::Long => case.before.gpr[0] = word(0),
                _ => case.before.gpr[0] = word(0) & 0xffff_ffff,
            }
        }
    };
    let mut family = family("compare and exchange", |code| {
        matches!(
            code.mnemonic(),
            M::Cmpxchg | M::Cmpxchg8b | M::Cmpxchg16b | M::Xadd
        )
    });
    family.prepare = prepare;
    check_all(&family);
}

/// Linear address of the memory operand.
pub fn linear_address(insn: &Instruction, case: &Case) -> u64 {
    use crate::layout::GS_BASE;
    let operand = insn
        .op_kinds()
        .position(|kind| kind == OpKind::Memory)
        .unwrap_or(0);
    let offset = insn.virtual_address(operand as u32, 0, |register, _, _| {
        Some(match register {
            Register::GS => GS_BASE,
            _ if register.is_segment_register() => 0,
            _ => {
                let value = case.before.gpr[register.full_register().number()];
                match register.size() {
                    2 => value & 0xffff,
                    4 => value & 0xffff_ffff,
                    _ => value,
                }
            }
        })
    });
    offset.unwrap_or(0).wrapping_add(case.mode.data_base())
}

#[test]
fn conditions() {
    check_all(&family("conditions", |code| {
        let name = format!("{:?}", code.mnemonic());
        name.starts_with("Set") && !name.starts_with("Sets")
            || name == "Sets"
            || name.starts_with("Cmov")
    }));
}

/// Flags that shifts and rotates leave undefined for a count that is only known at run time.
fn undefined_after_shift(insn: &Instruction, case: &Case) -> u64 {
    const CF: u64 = 1;
    const AF: u64 = 0x10;
    const OF: u64 = 0x800;
    let last = insn.op_count() - 1;
    let bits = match insn.op0_kind() {
        OpKind::Memory => insn.memory_size().size() * 8,
        _ => insn.op0_register().size() * 8,
    } as u64;
    let raw = match insn.op_kind(last) {
        OpKind::Register => case.before.gpr[RCX] & 0xff,
        _ => insn.immediate(last),
    };
    let count = raw & if bits == 64 { 63 } else { 31 };
    if count == 0 {
        return 0;
    }
    let of = if count == 1 { 0 } else { OF };
    match insn.mnemonic() {
        M::Shl | M::Sal | M::Shr => AF | of | if count >= bits { CF } else { 0 },
        M::Sar => AF | of,
        M::Shld | M::Shrd if count > bits => u64::MAX,
        M::Shld | M::Shrd => AF | of,
        _ => of,
    }
}

#[test]
fn shifts_and_rotates() {
    let mut family = family("shifts and rotates", |code| {
        matches!(
            code.mnemonic(),
            M::Shl
                | M::Sal
                | M::Shr
                | M::Sar
                | M::Rol
                | M::Ror
                | M::Rcl
                | M::Rcr
                | M::Shld
                | M::Shrd
        )
    });
    family.undefined_flags = undefined_after_shift;
    // Double shifts of 16 bits by more than 16 have an undefined result.
    family.skip = |insn, case| undefined_after_shift(insn, case) == u64::MAX;
    check_all(&family);
}

#[test]
fn multiplication_and_division() {
    let mut family = family("multiplication and division", |code| {
        matches!(code.mnemonic(), M::Mul | M::Imul | M::Div | M::Idiv)
    });
    family.prepare = |rng, insn, case| {
        // Most divisions shall not overflow.
        if matches!(insn.mnemonic(), M::Div | M::Idiv) && rng.chance(70) {
            let mask = if case.mode == Mode::Long {
                u64::MAX
            } else {
                0xffff_ffff
            };
            let random = rng.next();
            let small = rng.pick(&[0, 0, u64::MAX, random >> 56, random >> 40]);
            let uses_rdx = insn.op0_kind() == OpKind::Memory && insn.memory_base() == Register::RDX;
            if !uses_rdx {
                case.before.gpr[2] = small & mask;
            }
        }
    };
    check_all(&family);
}

#[test]
fn bits() {
    let mut family = family("bits", |code| {
        matches!(
            code.mnemonic(),
            M::Bt | M::Bts | M::Btr | M::Btc | M::Bsf | M::Bsr
        )
    });
    family.prepare = |rng, insn, case| {
        // Bit offsets that stay near the operand.
        let offset = insn.op1_register();
        if insn.op0_kind() == OpKind::Memory && offset != Register::None && rng.chance(85) {
            let number = offset.full_register().number();
            let used = [insn.memory_base(), insn.memory_index()];
            if number != 4
                && used
                    .iter()
                    .all(|r| r.full_register() != offset.full_register())
            {
                let mask = if case.mode == Mode::Long {
                    u64::MAX
                } else {
                    0xffff_ffff
                };
                case.before.gpr[number] =
                    ((rng.next() as i64) >> rng.pick(&[47, 50, 54, 58])) as u64 & mask;
            }
        }
    };
    // A scan of zero has an undefined result.
    family.skip = |insn, case| {
        if !matches!(insn.mnemonic(), M::Bsf | M::Bsr) {
            return false;
        }
        let source = insn.op1_register();
        let mask = match source.size() {
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        };
        source != Register::None && case.before.gpr[source.full_register().number()] & mask == 0
    };
    check_all(&family);
}

#[test]
fn counts() {
    check_all(&family("counts of bits", |code| {
        matches!(code.mnemonic(), M::Popcnt | M::Tzcnt | M::Lzcnt)
    }));
}

#[test]
fn bit_fields() {
    let mut family = family("bit fields", |code| {
        use iced_x86::CpuidFeature::{BMI1, BMI2};
        code.encoding() == EncodingKind::VEX && matches!(code.cpuid_features(), [BMI1] | [BMI2])
    });
    family.prepare = |rng, insn, case| {
        // Fields that lie within the operand.
        let start = rng.below(70);
        let length = rng.below(70);
        let control = insn.op_register(insn.op_count() - 1);
        if control.is_gpr() && rng.chance(60) && !insn.op_kinds().any(|k| k == OpKind::Memory) {
            case.before.gpr[control.number()] = start | length << 8;
        }
    };
    check_all(&family);
}

#[test]
fn checksums() {
    check_all(&family("checksums", |code| code.mnemonic() == M::Crc32));
}

#[test]
fn stack() {
    let mut family = family("stack", |code| {
        !touches_system_registers(code)
            && matches!(
                code.mnemonic(),
                M::Push | M::Pop | M::Pusha | M::Pushad | M::Popa | M::Popad | M::Enter | M::Leave
            )
    });
    family.prepare = |rng, insn, case| {
        if matches!(insn.mnemonic(), M::Enter | M::Leave) && rng.chance(90) {
            let offset = DATA + 0x100 + rng.below(0x1e00) - case.mode.data_base();
            case.before.gpr[5] = offset;
        }
    };
    // The host's ENTER, PUSHA and POPA may fault when they are half done; ours have done nothing
    // then.
    family.normalise = |insn, _, outcome| {
        if outcome.fault == Fault::NONE {
            return;
        }
        match insn.mnemonic() {
            M::Enter | M::Pusha | M::Pushad => outcome.memory = [0; DATA_BYTES],
            M::Popa | M::Popad => {
                let rsp = outcome.after.gpr[4];
                outcome.after.gpr = [0; 16];
                outcome.after.gpr[4] = rsp;
            }
            _ => {}
        }
    };
    check_all(&family);
}

#[test]
fn flags() {
    let mut family = family("flags", |code| {
        matches!(
            code.mnemonic(),
            M::Clc
                | M::Stc
                | M::Cmc
                | M::Cld
                | M::Std
                | M::Lahf
                | M::Sahf
                | M::Pushf
                | M::Pushfd
                | M::Pushfq
                | M::Popf
                | M::Popfd
                | M::Popfq
                | M::Salc
        )
    });
    family.prepare = |_, insn, case| match insn.mnemonic() {
        M::Pushf | M::Pushfd | M::Pushfq => case.reads_tf = true,
        M::Popf | M::Popfd | M::Popfq => {
            // Without AC, which would stay set in the child's handler, and with TF.
            let address = case.before.gpr[4] + case.mode.data_base();
            let mut data = [0; DATA_BYTES];
            case.fill_memory(&mut data);
            let at = address.wrapping_sub(DATA) as usize;
            let mut patch = Patch::new(address, &[0; 8]);
            for (i, byte) in patch.bytes.iter_mut().enumerate().take(8) {
                *byte = data.get(at + i).copied().unwrap_or(0);
            }
            patch.bytes[2] &= !4;
            case.patches[0] = patch;
        }
        _ => {}
    };
    check_all(&family);
}

#[test]
fn branches() {
    let mut family = family("branches", |code| {
        let mnemonic = code.mnemonic();
        code.is_jcc_short_or_near()
            || code.is_jmp_short_or_near()
            || code.is_jmp_near_indirect()
            || code.is_call_near()
            || code.is_call_near_indirect()
            || code.is_jcx_short()
            || code.is_loop()
            || code.is_loopcc()
            || mnemonic == M::Ret
    });
    family.prepare = |rng, insn, case| {
        if rng.chance(50) {
            case.before.gpr[RCX] = case.before.gpr[RCX] & !0xffff_ffff | rng.below(3);
        }
        let target = case
            .before
            .rip
            .wrapping_add(rng.below(0x200))
            .wrapping_sub(0x100);
        // Whether a wild target or a bad stack is told first is a matter of the processor.
        let stack = case.before.gpr[4] + case.mode.data_base();
        let may_be_wild = (DATA + 0x40..DATA + 0x1fc0).contains(&stack);
        let target = if may_be_wild && rng.chance(5) {
            rng.value()
        } else {
            target
        };
        let address = match insn.op0_kind() {
            OpKind::Memory => linear_address(insn, case),
            OpKind::Register if !(may_be_wild && rng.chance(10)) => {
                let number = insn.op0_register().full_register().number();
                if number != 4 {
                    let mask = if case.mode == Mode::Long {
                        u64::MAX
                    } else {
                        0xffff_ffff
                    };
                    case.before.gpr[number] = target & mask;
                }
                return;
            }
            _ if insn.mnemonic() == M::Ret => case.before.gpr[4] + case.mode.data_base(),
            _ => return,
        };
        case.patches[0] = Patch::new(address, &target.to_le_bytes());
    };
    check_all(&family);
}

#[test]
fn strings() {
    let mut family = family("strings", |code| {
        use iced_x86::OpCodeOperandKind as K;
        let info = code.op_code();
        let string = (0..info.op_count())
            .any(|n| matches!(info.op_kind(n), K::seg_rSI | K::es_rDI | K::seg_rDI));
        let mnemonic = format!("{:?}", code.mnemonic());
        string
            && ["Movs", "Stos", "Lods", "Cmps", "Scas"]
                .iter()
                .any(|name| mnemonic.starts_with(name))
    });
    family.prepare = |rng, _, case| {
        // Comparisons shall go on for a while.
        if rng.chance(70) {
            let (source, target) = (case.before.gpr[6], case.before.gpr[7]);
            let byte = rng.pick(&[0, 0x55, case.before.gpr[0] as u8]);
            case.before.gpr[0] = u64::from(byte) * 0x0101_0101_0101_0101;
            if case.mode != Mode::Long {
                case.before.gpr[0] &= 0xffff_ffff;
            }
            for (patch, offset) in case.patches.iter_mut().zip([source, target]) {
                let address = (offset & case.mode.offset_mask()) + case.mode.data_base();
                *patch = Patch::new(address, &[byte; 12]);
            }
        }
    };
    // If both operands of CMPS fault, which one is told is a matter of the processor.
    family.normalise = |insn, _, outcome| {
        if matches!(insn.mnemonic(), M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq) {
            outcome.fault.address = 0;
        }
    };
    check_all(&family);
}

#[test]
fn decimal() {
    let family = family("decimal", |code| {
        matches!(
            code.mnemonic(),
            M::Daa | M::Das | M::Aaa | M::Aas | M::Aam | M::Aad | M::Bound
        )
    });
    check(&family, Mode::Flat32);
    check(&family, Mode::Segmented16);
}

#[test]
fn hints() {
    check_all(&family("hints", |code| {
        // With a register, 0F 0D is #UD on AMD's processors and a NOP on Intel's, like ours.
        let vendors_differ = format!("{code:?}").ends_with("_0F0D");
        !vendors_differ
            && matches!(
                code.mnemonic(),
                M::Nop
                    | M::Pause
                    | M::Endbr32
                    | M::Endbr64
                    | M::Reservednop
                    | M::Prefetchnta
                    | M::Prefetcht0
                    | M::Prefetcht1
                    | M::Prefetcht2
                    | M::Prefetch
                    | M::Prefetchw
                    | M::Prefetchwt1
                    | M::Prefetchit0
                    | M::Prefetchit1
                    | M::Cldemote
                    | M::Lfence
                    | M::Mfence
                    | M::Sfence
                    | M::Clflush
                    | M::Ud2
            )
    }));
}

/// Every test of this file, for the list of what they cover.
pub const TESTS: &[fn()] = &[
    arithmetic_and_logic,
    moves,
    compare_and_exchange,
    conditions,
    shifts_and_rotates,
    multiplication_and_division,
    bits,
    counts,
    bit_fields,
    checksums,
    stack,
    flags,
    branches,
    strings,
    decimal,
    hints,
];
