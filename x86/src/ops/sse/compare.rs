//! Floating-point comparisons: CMP* with its eight predicates, COMIS*, UCOMIS*.
//!
//! Does: turn predicates into handlers, set flags. Does not: compare (`native`).

use iced_x86::{Code, Instruction};

use super::arithmetic::select_float;
use super::float::evaluate_comparison;
use super::native::{
    CompareDouble, CompareDoubleQuietly, ComparePd, ComparePs, CompareSd, CompareSingle,
    CompareSingleQuietly, CompareSs, Comparison,
};
use super::operands::{Mem32, Mem64, Source, Xmm, by_source, sse_ready, xmm};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::flags::{CF, PF, ZF};
use crate::op::{Flow, Op, Selected};

/// Sets ZF, PF and CF; clears OF, SF and AF.
fn compare<C: Comparison, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    sse_ready(core)?;
    let b = S::load(core, env, op)?;
    let a = xmm(core, op.dst);
    let [zero, parity, carry] = evaluate_comparison::<C>(core, a, b)?;
    let flag = |set: bool, bit| if set { bit } else { 0 };
    core.flags
        .set_arithmetic(flag(zero, ZF) | flag(parity, PF) | flag(carry, CF));
    Ok(Flow::Next)
}

/// Handlers for a comparison's eight predicates; the immediate's other bits mean nothing.
macro_rules! by_predicate {
    ($insn:ident, $comparison:ident) => {
        match $insn.immediate8() & 7 {
            0 => select_float::<$comparison<0>>($insn),
            1 => select_float::<$comparison<1>>($insn),
            2 => select_float::<$comparison<2>>($insn),
            3 => select_float::<$comparison<3>>($insn),
            4 => select_float::<$comparison<4>>($insn),
            5 => select_float::<$comparison<5>>($insn),
            6 => select_float::<$comparison<6>>($insn),
            _ => select_float::<$comparison<7>>($insn),
        }
    };
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.code() {
        Code::Cmpps_xmm_xmmm128_imm8 => by_predicate!(insn, ComparePs),
        Code::Cmppd_xmm_xmmm128_imm8 => by_predicate!(insn, ComparePd),
        Code::Cmpss_xmm_xmmm32_imm8 => by_predicate!(insn, CompareSs),
        Code::Cmpsd_xmm_xmmm64_imm8 => by_predicate!(insn, CompareSd),
        Code::Comiss_xmm_xmmm32 => by_source(
            insn,
            compare::<CompareSingle, Xmm>,
            compare::<CompareSingle, Mem32>,
        ),
        Code::Comisd_xmm_xmmm64 => by_source(
            insn,
            compare::<CompareDouble, Xmm>,
            compare::<CompareDouble, Mem64>,
        ),
        Code::Ucomiss_xmm_xmmm32 => by_source(
            insn,
            compare::<CompareSingleQuietly, Xmm>,
            compare::<CompareSingleQuietly, Mem32>,
        ),
        Code::Ucomisd_xmm_xmmm64 => by_source(
            insn,
            compare::<CompareDoubleQuietly, Xmm>,
            compare::<CompareDoubleQuietly, Mem64>,
        ),
        _ => None,
    }
}
