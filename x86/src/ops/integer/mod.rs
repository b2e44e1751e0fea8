//! General-purpose instructions: what a program uses between its system calls.
//!
//! Does: every integer instruction of x86-64-v3 that any privilege level may execute, in 16-, 32-
//! and 64-bit code; one file per sub-family, each with its own `select`.
//! Does not: load segments, reach ports, change modes, raise software interrupts (`system`).
//!
//! Invariant: a handler that returns `Err` has changed nothing but complete iterations of a string
//! instruction. What the manuals leave undefined has one definition: `docs/undefined-results.md`.

mod alu;
mod bcd;
mod bit_fields;
mod bits;
mod branch;
mod compare_exchange;
mod conditional;
mod convert;
mod crc;
mod flag_control;
mod hints;
mod memory;
mod moves;
mod multiply;
mod shift;
mod stack;
mod string;
mod traps;

use iced_x86::{Instruction, OpKind};

use crate::op::{CodeSize, Op, Selected};

/// A sub-family's selector.
type Select = fn(&Instruction, &mut Op, CodeSize) -> Option<Selected>;

/// The sub-families, most frequent first.
const SUB_FAMILIES: &[Select] = &[
    moves::select,
    alu::select,
    branch::select,
    stack::select,
    shift::select,
    conditional::select,
    convert::select,
    bits::select,
    bit_fields::select,
    hints::select,
    multiply::select,
    compare_exchange::select,
    crc::select,
    string::select,
    flag_control::select,
    traps::select,
    bcd::select,
];

/// Names the handler.
pub(crate) fn select(insn: &Instruction, op: &mut Op, size: CodeSize) -> Option<Selected> {
    SUB_FAMILIES
        .iter()
        .find_map(|select| select(insn, op, size))
}

/// Width in bytes of operand `n`, a general register or memory.
fn width(insn: &Instruction, n: u32) -> usize {
    match insn.op_kind(n) {
        OpKind::Memory => insn.memory_size().size(),
        _ => insn.op_register(n).size(),
    }
}

/// `handler` for an operand of so many bytes: `sized!(bytes, handler, Parameter, …)`.
macro_rules! sized {
    ($bytes:expr, $handler:ident $(, $parameter:ty)*) => {
        match $bytes {
            1 => $handler::<$($parameter,)* u8> as $crate::op::Handler,
            2 => $handler::<$($parameter,)* u16>,
            4 => $handler::<$($parameter,)* u32>,
            _ => $handler::<$($parameter,)* u64>,
        }
    };
}

/// Like `sized!`, for instructions without a byte form.
macro_rules! sized_wide {
    ($bytes:expr, $handler:ident $(, $parameter:ty)*) => {
        match $bytes {
            2 => $handler::<$($parameter,)* u16> as $crate::op::Handler,
            4 => $handler::<$($parameter,)* u32>,
            _ => $handler::<$($parameter,)* u64>,
        }
    };
}

/// `handler` for a condition code (0–15), its last parameter.
macro_rules! by_condition {
    ($code:expr, $handler:ident $(, $parameter:ty)*) => {
        match $code {
            0 => $handler::<$($parameter,)* 0> as $crate::op::Handler,
            1 => $handler::<$($parameter,)* 1>,
            2 => $handler::<$($parameter,)* 2>,
            3 => $handler::<$($parameter,)* 3>,
            4 => $handler::<$($parameter,)* 4>,
            5 => $handler::<$($parameter,)* 5>,
            6 => $handler::<$($parameter,)* 6>,
            7 => $handler::<$($parameter,)* 7>,
            8 => $handler::<$($parameter,)* 8>,
            9 => $handler::<$($parameter,)* 9>,
            10 => $handler::<$($parameter,)* 10>,
            11 => $handler::<$($parameter,)* 11>,
            12 => $handler::<$($parameter,)* 12>,
            13 => $handler::<$($parameter,)* 13>,
            14 => $handler::<$($parameter,)* 14>,
            _ => $handler::<$($parameter,)* 15>,
        }
    };
}

use {by_condition, sized, sized_wide};

/// Register numbers as encoded.
mod gpr {
    pub(super) const RAX: u8 = 0;
    pub(super) const RCX: u8 = 1;
    pub(super) const RDX: u8 = 2;
    pub(super) const RBX: u8 = 3;
    pub(super) const RSP: u8 = 4;
    pub(super) const RBP: u8 = 5;
    pub(super) const RSI: u8 = 6;
    pub(super) const RDI: u8 = 7;
}
