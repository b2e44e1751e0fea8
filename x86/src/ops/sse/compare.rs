//! Floating-point comparisons: CMP* with its predicates (eight, with VEX thirty-two), COMIS*,
//! UCOMIS*.
//!
//! Does: turn predicates into handlers, set flags. Does not: compare (`native`).

use iced_x86::{Code, Instruction, Mnemonic as M};

use super::arithmetic::select_float;
use super::float::{Elements, Kind, evaluate_comparison};
use super::native::{
    CompareDouble, CompareDoubleQuietly, ComparePd, ComparePs, CompareSd, CompareSingle,
    CompareSingleQuietly, CompareSs, Comparison, Float,
};
use super::operands::{
    Form, Mem32, Mem64, Register, Source, after, by_narrow_form, by_source, is_vex, ready, xmm,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::flags::{CF, PF, ZF};
use crate::op::{Flow, Op, Selected};

/// Sets ZF, PF and CF; clears OF, SF and AF.
fn compare<F: Form, C: Comparison, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let [b, _] = S::load::<F>(core, env, op)?;
    let a = xmm(core, op.dst);
    let [zero, parity, carry] = evaluate_comparison::<C>(core, a, b)?;
    let flag = |set: bool, bit| if set { bit } else { 0 };
    core.flags
        .set_arithmetic(flag(zero, ZF) | flag(parity, PF) | flag(carry, CF));
    after::<S>(core, env, op)
}

// ---- the predicates beyond the first eight -------------------------------------------------

/// Relations that a predicate accepts.
const LESS: u8 = 1;
const EQUAL: u8 = 2;
const GREATER: u8 = 4;
const UNORDERED: u8 = 8;

/// The relations that predicate `n` (0–31) accepts (SDM vol. 2A, table 3-1).
const fn accepted(predicate: u8) -> u8 {
    match predicate & 15 {
        0 => EQUAL,
        1 => LESS,
        2 => LESS | EQUAL,
        3 => UNORDERED,
        4 => LESS | GREATER | UNORDERED,
        5 => EQUAL | GREATER | UNORDERED,
        6 => GREATER | UNORDERED,
        7 => LESS | EQUAL | GREATER,
        8 => EQUAL | UNORDERED,
        9 => LESS | UNORDERED,
        10 => LESS | EQUAL | UNORDERED,
        11 => 0,
        12 => LESS | GREATER,
        13 => EQUAL | GREATER,
        14 => GREATER,
        _ => LESS | EQUAL | GREATER | UNORDERED,
    }
}

/// True if predicate `n` raises invalid for quiet NaNs.
const fn signals(predicate: u8) -> bool {
    matches!(predicate & 15, 1 | 2 | 5 | 6 | 9 | 10 | 13 | 14) != (predicate > 15)
}

/// A predicate from 8 on, made of three of the first eight: equal and unordered, which are quiet,
/// and less, which is not.
struct Combined<E, L, U, const PREDICATE: u8>(E, L, U);

impl<E: Float, L: Float, U: Float, const PREDICATE: u8> Float for Combined<E, L, U, PREDICATE> {
    const ELEMENTS: Elements = E::ELEMENTS;
    const KIND: Kind = Kind::Other;

    fn run(a: u128, b: u128, control: u32) -> (u128, u32) {
        let (equal, quiet) = E::run(a, b, control);
        let (less, signalling) = L::run(a, b, control);
        let (unordered, _) = U::run(a, b, control);
        let greater = !(equal | less | unordered);
        let part = |relation, mask| {
            if accepted(PREDICATE) & relation != 0 {
                mask
            } else {
                0
            }
        };
        let lanes = part(LESS, less)
            | part(EQUAL, equal)
            | part(GREATER, greater)
            | part(UNORDERED, unordered);
        let counts = match E::ELEMENTS {
            Elements::Single => 0xffff_ffff,
            Elements::Double => 0xffff_ffff_ffff_ffff,
            Elements::Singles | Elements::Doubles => u128::MAX,
        };
        let flags = if signals(PREDICATE) {
            signalling
        } else {
            quiet
        };
        (a & !counts | lanes & counts, flags)
    }
}

/// Handlers for a comparison's predicates. Without VEX there are eight, with VEX thirty-two; the
/// immediate's other bits mean nothing.
macro_rules! by_predicate {
    ($insn:ident, $comparison:ident, [$($n:literal)*]) => {{
        let known = if is_vex($insn) { 31 } else { 7 };
        match $insn.immediate8() & known {
            0 => select_float::<$comparison<0>>($insn),
            1 => select_float::<$comparison<1>>($insn),
            2 => select_float::<$comparison<2>>($insn),
            3 => select_float::<$comparison<3>>($insn),
            4 => select_float::<$comparison<4>>($insn),
            5 => select_float::<$comparison<5>>($insn),
            6 => select_float::<$comparison<6>>($insn),
            7 => select_float::<$comparison<7>>($insn),
            $($n => select_float::<
                Combined<$comparison<0>, $comparison<1>, $comparison<3>, $n>,
            >($insn),)*
            _ => None,
        }
    }};
    ($insn:ident, $comparison:ident) => {
        by_predicate!($insn, $comparison, [
            8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
        ])
    };
}

fn select_compare<C: Comparison, S: Source>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_narrow_form!(insn, compare, C, Register),
        by_narrow_form!(insn, compare, C, S),
    )
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Cmpps | M::Vcmpps => by_predicate!(insn, ComparePs),
        M::Cmppd | M::Vcmppd => by_predicate!(insn, ComparePd),
        M::Cmpss | M::Vcmpss => by_predicate!(insn, CompareSs),
        // The string instruction has the same name.
        M::Vcmpsd => by_predicate!(insn, CompareSd),
        M::Cmpsd if insn.code() == Code::Cmpsd_xmm_xmmm64_imm8 => by_predicate!(insn, CompareSd),
        M::Comiss | M::Vcomiss => select_compare::<CompareSingle, Mem32>(insn),
        M::Comisd | M::Vcomisd => select_compare::<CompareDouble, Mem64>(insn),
        M::Ucomiss | M::Vucomiss => select_compare::<CompareSingleQuietly, Mem32>(insn),
        M::Ucomisd | M::Vucomisd => select_compare::<CompareDoubleQuietly, Mem64>(insn),
        _ => None,
    }
}
