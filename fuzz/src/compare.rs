//! The ways to run a guest, which must not differ.
//!
//! Does: run a guest whole, step by step, with caches emptied between steps, on a CPU restored at
//! every step, and on the compiler; compare state, RAM and what the bus saw. Does not: end runs early for speed.
//!
//! Invariant: the comparison is that of the determinism contract, rules 1 and 5: nothing that a
//! cache holds, and nothing of how a run is cut, can be observed.

use std::sync::atomic::AtomicBool;

use memory::GuestRam;
use x86::{Bus, Cpu, CpuState, Exit, Limits, Progress, Translation, Tuning};

use crate::arena::Guest;

/// Bytes of the CPU's caches.
const CACHE: usize = 256 << 10;

/// A bus with nothing behind it that answers by counting, and remembers what it saw.
#[derive(Clone, Default, PartialEq, Eq)]
struct Counter {
    calls: u64,
    seen: u64,
    priority: u64,
}

impl Counter {
    fn note(&mut self, at: Progress, what: u64) -> u64 {
        self.calls += 1;
        for word in [at.steps, at.units, what] {
            self.seen = (self.seen ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
        }
        self.seen
    }
}

impl Bus for Counter {
    fn io_read(&mut self, _: &mut GuestRam, at: Progress, port: u16, size: u8) -> u32 {
        let value = self.note(at, u64::from(port) << 8 | u64::from(size)) as u32;
        value & (u32::MAX >> (32 - 8 * u32::from(size)))
    }

    fn io_write(&mut self, _: &mut GuestRam, at: Progress, port: u16, size: u8, value: u32) {
        self.note(
            at,
            u64::from(value) << 32 | u64::from(port) << 8 | u64::from(size),
        );
    }

    fn mmio_read(&mut self, _: &mut GuestRam, at: Progress, address: u64, size: u8) -> u64 {
        let value = self.note(at, address ^ u64::from(size) << 56);
        value & (u64::MAX >> (64 - 8 * u32::from(size)))
    }

    fn mmio_write(&mut self, _: &mut GuestRam, at: Progress, address: u64, size: u8, value: u64) {
        self.note(at, address ^ u64::from(size) << 56);
        self.note(at, value);
    }

    fn msr_read(&mut self, at: Progress, index: u32) -> Option<u64> {
        Some(self.note(at, u64::from(index))).filter(|_| index & 1 == 0)
    }

    fn msr_write(&mut self, at: Progress, index: u32, value: u64) -> Option<()> {
        self.note(at, value ^ u64::from(index));
        (index & 1 == 0).then_some(())
    }

    fn cr8(&mut self) -> u64 {
        self.priority
    }

    fn set_cr8(&mut self, value: u64) {
        self.priority = value;
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }

    fn tsc(&self, at: Progress) -> u64 {
        at.units * 3
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Whole,
    Grain(u64),
    Flushed,
    Restored,
}

struct Left {
    state: CpuState,
    ram: GuestRam,
    bus: Counter,
}

fn copy(ram: &GuestRam) -> GuestRam {
    let mut new = GuestRam::new(ram.size()).expect("RAM can be mapped");
    for index in 0..ram.pages() {
        let page = ram.page(index);
        if page != &[0; 4096] {
            new.write(ram.page_address(index), page)
                .expect("the page is RAM");
        }
    }
    new
}

fn tuning(compiled: Option<usize>) -> Tuning {
    match compiled {
        None => Tuning::new(CACHE, Translation::Interpreter),
        Some(longest_block) => Tuning {
            longest_block,
            ..Tuning::new(CACHE, Translation::Compiler)
        },
    }
}

/// Runs the guest; `compiled` says how long the compiler's blocks are, `None` is the interpreter.
fn go(guest: &Guest, compiled: Option<usize>, way: Way, steps: u64) -> Left {
    let mut ram = copy(&guest.ram);
    let mut bus = Counter::default();
    let mut cpu = Cpu::new(&guest.state, tuning(compiled));
    let kick = AtomicBool::new(false);
    loop {
        let at = cpu.progress();
        if at.steps >= steps {
            break;
        }
        let grain = match way {
            Way::Whole => steps,
            Way::Grain(grain) => grain,
            Way::Flushed | Way::Restored => 1,
        };
        let limits = Limits {
            steps: steps.min(at.steps + grain),
            units: u64::MAX,
            interrupt: false,
        };
        match cpu.run(&mut ram, &mut bus, limits, &kick) {
            Exit::Halted | Exit::Shutdown => break,
            Exit::Limit | Exit::Bus | Exit::Kicked => {}
        }
        match way {
            Way::Flushed => cpu.flush(&mut ram),
            Way::Restored => {
                let state = cpu.state();
                state.validate().expect("a state that was reached is valid");
                cpu.set_state(&mut ram, &state);
            }
            Way::Whole | Way::Grain(_) => {}
        }
    }
    Left {
        state: cpu.state(),
        ram,
        bus,
    }
}

/// Runs the guest in all ways, `steps` steps at most, and panics where they differ.
pub fn all_ways(guest: &Guest, steps: u64) {
    guest
        .state
        .validate()
        .expect("the arena makes valid states");
    let whole = go(guest, None, Way::Whole, steps);
    for (compiled, way) in [
        (None, Way::Grain(5)),
        (None, Way::Flushed),
        (None, Way::Restored),
        (Some(48), Way::Whole),
        (Some(48), Way::Grain(5)),
        (Some(1), Way::Flushed),
    ] {
        let other = go(guest, compiled, way, steps);
        assert!(
            other.state == whole.state,
            "{compiled:?} {way:?}: the state differs\n{}",
            difference(&whole.state, &other.state)
        );
        assert!(
            other.bus == whole.bus,
            "{compiled:?} {way:?}: the bus saw something else"
        );
        for index in 0..whole.ram.pages() {
            assert!(
                other.ram.page(index) == whole.ram.page(index),
                "{way:?}: page {index:#x} of RAM differs"
            );
        }
    }
}

/// Fields that differ, as text.
fn difference(a: &CpuState, b: &CpuState) -> String {
    let (a, b) = (format!("{a:#x?}"), format!("{b:#x?}"));
    let pairs = a.lines().zip(b.lines()).enumerate();
    pairs
        .filter(|(_, (a, b))| a != b)
        .map(|(n, (a, b))| format!("line {n}: {} / {}\n", a.trim(), b.trim()))
        .collect()
}
