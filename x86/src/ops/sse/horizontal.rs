//! Floating-point operations on neighbours: HADD*, HSUB*, ADDSUB*, DPPS, DPPD.
//!
//! Does: arrange operands for the vertical operations, of which these consist. Does not: compute
//! (`native`), or decide about exceptions (`float`).
//!
//! Invariant: the exceptions of an instruction are those of all its parts.

use iced_x86::{Instruction, Mnemonic as M};

use super::float::{attempt, evaluate_lanes, report};
use super::lanes::{dwords, from_dwords, from_qwords, qwords};
use super::native::{AddPd, AddPs, Float, MulPd, MulPs, SubPd, SubPs};
use super::operands::{
    Form, Lanes, Memory, Register, Source, after, by_form, by_narrow_form, by_source, first, ready,
    set,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};

// ---- HADD, HSUB ----------------------------------------------------------------------------

/// How many elements a lane has.
trait Neighbours: 'static {
    /// The left and the right elements of all pairs, those of `a` first.
    fn arrange(a: u128, b: u128) -> (u128, u128);
}

/// Singles.
struct Singles;
/// Doubles.
struct Doubles;

impl Neighbours for Singles {
    #[inline(always)]
    fn arrange(a: u128, b: u128) -> (u128, u128) {
        let (a, b) = (dwords(a), dwords(b));
        (
            from_dwords([a[0], a[2], b[0], b[2]]),
            from_dwords([a[1], a[3], b[1], b[3]]),
        )
    }
}

impl Neighbours for Doubles {
    #[inline(always)]
    fn arrange(a: u128, b: u128) -> (u128, u128) {
        let (a, b) = (qwords(a), qwords(b));
        (from_qwords([a[0], b[0]]), from_qwords([a[1], b[1]]))
    }
}

/// `O` of neighbours.
fn horizontal<F: Form, N: Neighbours, O: Float, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let b = S::load::<F>(core, env, op)?;
    let a = first::<F>(core, op);
    let (low, high) = (N::arrange(a[0], b[0]), N::arrange(a[1], b[1]));
    let result = evaluate_lanes::<F, O>(core, [low.0, high.0], [low.1, high.1])?;
    set::<F>(core, op.dst, result);
    after::<S>(core, env, op)
}

fn select_horizontal<N: Neighbours, O: Float>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_form!(insn, horizontal, N, O, Register),
        by_form!(insn, horizontal, N, O, Memory),
    )
}

// ---- instructions of several parts ---------------------------------------------------------

/// An operation that consists of several, on 128 bits.
trait Compound: 'static {
    /// The result and the exception flags.
    fn run(core: &Core, a: u128, b: u128) -> (u128, u32);
}

/// ADDSUBPS and ADDSUBPD: `S` in the lanes of `EVEN`, `A` in the others.
struct Alternate<A, S, const EVEN: u128>(A, S);
impl<A: Float, S: Float, const EVEN: u128> Compound for Alternate<A, S, EVEN> {
    #[inline(always)]
    fn run(core: &Core, a: u128, b: u128) -> (u128, u32) {
        // Zeros raise nothing.
        let (sums, flags) = attempt::<A>(core, a & !EVEN, b & !EVEN);
        let (differences, more) = attempt::<S>(core, a & EVEN, b & EVEN);
        (sums & !EVEN | differences & EVEN, flags | more)
    }
}

/// `dst = C(first, S)`.
fn compound<F: Form, C: Compound, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let b = S::load::<F>(core, env, op)?;
    let a = first::<F>(core, op);
    let (low, flags) = C::run(core, a[0], b[0]);
    let (high, more) = if F::WIDE {
        C::run(core, a[1], b[1])
    } else {
        (0, 0)
    };
    report(core, flags | more)?;
    let result: Lanes = [low, high];
    set::<F>(core, op.dst, result);
    after::<S>(core, env, op)
}

fn select_compound<C: Compound>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_form!(insn, compound, C, Register),
        by_form!(insn, compound, C, Memory),
    )
}

// ---- DPPS, DPPD ----------------------------------------------------------------------------

/// The elements whose bit in `selector` is set, zeros elsewhere.
#[inline(always)]
fn chosen_dwords(value: u128, selector: u8) -> u128 {
    let elements = dwords(value);
    from_dwords(std::array::from_fn(|n| {
        elements[n] * u32::from(selector >> n & 1)
    }))
}

/// As [`chosen_dwords`].
#[inline(always)]
fn chosen_qwords(value: u128, selector: u8) -> u128 {
    let elements = qwords(value);
    from_qwords(std::array::from_fn(|n| {
        elements[n] * u64::from(selector >> n & 1)
    }))
}

/// DPPS: immediate bits 7–4 choose factors, 3–0 where the sum goes. Each step's exceptions are
/// reported before the next one begins.
fn dot_singles<F: Form, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let selector = op.imm as u8;
    let factors = |lanes: Lanes| lanes.map(|lane| chosen_dwords(lane, selector >> 4));
    let b = factors(S::load::<F>(core, env, op)?);
    let a = factors(first::<F>(core, op));
    let products = evaluate_lanes::<F, MulPs>(core, a, b)?.map(dwords);
    let sums = evaluate_lanes::<F, AddPs>(
        core,
        products.map(|p| from_dwords([p[0], p[2], 0, 0])),
        products.map(|p| from_dwords([p[1], p[3], 0, 0])),
    )?
    .map(dwords);
    let sum =
        evaluate_lanes::<F, AddPs>(core, sums.map(|s| s[0].into()), sums.map(|s| s[1].into()))?;
    let result = sum.map(|s| chosen_dwords(from_dwords([s as u32; 4]), selector));
    set::<F>(core, op.dst, result);
    after::<S>(core, env, op)
}

/// DPPD, likewise.
fn dot_doubles<F: Form, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<F>(core)?;
    let selector = op.imm as u8;
    let factors = |lanes: Lanes| lanes.map(|lane| chosen_qwords(lane, selector >> 4));
    let b = factors(S::load::<F>(core, env, op)?);
    let a = factors(first::<F>(core, op));
    let products = evaluate_lanes::<F, MulPd>(core, a, b)?.map(qwords);
    let sum = evaluate_lanes::<F, AddPd>(
        core,
        products.map(|p| p[0].into()),
        products.map(|p| p[1].into()),
    )?;
    let result = sum.map(|s| chosen_qwords(from_qwords([s as u64; 2]), selector));
    set::<F>(core, op.dst, result);
    after::<S>(core, env, op)
}

/// The even singles of a lane.
const EVEN_SINGLES: u128 = 0xffff_ffff << 64 | 0xffff_ffff;
/// The even double of a lane.
const EVEN_DOUBLE: u128 = 0xffff_ffff_ffff_ffff;

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    match insn.mnemonic() {
        M::Haddps | M::Vhaddps => select_horizontal::<Singles, AddPs>(insn),
        M::Haddpd | M::Vhaddpd => select_horizontal::<Doubles, AddPd>(insn),
        M::Hsubps | M::Vhsubps => select_horizontal::<Singles, SubPs>(insn),
        M::Hsubpd | M::Vhsubpd => select_horizontal::<Doubles, SubPd>(insn),
        M::Addsubps | M::Vaddsubps => {
            select_compound::<Alternate<AddPs, SubPs, EVEN_SINGLES>>(insn)
        }
        M::Addsubpd | M::Vaddsubpd => select_compound::<Alternate<AddPd, SubPd, EVEN_DOUBLE>>(insn),
        M::Dpps | M::Vdpps => by_source(
            insn,
            by_form!(insn, dot_singles, Register),
            by_form!(insn, dot_singles, Memory),
        ),
        M::Dppd | M::Vdppd => by_source(
            insn,
            by_narrow_form!(insn, dot_doubles, Register),
            by_narrow_form!(insn, dot_doubles, Memory),
        ),
        _ => None,
    }
}
