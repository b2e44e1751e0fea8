//! What the differential tests cannot see of the integer instructions: progress of string
//! instructions by steps and units, devices and self-modifying code under them, privileges.

use std::sync::atomic::AtomicBool;

use memory::GuestRam;
use x86::{Bus, Cpu, CpuState, Exit, Limits, Profile, Progress, Translation, Tuning};

const RAM: u64 = 1 << 20;
/// Where code starts.
const CODE: u64 = 0x1000;
/// Beyond RAM: a device whose every byte tells at which step it was read.
const DEVICE: u64 = 0x20_0000;

/// A device that notes when it was reached.
#[derive(Default)]
struct Device {
    accesses: Vec<(Progress, u64)>,
}

impl Bus for Device {
    fn io_read(&mut self, _: &mut GuestRam, _: Progress, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn io_write(&mut self, _: &mut GuestRam, _: Progress, _: u16, _: u8, _: u32) {}
    fn mmio_read(&mut self, _: &mut GuestRam, at: Progress, address: u64, _: u8) -> u64 {
        self.accesses.push((at, address));
        at.steps
    }
    fn mmio_write(&mut self, _: &mut GuestRam, at: Progress, address: u64, _: u8, _: u64) {
        self.accesses.push((at, address));
    }
    fn msr_read(&mut self, _: Progress, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: Progress, _: u32, _: u64) -> Option<()> {
        None
    }
    fn cr8(&mut self) -> u64 {
        0
    }
    fn set_cr8(&mut self, _: u64) {}
    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }
    fn tsc(&self, _: Progress) -> u64 {
        0
    }
}

/// A machine in flat 32-bit protected mode without paging, at [`CODE`].
struct Bench {
    ram: GuestRam,
    device: Device,
    state: CpuState,
}

impl Bench {
    fn new(code: &[u8]) -> Bench {
        let mut ram = GuestRam::new(RAM).expect("a megabyte");
        ram.write(CODE, code).expect("RAM");
        let mut state = CpuState::power_up(Profile::V1, [0; 32]);
        state.gpr = [0; 16];
        state.cr0 = 0x11;
        for (slot, segment) in state.segments.iter_mut().enumerate() {
            segment.selector = if slot == 1 { 8 } else { 16 };
            segment.rights = if slot == 1 { 0xc09b } else { 0xc093 };
            segment.limit = u32::MAX;
            segment.base = 0;
        }
        state.rip = CODE;
        state.gpr[4] = 0x9000;
        Bench {
            ram,
            device: Device::default(),
            state,
        }
    }

    /// Runs up to `steps` steps or `units` units from now on.
    fn run(&mut self, steps: u64, units: u64) -> Exit {
        let mut cpu = Cpu::new(&self.state, Tuning::new(1 << 20, Translation::Mixed));
        let now = cpu.progress();
        let limits = Limits {
            steps: now.steps + steps,
            units: now.units.saturating_add(units),
            interrupt: false,
        };
        let kick = AtomicBool::new(false);
        let exit = loop {
            let exit = cpu.run(&mut self.ram, &mut self.device, limits, &kick);
            if exit != Exit::Bus {
                break exit;
            }
        };
        self.state = cpu.state();
        exit
    }

    fn steps(&mut self, steps: u64) {
        assert_eq!(self.run(steps, u64::MAX), Exit::Limit);
    }

    fn bytes<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.ram.read(address, &mut bytes).expect("RAM");
        bytes
    }

    /// Makes the CPU run at CPL 3 with `iopl`.
    fn at_cpl3(mut self, iopl: u64) -> Bench {
        for (slot, segment) in self.state.segments.iter_mut().enumerate() {
            segment.selector |= 3;
            segment.rights = if slot == 1 { 0xc0fb } else { 0xc0f3 };
        }
        self.state.rflags = (self.state.rflags & !0x3000) | iopl << 12;
        self
    }
}

const RCX: usize = 1;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;

#[test]
fn a_string_instruction_stops_at_any_step_and_counts_iterations() {
    for stop in 1..=100 {
        // rep movsb; nop
        let mut bench = Bench::new(&[0xf3, 0xa4, 0x90]);
        let source: Vec<u8> = (0..100).collect();
        bench.ram.write(0x4000, &source).expect("RAM");
        bench.state.gpr[RCX] = 100;
        bench.state.gpr[RSI] = 0x4000;
        bench.state.gpr[RDI] = 0x5fd0;
        bench.steps(stop);
        assert_eq!(bench.state.gpr[RCX], 100 - stop);
        assert_eq!(bench.state.gpr[RSI], 0x4000 + stop);
        assert_eq!(bench.state.gpr[RDI], 0x5fd0 + stop);
        assert_eq!(bench.state.rip, if stop == 100 { CODE + 2 } else { CODE });
        assert_eq!((bench.state.steps, bench.state.rep_steps), (stop, stop));
        let copied: [u8; 101] = bench.bytes(0x5fd0);
        assert_eq!(copied[..stop as usize], source[..stop as usize]);
        assert!(copied[stop as usize..].iter().all(|&byte| byte == 0));
        bench.steps(101 - stop);
        assert_eq!(bench.state.rip, CODE + 3);
        assert_eq!((bench.state.steps, bench.state.rep_steps), (101, 100));
    }
}

#[test]
fn an_iteration_costs_one_unit_and_a_repeat_of_nothing_a_step() {
    // rep stosd
    let mut bench = Bench::new(&[0xf3, 0xab]);
    bench.state.gpr[RCX] = 1000;
    bench.state.gpr[RDI] = 0x4000;
    assert_eq!(bench.run(u64::MAX / 2, 77), Exit::Limit);
    assert_eq!((bench.state.steps, bench.state.gpr[RCX]), (77, 923));
    bench.state.gpr[RCX] = 0;
    bench.steps(1);
    assert_eq!((bench.state.steps, bench.state.rep_steps), (78, 77));
    assert_eq!(bench.state.rip, CODE + 2);
}

#[test]
fn a_device_under_a_string_instruction_sees_each_iteration_at_its_own_step() {
    // nop; rep movsb
    let run = |pieces: &[u64]| {
        let mut bench = Bench::new(&[0x90, 0xf3, 0xa4]);
        bench.state.gpr[RCX] = 20;
        // Straight from the device into RAM.
        bench.state.gpr[RSI] = DEVICE;
        bench.state.gpr[RDI] = 0x4000;
        for &piece in pieces {
            bench.steps(piece);
        }
        (bench.bytes::<20>(0x4000), bench.device.accesses)
    };
    let (bytes, accesses) = run(&[21]);
    let expected: [u8; 20] = std::array::from_fn(|i| 1 + i as u8);
    assert_eq!(bytes, expected);
    for (i, (at, address)) in accesses.iter().enumerate() {
        let i = i as u64;
        assert_eq!((at.steps, at.units, *address), (1 + i, 8 + i, DEVICE + i));
    }
    assert_eq!(run(&[3, 1, 10, 7]), (bytes, accesses));
}

#[test]
fn ram_before_a_device_does_not_hide_progress() {
    // rep movsb, the source reaching from RAM's last page to what lies behind it.
    let mut bench = Bench::new(&[0xf3, 0xa4]);
    bench.state.gpr[RCX] = 64;
    bench.state.gpr[RSI] = RAM - 50;
    bench.state.gpr[RDI] = 0x4000;
    bench.steps(64);
    assert_eq!(bench.device.accesses.len(), 14);
    assert_eq!(bench.device.accesses[0].0.steps, 50);
    assert_eq!(bench.bytes::<2>(0x4000 + 50), [50, 51]);
}

#[test]
fn a_copy_onto_what_lies_ahead_repeats_the_pattern() {
    for distance in 1..20u64 {
        let mut bench = Bench::new(&[0xf3, 0xa4]);
        bench
            .ram
            .write(0x4ff0, b"0123456789abcdefghijkl")
            .expect("RAM");
        let before: [u8; 400] = bench.bytes(0x4ff0);
        bench.state.gpr[RCX] = 300;
        bench.state.gpr[RSI] = 0x4ff0;
        bench.state.gpr[RDI] = 0x4ff0 + distance;
        bench.steps(300);
        let after: [u8; 400] = bench.bytes(0x4ff0);
        for i in 0..400u64 {
            let copied = (distance..distance + 300).contains(&i);
            let from = if copied { i % distance } else { i };
            assert_eq!(after[i as usize], before[from as usize], "{distance} {i}");
        }
    }
}

#[test]
fn a_string_instruction_that_overwrites_itself_ends_there() {
    // rep stosb of 40h (INC EAX), from three bytes before itself on.
    let mut bench = Bench::new(&[0x90, 0x90, 0x90, 0xf3, 0xaa, 0x90]);
    bench.state.rip = CODE + 3;
    bench.state.gpr[0] = 0x40;
    bench.state.gpr[RCX] = 10;
    bench.state.gpr[RDI] = CODE;
    // Three iterations before it, one onto its prefix; then INC EAX and STOSB run.
    bench.steps(4);
    assert_eq!(bench.state.gpr[RCX], 6);
    assert_eq!(bench.state.rip, CODE + 3);
    bench.steps(2);
    assert_eq!(bench.state.gpr[0], 0x41);
    assert_eq!(bench.state.gpr[RCX], 6);
    assert_eq!(bench.state.rip, CODE + 5);
    assert_eq!(bench.bytes::<6>(CODE), [0x40, 0x40, 0x40, 0x40, 0x41, 0x90]);
}

/// POPFD of `image`: the flags after.
fn popf(mut bench: Bench, image: u32) -> u64 {
    bench.ram.write(0x9000, &image.to_le_bytes()).expect("RAM");
    bench.steps(1);
    assert_eq!(bench.state.gpr[RSP], 0x9004);
    assert_eq!(bench.state.rip, CODE + 1);
    bench.state.rflags
}

#[test]
fn popf_changes_what_the_privilege_allows() {
    const ALL: u32 = !0x100;
    let code = [0x9d];
    // CF PF AF ZF SF DF OF NT AC ID and bit 1.
    let plain = 0x24_4cd7;
    // TF is left out: it would trap. RF, VM, VIF and VIP never come from the stack.
    assert_eq!(popf(Bench::new(&code), ALL), plain | 0x3200);
    assert_eq!(popf(Bench::new(&code).at_cpl3(0), ALL), plain);
    assert_eq!(popf(Bench::new(&code).at_cpl3(3), ALL), plain | 0x3200);
    // IF stays what it is where it cannot be changed.
    let mut bench = Bench::new(&code).at_cpl3(0);
    bench.state.rflags |= 0x200;
    assert_eq!(popf(bench, 0), 0x202);
    let mut bench = Bench::new(&code).at_cpl3(3);
    bench.state.rflags |= 0x200;
    assert_eq!(popf(bench, 0), 0x3002);
}

#[test]
fn the_stack_pointer_wraps_at_its_own_width() {
    // push ax; pop bx; in a 16-bit stack segment.
    let mut bench = Bench::new(&[0x66, 0x50, 0x66, 0x5b]);
    bench.state.segments[2].rights = 0x0093;
    bench.state.segments[2].limit = 0xffff;
    bench.state.segments[2].base = 0x1_0000;
    bench.state.gpr[RSP] = 0x7777_0000;
    bench.state.gpr[0] = 0xabcd;
    bench.steps(1);
    assert_eq!(bench.state.gpr[RSP], 0x7777_fffe);
    assert_eq!(bench.bytes::<2>(0x1_fffe), [0xcd, 0xab]);
    bench.steps(1);
    assert_eq!(bench.state.gpr[RSP], 0x7777_0000);
    assert_eq!(bench.state.gpr[3], 0xabcd);
}

#[test]
fn blocks_go_on_after_a_branch_that_is_not_taken() {
    // test eax, eax; jz +1; inc ecx; jmp back. Every stop must be exact.
    let code = [0x85, 0xc0, 0x74, 0x01, 0x41, 0xeb, 0xf9];
    for stop in 1..40u64 {
        let mut bench = Bench::new(&code);
        bench.state.gpr[0] = 1;
        bench.steps(stop);
        assert_eq!(bench.state.gpr[RCX], (stop + 1) / 4);
        let at = [0, 2, 4, 5][(stop % 4) as usize];
        assert_eq!(bench.state.rip, CODE + at);
        let mut bench = Bench::new(&code);
        bench.steps(stop);
        assert_eq!(bench.state.gpr[RCX], 0);
        assert_eq!(bench.state.rip, CODE + [0, 2, 5][(stop % 3) as usize]);
    }
}
