//! Draws cases, has them executed by both sides, and compares.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write;

use iced_x86::{Code, FastFormatter, Instruction};

use crate::context::{Case, Fault, Fx, Outcome, Patch};
use crate::family::Family;
use crate::generate::{exists_in, generate};
use x86::Translation;

use crate::guest::Guest;
use crate::host;
use crate::layout::{DATA, Mode};
use crate::native::{BATCH, Native};
use crate::rng::Rng;

/// Cases for each form of an instruction, in CI.
const CASES: u64 = 60;
/// Failures shown before giving up.
const SHOWN: usize = 8;
/// Flags that a program can change, and that both sides start alike: all arithmetic ones and DF.
const COMPARED_FLAGS: u64 = 0xcd5;
/// The six arithmetic flags.
const ARITHMETIC_FLAGS: u64 = 0x8d5;

fn number(name: &str, default: u64) -> u64 {
    env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect(name))
}

thread_local! {
    /// While forms are listed: those so far.
    static LISTED: RefCell<Option<BTreeSet<Code>>> = const { RefCell::new(None) };
}

/// The forms that `tests` check, without checking them.
pub fn forms_of(tests: &[fn()]) -> BTreeSet<Code> {
    LISTED.set(Some(BTreeSet::new()));
    tests.iter().for_each(|test| test());
    LISTED.take().expect("it was set above")
}

/// Tests every form in `family` that exists in `mode`.
pub fn check(family: &Family, mode: Mode) {
    let accepted: Vec<Code> = Code::values()
        .filter(|&code| (family.accepts)(code) && exists_in(code, mode))
        .collect();
    assert!(!accepted.is_empty(), "no instruction in {}", family.name);
    let listing = LISTED.with_borrow_mut(|listed| {
        listed
            .as_mut()
            .map(|listed| listed.extend(&accepted))
            .is_some()
    });
    if listing {
        return;
    }
    let seed = number("X86_DIFFERENTIAL_SEED", 1);
    let cases = CASES * number("X86_DIFFERENTIAL_SCALE", 1);
    let mut run = Run {
        family,
        mode,
        seed,
        native: Native::start(),
        guest: Guest::start(Translation::Interpreter),
        compiled: Guest::start(Translation::Compiler),
        waiting: Vec::new(),
        failures: Vec::new(),
        survey: env::var("X86_DIFFERENTIAL_SURVEY")
            .map(|_| BTreeMap::new())
            .ok(),
        compared: 0,
        tried: 0,
    };
    let forms: Vec<Code> = accepted
        .iter()
        .copied()
        .filter(|&code| host::has(code))
        .collect();
    if forms.len() < accepted.len() {
        println!(
            "{} {mode:?}: skipped {} of {} forms, which this processor lacks",
            family.name,
            accepted.len() - forms.len(),
            accepted.len()
        );
    }
    for code in forms {
        let mut rng = Rng::new(seed ^ (code as u64) << 32 ^ u64::from(mode.bits()) << 56);
        let before = run.tried;
        for _ in 0..cases {
            run.draw(&mut rng, code);
            if run.failures.len() >= SHOWN {
                break;
            }
        }
        assert!(run.tried > before, "{code:?} cannot be encoded");
    }
    run.flush();
    run.finish();
}

struct Run<'a> {
    family: &'a Family,
    mode: Mode,
    seed: u64,
    native: Native,
    guest: Guest,
    /// Must do exactly what `guest` does.
    compiled: Guest,
    waiting: Vec<(Instruction, Case)>,
    failures: Vec<String>,
    /// How often an undefined flag was compared, and how often it differed.
    survey: Option<BTreeMap<String, [(u64, u64); 6]>>,
    compared: u64,
    tried: u64,
}

impl Run<'_> {
    fn draw(&mut self, rng: &mut Rng, code: Code) {
        // Some draws cannot be encoded, such as AH with a REX prefix.
        for _ in 0..20 {
            if let Some((insn, mut case)) = generate(rng, code, self.mode) {
                (self.family.prepare)(rng, &insn, &mut case);
                self.tried += 1;
                if !(self.family.skip)(&insn, &case) {
                    self.waiting.push((insn, case));
                }
                break;
            }
        }
        if self.waiting.len() == BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let cases: Vec<Case> = self.waiting.iter().map(|(_, case)| *case).collect();
        let outcomes = self.native.run(&cases);
        for ((insn, case), native) in self.waiting.drain(..).zip(outcomes) {
            let mut guest = self.guest.run(&case, native);
            let compiled = self.compiled.run(&case, native);
            let differences = compare(&case, 0, &guest, &compiled);
            if !differences.is_empty() {
                let text = describe(&insn, &case, &differences);
                let text = format!("interpreter as \"native\", compiler as \"ours\":\n{text}");
                self.failures.push(text);
            }
            let mut native = *native;
            hide_upper_half(&mut native.fault, &mut guest.fault);
            (self.family.normalise)(&insn, &case, &mut native);
            (self.family.normalise)(&insn, &case, &mut guest);
            self.compared += 1;
            let undefined = (self.family.undefined_flags)(&insn, &case);
            if let Some(survey) = &mut self.survey {
                note_undefined(survey, &insn, undefined, &native, &guest);
            }
            let differences = compare(&case, undefined, &native, &guest);
            if !differences.is_empty() {
                self.failures.push(describe(&insn, &case, &differences));
            }
        }
    }

    fn finish(self) {
        for (name, flags) in self.survey.iter().flatten() {
            let mut line = String::new();
            for ((total, differing), flag) in flags.iter().zip(["CF", "PF", "AF", "ZF", "SF", "OF"])
            {
                if *total > 0 {
                    write!(line, " {flag} {differing}/{total}").expect("a string");
                }
            }
            if !line.is_empty() {
                println!("{name}: undefined flags that differ:{line}");
            }
        }
        let Run {
            family,
            mode,
            seed,
            failures,
            compared,
            ..
        } = self;
        println!("{} {mode:?}: {compared} cases", family.name);
        if !failures.is_empty() {
            panic!(
                "{} {mode:?}: {} of {compared} cases differ, X86_DIFFERENTIAL_SEED={seed}\n{}",
                family.name,
                failures.len(),
                failures[..failures.len().min(SHOWN)].join("\n"),
            );
        }
    }
}

/// What a program learns of the upper half of addresses depends on the system: whether a page is
/// present is hidden, or any access is refused as if the address were not canonical.
fn hide_upper_half(native: &mut Fault, guest: &mut Fault) {
    if guest.vector != 14 || guest.address >> 63 == 0 {
        return;
    }
    if matches!(native.vector, 12 | 13) {
        *guest = *native;
    }
    for fault in [native, guest] {
        fault.error |= 1;
    }
}

fn note_undefined(
    survey: &mut BTreeMap<String, [(u64, u64); 6]>,
    insn: &Instruction,
    undefined: u64,
    native: &Outcome,
    guest: &Outcome,
) {
    if native.fault != Fault::NONE || guest.fault != Fault::NONE {
        return;
    }
    let counts = survey.entry(format!("{:?}", insn.code())).or_default();
    for ((total, differing), flag) in counts.iter_mut().zip([0, 2, 4, 6, 7, 11]) {
        if undefined >> flag & 1 != 0 {
            *total += 1;
            *differing += (native.after.flags ^ guest.after.flags) >> flag & 1;
        }
    }
}

/// Bits of RSP that come back: in a 16-bit stack segment the others are lost on the way.
fn register_mask(mode: Mode, n: usize) -> u64 {
    if mode == Mode::Segmented16 && n == 4 {
        0xffff
    } else {
        u64::MAX
    }
}

fn compare(case: &Case, undefined: u64, native: &Outcome, guest: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |name: &dyn Fn() -> String, native: u128, guest: u128| {
        if native != guest && found.len() < 24 {
            found.push(format!("  {}: native {native:#x}, ours {guest:#x}", name()));
        }
    };
    let (a, b) = (&native.fault, &guest.fault);
    differ(&|| "vector".into(), a.vector.into(), b.vector.into());
    differ(&|| "error code".into(), a.error.into(), b.error.into());
    differ(&|| "address".into(), a.address.into(), b.address.into());
    let (a, b) = (&native.after, &guest.after);
    for (n, name) in NAMES.iter().enumerate() {
        let mask = register_mask(case.mode, n);
        differ(
            &|| (*name).into(),
            (a.gpr[n] & mask).into(),
            (b.gpr[n] & mask).into(),
        );
    }
    differ(&|| "rip".into(), a.rip.into(), b.rip.into());
    // An instruction that raised has not changed flags, except iterations that are over.
    let raised = native.fault != Fault::NONE && !case.whole;
    let mask = COMPARED_FLAGS & if raised { u64::MAX } else { !undefined };
    differ(
        &|| "flags".into(),
        (a.flags & mask).into(),
        (b.flags & mask).into(),
    );
    for n in 0..16 {
        differ(&|| format!("xmm{n}"), a.fx.xmm(n), b.fx.xmm(n));
        differ(
            &|| format!("upper half of ymm{n}"),
            a.ymm_high[n],
            b.ymm_high[n],
        );
    }
    for at in (0..5).chain(24..28).chain(32..160) {
        differ(
            &|| format!("fx byte {at}"),
            a.fx.0[at].into(),
            b.fx.0[at].into(),
        );
    }
    if native.memory != guest.memory {
        for (at, (x, y)) in native.memory.iter().zip(&guest.memory).enumerate() {
            differ(
                &|| format!("memory {:#x}", DATA + at as u64),
                (*x).into(),
                (*y).into(),
            );
        }
    }
    found
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

fn describe(insn: &Instruction, case: &Case, differences: &[String]) -> String {
    let mut text = String::new();
    FastFormatter::new().format(insn, &mut text);
    let bytes: Vec<String> = case.code[..usize::from(case.length)]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let registers: Vec<String> = NAMES
        .iter()
        .zip(case.before.gpr)
        .map(|(name, value)| format!("{name}={value:x}"))
        .collect();
    let patches: Vec<&Patch> = case
        .patches
        .iter()
        .filter(|patch| patch.length > 0)
        .collect();
    format!(
        "{text} [{}] {:?}{}{} at {:x}, flags {:x}, memory seed {}\n  before: {}\n  x87: {}\n  {:x?}\n{}",
        bytes.join(" "),
        insn.code(),
        if case.whole { " whole" } else { "" },
        if case.cold { " cold" } else { "" },
        case.before.rip,
        case.before.flags & (ARITHMETIC_FLAGS | 0x400),
        case.memory_seed,
        registers.join(" "),
        describe_x87(&case.before.fx),
        patches,
        differences.join("\n"),
    )
}

fn describe_x87(fx: &Fx) -> String {
    let word = |at: usize| u16::from_le_bytes([fx.0[at], fx.0[at + 1]]);
    let mut text = format!("fcw {:x} fsw {:x} valid {:x}", word(0), word(2), fx.0[4]);
    for n in 0..8 {
        let at = 32 + 16 * n;
        let mantissa = (0..8)
            .rev()
            .fold(0, |sum, i| sum << 8 | u64::from(fx.0[at + i]));
        write!(text, " {:x}:{mantissa:x}", word(at + 8)).expect("a string");
    }
    text
}
