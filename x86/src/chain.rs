//! From one instruction of a block to the next without going back to the run loop.
//!
//! Does: keep the place in the running run, and let a handler call the next one. Since that call is
//! the last thing a handler does, the compiler makes a jump of it; each handler has an indirect
//! jump of its own, which the host's branch predictor tells apart. Does not: decide how far to run:
//! the run loop starts a chain only where the whole run fits, and puts an end mark after it.
//!
//! Invariant: while handlers run, the cursor is at an instruction of a run or at the end mark that
//! follows it; the end mark does not go on.

#![allow(unsafe_code)]

use crate::core::Core;
use crate::env::Env;
use crate::fault::Exec;
use crate::op::{Flow, Op};

/// A place in a run.
#[derive(Debug)]
pub(crate) struct Cursor {
    first: *const Op,
    at: *const Op,
}

// SAFETY: the pointers are used only within `Cpu::run`, by the thread that runs it.
unsafe impl Send for Cursor {}

impl Cursor {
    /// In no run.
    pub(crate) fn nowhere() -> Cursor {
        Cursor {
            first: std::ptr::null(),
            at: std::ptr::null(),
        }
    }

    /// At the first instruction of a run that an end mark follows.
    #[inline(always)]
    pub(crate) fn start(&mut self, run_and_end: &[Op]) {
        debug_assert!(run_and_end.len() >= 2, "an instruction and the end mark");
        self.first = run_and_end.as_ptr();
        self.at = self.first;
        // For `advance_from`.
        let _ = self.first.expose_provenance();
    }

    /// Out of the run.
    #[inline(always)]
    pub(crate) fn leave(&mut self) {
        *self = Cursor::nowhere();
    }

    /// Index of the running instruction in its run; 0 outside.
    #[inline(always)]
    pub(crate) fn index(&self) -> usize {
        (self.at.addr() - self.first.addr()) / size_of::<Op>()
    }

    /// The running instruction.
    ///
    /// # Safety
    /// The cursor was started on a run that still lives.
    #[inline(always)]
    pub(crate) unsafe fn op<'a>(&self) -> &'a Op {
        // SAFETY: by the invariant the cursor points into the slice it was started with.
        unsafe { &*self.at }
    }

    /// To what follows `op`, where the cursor is. Its address is at hand in a register, which the
    /// cursor's own is not.
    #[inline(always)]
    fn advance_from(&mut self, op: &Op) {
        debug_assert!(
            std::ptr::eq(self.at, op),
            "a handler runs where the cursor is"
        );
        self.at =
            std::ptr::with_exposed_provenance(std::ptr::from_ref(op).addr() + size_of::<Op>());
    }

    /// To the next instruction or the end mark.
    ///
    /// # Safety
    /// The cursor is not at the end mark.
    #[inline(always)]
    pub(crate) unsafe fn advance(&mut self) {
        // SAFETY: what is not the end mark has a successor in the same slice.
        self.at = unsafe { self.at.add(1) };
    }
}

impl Core {
    /// Executes an instruction that the end mark follows, and nothing else. The cursor is at it
    /// again afterwards.
    #[inline]
    pub(crate) fn execute_alone(&mut self, env: &mut Env<'_>, alone: &[Op; 2]) -> Exec<Flow> {
        self.cursor.start(alone);
        let flow = (alone[0].run)(self, env, &alone[0]);
        if self.cursor.index() == 0 {
            return flow;
        }
        // It went on to the end mark: the instruction itself is done.
        self.cursor.start(alone);
        Ok(Flow::Next)
    }

    /// Goes on with the instruction after `op`, the running one. The last act of a handler that can
    /// neither end the block nor call for attention.
    #[inline(always)]
    pub(crate) fn next(&mut self, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
        self.cursor.advance_from(op);
        // SAFETY: handlers are called only with the cursor at their own instruction, which is not
        // the end mark, in a run that lives as long as the run loop's borrow of the cache.
        let op = unsafe { self.cursor.op() };
        (op.run)(self, env, op)
    }

    /// [`Core::next`] after an access to memory, which may have called for attention.
    #[inline(always)]
    pub(crate) fn next_after_access(&mut self, env: &mut Env<'_>, op: &Op) -> Exec<Flow> {
        if self.attention {
            Ok(Flow::Next)
        } else {
            self.next(env, op)
        }
    }
}

/// The end mark's handler: the run loop goes on.
pub(crate) fn end_of_run(_: &mut Core, _: &mut Env<'_>, _: &Op) -> Exec<Flow> {
    Ok(Flow::Next)
}
