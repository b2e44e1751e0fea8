//! The run loop: boundaries, events, blocks.
//!
//! Does: at each boundary, in the architecture's order of priority, deliver debug traps, NMIs and
//! interrupts, and otherwise execute the instruction at RIP, by the block where nothing can
//! intervene. Does not: apply log entries or fire timers; the machine does, between runs.
//!
//! Invariant: `run` stops at exactly the step or the first boundary at or after the unit it was
//! given, whatever lies in the caches. How instructions are grouped into blocks never shows.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use arch::cpuid::Profile;
use memory::{GuestRam, WATCH_CODE, WATCH_TABLE};

use crate::block::{BlockCache, LONGEST_BLOCK, Run};
use crate::bus::{Bus, Progress};
use crate::compiler::{self, Leaving};
use crate::core::{Core, UNITS_PER_STEP};
use crate::decode;
use crate::env::Env;
use crate::fault::{Exec, Fault, Raised};
use crate::flags;
use crate::op::{Flow, Op};
use crate::state::CpuState;
use crate::system::debug::DR6_STEP;
use crate::system::interrupt::Event;
use crate::tuning::{Translation, Tuning};

/// Why `run` returned; always at a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A limit was reached.
    Limit,
    /// Somebody asked for attention.
    Kicked,
    /// The bus was used: interrupt lines or timers may have changed.
    Bus,
    /// HLT, and nothing to wake it.
    Halted,
    /// Triple fault.
    Shutdown,
}

/// Where a run ends at the latest, and what waits for the CPU.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Stop exactly at this step.
    pub steps: u64,
    /// Stop at the first boundary at or after this unit.
    pub units: u64,
    /// An interrupt waits at the local APIC.
    pub interrupt: bool,
}

/// How often a block is interpreted before it is compiled.
const HOT: u16 = 32;
/// Compiled code is left with at least so many steps before a limit: a whole block can be
/// interpreted there (see [`Leaving::Budget`]).
const SLACK: u64 = LONGEST_BLOCK as u64 + 1;
/// Steps that compiled code makes before the kick is looked at.
const QUANTUM: u64 = 1 << 17;

/// The CPU.
pub struct Cpu {
    pub(crate) core: Core,
    pub(crate) cache: BlockCache,
    /// How often a block is asked about before it is compiled.
    threshold: u16,
    /// See [`SLACK`].
    slack: u64,
    pub(crate) longest_block: usize,
}

impl Cpu {
    /// A CPU with cold caches. The state comes from [`CpuState::reset`] or [`Cpu::state`]; what
    /// comes from outside is validated first ([`CpuState::validate`]).
    pub fn new(state: &CpuState, tuning: Tuning) -> Cpu {
        let exact = tuning.translation == Translation::Compiler;
        let compiler = match tuning.translation {
            Translation::Interpreter => None,
            _ => Some(exact),
        };
        Cpu {
            core: Core::from_state(state),
            cache: BlockCache::new(tuning.cache_bytes, compiler),
            threshold: if exact { 1 } else { HOT },
            slack: if exact { 0 } else { SLACK },
            longest_block: tuning.longest_block.clamp(1, LONGEST_BLOCK),
        }
    }

    /// The state at this boundary.
    pub fn state(&self) -> CpuState {
        self.core.to_state()
    }

    /// Replaces the state and forgets what the caches hold.
    pub fn set_state(&mut self, ram: &mut GuestRam, state: &CpuState) {
        self.flush(ram);
        // The epochs of the caches outlive the state: they never return.
        let epochs = self.core.mmu.epochs();
        self.core = Core::from_state(state);
        self.core.mmu.skip_epochs(epochs);
    }

    /// Empties the caches, which must not be observable.
    pub fn flush(&mut self, ram: &mut GuestRam) {
        self.core.mmu.flush(ram);
        self.cache.clear(ram);
    }

    /// The CPU model.
    pub fn profile(&self) -> Profile {
        self.core.profile
    }

    /// Steps and units so far.
    pub fn progress(&self) -> Progress {
        self.core.progress()
    }

    /// Counts a step that the machine makes itself (an idle jump, a reset).
    pub fn count_step(&mut self) {
        self.core.steps += 1;
    }

    /// True while the CPU waits in HLT.
    pub fn halted(&self) -> bool {
        self.core.halted
    }

    /// True if an interrupt would be taken at this boundary.
    pub fn accepts_interrupt(&self) -> bool {
        self.core.flags.has(flags::IF) && !self.core.sti_shadow && !self.core.ss_shadow
    }

    /// An NMI arrives.
    pub fn raise_nmi(&mut self) {
        self.core.nmi_pending = true;
    }

    /// Executes until a limit, a kick (after one step at least), or something the machine must see.
    pub fn run(
        &mut self,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limits: Limits,
        kick: &AtomicBool,
    ) -> Exit {
        let mut env = Env { ram, bus };
        self.core.steps_limit = limits.steps;
        self.core.units_limit = limits.units;
        self.core.mmu.follow_dirty_log(env.ram);
        self.core.attention = true;
        let start = self.core.steps;
        loop {
            if self.core.attention {
                self.core.attention = false;
                if env.ram.has_touched() {
                    self.follow_writes(env.ram);
                }
                if self.core.bus_used {
                    self.core.bus_used = false;
                    return Exit::Bus;
                }
            }
            if self.core.shutdown {
                return Exit::Shutdown;
            }
            let budget = self.budget();
            if budget == 0 {
                return Exit::Limit;
            }
            if self.core.steps != start && kick.load(Ordering::Relaxed) {
                return Exit::Kicked;
            }
            if self.deliver_event(&mut env, limits.interrupt) {
                continue;
            }
            if self.core.halted {
                return Exit::Halted;
            }
            if self.careful() {
                self.execute_carefully(&mut env);
            } else {
                self.execute_blocks(&mut env, budget, kick);
            }
        }
    }

    /// Instructions that fit before a limit.
    fn budget(&self) -> u64 {
        let at = self.core.progress();
        let by_steps = self.core.steps_limit.saturating_sub(at.steps);
        let by_units = self
            .core
            .units_limit
            .saturating_sub(at.units)
            .div_ceil(UNITS_PER_STEP);
        by_steps.min(by_units)
    }

    /// Drops what stores to watched pages made stale.
    pub(crate) fn follow_writes(&mut self, ram: &mut GuestRam) {
        let Some(writes) = ram.take_touched() else {
            self.flush(ram);
            return;
        };
        for write in writes {
            let Some(index) = ram.page_index(write.address) else {
                continue;
            };
            let watch = ram.watch(index);
            if watch & WATCH_CODE != 0 {
                self.cache.code_written(ram, write);
            }
            if watch & WATCH_TABLE != 0 {
                self.core.mmu.table_written(ram, write);
            }
        }
    }

    /// Delivers what has priority over the next instruction; true if something was delivered.
    fn deliver_event(&mut self, env: &mut Env<'_>, interrupt: bool) -> bool {
        let core = &mut self.core;
        let shadow = core.sti_shadow || core.ss_shadow;
        if core.pending_debug != 0 && !core.ss_shadow {
            let cause = std::mem::take(&mut core.pending_debug);
            core.note_debug_cause(cause);
            core.halted = false;
            core.deliver(env, Event::Trap(Fault::DEBUG));
            return true;
        }
        if core.nmi_pending && !core.nmi_blocked && !shadow {
            core.nmi_pending = false;
            core.nmi_blocked = true;
            core.halted = false;
            core.deliver(env, Event::External(2));
            return true;
        }
        if interrupt && !shadow && core.flags.has(flags::IF) {
            core.attention = true;
            core.bus_used = true;
            if let Some(vector) = env.bus.acknowledge_interrupt() {
                core.halted = false;
                core.deliver(env, Event::External(vector));
            }
            return true;
        }
        false
    }

    /// True if the next instruction must be executed alone, with the boundary rules around it.
    fn careful(&self) -> bool {
        let core = &self.core;
        core.sti_shadow
            || core.ss_shadow
            || core.flags.has(flags::TF | flags::RF)
            || core.watches_execution()
    }

    /// Executes one instruction (or REP iteration) and what belongs to its end.
    fn execute_carefully(&mut self, env: &mut Env<'_>) {
        let core = &mut self.core;
        // The shadow of a load of SS hides an instruction breakpoint, as RF does.
        if core.watches_execution() && !core.flags.has(flags::RF) && !core.ss_shadow {
            let hits = core.execution_hits(core.linear_ip());
            if hits != 0 {
                core.note_debug_cause(hits);
                core.deliver(env, Event::Trap(Fault::DEBUG));
                return;
            }
        }
        let stepping = core.flags.has(flags::TF);
        let (sti, ss) = (core.sti_shadow, core.ss_shadow);
        let resume = core.flags.has(flags::RF);
        let limit = core.steps_limit;
        if stepping || sti || ss {
            // What happens between instructions happens between REP iterations.
            core.steps_limit = core.steps + 1;
        }
        core.held_debug = core.pending_debug;
        core.trap_suppressed = false;
        core.fresh_sti_shadow = false;
        core.fresh_ss_shadow = false;
        core.fresh_resume = false;
        let done = match self.find(env) {
            Ok(found) => self.execute(env, found.run, 1),
            Err(Raised) => self.fault_at_fetch(env),
        };
        let core = &mut self.core;
        core.steps_limit = limit;
        core.held_debug = 0;
        core.attention = true;
        // A shadow lasts for one instruction; one that this instruction set is fresh.
        if sti && !core.fresh_sti_shadow {
            core.sti_shadow = false;
        }
        if ss && !core.fresh_ss_shadow {
            core.ss_shadow = false;
        }
        if done == Done::Retired && resume && !core.fresh_resume {
            core.flags.system &= !flags::RF;
        }
        // A load of SS swallows its own single-step trap.
        if done != Done::Faulted && stepping && !core.trap_suppressed && !core.fresh_ss_shadow {
            core.pending_debug |= DR6_STEP;
        }
    }

    /// Executes blocks until one ends in something else than a jump, or a limit.
    fn execute_blocks(&mut self, env: &mut Env<'_>, budget: u64, kick: &AtomicBool) {
        let limit = self.core.steps + budget;
        // Whatever changes mode or epoch ends this loop, but for building a block.
        let mut key = self.jump_key();
        // A jump of compiled code that wants to lead to the next block.
        let mut site = None;
        let mut compiled = self.cache.compiles();
        loop {
            let linear = self.core.rip.wrapping_add(self.core.seg_base[1]);
            let mut found = match self.cache.jump(linear, key) {
                Some(found) => found,
                None => match self.find(env) {
                    Ok(found) => {
                        key = self.jump_key();
                        site = None;
                        found
                    }
                    Err(Raised) => {
                        self.fault_at_fetch(env);
                        return;
                    }
                },
            };
            let budget = limit - self.core.steps;
            if compiled && budget > self.slack {
                if found.code == 0
                    && let Some(block) = found.block
                    && self.cache.is_hot(block, self.threshold)
                {
                    found.code = self.compile(env, block);
                    if found.code == 0 {
                        // Perhaps everything was forgotten.
                        key = self.jump_key();
                        site = None;
                        continue;
                    }
                }
                if let (Some(site), Some(block)) = (site.take(), found.block) {
                    self.cache.link(site, block);
                }
                if found.code != 0 {
                    if let Some(block) = found.block {
                        // It may be remembered as it was before it was compiled.
                        self.cache.remember_jump(linear, key, block);
                    }
                    let most = (budget - self.slack).min(QUANTUM);
                    match compiler::run(self, env, found.code, most) {
                        (Leaving::Jumped | Leaving::Next, _) => {}
                        (Leaving::Link, wanted) => site = Some(wanted),
                        // The next block is interpreted.
                        (Leaving::Budget | Leaving::Vector, _) => compiled = false,
                        (Leaving::Stopped, _) => return,
                    }
                    if self.core.steps >= limit {
                        return;
                    }
                    // The kick waits for what must be interpreted.
                    if compiled && kick.load(Ordering::Relaxed) {
                        return;
                    }
                    continue;
                }
            }
            if !self.execute_run(env, found.run, budget) {
                return;
            }
            compiled = self.cache.compiles();
            if self.core.steps >= limit || kick.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Compiles a block.
    #[cold]
    #[inline(never)]
    fn compile(&mut self, env: &mut Env<'_>, block: u32) -> u64 {
        self.cache.compile(env.ram, block, self.core.features)
    }

    /// Key of the jump cache now.
    #[inline(always)]
    pub(crate) fn jump_key(&self) -> u64 {
        let mode = self.core.code_size as u64 | u64::from(self.core.cpl == 3) << 2;
        self.core.mmu.code_epoch() << 4 | mode
    }

    /// Executes a run as far as `budget` (≥ 1) allows; true if the next block can follow at once.
    #[inline(always)]
    fn execute_run(&mut self, env: &mut Env<'_>, run: Run, budget: u64) -> bool {
        let count = usize::from(run.count);
        if budget < count as u64 {
            self.execute(env, run, budget as usize);
            return false;
        }
        let ops = self.cache.ops_and_end(run);
        let core = &mut self.core;
        core.gpr[17] = core.rip;
        core.cursor.start(ops);
        loop {
            // SAFETY: the cursor was started on `ops`, which is borrowed for as long.
            let op = unsafe { core.cursor.op() };
            let flow = (op.run)(core, env, op);
            let index = core.cursor.index();
            match flow {
                Ok(Flow::Jump) => {
                    core.steps += index as u64 + 1;
                    core.cursor.leave();
                    return !core.attention;
                }
                Ok(Flow::Next) if index == count => {
                    core.rip = core.next_rip(&ops[count - 1]);
                    core.steps += count as u64;
                    core.cursor.leave();
                    return !core.attention;
                }
                Ok(Flow::Next) if !core.attention => {
                    // SAFETY: the end mark has index `count`.
                    unsafe { core.cursor.advance() };
                }
                other => {
                    Self::finish(core, env, &ops[index], other);
                    return false;
                }
            }
        }
    }

    /// Executes at most `most` instructions of a run, one at a time.
    fn execute(&mut self, env: &mut Env<'_>, run: Run, most: usize) -> Done {
        let core = &mut self.core;
        core.gpr[17] = core.rip;
        let mut done = Done::Retired;
        for op in &self.cache.ops(run)[..usize::from(run.count).min(most)] {
            let alone = [*op, decode::end_mark()];
            let flow = core.execute_alone(env, &alone);
            let inside = flow == Ok(Flow::Next);
            done = Self::finish(core, env, op, flow);
            if !inside || core.attention {
                break;
            }
        }
        done
    }

    /// Does what an instruction's outcome asks for.
    pub(crate) fn finish(core: &mut Core, env: &mut Env<'_>, op: &Op, flow: Exec<Flow>) -> Done {
        let before = core.cursor.index() as u64;
        core.cursor.leave();
        match flow {
            Ok(Flow::Next | Flow::Leave) => core.rip = core.next_rip(op),
            Ok(Flow::Jump) => {}
            Ok(Flow::Repeat) => {
                // A frame pushed between two iterations says that the instruction has begun.
                core.flags.system |= flags::RF;
                core.rip = core.rip_of(op);
                core.steps += before + 1;
                return Done::Repeating;
            }
            Err(Raised) => {
                if !std::mem::take(&mut core.task_switched) {
                    core.rip = core.rip_of(op);
                }
                core.steps += before;
                core.pending_debug = core.held_debug;
                let fault = core.fault;
                core.deliver(env, Event::Fault(fault));
                return Done::Faulted;
            }
        }
        core.steps += before + 1;
        Done::Retired
    }

    fn fault_at_fetch(&mut self, env: &mut Env<'_>) -> Done {
        let fault = self.core.fault;
        self.core.deliver(env, Event::Fault(fault));
        Done::Faulted
    }
}

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// It is over.
    Retired,
    /// A REP iteration is over, others follow.
    Repeating,
    /// It raised an exception, which was delivered.
    Faulted,
}
