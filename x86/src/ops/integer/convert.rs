//! CBW CWDE CDQE and CWD CDQ CQO: widening the accumulator.
//!
//! Does: sign-extend within RAX, or into RDX. Does not: touch flags or memory.

use iced_x86::{Instruction, Mnemonic};

use super::gpr::{RAX, RDX};
use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{CodeSize, Flow, Op, Selected};
use crate::word::Word;

/// Names the handler.
pub(super) fn select(insn: &Instruction, _: &mut Op, _: CodeSize) -> Option<Selected> {
    Selected::inline(match insn.mnemonic() {
        Mnemonic::Cbw => widen::<u8, u16>,
        Mnemonic::Cwde => widen::<u16, u32>,
        Mnemonic::Cdqe => widen::<u32, u64>,
        Mnemonic::Cwd => spread::<u16>,
        Mnemonic::Cdq => spread::<u32>,
        Mnemonic::Cqo => spread::<u64>,
        _ => return None,
    })
}

fn widen<S: Word, T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let value = core.reg::<S>(RAX).sign64();
    core.set_reg(RAX, T::from64(value));
    core.next(env, op)
}

/// Fills rDX with the sign of rAX.
fn spread<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
    let sign = (core.reg::<T>(RAX).sign64() as i64 >> 63) as u64;
    core.set_reg(RDX, T::from64(sign));
    core.next(env, op)
}
