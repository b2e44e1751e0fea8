//! Elements that move across the whole of a YMM register, and lanes by variable selectors:
//! VBROADCAST*, VPBROADCAST*, VINSERT*128, VEXTRACT*128, VPERM*.

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use super::lanes::{dwords, from_dwords, from_qwords, qwords, zip_qwords};
use super::moves::Whole;
use super::native::Binary;
use super::operands::{
    Form, Lanes, Mem8, Mem16, Mem32, Mem64, Memory, Register, SameMemory, Source, Unaligned,
    Vex128, Vex256, WithImmediate, after, binary, by_source, by_vex_form, first, get, ready,
    select_vector, select_with_immediate, set, store,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};
use crate::word::Word;

// ---- broadcasts ----------------------------------------------------------------------------

/// The low `T` of the source everywhere.
fn broadcast<F: Form, T: Word, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let [value, _] = S::load::<F>(core, env, op)?;
    let element = u128::from(T::from64(value as u64).to64());
    let lane = (0..128 / T::BITS).fold(0, |lane, _| lane << (T::BITS & 127) | element);
    set::<F>(core, op.dst, [lane; 2]);
    after::<S>(core, env, op)
}

fn select_broadcast<T: Word, S: Source>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_vex_form!(insn, broadcast, T, Register),
        by_vex_form!(insn, broadcast, T, S),
    )
}

// ---- halves --------------------------------------------------------------------------------

/// VINSERTF128, VINSERTI128.
fn insert_half<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<Vex256>(core)?;
    let [half, _] = S::load::<Vex128>(core, env, op)?;
    let mut value = first::<Vex256>(core, op);
    value[op.imm as usize & 1] = half;
    set::<Vex256>(core, op.dst, value);
    after::<S>(core, env, op)
}

/// VEXTRACTF128, VEXTRACTI128 to a register.
fn extract_half(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<Vex256>(core)?;
    let half = get::<Vex256>(core, op.src)[op.imm as usize & 1];
    set::<Vex128>(core, op.dst, [half, 0]);
    core.next(env, op)
}

/// VEXTRACTF128, VEXTRACTI128 to memory.
fn store_half(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<Vex256>(core)?;
    let half = get::<Vex256>(core, op.src)[op.imm as usize & 1];
    store::<Vex128>(core, env, op, [half, 0], false)?;
    core.next_after_access(env, op)
}

/// VPERM2F128, VPERM2I128: two bits select a half of either source, a third one zeros.
fn permute_halves<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<Vex256>(core)?;
    let b = S::load::<Vex256>(core, env, op)?;
    let a = first::<Vex256>(core, op);
    let half = |selector: u64| match selector & 15 {
        8.. => 0,
        n => [a[0], a[1], b[0], b[1]][n as usize & 3],
    };
    set::<Vex256>(core, op.dst, [half(op.imm), half(op.imm >> 4)]);
    after::<S>(core, env, op)
}

// ---- elements ------------------------------------------------------------------------------

/// VPERMILPS by an immediate.
struct DwordsByImmediate;
/// VPERMILPD by an immediate.
struct QwordsByImmediate;
/// VPERMILPS: the first source by the second.
struct DwordsByVector;
/// VPERMILPD: the first source by the second.
struct QwordsByVector;

impl WithImmediate for DwordsByImmediate {
    #[inline(always)]
    fn apply(_: u128, b: u128, selector: u8) -> u128 {
        let b = dwords(b);
        from_dwords(std::array::from_fn(|n| {
            b[usize::from(selector >> (2 * n) & 3)]
        }))
    }
}

impl WithImmediate for QwordsByImmediate {
    const UPPER_SHIFT: u32 = 2;
    #[inline(always)]
    fn apply(_: u128, b: u128, selector: u8) -> u128 {
        let b = qwords(b);
        from_qwords(std::array::from_fn(|n| b[usize::from(selector >> n & 1)]))
    }
}

impl Binary for DwordsByVector {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        let a = dwords(a);
        from_dwords(dwords(b).map(|n| a[n as usize & 3]))
    }
}

impl Binary for QwordsByVector {
    #[inline(always)]
    fn apply(a: u128, b: u128) -> u128 {
        let table = qwords(a);
        zip_qwords(b, b, |n, _| table[(n >> 1) as usize & 1])
    }
}

/// The eight doublewords of two lanes.
fn all_dwords(value: Lanes) -> [u32; 8] {
    let [low, high] = value.map(dwords);
    std::array::from_fn(|n| if n < 4 { low[n] } else { high[n - 4] })
}

/// VPERMD, VPERMPS: the second source by the first.
fn permute_dwords<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<Vex256>(core)?;
    let table = all_dwords(S::load::<Vex256>(core, env, op)?);
    let result = first::<Vex256>(core, op)
        .map(|lane| from_dwords(dwords(lane).map(|n| table[n as usize & 7])));
    set::<Vex256>(core, op.dst, result);
    after::<S>(core, env, op)
}

/// VPERMQ, VPERMPD.
fn permute_qwords<S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    ready::<Vex256>(core)?;
    let [low, high] = S::load::<Vex256>(core, env, op)?.map(qwords);
    let table = [low[0], low[1], high[0], high[1]];
    let pick = |n: u32| table[(op.imm >> (2 * n)) as usize & 3];
    let result = [
        from_qwords([pick(0), pick(1)]),
        from_qwords([pick(2), pick(3)]),
    ];
    set::<Vex256>(core, op.dst, result);
    after::<S>(core, env, op)
}

/// Names the handler.
pub(super) fn select(insn: &Instruction) -> Option<Selected> {
    let by_immediate = (1..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Immediate8);
    match insn.mnemonic() {
        M::Vpbroadcastb => select_broadcast::<u8, Mem8>(insn),
        M::Vpbroadcastw => select_broadcast::<u16, Mem16>(insn),
        M::Vpbroadcastd | M::Vbroadcastss => select_broadcast::<u32, Mem32>(insn),
        M::Vpbroadcastq | M::Vbroadcastsd => select_broadcast::<u64, Mem64>(insn),
        M::Vbroadcastf128 | M::Vbroadcasti128 => {
            Selected::inline(binary::<Vex256, Whole, SameMemory>)
        }
        M::Vinsertf128 | M::Vinserti128 => {
            by_source(insn, insert_half::<Register>, insert_half::<Unaligned>)
        }
        M::Vextractf128 | M::Vextracti128 if insn.op0_kind() == OpKind::Memory => {
            Selected::inline(store_half)
        }
        M::Vextractf128 | M::Vextracti128 => Selected::inline(extract_half),
        M::Vperm2f128 | M::Vperm2i128 => {
            by_source(insn, permute_halves::<Register>, permute_halves::<Memory>)
        }
        M::Vpermilps if by_immediate => select_with_immediate::<DwordsByImmediate>(insn),
        M::Vpermilpd if by_immediate => select_with_immediate::<QwordsByImmediate>(insn),
        M::Vpermilps => select_vector::<DwordsByVector>(insn),
        M::Vpermilpd => select_vector::<QwordsByVector>(insn),
        M::Vpermd | M::Vpermps => {
            by_source(insn, permute_dwords::<Register>, permute_dwords::<Memory>)
        }
        M::Vpermq | M::Vpermpd => {
            by_source(insn, permute_qwords::<Register>, permute_qwords::<Memory>)
        }
        _ => None,
    }
}
