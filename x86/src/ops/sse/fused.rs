//! Fused multiply-add: VFMADD*, VFMSUB*, VFNMADD*, VFNMSUB*, VFMADDSUB*, VFMSUBADD*.
//!
//! Does: compute the product and the sum exactly and round once, with integers where the host has no
//! such instructions, or an unmasked exception or a NaN makes it a matter of the processor. Does not: load operands in three
//! orders: the digits in the names are read when an instruction is decoded.

use iced_x86::{Instruction, Mnemonic as M};

use super::float::report;
use super::ieee::{Class, DOUBLE, Environment, Format, SINGLE, Value, flag, round, shift_right};
use super::masked::{element, set_element};
use super::native::{fused_double, fused_single};
use super::operands::{
    DAZ, FTZ, Form, Lanes, MASKS, Mem32, Mem64, Memory, ROUNDING, Register, Source, Vex128, after,
    by_source, by_vex_form, get, ready, set,
};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op, Selected};
use crate::word::Word;

/// What is done with the signs of product and addend.
#[derive(Clone, Copy, Debug)]
struct Signs {
    negate_product: bool,
    negate_addend: bool,
}

/// `x * y + z` of one element, and the flags that the guest sees: by the host's unit, if it has
/// one and IEEE 754 says all.
fn fused(format: Format, operands: [u64; 3], signs: Signs, mxcsr: u32) -> (u64, u32) {
    let is_nan = |&operand: &u64| format.class(operand) == Class::Nan;
    if mxcsr & MASKS != MASKS || operands.iter().any(is_nan) {
        return computed(format, operands, signs, mxcsr);
    }
    let flipped = |bits: u64, flip: bool| if flip { bits ^ format.sign() } else { bits };
    let [x, y, z] = operands;
    let x = flipped(x, signs.negate_product);
    let z = flipped(z, signs.negate_addend);
    let control = mxcsr & (ROUNDING | FTZ | DAZ);
    let native = if format == DOUBLE {
        fused_double(x, y, z, control)
    } else {
        fused_single(x as u32, y as u32, z as u32, control)
            .map(|(result, flags)| (result.into(), flags))
    };
    native.unwrap_or_else(|| computed(format, operands, signs, mxcsr))
}

/// [`fused`] in integers.
fn computed(format: Format, [x, y, z]: [u64; 3], signs: Signs, mxcsr: u32) -> (u64, u32) {
    let original = [x, y, z];
    let [x, y, z] = original.map(|operand| format.flushed(operand, mxcsr));
    let classes = [x, y, z].map(|operand| format.class(operand));
    let [cx, cy, cz] = classes;
    let invalid_product = matches!(
        (cx, cy),
        (Class::Zero, Class::Infinity) | (Class::Infinity, Class::Zero)
    );
    if let Some(at) = classes.iter().position(|&class| class == Class::Nan) {
        let signalling = [x, y, z]
            .iter()
            .any(|&operand| format.is_signalling(operand));
        let flags = if signalling { flag::INVALID } else { 0 };
        return ([x, y, z][at] | format.quiet(), flags);
    }
    let sign = format.sign();
    let product_negative = (x ^ y) & sign != 0;
    let product_negative = product_negative != signs.negate_product;
    let addend_negative = (z & sign != 0) != signs.negate_addend;
    let infinite_product = cx == Class::Infinity || cy == Class::Infinity;
    let opposed = infinite_product && cz == Class::Infinity && product_negative != addend_negative;
    if invalid_product || opposed {
        return (format.default_nan(), flag::INVALID);
    }
    let denormal = if classes.contains(&Class::Denormal) {
        flag::DENORMAL
    } else {
        0
    };
    let signed = |negative: bool, bits: u64| if negative { bits | sign } else { bits };
    if infinite_product {
        return (signed(product_negative, format.infinity()), denormal);
    }
    if cz == Class::Infinity {
        return (signed(addend_negative, format.infinity()), denormal);
    }
    let environment = Environment::of(mxcsr);
    let product = {
        let (a, b) = (format.unpack(x), format.unpack(y));
        // Both significands have at most 53 bits, which are the top ones.
        let significand = (a.significand >> 64) * (b.significand >> 64);
        normalized(product_negative, a.exponent + b.exponent + 1, significand)
    };
    let addend = Value {
        negative: addend_negative,
        ..format.unpack(z)
    };
    match sum(product, addend) {
        Some(exact) => {
            let (result, flags) = round(format, exact, environment);
            (result, flags | denormal)
        }
        None => {
            // An exact zero: its sign is that of both, or the rounding's.
            let negative = if product_negative == addend_negative {
                product_negative
            } else {
                environment.rounding == 1
            };
            (signed(negative, 0), denormal)
        }
    }
}

/// A value with its significand's top bit set, unless it is zero.
fn normalized(negative: bool, exponent: i32, significand: u128) -> Value {
    let shift = significand.leading_zeros().min(127);
    Value {
        negative,
        exponent: exponent - shift as i32,
        significand: significand << shift,
    }
}

/// The sum, exact but for a bit that stands for what is far below; `None` if it is zero.
fn sum(a: Value, b: Value) -> Option<Value> {
    if a.significand == 0 || b.significand == 0 {
        let other = if a.significand == 0 { b } else { a };
        return (other.significand != 0).then_some(other);
    }
    let order = |value: &Value| (value.exponent, value.significand);
    let (large, small) = if order(&a) >= order(&b) {
        (a, b)
    } else {
        (b, a)
    };
    // Two bits of room above; what is lost below stays in the last one. Significands have at most
    // 106 bits, so that nothing is lost where digits could cancel.
    let distance = (large.exponent - small.exponent) as u32;
    let (x, y) = (
        large.significand >> 2,
        shift_right(small.significand >> 2, distance),
    );
    let significand = if large.negative == small.negative {
        x + y
    } else {
        x - y
    };
    (significand != 0).then(|| normalized(large.negative, large.exponent + 2, significand))
}

// ---- handlers ------------------------------------------------------------------------------

/// Bits of `Op::extra`: the addend is negated in even elements.
const EVEN_MINUS: u16 = 1 << 0;
/// The addend is negated in odd elements.
const ODD_MINUS: u16 = 1 << 1;
/// The product is negated.
const NEGATIVE: u16 = 1 << 2;
/// The order of operands, two bits: which of destination, second and third are the factors.
const ORDER_SHIFT: u32 = 3;

/// Factors and addend from destination, second and third operand.
fn arranged(order: u16, [first, second, third]: [u64; 3]) -> [u64; 3] {
    match order {
        0 => [first, third, second],
        1 => [second, first, third],
        _ => [second, third, first],
    }
}

/// A format of elements.
trait Element: 'static {
    type Word: Word;
    const FORMAT: Format;
}

struct Singles;
struct Doubles;

impl Element for Singles {
    type Word = u32;
    const FORMAT: Format = SINGLE;
}

impl Element for Doubles {
    type Word = u64;
    const FORMAT: Format = DOUBLE;
}

/// Computes the first `count` elements.
fn compute<F: Form, E: Element, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    count: u32,
) -> Exec<Flow> {
    ready::<F>(core)?;
    let third = S::load::<F>(core, env, op)?;
    let second = get::<F>(core, op.aux);
    let mut result: Lanes = get::<F>(core, op.dst);
    let mut all = 0;
    for n in 0..count {
        let operands = [result, second, third].map(|lanes| element::<E::Word>(lanes, n));
        let minus = if n & 1 == 0 { EVEN_MINUS } else { ODD_MINUS };
        let signs = Signs {
            negate_product: op.extra & NEGATIVE != 0,
            negate_addend: op.extra & minus != 0,
        };
        let operands = arranged(op.extra >> ORDER_SHIFT, operands);
        let (value, flags) = fused(E::FORMAT, operands, signs, core.mxcsr);
        set_element::<E::Word>(&mut result, n, value);
        all |= flags;
    }
    report(core, all)?;
    set::<F>(core, op.dst, result);
    after::<S>(core, env, op)
}

fn packed<F: Form, E: Element, S: Source>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
) -> Exec<Flow> {
    let bits = if F::WIDE { 256 } else { 128 };
    compute::<F, E, S>(core, env, op, bits / E::Word::BITS)
}

fn scalar<E: Element, S: Source>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    compute::<Vex128, E, S>(core, env, op, 1)
}

// ---- selection -----------------------------------------------------------------------------

/// Elements of an instruction.
#[derive(Clone, Copy)]
enum Kind {
    Ps,
    Pd,
    Ss,
    Sd,
}

/// Order and elements: the end of the mnemonic.
#[rustfmt::skip]
fn shape(mnemonic: M) -> Option<(u16, Kind)> {
    use Kind::{Pd, Ps, Sd, Ss};
    Some(match mnemonic {
        M::Vfmadd132ps | M::Vfmsub132ps | M::Vfnmadd132ps | M::Vfnmsub132ps
        | M::Vfmaddsub132ps | M::Vfmsubadd132ps => (0, Ps),
        M::Vfmadd213ps | M::Vfmsub213ps | M::Vfnmadd213ps | M::Vfnmsub213ps
        | M::Vfmaddsub213ps | M::Vfmsubadd213ps => (1, Ps),
        M::Vfmadd231ps | M::Vfmsub231ps | M::Vfnmadd231ps | M::Vfnmsub231ps
        | M::Vfmaddsub231ps | M::Vfmsubadd231ps => (2, Ps),
        M::Vfmadd132pd | M::Vfmsub132pd | M::Vfnmadd132pd | M::Vfnmsub132pd
        | M::Vfmaddsub132pd | M::Vfmsubadd132pd => (0, Pd),
        M::Vfmadd213pd | M::Vfmsub213pd | M::Vfnmadd213pd | M::Vfnmsub213pd
        | M::Vfmaddsub213pd | M::Vfmsubadd213pd => (1, Pd),
        M::Vfmadd231pd | M::Vfmsub231pd | M::Vfnmadd231pd | M::Vfnmsub231pd
        | M::Vfmaddsub231pd | M::Vfmsubadd231pd => (2, Pd),
        M::Vfmadd132ss | M::Vfmsub132ss | M::Vfnmadd132ss | M::Vfnmsub132ss => (0, Ss),
        M::Vfmadd213ss | M::Vfmsub213ss | M::Vfnmadd213ss | M::Vfnmsub213ss => (1, Ss),
        M::Vfmadd231ss | M::Vfmsub231ss | M::Vfnmadd231ss | M::Vfnmsub231ss => (2, Ss),
        M::Vfmadd132sd | M::Vfmsub132sd | M::Vfnmadd132sd | M::Vfnmsub132sd => (0, Sd),
        M::Vfmadd213sd | M::Vfmsub213sd | M::Vfnmadd213sd | M::Vfnmsub213sd => (1, Sd),
        M::Vfmadd231sd | M::Vfmsub231sd | M::Vfnmadd231sd | M::Vfnmsub231sd => (2, Sd),
        _ => return None,
    })
}

/// Signs: the beginning of the mnemonic.
#[rustfmt::skip]
fn signs(mnemonic: M) -> u16 {
    match mnemonic {
        M::Vfmsub132ps | M::Vfmsub213ps | M::Vfmsub231ps | M::Vfmsub132pd | M::Vfmsub213pd
        | M::Vfmsub231pd | M::Vfmsub132ss | M::Vfmsub213ss | M::Vfmsub231ss | M::Vfmsub132sd
        | M::Vfmsub213sd | M::Vfmsub231sd => EVEN_MINUS | ODD_MINUS,
        M::Vfnmadd132ps | M::Vfnmadd213ps | M::Vfnmadd231ps | M::Vfnmadd132pd | M::Vfnmadd213pd
        | M::Vfnmadd231pd | M::Vfnmadd132ss | M::Vfnmadd213ss | M::Vfnmadd231ss
        | M::Vfnmadd132sd | M::Vfnmadd213sd | M::Vfnmadd231sd => NEGATIVE,
        M::Vfnmsub132ps | M::Vfnmsub213ps | M::Vfnmsub231ps | M::Vfnmsub132pd | M::Vfnmsub213pd
        | M::Vfnmsub231pd | M::Vfnmsub132ss | M::Vfnmsub213ss | M::Vfnmsub231ss
        | M::Vfnmsub132sd | M::Vfnmsub213sd | M::Vfnmsub231sd => NEGATIVE | EVEN_MINUS | ODD_MINUS,
        M::Vfmaddsub132ps | M::Vfmaddsub213ps | M::Vfmaddsub231ps | M::Vfmaddsub132pd
        | M::Vfmaddsub213pd | M::Vfmaddsub231pd => EVEN_MINUS,
        M::Vfmsubadd132ps | M::Vfmsubadd213ps | M::Vfmsubadd231ps | M::Vfmsubadd132pd
        | M::Vfmsubadd213pd | M::Vfmsubadd231pd => ODD_MINUS,
        _ => 0,
    }
}

/// Names the handler.
pub(super) fn select(insn: &Instruction, op: &mut Op) -> Option<Selected> {
    let (order, kind) = shape(insn.mnemonic())?;
    op.extra = signs(insn.mnemonic()) | order << ORDER_SHIFT;
    match kind {
        Kind::Ps => by_source(
            insn,
            by_vex_form!(insn, packed, Singles, Register),
            by_vex_form!(insn, packed, Singles, Memory),
        ),
        Kind::Pd => by_source(
            insn,
            by_vex_form!(insn, packed, Doubles, Register),
            by_vex_form!(insn, packed, Doubles, Memory),
        ),
        Kind::Ss => by_source(insn, scalar::<Singles, Register>, scalar::<Singles, Mem32>),
        Kind::Sd => by_source(insn, scalar::<Doubles, Register>, scalar::<Doubles, Mem64>),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sse::tests::Random;

    /// A number that is often at an edge of its format, or near the product of two others.
    fn operand(random: &mut Random, format: Format) -> u64 {
        let (bits, shape) = (random.next(), random.next());
        let exponent = match shape & 7 {
            0 => 0,
            1 => 1 + (bits >> 40 & 3),
            2 => (1 << format.exponent) - 2,
            3 => (1 << format.exponent) - 1,
            4 | 5 => format.bias() as u64 + (bits >> 40 & 7),
            _ => bits >> 40 & ((1 << format.exponent) - 1),
        };
        let fraction = match shape >> 3 & 3 {
            0 => 0,
            1 => 1 << (bits >> 32 & 15),
            _ => format.fraction_of(bits),
        };
        let sign = if shape >> 8 & 1 != 0 {
            format.sign()
        } else {
            0
        };
        let value = sign | exponent << format.fraction | fraction;
        if format.class(value) == Class::Nan {
            value & !format.fraction_of(u64::MAX)
        } else {
            value
        }
    }

    #[test]
    fn hosts_with_and_without_fma_agree() {
        let mut random = Random(24);
        for format in [SINGLE, DOUBLE] {
            for _ in 0..200_000 {
                let operands = std::array::from_fn(|_| operand(&mut random, format));
                let bits = random.next();
                let signs = Signs {
                    negate_product: bits & 1 != 0,
                    negate_addend: bits & 2 != 0,
                };
                let modes = (ROUNDING | FTZ | DAZ) & bits as u32;
                let mxcsr = MASKS | modes;
                let (a, b) = (
                    computed(format, operands, signs, mxcsr),
                    fused(format, operands, signs, mxcsr),
                );
                assert_eq!(a, b, "{operands:x?} {signs:?} {mxcsr:#x}");
            }
        }
    }
}
