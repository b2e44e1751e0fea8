//! The ways to run a program, and the proof that they do not differ.

use std::sync::atomic::AtomicBool;

use iced_x86::{Decoder, DecoderOptions};
use memory::GuestRam;
use x86::{Cpu, CpuState, Exit, Limits, Progress, Translation, Tuning};

use super::{Bench, Event, HANDLER_BYTES, HANDLERS, RSP, Recorder};

/// Why a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// HLT, and nothing to come.
    Halted,
    /// Triple fault.
    Shutdown,
    /// The last step was reached.
    Steps,
}

/// What is left after a run.
pub struct Outcome {
    /// Why it ended.
    pub end: End,
    /// The CPU.
    pub state: CpuState,
    /// RAM.
    pub ram: GuestRam,
    /// The bus.
    pub bus: Recorder,
    /// Units at the end.
    pub units: u64,
    /// Where the first instructions of the program lie.
    pub ips: Vec<u64>,
}

/// An exception or interrupt whose handler halted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Vector.
    pub vector: u8,
    /// Error code.
    pub error: Option<u32>,
    /// Saved RIP.
    pub rip: u64,
    /// Saved CS.
    pub cs: u16,
    /// Saved RFLAGS.
    pub flags: u64,
    /// Saved RSP, if the frame has one.
    pub rsp: u64,
    /// Saved SS, if the frame has one.
    pub ss: u16,
}

/// How a program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From event to event.
    Plain,
    /// Step by step.
    Steps,
    /// Step by step, with caches flushed between.
    Flushed,
    /// Step by step, each on a CPU made from the saved state.
    Restored,
    /// By limits in units, this far apart.
    Units(u64),
    /// By limits in steps, this far apart.
    Grain(u64),
}

/// What executes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// The interpreter.
    Interpreter,
    /// The compiler, with blocks of at most so many instructions.
    Compiler(usize),
    /// Both, with blocks of the usual length.
    Mixed,
}

impl Engine {
    fn tuning(self) -> Tuning {
        let new = |translation| Tuning::new(1 << 20, translation);
        match self {
            Engine::Interpreter => new(Translation::Interpreter),
            Engine::Compiler(longest_block) => Tuning {
                longest_block,
                ..new(Translation::Compiler)
            },
            Engine::Mixed => new(Translation::Mixed),
        }
    }
}

/// All combinations but the first, which the others are compared with.
const RUNS: &[(Engine, Way)] = &[
    (Engine::Interpreter, Way::Flushed),
    (Engine::Interpreter, Way::Restored),
    (Engine::Interpreter, Way::Units(1)),
    (Engine::Interpreter, Way::Units(5)),
    (Engine::Interpreter, Way::Units(29)),
    (Engine::Interpreter, Way::Grain(3)),
    (Engine::Interpreter, Way::Grain(17)),
    (Engine::Interpreter, Way::Plain),
    (Engine::Compiler(1), Way::Steps),
    (Engine::Compiler(1), Way::Plain),
    (Engine::Compiler(1), Way::Flushed),
    (Engine::Compiler(2), Way::Grain(3)),
    (Engine::Compiler(48), Way::Restored),
    (Engine::Compiler(48), Way::Units(1)),
    (Engine::Compiler(48), Way::Units(29)),
    (Engine::Compiler(48), Way::Grain(3)),
    (Engine::Compiler(48), Way::Grain(17)),
    (Engine::Compiler(48), Way::Plain),
    (Engine::Mixed, Way::Plain),
    (Engine::Mixed, Way::Grain(97)),
];

fn copy(ram: &GuestRam) -> GuestRam {
    let mut new = GuestRam::new(ram.size()).expect("RAM can be mapped");
    for index in 0..ram.pages() {
        let page = ram.page(index);
        if page.iter().any(|&byte| byte != 0) {
            new.write(ram.page_address(index), page)
                .expect("the page is RAM");
        }
    }
    new
}

/// Fields of two states that differ, as text.
fn difference(a: &CpuState, b: &CpuState) -> String {
    let (a, b) = (format!("{a:#x?}"), format!("{b:#x?}"));
    let lines = a
        .lines()
        .zip(b.lines())
        .enumerate()
        .filter(|(_, (a, b))| a != b);
    lines
        .map(|(n, (a, b))| format!("line {n}: {} / {}\n", a.trim(), b.trim()))
        .collect()
}

impl Bench {
    /// Runs the program in all ways, checks that they agree, and gives what is left.
    pub fn run(self) -> Outcome {
        let mut trace = Vec::new();
        let stepped = self.go(Engine::Interpreter, Way::Steps, &mut trace);
        let positions: Vec<Progress> = trace.iter().map(|(_, at)| *at).collect();
        for &(engine, way) in RUNS {
            let mut seen = Vec::new();
            let other = self.go(engine, way, &mut seen);
            for (state, at) in &seen {
                let same = trace
                    .iter()
                    .find(|(_, position)| position.steps == at.steps);
                let Some((expected, _)) = same else {
                    panic!(
                        "{engine:?} {way:?}: stops at step {} where stepping does not",
                        at.steps
                    );
                };
                assert!(
                    state == expected,
                    "{engine:?} {way:?}: step {}: {}",
                    at.steps,
                    difference(state, expected)
                );
            }
            if let Way::Units(grain) = way {
                check_unit_stops(&positions, &seen, grain);
            }
            assert_eq!(other.end, stepped.end, "{engine:?} {way:?}");
            let differs = difference(&other.state, &stepped.state);
            assert!(
                other.state == stepped.state,
                "{engine:?} {way:?}: {differs}"
            );
            assert_eq!(
                other.bus.log, stepped.bus.log,
                "{engine:?} {way:?}: the bus saw something else"
            );
            for index in 0..stepped.ram.pages() {
                let (a, b) = (other.ram.page(index), stepped.ram.page(index));
                if a != b {
                    let offset = (0..4096).find(|&i| a[i] != b[i]).expect("they differ");
                    let address = stepped.ram.page_address(index) + offset as u64;
                    panic!("{engine:?} {way:?}: RAM differs at {address:#x}");
                }
            }
        }
        stepped
    }

    /// Where the first instructions of the program lie: RIPs.
    fn instructions(&self) -> Vec<u64> {
        let code = self.state.segments[1];
        let bits = if self.state.msr.efer & 0x400 != 0 && code.long() {
            64
        } else if code.big() {
            32
        } else {
            16
        };
        let base = if bits == 64 { 0 } else { code.base };
        let mut bytes = [0; 128];
        if self
            .ram
            .read(base.wrapping_add(self.state.rip), &mut bytes)
            .is_err()
        {
            return Vec::new();
        }
        let decoder = Decoder::with_ip(bits, &bytes, self.state.rip, DecoderOptions::NONE);
        decoder
            .into_iter()
            .take(16)
            .map(|instruction| instruction.ip())
            .collect()
    }

    fn go(&self, engine: Engine, way: Way, seen: &mut Vec<(CpuState, Progress)>) -> Outcome {
        let mut ram = copy(&self.ram);
        let mut bus = self.bus.clone();
        let mut cpu = Cpu::new(&self.state, engine.tuning());
        let mut events = self.events.clone();
        events.sort_by_key(|(step, _)| *step);
        let mut events = events.into_iter().peekable();
        let kick = AtomicBool::new(false);
        let mut idle = false;
        let end = loop {
            let at = cpu.progress();
            while let Some((_, event)) = events.next_if(|(step, _)| *step <= at.steps || idle) {
                idle = false;
                match event {
                    Event::Nmi => cpu.raise_nmi(),
                    Event::Interrupt(vector) => bus.waiting.push(vector),
                    Event::Dma(address, bytes) => ram.write(address, &bytes).expect("RAM"),
                }
            }
            if at.steps >= self.last {
                break End::Steps;
            }
            let stop = events
                .peek()
                .map_or(self.last, |(step, _)| self.last.min(*step));
            let grain = match way {
                Way::Plain | Way::Units(_) => u64::MAX,
                Way::Grain(grain) => grain,
                _ => 1,
            };
            let steps = stop.min(at.steps.saturating_add(grain));
            let units = if let Way::Units(grain) = way {
                at.units + grain
            } else {
                u64::MAX
            };
            let limits = Limits {
                steps,
                units,
                interrupt: !bus.waiting.is_empty(),
            };
            let exit = cpu.run(&mut ram, &mut bus, limits, &kick);
            let now = cpu.progress();
            assert!(
                now.steps <= steps,
                "{way:?}: {} steps, limit {steps}",
                now.steps
            );
            seen.push((cpu.state(), now));
            match exit {
                Exit::Limit => {
                    assert!(
                        now.steps == steps || now.units >= units,
                        "{way:?}: stopped early"
                    );
                }
                Exit::Bus | Exit::Kicked => {}
                Exit::Halted if events.peek().is_some() => idle = true,
                Exit::Halted => break End::Halted,
                Exit::Shutdown => break End::Shutdown,
            }
            match way {
                Way::Flushed => cpu.flush(&mut ram),
                Way::Restored => {
                    let state = cpu.state();
                    state.validate().expect("a state that was reached is valid");
                    cpu.flush(&mut ram);
                    cpu = Cpu::new(&state, engine.tuning());
                }
                _ => {}
            }
        };
        let units = cpu.progress().units;
        Outcome {
            end,
            state: cpu.state(),
            ram,
            bus,
            units,
            ips: self.instructions(),
        }
    }
}

/// Stops by units are at the first boundary at or after their limit.
fn check_unit_stops(boundaries: &[Progress], seen: &[(CpuState, Progress)], grain: u64) {
    let mut from = 0;
    for (_, at) in seen {
        let wanted = from + grain;
        let earlier = boundaries
            .iter()
            .filter(|b| b.steps < at.steps && b.units >= wanted);
        assert_eq!(earlier.count(), 0, "units: ran past {wanted} to {at:?}");
        from = at.units;
    }
}

impl Outcome {
    /// Reads a quadword.
    pub fn read64(&self, address: u64) -> u64 {
        self.ram.read_u64(address).expect("the address is RAM")
    }

    /// Reads a double word.
    pub fn read32(&self, address: u64) -> u32 {
        self.ram.read_u32(address).expect("the address is RAM")
    }

    /// Checks that the program ended in HLT at level 0, and gives a register.
    pub fn register(&self, number: usize) -> u64 {
        assert_eq!(self.end, End::Halted, "{:#x?}", self.state);
        self.state.gpr[number]
    }

    /// The exception in whose handler the program halted.
    pub fn trap(&self) -> Trap {
        assert_eq!(self.end, End::Halted, "{:#x?}", self.state);
        let code = self.state.segments[1];
        let linear = self
            .state
            .rip
            .wrapping_add(if code.long() { 0 } else { code.base });
        let index = linear.wrapping_sub(HANDLERS + 1) / HANDLER_BYTES;
        assert!(
            index < 256,
            "no handler runs at {linear:#x}: {:#x?}",
            self.state
        );
        let protected = self.state.cr0 & 1 != 0;
        let width = if code.long() {
            8
        } else if protected {
            4
        } else {
            2
        };
        let has_error = protected && matches!(index, 8 | 10..=14 | 17);
        let stack = self.state.segments[2];
        let mask = if code.long() {
            u64::MAX
        } else if stack.big() {
            0xffff_ffff
        } else {
            0xffff
        };
        let base = if code.long() { 0 } else { stack.base };
        let word = |slot: u64| {
            let at = base + ((self.state.gpr[RSP] + width * slot) & mask);
            let mut bytes = [0; 8];
            self.ram
                .read(at, &mut bytes[..width as usize])
                .expect("the stack is RAM");
            u64::from_le_bytes(bytes)
        };
        let first = u64::from(has_error);
        Trap {
            vector: index as u8,
            error: has_error.then(|| word(0) as u32),
            rip: word(first),
            cs: word(first + 1) as u16,
            flags: word(first + 2),
            rsp: word(first + 3),
            ss: word(first + 4) as u16,
        }
    }

    /// Checks vector, error code and saved RIP of [`Outcome::trap`].
    pub fn expect(&self, vector: u8, error: Option<u32>, rip: u64) -> Trap {
        let trap = self.trap();
        let seen = (trap.vector, trap.error, trap.rip);
        assert_eq!(
            seen,
            (vector, error, rip),
            "{trap:#x?} CR2 {:#x}",
            self.state.cr2
        );
        trap
    }
    /// As [`Outcome::expect`], with the saved RIP at the program's instruction number `index`.
    pub fn expect_at(&self, vector: u8, error: Option<u32>, index: usize) -> Trap {
        self.expect(vector, error, self.ips[index])
    }

    /// Checks that the program halted in its own code, just before its instruction `index`.
    pub fn halted_before(&self, index: usize) {
        let seen = (self.end, self.state.rip);
        assert_eq!(seen, (End::Halted, self.ips[index]), "{:#x?}", self.state);
    }
}
