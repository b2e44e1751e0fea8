//! No form of an instruction that the highest CPU model has goes untested.
//!
//! Invariant: each is drawn by a test of this binary, or stands in [`ELSEWHERE`] with the place of
//! its test.

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic as M};
use x86::Profile;

use crate::integer::touches_system_registers;
use crate::runner::forms_of;
use crate::{integer, vector, x87};

/// The place of a test, and which forms it concerns.
type Place = (&'static str, fn(Code) -> bool);

/// Forms that a user-mode case cannot hold against the processor, and what tests them.
const ELSEWHERE: &[Place] = &[
    ("x86/tests/system/segments.rs", |code| {
        let mnemonic = code.mnemonic();
        touches_system_registers(code) && !moves_control_or_debug(code)
            || matches!(mnemonic, M::Arpl | M::Les | M::Lar | M::Lsl)
            || matches!(mnemonic, M::Verr | M::Verw | M::Sldt | M::Str)
            || matches!(mnemonic, M::Lldt | M::Ltr | M::Sgdt | M::Sidt)
            || matches!(mnemonic, M::Lgdt | M::Lidt)
    }),
    (
        "x86/tests/system/control_registers.rs, debug_registers.rs",
        |code| {
            moves_control_or_debug(code) || matches!(code.mnemonic(), M::Smsw | M::Lmsw | M::Clts)
        },
    ),
    (
        "x86/tests/system/far_transfers.rs, virtual_8086.rs",
        |code| {
            let mnemonic = code.mnemonic();
            matches!(mnemonic, M::Retf | M::Iret | M::Iretd | M::Iretq)
                || code.is_jmp_far()
                || code.is_call_far()
                || code.is_jmp_far_indirect()
                || code.is_call_far_indirect()
        },
    ),
    ("x86/tests/system/exceptions.rs", |code| {
        matches!(code.mnemonic(), M::Int | M::Int1 | M::Int3 | M::Into)
    }),
    ("x86/tests/system/interrupts.rs, shadows.rs", |code| {
        matches!(code.mnemonic(), M::Hlt | M::Cli | M::Sti)
    }),
    ("x86/tests/system/io_ports.rs", |code| {
        let mnemonic = code.mnemonic();
        matches!(mnemonic, M::In | M::Insb | M::Insw | M::Insd)
            || matches!(mnemonic, M::Out | M::Outsb | M::Outsw | M::Outsd)
    }),
    ("x86/tests/system/paging.rs, page_tables.rs", |code| {
        matches!(code.mnemonic(), M::Clac | M::Stac | M::Invlpg | M::Invpcid)
    }),
    ("x86/tests/system/system_calls.rs", |code| {
        let mnemonic = code.mnemonic();
        matches!(mnemonic, M::Syscall | M::Sysret | M::Sysretq | M::Swapgs)
            || matches!(mnemonic, M::Sysenter | M::Sysexit | M::Sysexitq)
    }),
    ("x86/tests/system/msrs.rs", |code| {
        let mnemonic = code.mnemonic();
        matches!(mnemonic, M::Rdmsr | M::Wrmsr | M::Rdtsc | M::Rdtscp)
            || matches!(mnemonic, M::Rdpmc | M::Cpuid | M::Rdrand | M::Rdseed)
            || matches!(mnemonic, M::Rdpid | M::Rdfsbase | M::Rdgsbase)
            || matches!(mnemonic, M::Wrfsbase | M::Wrgsbase)
    }),
    ("x86/src/ops/tests.rs", |code| {
        let mnemonic = code.mnemonic();
        matches!(mnemonic, M::Lds | M::Lss | M::Lfs | M::Lgs)
            || matches!(mnemonic, M::Invd | M::Wbinvd | M::Ud0 | M::Ud1)
            || code == Code::Movsxd_r16_rm16
            || code.cpuid_features().contains(&CpuidFeature::CET_SS)
    }),
    ("x86/src/ops/sse/reciprocal.rs", |code| {
        let mnemonic = code.mnemonic();
        matches!(mnemonic, M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss)
            || matches!(mnemonic, M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss)
    }),
    ("x86/src/ops/sse/tests/xsave.rs", |code| {
        code.mnemonic() == M::Xsetbv
    }),
    // What processors of Intel's and AMD's do differently: 0F 0D with a register, and short branches
    // with 66h in 64-bit code.
    ("docs/undefined-results.md", |code| {
        let name = format!("{code:?}");
        name.starts_with("Reservednop") && name.ends_with("0F0D")
            || name.starts_with("Loop") && name.contains("rel8_16_RCX")
            || name == "Jrcxz_rel8_16"
    }),
];

fn moves_control_or_debug(code: Code) -> bool {
    use iced_x86::OpCodeOperandKind as K;
    let info = code.op_code();
    (0..info.op_count()).any(|n| matches!(info.op_kind(n), K::cr_reg | K::dr_reg))
}

#[test]
fn every_form_of_the_highest_model_is_tested() {
    let tests = [integer::TESTS, vector::TESTS, x87::TESTS].concat();
    let drawn = forms_of(&tests);
    let forgotten: Vec<Code> = Code::values()
        .filter(|&code| {
            let info = code.op_code();
            info.is_instruction()
                && matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
                && !info.fwait()
                && x86::has_form(Profile::V3, code)
                && !drawn.contains(&code)
                && !ELSEWHERE.iter().any(|(_, tests)| tests(code))
        })
        .collect();
    let count = forgotten.len();
    assert!(forgotten.is_empty(), "{count} forms: {forgotten:?}");
}
