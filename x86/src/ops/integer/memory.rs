//! How handlers reach their memory operand: a pointer if the TLB has one, else the long way.
//!
//! The long way is a function of its own that the handler ends with, so that the short one needs no
//! stack frame. What to do with the operand is said once, for both.

use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op};
use crate::word::Word;

/// Reads the operand and hands it to `take`.
#[inline(always)]
pub(super) fn with_loaded<T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    take: impl Fn(&mut Core, &Op, T) + Copy,
) -> Exec<Flow> {
    let Some(value) = core.quick_load::<T>(op) else {
        return with_loaded_slowly(core, env, op, take);
    };
    take(core, op, value);
    core.next(env, op)
}

#[cold]
#[inline(never)]
fn with_loaded_slowly<T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    take: impl Fn(&mut Core, &Op, T) + Copy,
) -> Exec<Flow> {
    let value = core.load::<T>(env, op)?;
    take(core, op, value);
    core.next_after_access(env, op)
}

/// Writes `value` to the operand.
#[inline(always)]
pub(super) fn store<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op, value: T) -> Exec<Flow> {
    if !core.quick_store(op, value) {
        return store_slowly(core, env, op, value);
    }
    core.next(env, op)
}

#[cold]
#[inline(never)]
fn store_slowly<T: Word>(core: &mut Core, env: &mut Env<'_>, op: &Op, value: T) -> Exec<Flow> {
    core.store(env, op, value)?;
    core.next_after_access(env, op)
}

/// Replaces the operand by what `change` makes of it. The operand is checked for writing before
/// `change` is called, so `change` may set registers and flags.
#[inline(always)]
pub(super) fn with_modified<T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    change: impl Fn(&mut Core, &Op, T) -> T + Copy,
) -> Exec<Flow> {
    if !core.quick_modify(op, change) {
        return with_modified_slowly(core, env, op, change);
    }
    core.next(env, op)
}

#[cold]
#[inline(never)]
fn with_modified_slowly<T: Word>(
    core: &mut Core,
    env: &mut Env<'_>,
    op: &Op,
    change: impl Fn(&mut Core, &Op, T) -> T + Copy,
) -> Exec<Flow> {
    let (old, place) = core.load_to_modify::<T>(env, op)?;
    let new = change(core, op, old);
    core.store_back(env, place, new)?;
    core.next_after_access(env, op)
}
