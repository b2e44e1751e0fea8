//! Comparisons of strings: PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM vol. 1, 12.9.2 and
//! vol. 2B, 4.1).
//!
//! Does: compare, aggregate, and report in flags and in ECX or XMM0. Does not: care for alignment:
//! these instructions accept any address.

use iced_x86::{Instruction, Mnemonic as M};

use super::lanes::{bytes, from_bytes, from_words, words};
use super::operands::{
    Form, Register, Source, Unaligned, Vex128, after, by_narrow_form, by_source, ready, set, xmm,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::flags::{CF, OF, SF, ZF};
use crate::op::{Flow, Op, Selected};

/// A string of up to sixteen characters.
struct Text {
    characters: [i32; 16],
    length: usize,
}

impl Text {
    /// The characters of a vector, as immediate bits 0 and 1 say: bytes or words, signed or not.
    /// `length` is the given one, or `None` for what ends with a zero.
    fn new(value: u128, control: u8, length: Option<usize>) -> Text {
        let mut characters = [0; 16];
        let count = capacity(control);
        for (n, character) in characters.iter_mut().enumerate().take(count) {
            *character = match control & 3 {
                0 => bytes(value)[n].into(),
                1 => words(value)[n.min(7)].into(),
                2 => (bytes(value)[n] as i8).into(),
                _ => (words(value)[n.min(7)] as i16).into(),
            };
        }
        let terminated = || characters[..count].iter().position(|&c| c == 0);
        Text {
            characters,
            length: length.or_else(terminated).unwrap_or(count).min(count),
        }
    }

    /// Character `n`, if the string is so long.
    fn get(&self, n: usize) -> Option<i32> {
        (n < self.length).then(|| self.characters[n])
    }
}

/// How many characters fit in a vector.
fn capacity(control: u8) -> usize {
    if control & 1 == 0 { 16 } else { 8 }
}

/// For each place in `b`, a bit: whether it has the relation to `a` that immediate bits 2 and 3
/// ask for, complemented as bits 4 and 5 say.
fn relate(a: &Text, b: &Text, control: u8) -> u32 {
    let count = capacity(control);
    let equal_any = |j: usize| {
        let c = b.get(j);
        c.is_some() && (0..a.length).any(|i| a.get(i) == c)
    };
    let in_ranges = |j: usize| {
        (0..count)
            .step_by(2)
            .any(|i| match (a.get(i), a.get(i + 1), b.get(j)) {
                (Some(low), Some(high), Some(c)) => low <= c && c <= high,
                _ => false,
            })
    };
    let equal_each = |j: usize| a.get(j) == b.get(j);
    let equal_ordered =
        |j: usize| (0..count - j).all(|i| a.get(i).is_none() || a.get(i) == b.get(i + j));
    (0..count).fold(0, |bits, j| {
        let holds = match control >> 2 & 3 {
            0 => equal_any(j),
            1 => in_ranges(j),
            2 => equal_each(j),
            _ => equal_ordered(j),
        };
        let complemented = match control >> 4 & 3 {
            1 => true,
            3 => b.get(j).is_some(),
            _ => false,
        };
        bits | u32::from(holds != complemented) << j
    })
}

/// Where a result goes.
trait Output: 'static {
    /// Writes it.
    fn write(core: &mut Core, bits: u32, control: u8, vex: bool);
}

/// ECX: the first or the last place.
struct Index;
/// XMM0: a mask.
struct Mask;

impl Output for Index {
    fn write(core: &mut Core, bits: u32, control: u8, _: bool) {
        let index = match bits {
            0 => capacity(control) as u32,
            _ if control & 1 << 6 != 0 => 31 - bits.leading_zeros(),
            _ => bits.trailing_zeros(),
        };
        core.set_reg::<u32>(1, index);
    }
}

impl Output for Mask {
    fn write(core: &mut Core, bits: u32, control: u8, vex: bool) {
        let bit = |n: usize| bits >> n & 1 != 0;
        let mask = if control & 1 << 6 == 0 {
            u128::from(bits)
        } else if control & 1 == 0 {
            from_bytes(std::array::from_fn(|n| if bit(n) { 0xff } else { 0 }))
        } else {
            from_words(std::array::from_fn(|n| if bit(n) { 0xffff } else { 0 }))
        };
        if vex {
            set::<Vex128>(core, 0, [mask, 0]);
        } else {
            core.xmm[0] = mask;
        }
    }
}

/// A string's given length: a register's magnitude, as far as it counts.
fn given_length(core: &Core, register: u8, wide: bool) -> usize {
    let length = if wide {
        core.reg::<u64>(register).cast_signed().unsigned_abs()
    } else {
        u64::from(core.reg::<u32>(register).cast_signed().unsigned_abs())
    };
    length.min(16) as usize
}

/// Compares. `EXPLICIT`: lengths are in rAX and rDX, 64-bit ones if `Op::extra` is 1.
fn compare<F: Form, O: Output, S: Source, const EXPLICIT: bool>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let [second, _] = S::load::<F>(core, env, op)?;
    let control = op.imm as u8;
    let length =
        |core: &Core, register| EXPLICIT.then(|| given_length(core, register, op.extra == 1));
    let a = Text::new(xmm(core, op.dst), control, length(core, 0));
    let b = Text::new(second, control, length(core, 2));
    let bits = relate(&a, &b, control);
    O::write(core, bits, control, F::VEX);
    let count = capacity(control);
    let flag = |set: bool, bit| if set { bit } else { 0 };
    core.flags.set_arithmetic(
        flag(bits != 0, CF)
            | flag(b.length < count, ZF)
            | flag(a.length < count, SF)
            | flag(bits & 1 != 0, OF),
    );
    after::<S>(core, env, op)
}

fn explicit<F: Form, O: Output, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    compare::<F, O, S, true>(core, env, op)
}

fn implicit<F: Form, O: Output, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    compare::<F, O, S, false>(core, env, op)
}

fn select_explicit<O: Output>(insn: &Instruction, op: &mut Op, wide: bool) -> Option<Selected> {
    op.extra = wide.into();
    by_source(
        insn,
        by_narrow_form!(insn, explicit, O, Register),
        by_narrow_form!(insn, explicit, O, Unaligned),
    )
}

fn select_implicit<O: Output>(insn: &Instruction) -> Option<Selected> {
    by_source(
        insn,
        by_narrow_form!(insn, implicit, O, Register),
        by_narrow_form!(insn, implicit, O, Unaligned),
    )
}

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op) -> Option<Selected> {
    match insn.mnemonic() {
        M::Pcmpistri | M::Vpcmpistri => select_implicit::<Index>(insn),
        M::Pcmpistrm | M::Vpcmpistrm => select_implicit::<Mask>(insn),
        M::Pcmpestri | M::Vpcmpestri => select_explicit::<Index>(insn, op, false),
        M::Pcmpestri64 | M::Vpcmpestri64 => select_explicit::<Index>(insn, op, true),
        M::Pcmpestrm | M::Vpcmpestrm => select_explicit::<Mask>(insn, op, false),
        M::Pcmpestrm64 | M::Vpcmpestrm64 => select_explicit::<Mask>(insn, op, true),
        _ => None,
    }
}
